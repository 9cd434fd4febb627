"""A contact sheet of the images with the worst label-free masks, for eyes that ask why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

from ..errors import printable
from ..files import atomic_path
from ..images.draw import palette
from ..images.truth import Mask
from .summary import MOST_WORST

if TYPE_CHECKING:
    from ..segmenter import Segmentation

HEADS = ("image", "truth", "label map", "label-free mask, truth")
CELL = (300, 225)  # most width and height of a picture, pixels
GAP = 8
LINE = 26  # height of a line of text
TEXT = 17  # size of the type
NAME_WIDTH = 100  # characters
TRUTH_COLOUR, MASK_COLOUR = (255, 220, 0), (0, 255, 170)
DIMMED = 3  # what is outside the mask has this part of its brightness

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class _Entry:
    dsc: float
    title: str
    pictures: list[Image.Image]


class ContactSheet:
    """The worst images so far, each by its worst result; drawn small at once, so that memory does not grow."""

    def __init__(self) -> None:
        self._worst: dict[str, _Entry] = {}

    def offer(self, title: str, dsc: float, result: Segmentation, truth: Mask, clusters: int) -> None:
        """Take a result if it is among the worst.

        Args:
            title: what tells it from others.
            dsc: of the label-free mask; NaN is passed over.
            result: of the image.
            truth: bool (H, W).
            clusters: that ids of the label map are below.
        """
        name = result.image.name
        known = self._worst.get(name)
        if known is None and len(self._worst) == MOST_WORST:
            known = max(self._worst.values(), key=lambda entry: entry.dsc)
        if math.isnan(dsc) or (known is not None and known.dsc <= dsc):
            return
        self._worst[name] = _Entry(dsc, title, _pictures(result, truth, clusters))
        self._worst = dict(sorted(self._worst.items(), key=lambda item: item[1].dsc)[:MOST_WORST])

    def withdraw(self, name: str) -> None:
        """Forget an image, told by the name that it was read under: it is in no number any more."""
        self._worst.pop(name, None)

    def write(self, path: Path) -> None:
        """Draw the sheet as a PNG, the worst first; only a line of heads where there is nothing to show.

        Raises:
            OSError: the file cannot be written.
        """
        font = ImageFont.load_default(TEXT)
        heights = [LINE + max(picture.height for picture in entry.pictures) + GAP for entry in self._worst.values()]
        sheet = Image.new("RGB", (_left(len(HEADS)), GAP + LINE + sum(heights)), "white")
        draw = ImageDraw.Draw(sheet)
        for column, head in enumerate(HEADS):
            draw.text((_left(column), GAP), head, "black", font)
        top = GAP + LINE
        for entry, height in zip(self._worst.values(), heights, strict=True):
            draw.text((GAP, top), f"DSC {entry.dsc:.3f}   {_end(entry.title)}", "black", font)
            for column, picture in enumerate(entry.pictures):
                sheet.paste(picture, (_left(column), top + LINE))
            top += height
        with atomic_path(path) as temporary:
            sheet.save(temporary, "PNG")


def _left(column: int) -> int:
    return GAP + column * (CELL[0] + GAP)


def _end(title: str) -> str:
    """The end of a long title: where the names of files differ."""
    told = printable(title)
    return told if len(told) <= NAME_WIDTH else f"...{told[-NAME_WIDTH:]}"


def _pictures(result: Segmentation, truth: Mask, clusters: int) -> list[Image.Image]:
    """One picture for each of :data:`HEADS`, as large as :data:`CELL` allows."""
    height, width = truth.shape
    scale = min(CELL[0] / width, CELL[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    inside, mask = _small(truth, size), _small(result.mask, size)
    image = Image.fromarray(result.image.display()).resize(size, Image.Resampling.BICUBIC)
    labels = Image.fromarray(palette(clusters)[result.labels]).resize(size, Image.Resampling.NEAREST)
    pixels = np.asarray(image)
    dimmed = np.where(mask[..., None], pixels, pixels // np.uint8(DIMMED))
    masked = _outlined(_outlined(dimmed, mask, MASK_COLOUR), inside, TRUTH_COLOUR)
    return [image, Image.fromarray(_outlined(pixels, inside, TRUTH_COLOUR)), labels, Image.fromarray(masked)]


def _small(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _outlined(pixels: Picture, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    """A picture with the border of a mask on it: two pixels inside, and one of black outside, so that it shows."""
    drawn = pixels.copy()
    drawn[binary_dilation(mask) & ~mask] = 0
    drawn[mask & ~binary_erosion(mask, iterations=2)] = colour
    return drawn
