"""Images in and out of the segmenter, their geometry kept: what a viewer shows is what is segmented and written."""

from __future__ import annotations

import colorsys
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from . import files, png
from .errors import DeployError, ImageError, UsageError
from .forks import lock_across_forks
from .inputs import HDF5_SUFFIXES, printable
from .registry import Resize

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WebP")
MAX_PIXELS = 100_000_000
MIN_SIDE = 8

_BIT_DEPTHS = (8, 10, 12, 14, 16)  # those that cameras and scanners have
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF tag and value
_SAMPLE_FORMAT, _UNSIGNED = 339, (1,)

_PIXELS_PER_LINE_WIDTH = 400
_MASK_COLOUR = np.array((0, 255, 170), np.uint8)  # far from skin, from stained tissue and from grey
_BLACK = np.zeros(3, np.uint8)
# Shares of a colour in fourths, which whole numbers blend exactly.
_TINT = 1
_LINE = 2
_CASING = 3  # of black, beside the contour, so that it also reads on a bright picture

_PILLOW = lock_across_forks()


@dataclass(frozen=True, eq=False)
class InputImage:
    """A picture ready to segment.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, or float32 (H, W) within 0..1 for grey deeper than 8 bits.
        name: what messages call it.
        intensity_range: the two intensities of the source that became 0 and 1 (255 in 8-bit pixels).
        notes: one-line remarks on what was left out or changed in reading.
    """

    pixels: NDArray[Any]
    name: str
    intensity_range: tuple[float, float]
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.pixels.shape[1])

    def display(self) -> NDArray[np.uint8]:
        """Return the picture as uint8 (H, W, 3) RGB, for people to look at."""
        return _as_rgb(self.pixels if self.pixels.dtype == np.uint8 else _as_bytes(self.pixels))


def read_image(path: str | os.PathLike[str]) -> InputImage:
    """Read a PNG, JPEG, BMP, TIFF or WebP file, upright as its EXIF orientation says, or a slice in HDF5.

    Grey of more than 8 bits is scaled to 0..1: whole numbers from 0 to the largest of the smallest of 8, 10, 12, 14 and
    16 bits that hold them; floats within 0..1 not at all; anything else (negative or larger) from minimum to maximum.
    All else becomes 8-bit RGB. Only the first page is read, and transparency is ignored.

    Raises:
        ImageError: the file cannot be read, is no such image, is damaged, has more than ``MAX_PIXELS`` pixels, a side
            under ``MIN_SIDE``, NaN or infinite pixels, or one value throughout.
        BackendUnavailable: h5py, which reads HDF5, is missing.
    """
    path = Path(path)
    name = printable(path)
    try:
        values, white_is_zero, notes = _decode(path, name)
        image = _scaled(values, name, notes)
    except DeployError:
        raise
    except Exception as error:  # damage makes Pillow's plugins raise nearly anything
        raise ImageError(f"{name}: {_explain(error)}") from error
    if white_is_zero:
        return InputImage(1 - image.pixels, name, image.intensity_range[::-1], image.notes)
    return image


def image_from_array(array: NDArray[Any], name: str = "array") -> InputImage:
    """Take a picture from memory: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, integer or float.

    The intensities are treated as in ``read_image``; colour deeper than 8 bits is then rounded to 8. The array is
    copied, floats at float32.

    Raises:
        UsageError: the shape or the type is not one of these.
        ImageError: the picture is too large, too small, not finite or constant.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "uif":
        raise UsageError(f"{name}: {array.dtype} values are not intensities; pass integers or floats")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise UsageError(f"{name}: shape {array.shape} is not an image; pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _check_size(array.shape[1], array.shape[0], name)
    notes = []
    if array.shape[2:] == (4,):
        array = array[..., :3]
        notes.append("alpha channel dropped")
    if array.shape[2:] == (1,):
        array = array[..., 0]
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused as such
            array = array.astype(np.float32)
    image = _scaled(array.copy(), name, notes)
    if image.pixels.ndim == 3 and image.pixels.dtype != np.uint8:
        notes.append("colour rounded to 8 bits")
        return InputImage(_as_bytes(image.pixels), name, image.intensity_range, tuple(notes))
    return image


def network_input(image: InputImage, side: int, resize: Resize = "bilinear") -> NDArray[np.float32]:
    """Return what the encoder takes: float32 (3, side, side), BGR, 0..1, squeezed to a square without keeping aspect.

    Squeezing and channel order are those of the published code, which reads with OpenCV.

    Args:
        image: to be squeezed.
        side: of the square.
        resize: ``bilinear``, antialiased; or ``nearest``, each pixel the one under its centre.
    """
    if resize == "nearest":
        resized = resize_nearest(image.pixels, side, side).astype(np.float32)
    else:
        resized = np.asarray(Image.fromarray(image.pixels).resize((side, side), Image.Resampling.BILINEAR), np.float32)
    if resized.ndim == 2:
        return np.repeat(resized[None], 3, axis=0)
    return np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)) / np.float32(255)


def resize_nearest(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize (h, w) ids or flags to (height, width): each pixel takes the value under its centre; the type is kept."""
    return array[_nearest(array.shape[0], height)][:, _nearest(array.shape[1], width)]


def palette(clusters: int) -> NDArray[np.uint8]:
    """Return one RGB colour per cluster id, uint8 (clusters, 3): always the same, apart, neither black nor white."""
    golden_ratio = (5**0.5 - 1) / 2  # steps of it around the circle of hues stay apart however many are taken
    shades = ((0.50, 0.75), (0.70, 0.85), (0.32, 0.80))  # lightness, saturation
    colours = [colorsys.hls_to_rgb(index * golden_ratio % 1, *shades[index % 3]) for index in range(clusters)]
    return _as_bytes(np.array(colours).reshape(clusters, 3))


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


def _decode(path: Path, name: str) -> tuple[NDArray[Any], bool, list[str]]:
    """Return the first page as uint8 (H, W, 3) or deep (H, W), whether its zero means white, and remarks on it."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: is a folder, not an image; name the image files in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: is not a regular file; copy the image to one first")
    if status.st_size == 0:
        raise ImageError(f"{name}: the file is empty; export or copy it again")
    if path.suffix.lower() in HDF5_SUFFIXES:
        return _slice(path, name), False, []
    with _silent_pillow(), path.open("rb") as file, _open_any_size(file) as image:
        _check_size(image.width, image.height, name)
        notes = _remarks(image)
        upright = ImageOps.exif_transpose(image)
        if not upright.mode.startswith(("I", "F")):
            return np.array(upright.convert("RGB")), False, notes
        tags = getattr(image, "tag_v2", {})
        values: NDArray[Any] = np.array(upright)
        if upright.mode == "I" and tags.get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED:
            values = values.view(np.uint32)  # Pillow has no such mode and lets large values wrap
        # Pillow turns 8-bit images of this kind round itself, deeper ones it does not.
        return values, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, notes


def _slice(path: Path, name: str) -> NDArray[Any]:
    """The picture of a slice, grey (H, W)."""
    from . import hdf5

    with hdf5.opened(path) as file:
        values = hdf5.plane(file, "image", path)
    if values.dtype.kind not in "fiu":
        raise ImageError(f"{name}: its 'image' holds no numbers; write intensities")
    _check_size(values.shape[1], values.shape[0], name)
    return values


@contextmanager
def _silent_pillow() -> Iterator[None]:
    """Hold Pillow for one thread, without its warnings: filters and size limit are settings of the whole process."""
    with _PILLOW, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # and no others: threads that compute may warn meanwhile
        yield


def _open_any_size(file: BinaryIO) -> ImageFile.ImageFile:
    """Read the header only, whatever size it states: ``_check_size`` names the size, Pillow's own guard does not."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(file, formats=FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int, name: str) -> None:
    size = f"{width} x {height} pixels"
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise ImageError(f"{name}: {size} is over the limit of {limit}; resize it first")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: {size} is too small to segment; at least {MIN_SIDE} x {MIN_SIDE} is needed")


def _remarks(image: ImageFile.ImageFile) -> list[str]:
    """Say what decoding will lose; to be called before it, as it forgets how the pixels were stored."""
    notes = []
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        notes.append(f"only page 1 of {pages} is used")
    if image.has_transparency_data:
        notes.append("alpha channel dropped")
    deep_storage = image.format in ("PNG", "TIFF") and any(";16" in str(tile.args) for tile in image.tile)
    if deep_storage and not image.mode.startswith("I"):
        notes.append("16-bit colour is read at 8 bits")
    return notes


def _explain(error: Exception) -> str:
    """Say what kept a file from being decoded and what to do about it."""
    match error:
        case UnidentifiedImageError():
            formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            return f"not a {formats} image of a supported kind; save it as an 8-bit or 16-bit PNG"
        case FileNotFoundError():
            return "no such file; check the path"
        case PermissionError():
            return "permission denied; make the file readable"
        case MemoryError():
            return "not enough memory to decode it; resize it first"
        case OSError(errno=int(), strerror=str(reason)):
            return f"cannot be read: {reason}; check the path and the disk"
    return f"cannot be decoded, damaged or cut short ({printable(str(error))}); export it again, as PNG if you can"


def _scaled(values: NDArray[Any], name: str, notes: list[str]) -> InputImage:
    """Take 8-bit values as they are and bring deeper ones to 0..1, float32."""
    if values.dtype.kind == "f":
        _check_finite(values, name)
    if all((row == values[0, 0]).all() for row in values):  # by rows, because the first one mostly answers it
        raise ImageError(f"{name}: every pixel has the same value; there is nothing to segment")
    if values.dtype == np.uint8:
        return InputImage(_as_rgb(values), name, (0.0, 255.0), tuple(notes))
    low, high = _intensity_range(values)
    unit = values.astype(np.float64)
    unit -= low
    unit /= high - low
    return InputImage(unit.astype(np.float32), name, (low, high), tuple(notes))


def _check_finite(values: NDArray[Any], name: str) -> None:
    finite = np.isfinite(values).reshape(*values.shape[:2], -1).all(axis=2)
    if not finite.all():
        count = np.count_nonzero(~finite)
        raise ImageError(f"{name}: {count} of {finite.size} pixels are NaN or infinite; replace them first")


def _intensity_range(values: NDArray[Any]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    if low < 0 or high >= 2 ** _BIT_DEPTHS[-1]:
        return low, high
    return 0.0, 2.0 ** next(depth for depth in _BIT_DEPTHS if high < 2**depth) - 1


def _as_bytes(unit: NDArray[Any]) -> NDArray[np.uint8]:
    scaled: NDArray[np.floating[Any]] = np.rint(unit * 255)
    return scaled.astype(np.uint8)


def _as_rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


def _nearest(source: int, target: int) -> NDArray[np.intp]:
    """Return which of ``source`` pixels lies under the centre of each of ``target`` pixels."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


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
