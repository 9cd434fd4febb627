"""Ground truth in files of volumes and in DICOM segmentations (SEG): the labels of an image or of a volume.

What lies where:

- A SEG has the pixels of the images that it references. Without references, its slices lie by their positions. Slices
  that it does not have are background.
- Other files lie by their geometry. For an image without a place in the patient only their directions count: rows and
  columns as radiologists look at them, as :func:`.space.arrangement` has them for volumes too. Files whose axes are
  DICOM's own keep their rows and columns; results of images are written so, whatever the image.

Nothing is resampled. Values must be labels: a probability or intensities change from pixel to pixel.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, printable
from .decoders import formats
from .image import InputImage
from .sources import DicomSource
from .space import arrangement
from .volume import Volume

if TYPE_CHECKING:
    from .seg import SegmentationLabels
    from .volumes.labels import StoredLabels

Labels = NDArray[np.integer[Any]]
Kind = Literal["segmentation", "voxels"]

MAX_LEVELS = 16  # distinct values of which nobody asks whether they are labels
_NEAR = 0.1  # of a pixel, by which a segmentation may be beside the image that it references


class ImageLabels(NamedTuple):
    """The labels of an image.

    Attributes:
        labels: (h, w).
        notes: how the file was interpreted, where there was a choice.
    """

    labels: Labels
    notes: tuple[str, ...] = ()


def kind_of(path: Path) -> Kind | None:
    """What such a file is, by its content; None if it is neither, or cannot be read."""
    from .volumes import read

    try:
        with path.open("rb") as file:
            if formats.identify(file.read(formats.HEAD)) == formats.DICOM:
                return "segmentation"
            return None if read.identify(file) is None else "voxels"
    except (OSError, EOFError, zlib.error):  # reading says what is wrong
        return "voxels" if path.name.lower().endswith(".nii.gz") else None


def of_image(path: Path, image: InputImage | None) -> ImageLabels:
    """Read the labels of an image.

    Args:
        path: a file that has a :func:`kind_of`.
        image: the image; None takes the only slice as it is.

    Raises:
        ImageError: the file cannot be read, has several slices, is of other images or of another place, or has values
            that are no labels.
        BackendUnavailable: a package that reads it is missing.
    """
    if kind_of(path) == "segmentation":
        return ImageLabels(_segmented_image(path, image))
    from .volumes import labels

    stored = labels.read_stored_labels(path)
    name = printable(path)
    if stored.labels.shape[0] != 1:
        raise ImageError(f"{name}: labels of {len(stored.labels)} slices for an image; give one slice")
    if not stored.cut:
        check_labels(stored.labels, name)
    place = None if image is None else _place_of(image)
    if place is not None and not _is_unplaced(stored):
        return ImageLabels(
            labels.put_on(place, stored.labels, _as_thick(stored.affine, place), name, cut=stored.cut)[0]
        )
    if stored.cut and image is not None:
        return ImageLabels(labels.put_on(_plane_of(image, stored), stored.labels, stored.affine, name, cut=True)[0])
    if not stored.oriented:
        return ImageLabels(stored.labels[0])
    turned = arrangement(stored.affine).apply(stored.labels)[0]
    notes = () if np.array_equal(turned, stored.labels[0]) else ("turned as their headers say",)
    return ImageLabels(np.ascontiguousarray(turned), notes)


def of_volume(path: Path, volume: Volume) -> Labels:
    """Read the labels of a volume, and bring them to its voxels.

    Args:
        path: the file.
        volume: whose labels they are.

    Returns:
        (N, H, W) in the arrangement of the volume.

    Raises:
        ImageError: the file cannot be read, is of other images or on other voxels, or has values that are no labels.
        BackendUnavailable: a package that reads it is missing.
    """
    kind = kind_of(path)
    if kind is None:
        raise ImageError(
            f"{printable(path)}: is not the ground truth of a volume; give NIfTI, NRRD, MetaImage or a DICOM"
            " segmentation"
        )
    if kind == "segmentation":
        from .seg import read_segmentation_labels

        return _segmented(read_segmentation_labels(path), volume, printable(path))
    from .volumes import labels

    stored = labels.read_stored_labels(path)
    if not stored.cut:
        check_labels(stored.labels, printable(path))
    return labels.put_on(volume, stored.labels, stored.affine, printable(path), cut=stored.cut)


def check_labels(labels: Labels, name: str) -> None:
    """Check that values are labels, which lie beside equal ones, and not shares or intensities.

    More than :data:`MAX_LEVELS` values besides 0 are refused if most of them are mostly beside other values: in fewer
    than half of their pixels, the next one in the row and the next one in the column are equal.

    Args:
        labels: (N, H, W).
        name: what the message calls them.

    Raises:
        ImageError: they are none.
    """
    size = int(labels.max()) + 1
    if size <= MAX_LEVELS:
        return
    pixels, alike = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for each in labels:  # one by one, because counting makes wide copies
        here = each[:-1, :-1]
        pixels += np.bincount(here.ravel(), minlength=size)
        alike += np.bincount(here[(here == each[1:, :-1]) & (here == each[:-1, 1:])], minlength=size)
    pixels[0] = 0
    levels = pixels > 0
    count = int(levels.sum())
    if count > MAX_LEVELS and np.count_nonzero(2 * alike[levels] < pixels[levels]) > count / 2:
        raise ImageError(
            f"{name}: has {count} values that change from pixel to pixel, as intensities and probabilities do; give"
            " labels"
        )


def _segmented_image(path: Path, image: InputImage | None) -> Labels:
    from .seg import read_segmentation_labels

    found, name = read_segmentation_labels(path), printable(path)
    if image is not None and isinstance(image.source, DicomSource) and any(found.references):
        return _of_instance(found, image, image.source, name)
    if len(found.labels) != 1:
        raise ImageError(f"{name}: labels of {len(found.labels)} slices for an image; give one slice")
    return found.labels[0]


def _of_instance(found: SegmentationLabels, image: InputImage, source: DicomSource, name: str) -> Labels:
    """The slice of a SEG that references an image; empty if the SEG is of the image too, but has no such slice."""
    from .dicom.identifiers import instance_of

    own, frame = instance_of(source.files[0]), source.frames[0]
    places = [
        index
        for index, each in enumerate(found.references)
        if each is not None and each.instance == own and (frame is None or each.frame in (None, frame))
    ]
    if own not in found.sources:
        raise ImageError(f"{name}: references other images than {image.name}; give the segmentation of this image")
    if not places:
        return np.zeros((image.height, image.width), found.labels.dtype)
    if len(places) > 1:
        raise ImageError(f"{name}: has {len(places)} slices of {image.name}; give one")
    place = _place_of(image)
    if place is not None:
        planes = None if found.planes is None else found.planes[places]
        _check_beside(replace(found, labels=found.labels[places], planes=planes), place, [0], name)
    return found.labels[places[0]]


def _segmented(found: SegmentationLabels, volume: Volume, name: str) -> Labels:
    """The labels of a SEG on the voxels of a volume."""
    source = volume.source
    if isinstance(source, DicomSource) and any(found.references):
        places = _by_reference(found, volume, source, name)
        if places is not None:
            stored_shape = volume.arrangement.undo(np.broadcast_to(np.uint8(0), volume.shape)).shape
            if found.labels.shape[1:] != stored_shape[1:]:
                (rows, columns), (height, width) = found.labels.shape[1:], stored_shape[1:]
                raise ImageError(
                    f"{name}: labels of {columns} x {rows} for images of {width} x {height}; give labels on the pixels"
                    " of the image"
                )
            labels = np.zeros(stored_shape, found.labels.dtype)
            labels[places] = found.labels
            return np.ascontiguousarray(volume.arrangement.apply(labels))
    return _by_position(found, volume, name)


def _by_reference(found: SegmentationLabels, volume: Volume, source: DicomSource, name: str) -> list[int] | None:
    """The stored slice of the volume for each slice of a SEG; None if references do not say it.

    Raises:
        ImageError: the SEG references other images, or lies elsewhere than the images that it references.
    """
    from .dicom.identifiers import instance_of

    instances = {path: instance_of(path) for path in dict.fromkeys(source.files)}
    own = set(instances.values())
    others = sum(each is not None and each.instance not in own for each in found.references)
    if others or not found.sources & own:
        some = 0 < others < len(found.references)
        of = f"{others} of its {len(found.references)} slices reference" if some else "references"
        raise ImageError(f"{name}: {of} other images than those of {volume.name}; give the segmentation of these")
    slices = Counter(source.files)
    index: dict[tuple[str, int | None], int] = {}
    for number, (path, frame) in enumerate(zip(source.files, source.frames, strict=True)):
        index[instances[path], frame] = number
        if slices[path] == 1:  # whatever frame is referenced of an image that has, or is, one
            index.setdefault((instances[path], None), number)
    places = []
    for each in found.references:
        if each is None:
            return None
        place = index.get((each.instance, each.frame))
        if place is None and (each.frame == 1 or each.frame is None):
            place = index.get((each.instance, None))
        if place is None:
            return None
        places.append(place)
    if len(set(places)) < len(places):
        return None
    _check_beside(found, volume, places, name)
    return places


def _check_beside(found: SegmentationLabels, volume: Volume, places: list[int], name: str) -> None:
    """Check that slices lie in the planes of the images that they reference, as far as both say where they are."""
    if found.planes is None or volume.thickness is None:
        return
    from .volumes.write import stored_affine

    affine = stored_affine(volume)
    rows, columns = found.labels.shape[1:]
    lengths = np.linalg.norm(affine[:3, :2], axis=0)
    for plane, place in zip(found.planes, places, strict=True):
        corners = np.array([[0, columns, 0], [0, 0, rows], [1, 1, 1]], float)  # column, row, 1
        apart = plane[:3][:, [0, 1, 3]] @ corners
        apart -= affine[:3][:, [0, 1, 3]] @ corners + affine[:3, 2:3] * place
        apart -= np.outer(plane[:3, 2], plane[:3, 2] @ apart)  # slices need not be equally far apart
        if np.linalg.norm(apart, axis=0).max() > _NEAR * lengths.min():
            raise ImageError(
                f"{name}: lies elsewhere than the images that it references; give labels on the pixels of the image"
            )


def _by_position(found: SegmentationLabels, volume: Volume, name: str) -> Labels:
    from .volumes.labels import fit, put_into

    if found.planes is None:
        raise ImageError(
            f"{name}: has neither references to the images of {volume.name} nor positions; give labels as NIfTI or NRRD"
        )
    placed = np.zeros(volume.shape, found.labels.dtype)
    for labels, plane in zip(found.labels, found.planes, strict=True):
        arranged, offset = fit(volume, (1, *labels.shape), _as_thick(plane, volume), name, cut=True)
        put_into(placed, arranged.apply(labels[None]), offset, name)
    return placed


def _as_thick(affine: NDArray[np.float64], volume: Volume) -> NDArray[np.float64]:
    """The affine of one slice, as thick as the volume's voxels in this direction: one slice has no distance."""
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    thick = affine.copy()
    thick[:3, 2] = normal * lengths[np.abs(normal @ volume.affine[:3, :3] / lengths).argmax()]
    return thick


def _place_of(image: InputImage) -> Volume | None:
    """A DICOM image with a place in the patient as a volume of one slice; None for other images."""
    if not isinstance(image.source, DicomSource):
        return None
    from .dicom.series import place_of

    found = place_of(image.source.files[0])
    return None if found is None else _volume(image, found.affine, image.source)


def _volume(image: InputImage, affine: NDArray[np.float64], source: DicomSource) -> Volume:
    voxels = np.broadcast_to(np.uint8(0), (1, image.height, image.width))
    return Volume(voxels, image.name, affine, image.spacing, 1.0, (0.0, 1.0), source)


def _plane_of(image: InputImage, stored: StoredLabels) -> Volume:
    """An image without a place as a volume of one slice, on which labels of a part of it lie."""
    lengths = np.linalg.norm(stored.affine[:3, :3], axis=0)
    if image.spacing is not None:
        lengths[:2] = image.spacing.column, image.spacing.row
    affine = np.diag([*lengths, 1.0])
    affine[2, 3] = stored.affine[2, 3]
    return _volume(image, affine, DicomSource((), ()))


def _is_unplaced(stored: StoredLabels) -> bool:
    """Whether a file has the geometry of results of images: DICOM's axes, from 0 on."""
    affine = stored.affine
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not stored.oriented or (np.allclose(axes, np.eye(3), atol=1e-4) and not affine[:3, 3].any())
