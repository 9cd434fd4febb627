"""What is found in an image, as pictures: label maps, masks, probabilities and overlays, at the image's own size."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from . import png

if TYPE_CHECKING:
    from .read import InputImage

_PIXELS_PER_LINE_WIDTH = 400
_MASK_COLOUR = np.array((0, 255, 170), np.uint8)  # far from skin, from stained tissue and from grey
_BLACK = np.zeros(3, np.uint8)
# Shares of a colour in fourths, which whole numbers blend exactly.
_TINT = 1
_LINE = 2
_CASING = 3  # of black, beside the contour, so that it also reads on a bright picture


def palette(clusters: int) -> NDArray[np.uint8]:
    """Return one RGB colour per cluster id, uint8 (clusters, 3): always the same, apart, neither black nor white."""
    golden_ratio = (5**0.5 - 1) / 2  # steps of it around the circle of hues stay apart however many are taken
    shades = ((0.50, 0.75), (0.70, 0.85), (0.32, 0.80))  # lightness, saturation
    colours = [colorsys.hls_to_rgb(index * golden_ratio % 1, *shades[index % 3]) for index in range(clusters)]
    return np.rint(np.array(colours).reshape(clusters, 3) * 255).astype(np.uint8)


def write_label_map(path: Path, labels: NDArray[Any], clusters: int) -> None:
    """Write cluster ids (H, W) below ``clusters`` as a PNG whose pixel values are the ids.

    Up to 256 clusters it is an 8-bit image with ``palette`` as its colours, above it is 16-bit grey.

    Raises:
        OSError: the file cannot be written.
    """
    if clusters > 256:
        _write_png(path, labels.astype(np.uint16))
    else:
        _write_png(path, labels.astype(np.uint8), palette(clusters))


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask (H, W) as an 8-bit grey PNG, 255 inside and 0 outside.

    Raises:
        OSError: the file cannot be written.
    """
    _write_png(path, mask.astype(np.uint8) * np.uint8(255))


def write_probability(path: Path, probability: NDArray[np.float32]) -> None:
    """Write probabilities (H, W) in 0..1 as an 8-bit grey PNG, 255 for 1.

    Raises:
        OSError: the file cannot be written.
    """
    _write_png(path, np.round(probability * 255).astype(np.uint8))


def write_overlay(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 (H, W, 3), as an RGB PNG.

    Raises:
        OSError: the file cannot be written.
    """
    _write_png(path, picture)


def overlay(image: InputImage, labels: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw a segmentation on its picture, uint8 (H, W, 3): mask tinted and outlined, thin lines between clusters.

    Args:
        image: the picture.
        labels: cluster ids (H, W).
        mask: bool (H, W).
    """
    picture = image.display().copy()
    _paint(picture, mask, _MASK_COLOUR, _TINT)
    width = max(1, round(max(mask.shape) / _PIXELS_PER_LINE_WIDTH))
    _paint(picture, _edges(labels, width), None, _LINE)
    _paint(picture, _edges(mask, 4 * width), _BLACK, _CASING)
    _paint(picture, _edges(mask, 2 * width), _MASK_COLOUR, 4)
    return picture


def _edges(regions: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Return the lines of ``width`` pixels, bool (H, W), along which neighbouring regions meet."""
    edges = np.zeros(regions.shape, bool)
    before, after = width // 2, width - width // 2
    height, columns = regions.shape
    edges[before : height - after] |= regions[width:] != regions[:-width]
    edges[:, before : columns - after] |= regions[:, width:] != regions[:, :-width]
    return edges


def _paint(
    picture: NDArray[np.uint8], where: NDArray[np.bool_], colour: NDArray[np.uint8] | None, fourths: int
) -> None:
    """Blend a colour, uint8 (3,), into a picture (H, W, 3) at the pixels ``where`` (H, W).

    No colour is black on bright ground and white on dark, as a line of one of them would vanish on its like.
    """
    pixels = picture.view("V3")[..., 0]  # one element a pixel: selecting is then several times faster
    ground = pixels[where].view(np.uint8).reshape(-1, 3)
    if colour is None:
        colour = np.where(ground.sum(axis=1, keepdims=True) > 3 * 127, np.uint8(0), np.uint8(255))
    mixed = (np.multiply(ground, 4 - fourths, dtype=np.uint16) + np.multiply(colour, fourths, dtype=np.uint16)) >> 2
    pixels[where] = mixed.astype(np.uint8).view("V3")[:, 0]


def _write_png(path: Path, pixels: NDArray[Any], colours: NDArray[np.uint8] | None = None) -> None:
    with files.atomic_path(path) as temporary:
        png.write(temporary, pixels, colours)
