"""Decoders of compressed pixel data: RLE by pydicom, JPEG, JPEG-LS, JPEG 2000 and HTJ2K by imagecodecs.

One decoder per transfer syntax, always the same one: pydicom alone would take whichever package is installed, and these
do not agree on all files. imagecodecs is a dependency already; it reads JPEG of 12 bits and HTJ2K, which GDCM does not.
"""

from __future__ import annotations

import itertools
import re
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

from pydicom import uid
from pydicom.pixels.decoders.base import Decoder

from ..decoders import jpeg, jpeg2000

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.pixels.decoders.base import DecodeRunner

_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (
    *(uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEG2000MCLossless, uid.JPEG2000MC),
    *(uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
)
_NATIVE = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    uid.DeflatedExplicitVRLittleEndian,
)
# What pydicom asks of a module with a decoder: what it needs, for each transfer syntax.
DECODER_DEPENDENCIES: dict[str, tuple[str, ...]] = dict.fromkeys((*_JPEG, *_JPEG_LS, *_JPEG_2000), ("imagecodecs",))
DECODER_DEPENDENCIES[uid.RLELossless] = ()
TRANSFER_SYNTAXES = tuple(map(str, (*_NATIVE, *DECODER_DEPENDENCIES)))  # all that are read
_OURS = "imagecodecs"
# Markers APP14 of Adobe and APP0 of JFIF, long enough for the library to heed them.
_MARKERS = re.compile(rb"\xff\xee\x00[\x0e-\xff]Adobe|\xff\xe0\x00[\x10-\xff]JFIF\x00", re.DOTALL)


class Unsupported(Exception):
    """A transfer syntax that cannot be decoded; the message is the end of a line for people."""


@cache
def decoder(syntax: str) -> Decoder:
    """The decoder of a transfer syntax. It is not pydicom's own instance, to which all of a process add their plugins.

    Raises:
        Unsupported: there is none; the message says why.
    """
    found = uid.UID(syntax)
    if found in _NATIVE:
        return Decoder(found)
    made = Decoder(found)
    if found == uid.RLELossless:
        made.add_plugin("pydicom", (__name__, "decode_run_lengths"))
        return made
    if found not in DECODER_DEPENDENCIES:
        what = "an unknown transfer syntax"  # its value may say who made the file
        if found.name != syntax:
            what = f"the transfer syntax {found.name}, which is not supported"
        raise Unsupported(f"its pixels have {what}; convert it to explicit little endian")
    made.add_plugin(_OURS, (__name__, "decode_frame"))
    if not made.is_available:
        raise Unsupported(
            f"its pixels have the transfer syntax {found.name}, and the installed imagecodecs is without its codec;"
            " pip install --force-reinstall imagecodecs"
        )
    return made


def is_available(syntax: str) -> bool:
    """Whether imagecodecs was built with what decodes a transfer syntax; pydicom asks this."""
    import imagecodecs

    if syntax == uid.RLELossless:
        return True
    codec = imagecodecs.JPEG8 if syntax in _JPEG else imagecodecs.JPEGLS if syntax in _JPEG_LS else imagecodecs.JPEG2K
    return bool(codec.available)


def decode_frame(source: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame, as pydicom asks of a plugin; what it sets in ``runner`` says what was decoded.

    Raises:
        ValueError: the frame has another size than the header.
        RuntimeError: of imagecodecs, for damage of any kind.
    """
    import imagecodecs

    syntax = runner.transfer_syntax
    if syntax in _JPEG_2000:
        start, *shape = jpeg2000.stated_shape(source)
        stated, source = tuple(shape), source[start:]  # so that no other stream in it is decoded
    else:
        stated = jpeg.stated_shape(source)
    if stated != (runner.rows, runner.columns, runner.samples_per_pixel):  # before the decoder takes memory for it
        raise ValueError("a frame has another size than the header")
    if syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(source)
    elif syntax in _JPEG_2000:
        pixels = imagecodecs.jpeg2k_decode(source)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    else:
        pixels = _jpeg(source, runner)
    if pixels.shape != (runner.rows, runner.columns, runner.samples_per_pixel)[: 2 + (runner.samples_per_pixel > 1)]:
        raise ValueError("a frame has another size than the header")
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return bytearray(pixels.tobytes())  # pydicom corrects signs in place


def decode_run_lengths(source: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame of RLE by pydicom, whose decoder takes memory for whatever a segment expands to.

    Raises:
        ValueError: a segment is much longer than the header says.
        RuntimeError: of imagecodecs, for a segment that expands to much more.
    """
    import imagecodecs
    from pydicom.pixels.decoders import rle

    count, *starts = struct.unpack("<16L", source[:64])
    starts = [*starts[: min(count, 15)], len(source)]
    # Twice the pixels: some programs fill segments up. Another number of segments is refused by pydicom.
    room = bytearray(2 * runner.rows * runner.columns + 64)
    for start, end in itertools.pairwise(starts):
        imagecodecs.packbits_decode(source[start:end], out=room)
    return rle._decode_frame(source, runner)


def _jpeg(source: bytes, runner: DecodeRunner) -> NDArray[Any]:
    """Decode JPEG; colours become RGB.

    The stream says by its Adobe or JFIF marker whether it holds YCbCr. Without a marker the header decides, where the
    library would take YCbCr.
    """
    import imagecodecs

    if runner.samples_per_pixel != 3:
        return imagecodecs.jpeg8_decode(source)
    stated = _MARKERS.search(source[: source.find(b"\xff\xda")])  # before the pixels
    held = None if stated else "RGB" if runner.photometric_interpretation == "RGB" else "YCBCR"
    pixels = imagecodecs.jpeg8_decode(source, colorspace=held, outcolorspace="RGB")
    runner.set_option("photometric_interpretation", "RGB")
    return pixels
