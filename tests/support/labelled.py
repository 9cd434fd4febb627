"""Small labelled images: a bright disc on a dark ground, and its mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ROWS, COLUMNS = np.mgrid[:72, :80]


def write_pairs(folder: Path, count: int) -> tuple[Path, Path]:
    """Draw ``00.png``, ``01.png`` ... of 80 x 72 into ``images`` and ``masks`` of a folder, each disc elsewhere."""
    places = folder / "images", folder / "masks"
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = np.random.default_rng(index)
        row, column, radius = rng.uniform(25, 45), rng.uniform(25, 55), rng.uniform(12, 20)
        disc = (ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2
        image = rng.integers(30, 70, (*disc.shape, 3))
        image[disc] += np.array((120, 90, 60))
        Image.fromarray(image.astype(np.uint8)).save(places[0] / f"{index:02}.png")
        Image.fromarray(disc).save(places[1] / f"{index:02}.png")
    return places
