"""Deprecated: the sample images are in :mod:`.images.samples`. Version 0.3 removes this module."""

import warnings

from .images.samples import sample_images, shown_images

__all__ = ["sample_images"]

warnings.warn(
    "msformer_deploy.samples will be removed in version 0.3; import msformer_deploy.images.samples",
    DeprecationWarning,
    stacklevel=2,
)

if __name__ == "__main__":
    print(*shown_images(), sep="\n")
