"""Make ``docs/images/samples.png``, the picture of the README, from a finished ``make demo``.

    python docs/make_picture.py demo docs/images/samples.png

One column per sample image: the image, its label map in colours, the overlay.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageOps

from msformer_deploy.images.samples import shown_images

TILE, GAP = 300, 6


def main(results: Path, target: Path) -> None:
    """Compose the picture and write it."""
    columns = [
        [image, results / f"{image.name}.labels.png", results / f"{image.name}.overlay.png"] for image in shown_images()
    ]
    sheet = Image.new("RGB", (len(columns) * (TILE + GAP) - GAP, 3 * (TILE + GAP) - GAP), "white")
    for column, paths in enumerate(columns):
        for row, path in enumerate(paths):
            tile = ImageOps.fit(Image.open(path).convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (TILE + GAP), row * (TILE + GAP)))
    sheet.quantize(256, kmeans=10, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
