"""Deprecated: the sample images are in :mod:`.images.samples`. This name goes in version 0.3."""

import warnings

from .images.samples import sample_images

__all__ = ["sample_images"]

warnings.warn(
    "msformer_deploy.samples is msformer_deploy.images.samples now, and goes in version 0.3",
    DeprecationWarning,
    stacklevel=2,
)

if __name__ == "__main__":
    print(*sample_images(), sep="\n")
