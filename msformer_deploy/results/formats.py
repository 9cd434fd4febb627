"""The formats of ``--format``: which files each of them adds to a result, and which results can have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ImageError, UsageError
from ..images.inputs import RESULTS, SLICES
from ..images.items import Reading
from ..images.sources import DicomSource, Form
from ..images.volume import Volume
from ..images.volumes.write import suffix_of
from ..machine.extras import require_extra
from ..registry import FORMATS, Format, SegType

if TYPE_CHECKING:
    from ..images.image import InputImage
    from ..images.inputs import Item

OF_VOXELS: dict[Format, Form] = {"nifti": "nifti", "nrrd": "nrrd", "mha": "mha"}
OF_DICOM: tuple[Format, ...] = ("seg", "sc", "sr")
OF_PICTURES: tuple[Format, ...] = ("coco", "labelme")

_BY_SUFFIX: dict[str, Format] = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "mha", ".mhd": "mha"}


@dataclass(frozen=True)
class Wanted:
    """What is asked of a run: how it reads, and what it writes.

    Attributes:
        formats: names out of :data:`FORMATS`; empty for the default: PNG for images, for volumes the format that they
            came in, and NIfTI for those of DICOM.
        seg: whether a DICOM segmentation is written too.
        structure: what the mask shows, see :data:`..terminology.SEGMENTS`.
        reading: how images and volumes are read.
        identifiers: whether identifiers from DICOM are copied to records and measurements.
        seg_type: how a DICOM segmentation stores its segments.
    """

    formats: tuple[Format, ...] = ()
    seg: bool = False
    structure: str = "object"
    reading: Reading = field(default_factory=Reading)
    identifiers: bool = False
    seg_type: SegType = "binary"

    @property
    def segmentation(self) -> bool:
        """Whether a DICOM segmentation is written. A report of measurements (SR) refers to one."""
        return self.seg or not {"seg", "sr"}.isdisjoint(self.formats)

    def of(self, item: Item) -> tuple[Format, ...]:
        """The formats of the result of an item."""
        own: Format = "png" if item.kind == "image" else _BY_SUFFIX.get(item.path.suffix.lower(), "nifti")
        chosen = self.formats or (own,)
        return (*chosen, "seg") if self.segmentation and "seg" not in chosen else chosen

    def require(self, items: Iterable[Item]) -> None:
        """See that what the formats of all items need is installed.

        Raises:
            BackendUnavailable: it is not; the message has the command that installs it.
        """
        asked = {each for item in items for each in self.of(item)}
        if "nifti" in asked:
            require_extra("volumes", "results as NIfTI (--format nifti)")
        if asked.intersection(OF_DICOM):
            require_extra("dicom", f"results as DICOM ({', '.join(each for each in OF_DICOM if each in asked)})")

    def files(self, item: Item) -> Iterator[str]:
        """What the names of all files end with that the formats may add to an item's."""
        for each in self.of(item):
            if each in OF_VOXELS:
                names = (name for name in RESULTS if name != "overlay" and (each, name) != ("nrrd", "mask"))
                yield from (f".{name}{suffix_of(OF_VOXELS[each])}" for name in names)
                yield from (".seg.nrrd",) if each == "nrrd" else ()
            elif each in OF_DICOM:
                yield f".{each}.dcm"
            elif each == "png" and item.kind == "volume":
                yield SLICES
            elif each == "labelme":
                yield ".labelme.json"

    def is_written_for(self, format_: Format, item: Item) -> bool:
        """Whether a format gives files of an item's own, beside the pictures that every image has."""
        return format_ != "coco" and not (format_ == "png" and item.kind == "image")

    def check(self, item: Item, read: InputImage | Volume) -> None:
        """See that the result of what was read can be written, before it is segmented.

        An item fails as a whole: what is asked for and cannot be had is not left out without a word.

        Raises:
            ImageError: it cannot; the message says which format does not fit.
        """
        asked = self.of(item)
        is_volume = isinstance(read, Volume)
        of_dicom = [each for each in asked if each in OF_DICOM]
        if of_dicom and not isinstance(read.source, DicomSource):
            raise ImageError(
                f"{read.name}: is not DICOM, so its result cannot be written as {', '.join(of_dicom)}; drop this"
                " format, or convert the image to DICOM"
            )
        if isinstance(read.source, DicomSource) and of_dicom:
            from .dicom import headers, segmentation  # these need pydicom

            segmentation.check(read.source) if "seg" in of_dicom else headers.read(read.source)
        of_pictures = [each for each in asked if each in OF_PICTURES]
        if of_pictures and is_volume:
            raise ImageError(
                f"{read.name}: is a volume, so its result cannot be written as {', '.join(of_pictures)}; choose nifti,"
                " nrrd or mha"
            )


def parse_formats(text: str | None) -> tuple[Format, ...]:
    """Read ``--format``.

    Raises:
        UsageError: a format is unknown.
    """
    names = [] if text is None else [name.strip().lower() for name in text.split(",")]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise UsageError(f"format {unknown[0]!r} is unknown; choose among {', '.join(FORMATS)}")
    return tuple(each for each in FORMATS if each in names)
