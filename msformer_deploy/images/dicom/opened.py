"""Open DICOM files: silently, with one line for whatever is wrong, and with the pixels of one frame at a time."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DeployError, ImageError, printable
from ...machine.forks import lock_across_forks
from ...machine.memory import is_out_of_memory
from .. import quiet
from ..decoders import formats
from ..decoders.stored import TooLarge, allowed_values, check_limit
from ..sources import FileStamp
from .kinds import DIRECTORY, OTHER, OVERLAY, kind_of
from .values import items, whole, word

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.pixels.decoders.base import Decoder

MAX_NAMED = 3  # files in one message
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_PIXELS = {(0x7FE0, 0x0008): "FloatPixelData", (0x7FE0, 0x0009): "DoubleFloatPixelData", (0x7FE0, 0x0010): "PixelData"}
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN", b"OL", b"OV")  # representations whose length has 32 bits
_UNDEFINED = 0xFFFFFFFF
_RLE, _DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"
_META = 0x0002  # group of the elements that are never deflated
_CHUNK = 1 << 18  # bytes that are inflated at once
_TAIL = 10  # bytes at the end of a fragment that have the end marker of a frame: bytes that fill it up may follow
_LONGEST = 1 << 26  # bytes of an element that is read at once; private ones may be larger, and nobody asks for them
_COPY = "copy or export it again"

_LOCK = lock_across_forks()


@contextmanager
def silent() -> Iterator[None]:
    """Use pydicom in one thread, without its warnings, log and checks of values: all of them quote headers."""
    from pydicom import config  # it sets the level of its logger

    with _LOCK, quiet.silent():
        mode = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.IGNORE
        try:
            yield
        finally:
            config.settings.reading_validation_mode = mode


@dataclass(frozen=True)
class Layout:
    """How the pixels of an object are stored.

    Attributes:
        rows, columns: of a frame.
        frames: number of frames; 1 where the header has none.
        colour: whether a frame is RGB (H, W, 3) when it has been decoded, else grey (H, W).
        inverted: whether low values are white.
        signed: whether values can be negative.
        allocated, stored, high: bits of a value, bits used, and the place of the highest of these.
    """

    rows: int
    columns: int
    frames: int
    colour: bool
    inverted: bool
    signed: bool
    allocated: int
    stored: int
    high: int


class Stamp(NamedTuple):
    """What two readings of one object have in common, if nobody replaced or changed it between them."""

    layout: Layout
    file: FileStamp


@dataclass(frozen=True)
class Opened:
    """An object that is open for reading.

    Attributes:
        header: everything before its pixels.
        layout: of its pixels.
    """

    header: FileDataset
    layout: Layout
    _file: BinaryIO
    _name: str
    _syntax: str

    def stamp(self) -> Stamp:
        """What tells whether the object is still the same: layout, SOP Instance UID, size and time of the file."""
        return Stamp(self.layout, file_stamp(self.header, self._file))

    def check_pixels(self) -> None:
        """See that the pixels are there, and as long as the header says. Nothing is decoded.

        Raises:
            ImageError: they are missing, cut short, or stored in a way that is not supported.
        """
        keyword, representation, length, file = self._pixels()
        self._check_length(self._decoder().is_native, length, file, self._options(keyword, representation))

    def frames(self) -> Iterator[NDArray[Any]]:
        """Decode frame after frame: grey as stored, (H, W), signed or unsigned; colours as RGB, uint8 (H, W, 3).

        Raises:
            ImageError: pixels are missing, cut short, damaged, or stored in a way that is not supported.
        """
        keyword, representation, length, file = self._pixels()
        layout, found, options = self.layout, self._decoder(), self._options(keyword, representation)
        shifted = layout.high + 1 - layout.stored if found.is_native and keyword == "PixelData" else 0
        if shifted:  # pydicom assumes that the lowest bit is used
            options["bits_stored"] = layout.allocated
        self._check_length(found.is_native, length, file, options)
        if found.is_native:
            frames = (found.as_array(file, index=index, **options)[0] for index in range(layout.frames))
        else:
            frames = (each for each, _ in found.iter_array(file, **options))
        count = 0
        for pixels in frames:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
            if shifted:
                pixels = _shifted(pixels, layout)
            yield self._rgb(pixels) if layout.colour else pixels
            count += 1
            if count == layout.frames:
                return
        raise ImageError(f"{self._name}: has pixels of {count} of {layout.frames} frames; {_COPY}")

    def _decoder(self) -> Decoder:
        from .codecs import Unsupported, decoder

        try:
            return decoder(self._syntax)
        except Unsupported as error:
            raise ImageError(f"{self._name}: {error}") from None

    def _options(self, keyword: str, representation: str) -> dict[str, Any]:
        """What pydicom's decoders ask to know of the pixels."""
        layout = self.layout
        options: dict[str, Any] = {
            "rows": layout.rows,
            "columns": layout.columns,
            "number_of_frames": layout.frames,
            "samples_per_pixel": whole(self.header, "SamplesPerPixel") or 1,
            "photometric_interpretation": word(self.header, "PhotometricInterpretation"),
            "bits_allocated": layout.allocated,
            "bits_stored": layout.stored,
            "pixel_representation": int(layout.signed),
            "planar_configuration": whole(self.header, "PlanarConfiguration") or 0,
            "pixel_keyword": keyword,
            "pixel_vr": representation,
            "allow_excess_frames": False,
        }
        if keyword != "PixelData":
            for unused in ("bits_stored", "pixel_representation"):
                del options[unused]
        return options

    def _pixels(self) -> tuple[str, str, int, BinaryIO]:
        """Find the pixels: their keyword, representation and length, and a file that stands at their first byte."""
        for keyword in _PIXELS.values():  # of deflated files pydicom has inflated all
            if keyword in self.header:
                element = self.header[keyword]
                return keyword, str(element.VR), len(element.value), io.BytesIO(element.value)
        order = "little" if self.header.original_encoding[1] else "big"
        head = self._file.read(8)
        tag = (_number(head[:2], order), _number(head[2:4], order))
        if len(head) < 8 or tag not in _PIXELS:
            raise ImageError(f"{self._name}: has no pixels, or its header is cut short; {_COPY}")
        if self.header.original_encoding[0]:
            representation, length = "OW", _number(head[4:], order)
        else:
            representation = head[4:6].decode("ascii", "replace")
            length = _number(self._file.read(4), order) if head[4:6] in _LONG else _number(head[6:], order)
        return _PIXELS[tag], representation, length, self._file

    def _check_length(self, native: bool, length: int, file: BinaryIO, options: dict[str, Any]) -> None:
        """Refuse pixels of fewer or more frames than the header says, before memory is taken for them."""
        start = file.tell()
        there = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        layout = self.layout
        if native:
            bits = layout.allocated * options["samples_per_pixel"]
            if options["photometric_interpretation"] == "YBR_FULL_422":
                bits = bits * 2 // 3
            frame = layout.rows * layout.columns * bits
            needed = (frame * layout.frames + 7) // 8
            if length != _UNDEFINED and length < needed <= there:
                raise ImageError(
                    f"{self._name}: its pixels are stated to be {length} bytes long, and {layout.frames} x"
                    f" {layout.rows} x {layout.columns} of them need {needed}; {_COPY}"
                )
            if there < needed:
                raise ImageError(f"{self._name}: its pixels are cut short, {there} of {needed} bytes; {_COPY}")
            if length != _UNDEFINED:
                self._check_held(min(length, there) * 8 // frame)
            return
        if length == 0 or there == 0:
            raise ImageError(f"{self._name}: its pixels are empty; {_COPY}")
        from pydicom.encaps import parse_basic_offsets, parse_fragments

        table = len(self.header.get("ExtendedOffsetTable") or b"") // 8 or len(parse_basic_offsets(file))
        fragments, places = parse_fragments(file)
        if fragments < layout.frames:
            raise ImageError(f"{self._name}: has pixels of {fragments} of {layout.frames} frames; {_COPY}")
        if fragments > layout.frames:  # a frame may have several fragments, but not of RLE (PS3.5, A.4.2)
            one_each = self._syntax == _RLE
            self._check_held(table or (fragments if one_each else sum(_ends_frame(file, each) for each in places)))
        file.seek(start)

    def _check_held(self, frames: int) -> None:
        """Refuse an object that holds more frames than its header states."""
        if frames > self.layout.frames:
            raise ImageError(
                f"{self._name}: its header states {_counted(self.layout.frames)}, and its pixels are of {frames};"
                f" {_COPY}"
            )

    def _rgb(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if word(self.header, "PhotometricInterpretation") == _PALETTE:
            from pydicom.pixels.processing import apply_color_lut

            colours = apply_color_lut(pixels, self.header)[..., :3]
            largest = np.iinfo(colours.dtype).max
        else:
            colours = pixels
            largest = 2**self.layout.stored - 1
        if largest == 255:
            return colours.astype(np.uint8, copy=False)
        return np.rint(colours * (255 / largest)).clip(0, 255).astype(np.uint8)


@contextmanager
def failing(path: Path, name: str | None = None) -> Iterator[str]:
    """Name what is read; whatever goes wrong in reading it becomes one line without a word of pydicom."""
    named = printable(path) if name is None else name
    try:
        yield named
    except (DeployError, MemoryError):
        raise
    except Exception as error:  # damage can raise any error
        if is_out_of_memory(error):
            raise MemoryError from None
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"{named}: is DICOM that is damaged or cut short, and cannot be decoded; {_COPY}") from None


@contextmanager
def header_of(path: Path, tags: tuple[str, ...] | None = None) -> Iterator[tuple[FileDataset, BinaryIO]]:
    """Open a file and read its header, in silence.

    Args:
        path: the file.
        tags: keywords of the only elements to read; None reads all before the pixels.
    """
    from pydicom import dcmread

    with path.open("rb") as file:
        head = file.read(formats.HEAD)
        if not head:
            raise ImageError(f"{printable(path)}: the file is empty; {_COPY}")
        if formats.identify(head) != formats.DICOM:
            raise ImageError(f"{printable(path)}: is not a DICOM file; {_COPY}")
        _check_inflated(file, printable(path))
        file.seek(0)
        before_pixels = tags is not None or not _is_deflated(head)
        yield (
            dcmread(
                file,
                stop_before_pixels=before_pixels,
                defer_size=_LONGEST if before_pixels else None,
                force=True,
                specific_tags=None if tags is None else list(tags),
            ),
            file,
        )


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open an image, in silence; it must be read within the ``with``.

    Raises:
        ImageError: it is no image, or its header lacks what pixels need.
        OSError: the system cannot read it.
    """
    with silent(), failing(path) as name, header_of(path) as (header, file):
        kind = object_kind(header)
        if kind is not None:
            what = kind if kind in (DIRECTORY, OTHER) else f"a {kind}" if kind == OVERLAY else f"a {kind} object"
            raise ImageError(f"{name}: is {what}, which is not an image to segment; leave it out")
        if is_whole_slide(header):
            raise ImageError(
                f"{name}: is a whole slide in {frames_of(header)} tiles, which do not lie behind each other as slices"
                " do; export a region of it as one image"
            )
        layout = _layout(header, name)
        check_limit(layout.columns, layout.rows, name)
        yield Opened(header, layout, file, name, _syntax(header))


def object_kind(header: FileDataset) -> str | None:
    """The kind of an object that is no image to segment; None for an image."""
    meta = getattr(header, "file_meta", None)
    sop_class = word(header, "SOPClassUID") or (word(meta, "MediaStorageSOPClassUID") if meta is not None else "")
    pixels = whole(header, "Rows") is not None
    return kind_of(sop_class, word(header, "Modality"), pixels, word(header, "Manufacturer"))


def file_stamp(header: FileDataset, file: BinaryIO) -> FileStamp:
    """What tells whether an open file is still the same: SOP Instance UID, size and time."""
    status = os.fstat(file.fileno())
    return FileStamp(word(header, "SOPInstanceUID"), status.st_size, status.st_mtime_ns)


def is_whole_slide(header: FileDataset) -> bool:
    """Whether the frames of an object are tiles of one large picture (PS3.3, C.8.12.4 and A.32.8)."""
    tiled = word(header, "SOPClassUID") == _WHOLE_SLIDE or whole(header, "TotalPixelMatrixRows") is not None
    return tiled and frames_of(header) > 1


def listed(names: list[str]) -> str:
    """At most three names, then how many more there are."""
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"


def frames_of(header: FileDataset) -> int:
    """Number of frames; 1 where the header has none or 0."""
    return whole(header, "NumberOfFrames") or 1


def _layout(header: FileDataset, name: str) -> Layout:
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    for what, value in (("rows", rows), ("columns", columns)):
        if value is None or value < 1:
            raise ImageError(f"{name}: its header has no number of {what}; {_COPY}")
    assert rows is not None  # as checked
    assert columns is not None
    frames = frames_of(header)
    if frames < 1 or (word(header, "NumberOfFrames") and whole(header, "NumberOfFrames") is None):
        raise ImageError(f"{name}: its number of frames is not valid; {_COPY}")
    described = len(items(header, "PerFrameFunctionalGroupsSequence"))
    if described not in (0, frames):
        raise ImageError(f"{name}: its header states {_counted(frames)}, and describes {described}; {_COPY}")
    photometric = word(header, "PhotometricInterpretation")
    samples = whole(header, "SamplesPerPixel") or 1
    allocated = whole(header, "BitsAllocated")
    if allocated is None or not (allocated == 1 or (allocated % 8 == 0 and 8 <= allocated <= 64)):
        raise ImageError(f"{name}: its header has no valid number of bits allocated; {_COPY}")
    stored = whole(header, "BitsStored") or allocated
    high = whole(header, "HighBit")
    high = stored - 1 if high is None else high
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        raise ImageError(f"{name}: its numbers of bits stored and of the high bit do not fit each other; {_COPY}")
    known = {1: (*_GREY, _PALETTE), 3: _COLOURS}
    if photometric not in known.get(samples, ()):
        raise ImageError(f"{name}: its kind of colours is missing or not supported; export it as PNG")
    colour = photometric not in _GREY
    signed = whole(header, "PixelRepresentation") == 1
    return Layout(rows, columns, frames, colour, photometric == "MONOCHROME1", signed, allocated, stored, high)


def _syntax(header: FileDataset) -> str:
    meta = getattr(header, "file_meta", None)
    stated = str(meta.get("TransferSyntaxUID", "") or "") if meta is not None else ""
    if stated:
        return stated
    from pydicom import uid

    implicit, little = header.original_encoding
    if implicit:
        return str(uid.ImplicitVRLittleEndian)
    return str(uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian)


def _check_inflated(file: BinaryIO, name: str) -> None:
    """Refuse a deflated object that would take far more memory than a picture may, before pydicom inflates it whole.

    Raises:
        TooLarge: it would.
    """
    from pydicom.filereader import read_dataset, read_preamble

    file.seek(0)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != _META)
    if word(meta, "TransferSyntaxUID") != _DEFLATED:
        return
    stream, size, limit = zlib.decompressobj(-zlib.MAX_WBITS), 0, allowed_values()
    while not stream.eof and (packed := stream.unconsumed_tail or file.read(_CHUNK)):
        size += len(stream.decompress(packed, _CHUNK))
        if size > limit:
            raise TooLarge(f"{name}: its deflated content is over the limit of {limit / 1e6:g} MB; {_COPY}")


def _is_deflated(head: bytes) -> bool:
    return _DEFLATED.encode() in head[:1024]


def _ends_frame(file: BinaryIO, place: int) -> bool:
    """Whether the fragment at a place is the last one of a JPEG, JPEG-LS or JPEG 2000 frame, by its end marker."""
    file.seek(place + 4)  # behind the tag
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(length - _TAIL, 0), os.SEEK_CUR)
    return b"\xff\xd9" in file.read(min(length, _TAIL))


def _counted(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"


def _number(content: bytes, order: Any) -> int:
    return int.from_bytes(content, order)


def _shifted(pixels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The bits up to the high bit, of which ``stored`` are used, as numbers."""
    raised = np.left_shift(pixels, layout.allocated - 1 - layout.high)
    return np.right_shift(raised, layout.allocated - layout.stored)
