"""Real, freely usable images from scikit-image: for validation at export, the demo and tests."""

from __future__ import annotations

from pathlib import Path

# Fundus photograph, immunohistochemistry, retinal microaneurysms.
NAMES = ("retina.jpg", "ihc.png", "microaneurysms.png")


def sample_images() -> list[Path]:
    """Paths of the sample images, in a fixed order."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in NAMES]


if __name__ == "__main__":  # for shell scripts: one path per line
    print(*sample_images(), sep="\n")
