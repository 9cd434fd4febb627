"""Decode the first picture of any supported image file, as it is stored."""

from __future__ import annotations

from typing import BinaryIO

from PIL import UnidentifiedImageError

from ...errors import DeployError, ImageError, printable
from ...machine.memory import is_out_of_memory
from . import formats, pillow
from .stored import Stored

_EXPORT = "export it again, as PNG if you can"


def read(file: BinaryIO, name: str) -> Stored:
    """Decode the first picture of a file; its content decides the format.

    Args:
        file: a seekable file at its beginning.
        name: name of the file in messages.

    Raises:
        ImageError: the file is not a supported image, is damaged, or has more than ``MAX_PIXELS`` pixels.
        OSError: the system cannot read it.
        MemoryError: the picture is too large to decode.
    """
    head = file.read(formats.HEAD)
    if not head:
        raise ImageError(f"{name}: the file is empty; export or copy it again")
    found = formats.identify(head)
    if found is None:
        kinds = ", ".join(formats.SUPPORTED)
        raise ImageError(f"{name}: not a {kinds} or DICOM image; export it again, or save it as an 8-bit or 16-bit PNG")
    if found.advice is not None:
        why = "holds a volume, not an image" if found.is_volume else "is not supported"
        raise ImageError(f"{name}: is {found.name}, which {why}; {found.advice}")
    file.seek(0)
    try:
        return _decode(found.name, file, name)
    except (DeployError, MemoryError, ImportError):
        raise
    except Exception as error:  # damage can raise any error in a decoder
        if is_out_of_memory(error):
            raise MemoryError from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if not isinstance(error, TypeError) and ("nsupported" in str(error) or "not supported" in str(error)):
            raise ImageError(
                f"{name}: a kind of {found.name} that is not supported ({printable(str(error)[:120])}); save it as PNG"
            ) from error
        # In this case Pillow's message contains the address of an object.
        reason = "its header" if isinstance(error, UnidentifiedImageError) else printable(str(error)[:120])
        raise ImageError(f"{name}: cannot be decoded, damaged or cut short ({reason}); {_EXPORT}") from error


def _decode(kind: str, file: BinaryIO, name: str) -> Stored:
    # Imported here, because each decoder loads a library that not every run needs.
    if kind == "PNG":
        from .png import read as decode
    elif kind == "JPEG":
        from .jpeg import read as decode
    elif kind == "TIFF":
        from .tiff import read as decode
    elif kind == "JPEG 2000":
        from .jpeg2000 import read as decode
    elif kind == "WebP":
        from .webp import read as decode
    elif kind == "AVIF":
        from .avif import read as decode
    elif kind == "HDF5":
        raise ImageError(f"{name}: is HDF5, which can be read only from a path; pass its path")
    else:
        return pillow.read(file, kind.upper(), name)
    return decode(file, name)
