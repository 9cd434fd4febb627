"""Real, freely usable images from scikit-image: to show what a run gives, and to validate exports."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import BackendUnavailable
from ..machine.extras import require_extra

# To show: immunohistochemistry, and the Shepp-Logan phantom of a head in CT.
SHOWN = ("ihc.png", "retina.jpg", "phantom.png")
# To validate and calibrate with: colours, textures and grey, and none without noise.
NAMES = ("retina.jpg", "ihc.png", "microaneurysms.png")


def shown_images() -> list[Path]:
    """Paths of the images of the demonstration, in a fixed order."""
    return [_folder() / name for name in SHOWN]


def sample_images() -> list[Path]:
    """Paths of the images to validate with, in a fixed order."""
    return [_folder() / name for name in NAMES]


def _folder() -> Path:
    """Where scikit-image keeps its images.

    Raises:
        BackendUnavailable: it is not installed.
    """
    require_extra("samples", "without images of your own, this")
    import skimage.data

    return Path(skimage.data.__file__).parent


if __name__ == "__main__":  # for shell scripts: one path per line
    try:
        print(*shown_images(), sep="\n")
    except BackendUnavailable as missing:
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(missing.exit_code)
