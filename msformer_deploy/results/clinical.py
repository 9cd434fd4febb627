"""Results in the formats of hospitals and annotation tools, beside the pictures that every result has."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.folder import MANIFEST, sha256
from ..images import draw
from ..images.inputs import SLICES
from ..images.read import read_stored
from ..images.sources import DicomSource, FileSource
from ..images.volume import Volume
from ..images.volumes.write import suffix_of, write_volume
from ..measures.physical import Measured, measure, measure_volume
from ..registry import find_system
from ..terminology import SEGMENTS
from .annotations import COCO, CocoFile, Shape, categories_of, shapes_of, write_labelme
from .formats import OF_VOXELS, Wanted

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..foreground.candidates import VolumeCandidate
    from ..images.image import InputImage
    from ..images.inputs import Item
    from ..segmenter import Segmentation
    from ..volume_segmenter import VolumeSegmentation


class Drawn:
    """A candidate of a volume at the volume's size: drawn when it is asked for, because few formats need it.

    Args:
        candidate: what is drawn.
        shape: of the volume.
    """

    def __init__(self, candidate: VolumeCandidate, shape: tuple[int, int, int]) -> None:
        self._candidate, self._shape = candidate, shape
        self._area: float | None = None

    def mask(self) -> NDArray[np.bool_]:
        """Where it is, bool (N, H, W); a new array."""
        mask = np.empty(self._shape, bool)
        for index, each in enumerate(self._slices()):
            mask[index] = each
        self._area = float(mask.mean())
        return mask

    @property
    def area_fraction(self) -> float:
        """Its part of all voxels; in memory is one slice."""
        if self._area is None:
            voxels = math.prod(self._shape)
            self._area = sum(int(np.count_nonzero(each)) for each in self._slices()) / voxels
        return self._area

    def _slices(self) -> Iterator[NDArray[np.bool_]]:
        slices, height, width = self._shape
        return (self._candidate.at_size(index, height, width) for index in range(slices))


@dataclass(frozen=True, eq=False)
class Result:
    """What is written of an image or a volume; an image is a volume of one slice here.

    Attributes:
        volume: its place and its source.
        labels: (N, H, W) cluster ids, or classes of a trained system.
        mask: (N, H, W) bool.
        candidates: plausible objects that are not the mask, by number.
        probability: a slice's, float32 (H, W), by its index.
        overlay: a slice's, uint8 (H, W, 3), by its index.
        bundle: that was used.
        structure: what the mask shows, where the system is not trained.
        corrected: whether a person has corrected the mask.
        prompted: whether a person has shown what to segment.
    """

    volume: Volume
    labels: NDArray[np.integer]
    mask: NDArray[np.bool_]
    candidates: Mapping[int, Drawn]
    probability: Callable[[int], NDArray[np.float32]]
    overlay: Callable[[int], NDArray[np.uint8]]
    bundle: Bundle
    structure: str
    corrected: bool = False
    prompted: bool = False

    @property
    def segments(self) -> tuple[str, ...]:
        """Names of what is segmented, in the order of the numbers in :attr:`segmented`, from 1."""
        return find_system(self.bundle.system).classes[1:] or (self.structure,)

    @property
    def segmented(self) -> NDArray[Any]:
        """(N, H, W), the number of the segment of each voxel; bool where there is one."""
        return self.mask if len(self.segments) == 1 else np.where(self.mask, self.labels, 0).astype(np.uint8)


def of_image(result: Segmentation, bundle: Bundle, structure: str) -> Result:
    """The result of an image."""
    return Result(
        as_volume(result.image),
        result.labels[None],
        result.mask[None],
        {},
        lambda _: result.probability,
        lambda _: result.overlay(),
        bundle,
        structure,
        result.corrected,
        prompted=result.prompts is not None,
    )


def of_volume(result: VolumeSegmentation, bundle: Bundle, structure: str, chosen: int | None) -> Result:
    """The result of a volume.

    Args:
        result: of the volume.
        bundle: that was used.
        structure: what the mask shows.
        chosen: number of the candidate that is the mask; None if none of them is.
    """
    others = {
        number: Drawn(each, result.volume.shape) for number, each in enumerate(result.candidates, 1) if number != chosen
    }
    return Result(
        result.volume,
        result.labels,
        result.mask,
        others,
        result.probability_of,
        result.overlay,
        bundle,
        structure,
        prompted=result.prompts is not None,
    )


def as_volume(image: InputImage) -> Volume:
    """The place of an image as a volume of one slice: in the patient if DICOM says it.

    Distances that are not known are 1 in its affine.
    """
    row, column = (1.0, 1.0) if image.spacing is None else (image.spacing.row, image.spacing.column)
    affine, place = np.diag([column, row, 1.0, 1.0]), None
    if image.source is not None:
        from ..images.dicom.series import place_of

        place = place_of(image.source.files[0])
        affine = affine if place is None else place.affine
    return Volume(
        np.empty((1, image.height, image.width), np.uint8),
        image.name,
        affine,
        image.spacing,
        None,
        (0.0, 1.0),
        image.source or FileSource(Path(), "nifti", None),
        placed=place is not None,
    )


def write(item: Item, folder: Path, result: Result, wanted: Wanted) -> dict[str, list[str]]:
    """Write a result in the formats that are wanted.

    Returns:
        for each format its files, relative to ``folder``.

    Raises:
        ImageError: a DICOM object of the source cannot be read any more, or has not what a result needs.
        OSError: a file cannot be written.
    """
    written: dict[str, list[str]] = {}
    formats = wanted.of(item)
    for each in formats:
        if each in OF_VOXELS:
            made = list(_voxels(item, folder, result, OF_VOXELS[each]))
            written[each] = [path.relative_to(folder).as_posix() for path in made]
        elif each == "labelme":
            path = _beside(item, folder, ".labelme.json")
            write_labelme(path, item.path, _size(result), _shapes(result))
            written[each] = [path.relative_to(folder).as_posix()]
        elif each == "png" and item.kind == "volume":
            written[each] = [_pictures(item, folder, result).relative_to(folder).as_posix()]
    if {"seg", "sc", "sr"}.intersection(formats):
        written |= _dicom(item, folder, result, wanted)
    return written


def hashed(source: DicomSource | FileSource) -> str | None:
    """What tells a series from others without a word of it: a hash of its UID. None for files, which have paths."""
    if not isinstance(source, DicomSource):
        return None
    from ..images.dicom.identifiers import identifiers_of

    return hashlib.sha256(identifiers_of(source)["series_instance_uid"].encode()).hexdigest()


def identifiers(result: Result) -> dict[str, str]:
    """Identifiers of patient, study and series from the DICOM source; none of another source."""
    source = result.volume.source
    if not isinstance(source, DicomSource):
        return {}
    from ..images.dicom.identifiers import identifiers_of

    return identifiers_of(source)


def measured(result: Result) -> Measured:
    """The sizes of the mask."""
    volume = result.volume
    if len(volume) == 1 and volume.thickness is None:
        return measure(result.mask[0], volume.spacing)
    return measure_volume(result.mask, volume.spacing, volume.thickness, in_space=volume.in_space)


def write_coco(folder: Path, entries: Iterable[tuple[Path, Mapping[str, Any]]], settings: Mapping[str, Any]) -> None:
    """Write the masks of all images of a report as one COCO file.

    Args:
        folder: where the file is written.
        entries: of the report, each with the folder of its results; what failed and volumes are left out.
        settings: of the report.

    Raises:
        ImageError: a mask cannot be read any more.
        OSError: the file cannot be written.
    """
    classes = find_system(settings["system"]).classes
    categories = categories_of(classes) if classes else {1: settings["structure"]}
    collected = CocoFile(categories)
    for place, entry in entries:
        if entry["error"] is None and entry.get("kind") != "volume":
            mask = read_stored(place / entry["mask"]).values > 0
            stored = read_stored(place / entry["label_map"]) if classes else None
            labels = None if stored is None else stored.places
            name = str(entry["label_map"]).removesuffix(".labels.png")
            height, width = mask.shape
            collected.add(name, (width, height), shapes_of(mask, labels, categories))
    collected.write(folder / COCO)


def _voxels(item: Item, folder: Path, result: Result, form: Any) -> Iterable[Path]:
    def written(name: str, array: NDArray[Any]) -> Path:
        path = _beside(item, folder, f".{name}{suffix_of(form)}")
        write_volume(path, array, result.volume, form=form)
        return path

    yield written("labels", result.labels)
    if form == "nrrd":  # with a name and a colour, as 3D Slicer has it; a second file of the mask would be ambiguous
        yield _slicer(item, folder, result)
    else:
        yield written("mask", result.mask)
    shades = np.empty(result.mask.shape, np.uint8)
    for index in range(len(shades)):
        shades[index] = np.round(result.probability(index) * 255)
    yield written("probability", shades)
    del shades
    for number, candidate in result.candidates.items():
        yield written(f"candidate-{number}", candidate.mask())


def _slicer(item: Item, folder: Path, result: Result) -> Path:
    from ..images.volumes.slicer import SUFFIX, Segment, terminology_entry, write_slicer_segmentation

    path = _beside(item, folder, SUFFIX)
    terms = [SEGMENTS.get(name, SEGMENTS["object"]) for name in result.segments]
    segments = [
        Segment(number, name, term.colour, terminology_entry(term))
        for number, (name, term) in enumerate(zip(result.segments, terms, strict=True), 1)
    ]
    write_slicer_segmentation(path, result.segmented, result.volume, segments)
    return path


def _pictures(item: Item, folder: Path, result: Result) -> Path:
    """A folder with label map, mask and overlay of each slice."""
    place = _beside(item, folder, SLICES)
    place.mkdir(exist_ok=True)
    for index in range(len(result.mask)):
        name = f"{index + 1:04}"
        draw.write_label_map(place / f"{name}.labels.png", result.labels[index], result.bundle.sizes.clusters)
        draw.write_mask(place / f"{name}.mask.png", result.mask[index])
        draw.write_overlay(place / f"{name}.overlay.png", result.overlay(index))
    return place


def _dicom(item: Item, folder: Path, result: Result, wanted: Wanted) -> dict[str, list[str]]:
    # Imported here, because this needs pydicom.
    from .dicom.capture import write_capture
    from .dicom.identity import MadeBy
    from .dicom.measurement_report import sizes_of, write_measurements
    from .dicom.segmentation import write_segmentation

    source, turned = result.volume.source, result.volume.arrangement.undo
    assert isinstance(source, DicomSource)
    made_by = MadeBy(
        result.bundle.system, sha256(result.bundle.file(MANIFEST)), result.corrected, prompted=result.prompted
    )
    paths = {each: _beside(item, folder, f".{each}.dcm") for each in ("seg", "sc", "sr") if each in wanted.of(item)}
    if "seg" in paths:
        labels = np.ascontiguousarray(turned(result.segmented))
        segmentation = write_segmentation(
            paths["seg"], labels, source, result.segments, made_by=made_by, kind=wanted.seg_type
        )
        if "sr" in paths:
            sizes = sizes_of(result.segmented, result.volume, len(result.segments))
            write_measurements(paths["sr"], sizes, segmentation, source, made_by=made_by)
    if "sc" in paths:
        with _stored_overlays(result, folder) as pictures:
            write_capture(paths["sc"], pictures, source, made_by=made_by)
    return {name: [path.relative_to(folder).as_posix()] for name, path in paths.items()}


@contextmanager
def _stored_overlays(result: Result, folder: Path) -> Iterator[Iterable[NDArray[np.uint8]]]:
    """The overlays as the source's slices are stored, one at a time.

    Slices of another plane are across those of the source, each of which needs all overlays. They are kept in a
    nameless file meanwhile, because they may be larger than memory.
    """
    turn, count = result.volume.arrangement, len(result.mask)
    if turn.order[0] == 0:
        order = range(count)[::-1] if turn.flipped[0] else range(count)
        in_plane = replace(turn, flipped=(False, *turn.flipped[1:]))
        yield (in_plane.undo(result.overlay(index)[None])[0] for index in order)
        return
    with TemporaryFile(dir=folder) as file:
        for index in range(count):
            file.write(result.overlay(index).data)
        file.flush()
        yield turn.undo(np.memmap(file, np.uint8, "r", shape=(*result.mask.shape, 3)))


def _shapes(result: Result) -> list[Shape]:
    categories = dict(enumerate(result.segments, 1))
    labels = None if len(categories) == 1 else result.labels[0]
    return shapes_of(result.mask[0], labels, categories)


def _size(result: Result) -> tuple[int, int]:
    _, height, width = result.volume.shape
    return width, height


def _beside(item: Item, folder: Path, suffix: str) -> Path:
    return folder / item.relative.with_name(item.relative.name + suffix)
