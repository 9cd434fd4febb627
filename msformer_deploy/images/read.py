"""Images into the segmenter, their geometry kept: what a viewer shows is what is segmented."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DeployError, ImageError, UsageError, printable, why_unread
from ..machine.extras import require_extra
from ..registry import Resize
from .decoders import formats, pillow
from .decoders.decode import read
from .decoders.stored import DROPPED_ALPHA, Stored, check_limit
from .image import InputImage as InputImage
from .image import of_stored
from .inputs import HDF5_SUFFIXES

Part = tuple[float, float, float, float]  # left, top, right and bottom of a rectangle in an image, pixels


def read_image(
    source: str | os.PathLike[str] | bytes | BinaryIO, window: tuple[float, float] | None = None
) -> InputImage:
    """Read an image file, upright as its EXIF orientation says: PNG, JPEG, BMP, TIFF, WebP, GIF, JPEG 2000, AVIF, HDF5.

    DICOM is read too: the first frame, by the window or the look-up table in the file.

    The content decides what a file is, not its suffix. Up to 8 bits become 8-bit RGB as they are. Deeper grey is scaled
    to 0..1: whole numbers from 0 to the largest of the smallest of 8, 10, 12, 14 and 16 bits that hold them, or from
    minimum to maximum where they fill less than an eighth of these; floats within 0..1 not at all; anything else
    (negative or larger) from minimum to maximum. Deeper colour is scaled likewise and rounded to 8 bits. Padding,
    values that stand for no data, metal and hot pixels do not count for that range: :func:`.intensities.find_range` has
    the rule. They become black or white, and ``ignored`` and a note say so. Only the first page is read, and
    transparency is ignored.

    Args:
        source: a path, the bytes of a file, or a file that was opened in binary mode. HDF5 is read from paths alone:
            one slice, the data set ``image``. DICOM is read from paths alone, too.
        window: centre and width of the intensities that become 0..1, of grey; in place of the file's and of the range
            above.

    Raises:
        ImageError: the file cannot be read, is no such image, is damaged, has more than ``MAX_PIXELS`` pixels, a side
            under ``MIN_SIDE``, NaN or infinite pixels that are not connected with the rim, or one value throughout.
        UsageError: the file is opened as text or for writing, is closed, or stands at its end.
        BackendUnavailable: h5py or pydicom, which read HDF5 and DICOM, is missing.
    """
    with failing_by_name(source) as name:
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if is_slice(path):
                return of_stored(_slice(path, name), name, window)
            if _format(path) == formats.DICOM:
                require_extra("dicom", f"{name}: DICOM")
                from .dicom.picture import read_picture

                return read_picture(path, window)
        return of_stored(read_stored(source), name, window)


def image_from_array(array: NDArray[Any], name: str = "array") -> InputImage:
    """Take a picture from memory: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; bool, integer or float.

    The intensities are treated as in ``read_image``. The array is copied, floats at float32.

    Raises:
        UsageError: the shape or the type is not one of these, or parts of it are masked.
        ImageError: the picture is too large, too small, not finite or constant.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise UsageError(f"{name}: a masked array; pass array.filled(VALUE)")
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise UsageError(f"{name}: {array.dtype} values are not intensities; pass integers or floats")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise UsageError(f"{name}: shape {array.shape} is not an image; pass (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    check_limit(array.shape[1], array.shape[0], name)
    notes: tuple[str, ...] = ()
    if array.shape[2:] == (4,):
        array = array[..., :3]
        notes = (DROPPED_ALPHA,)
    if array.shape[2:] == (1,):
        array = array[..., 0]
    if array.dtype == np.uint8:
        array = array.copy()
    return of_stored(Stored(array, notes), name)


def image_from_pillow(image: Image.Image, name: str = "image") -> InputImage:
    """Take a picture that was opened or made with Pillow, of any mode; it is turned as its EXIF orientation says.

    Pillow has no colour of 16 bits. Where the image has that and was not read yet, its file is read as by
    ``read_image``.

    Raises:
        ImageError: as ``read_image``, or its file was closed before it was read.
    """
    check_limit(image.width, image.height, name)
    file = pillow.deep_file(image)
    if file is not None:
        file.seek(0)
        return of_stored(read(file, name), name)
    with pillow.silent():
        try:
            found = pillow.decoded(image)
        except MemoryError as error:
            raise ImageError(f"{name}: {_explain(error)}") from error
        except Exception as error:  # of a file that was opened and is read only now
            if "closed" in str(error) or getattr(image, "fp", image) is None:
                raise ImageError(f"{name}: its file was closed before it was read; call load() on it first") from error
            raise ImageError(f"{name}: cannot be decoded, damaged or cut short ({printable(str(error))})") from error
    return of_stored(found, name)


def read_stored(source: str | os.PathLike[str] | bytes | BinaryIO) -> Stored:
    """Read the first picture of a file that is not HDF5 as it is stored, but upright.

    Raises:
        ImageError: the file cannot be read, is no such image, is damaged, or has more than ``MAX_PIXELS`` pixels.
        UsageError: the file is opened as text or for writing, is closed, or stands at its end.
    """
    with failing_by_name(source) as name:
        if isinstance(source, bytes):
            return read(io.BytesIO(source), name)
        if not isinstance(source, (str, os.PathLike)):
            return read(_seekable(source, name), name)
        path = Path(source)
        _check_regular(path, name)
        with path.open("rb") as file:
            return read(file, name)


def is_slice(path: Path) -> bool:
    """Whether a file is HDF5; of damaged ones the suffix decides.

    Raises:
        OSError: the system cannot read it.
        ImageError: it is no file.
    """
    found = _format(path)
    if found is None:
        return path.suffix.lower() in HDF5_SUFFIXES and path.stat().st_size > 0
    return found.name == "HDF5"


@contextmanager
def failing_by_name(source: Any) -> Iterator[str]:
    """Name what is read; whatever goes wrong in reading it becomes one line."""
    name = _name_of(source)
    try:
        yield name
    except DeployError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: {_explain(error)}") from error


def network_input(
    image: InputImage, side: int, resize: Resize = "bilinear", part: Part | None = None
) -> NDArray[np.float32]:
    """Return what the encoder takes: float32 (3, side, side), BGR, 0..1, squeezed to a square without keeping aspect.

    Squeezing and channel order are those of the published code, which reads with OpenCV.

    Args:
        image: to be squeezed.
        side: of the square.
        resize: ``bilinear``, antialiased; or ``nearest``, each pixel the one under its centre.
        part: what is seen of the image, for ``bilinear``; None for all of it.
    """
    if resize == "nearest":
        resized = resize_nearest(image.pixels, side, side)
    else:
        picture = Image.fromarray(image.pixels)
        resized = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=part))
    if resized.ndim == 2:
        return np.repeat(resized[None].astype(np.float32), 3, axis=0)
    return np.ascontiguousarray(resized[..., ::-1].transpose(2, 0, 1)) / np.float32(255)


def resize_nearest(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize (h, w) ids or flags to (height, width): each pixel takes the value under its centre; the type is kept."""
    return array[_nearest(array.shape[0], height)][:, _nearest(array.shape[1], width)]


def resize_linear(array: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize (h, w) numbers to (height, width), linear and antialiased where they shrink."""
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))


def _format(path: Path) -> formats.Format | None:
    _check_regular(path, printable(path))
    with path.open("rb") as file:
        return formats.identify(file.read(formats.HEAD))


def _check_regular(path: Path, name: str) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: is a folder, not an image; name the image files in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: is not a regular file; copy the image to one first")


def _name_of(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return printable(Path(source))
    if isinstance(source, bytes):
        return "bytes"
    name = getattr(source, "name", None)
    return printable(name) if isinstance(name, str) else "file"


def _seekable(file: BinaryIO, name: str) -> BinaryIO:
    """The file from where it stands; one that cannot be sought in, or of which a part was read, in memory."""
    if file.closed:
        raise UsageError(f"{name}: is closed; open it again")
    if not file.readable():
        raise UsageError(f"{name}: is opened for writing alone; open it with mode 'rb'")
    if file.seekable() and file.tell() == 0:
        if isinstance(file.read(0), bytes):
            return file
        raise UsageError(f"{name}: is opened as text; open it with mode 'rb'")
    content = file.read()
    if not isinstance(content, bytes):
        raise UsageError(f"{name}: is opened as text; open it with mode 'rb'")
    if not content and file.seekable():
        raise UsageError(f"{name}: stands at its end; call seek(0) on it first")
    return io.BytesIO(content)


def _slice(path: Path, name: str) -> Stored:
    """The picture of a slice, grey (H, W)."""
    from . import hdf5

    with hdf5.opened(path) as file:
        height, width = hdf5.find(file, "image", path).shape
        check_limit(width, height, name)
        values = hdf5.plane(file, "image", path)
    if values.dtype.kind not in "fiu":
        raise ImageError(f"{name}: its 'image' holds no numbers; write intensities")
    return Stored(values)


def _explain(error: Exception) -> str:
    """Say what kept a file from being read and what to do about it."""
    match error:
        case MemoryError():
            return "not enough memory to decode it; resize it first"
        case OSError(errno=int(), strerror=str()):
            return why_unread(error)
    return f"cannot be read ({printable(str(error))}); export it again, as PNG if you can"


def _nearest(source: int, target: int) -> NDArray[np.intp]:
    """Return which of ``source`` pixels lies under the centre of each of ``target`` pixels."""
    return (2 * np.arange(target) + 1) * source // (2 * target)
