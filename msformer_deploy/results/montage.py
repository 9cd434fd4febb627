"""A few slices of a volume on one picture, for people to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from ..volume_segmenter import VolumeSegmentation

MAX_SLICES = 12  # maximum number
COLUMNS = 4
CELL = 320  # maximum width and height of a slice, pixels
GAP = 4
TEXT = 14  # size of the type


def montage(result: VolumeSegmentation) -> NDArray[np.uint8]:
    """Overlays of slices, evenly spread over those where the mask is, uint8 (H, W, 3); of all if it is nowhere.

    Pixels that are not square are drawn at their true aspect, and lines on them after that, so that these are clear in
    small slices and equally wide in both directions.
    """
    shown = _spread(result)
    _, rows, columns = result.volume.shape
    spacing = result.volume.spacing
    height, width = (rows * spacing.row, columns * spacing.column) if spacing else (float(rows), float(columns))
    scale = CELL / max(height, width)
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    across = min(COLUMNS, len(shown))
    down = math.ceil(len(shown) / across)
    sheet = Image.new("RGB", (across * (cell[0] + GAP) - GAP, down * (cell[1] + GAP) - GAP), (30, 30, 30))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for place, index in enumerate(shown):
        corner = (place % across) * (cell[0] + GAP), (place // across) * (cell[1] + GAP)
        sheet.paste(Image.fromarray(result.overlay(index, cell[::-1])), corner)
        pen.text((corner[0] + 4, corner[1] + 2), str(index + 1), (255, 255, 255), font, stroke_width=2, stroke_fill=0)
    return np.asarray(sheet)


def _spread(result: VolumeSegmentation) -> list[int]:
    """Indices of the slices that are shown."""
    marked = [index for index, mask in enumerate(result.mask) if mask.any()] or range(len(result.volume))
    first, last = marked[0], marked[-1]
    count = min(MAX_SLICES, last - first + 1)
    return [round(each) for each in np.linspace(first, last, count)]
