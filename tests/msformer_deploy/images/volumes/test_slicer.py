"""Segmentations of 3D Slicer: names and colours out, and everything that Slicer writes in."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import affines, in_memory, same_places, simpleitk_affine

from msformer_deploy.errors import ImageError
from msformer_deploy.images.space import arrangement
from msformer_deploy.images.volumes.labels import labels_on, read_labels
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.slicer import (
    Segment,
    read_slicer_segmentation,
    terminology_entry,
    write_slicer_segmentation,
)
from msformer_deploy.terminology import SEGMENTS as TERMS

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd")]
AFFINE = affines()[17]
SEGMENTS = (
    Segment(1, "Läsion: 1|2", (230, 25, 75)),
    Segment(
        3, "a \\ b\nc", (0, 0, 255), "Any context~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
    ),
)
SHAPE = (10, 12, 14)


def labels() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[2:5, 3:6, 1:9] = 1
    found[6, 7:9, 8:13] = 3
    return found


def slicers(path: Path, data: np.ndarray, *keys: str, offset: tuple[int, int, int] = (0, 0, 0)) -> Path:
    """A file as Slicer writes it: (N, H, W) or (N, H, W, layers), cut at an offset of slices, rows and columns."""
    origin = AFFINE @ np.array([*offset[::-1], 1.0])
    vectors = " ".join("({},{},{})".format(*column) for column in AFFINE[:3, :3].T)
    listed = data.ndim == 4
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "type: unsigned char",
        f"dimension: {data.ndim}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(side) for side in data.shape[::-1]),
        f"space directions: {'none ' if listed else ''}{vectors}",
        f"kinds: {'list ' if listed else ''}domain domain domain",
        "encoding: gzip",
        "space origin: ({},{},{})".format(*origin[:3]),
        *keys,
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|Closed surface|",
        "Segmentation_ReferenceImageExtentOffset:={2} {1} {0}".format(*offset),
    ]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + gzip.compress(np.ascontiguousarray(data).tobytes()))
    return path


def key(index: int, label: int = 1, layer: int = 0) -> tuple[str, ...]:
    own = f"Segment{index}_"
    return (
        f"{own}Color:=0.5 0.25 1",
        f"{own}ID:=Segment_{index + 1}",
        f"{own}LabelValue:={label}",
        f"{own}Layer:={layer}",
        f"{own}Name:=part {index}",
        f"{own}Tags:=Segmentation.Status:inprogress|TerminologyEntry:some~thing|",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v.seg.nrrd"


def test_segments_come_back_with_names_and_colours(path: Path) -> None:
    chosen = arrangement(AFFINE, "coronal")
    volume = in_memory(chosen.apply(labels()), chosen.affine(AFFINE, SHAPE), arrangement=chosen)
    write_slicer_segmentation(path, volume.voxels, volume, SEGMENTS)
    found = read_slicer_segmentation(path)
    assert found.segments == SEGMENTS
    assert np.array_equal(found.labels, labels())
    assert np.allclose(found.affine, AFFINE)
    assert np.array_equal(labels_on(volume, path), volume.voxels)
    assert np.array_equal(read_labels(path)[0], labels())


@pytest.mark.needs("SimpleITK")
def test_other_readers_see_the_same_labels_and_keys(path: Path) -> None:
    """Slicer reads with ITK, as SimpleITK does. It cuts each layer to the extent of the first segment in it."""
    import SimpleITK

    write_slicer_segmentation(path, labels(), in_memory(labels(), AFFINE), SEGMENTS)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), labels())
    assert np.allclose(simpleitk_affine(image), AFFINE)
    keys = {each: image.GetMetaData(each) for each in image.GetMetaDataKeys() if each.startswith("Segment")}
    assert keys["Segment0_ID"] == "Segment_1"
    assert keys["Segment0_Name"] == "Läsion: 1|2"
    assert keys["Segment1_LabelValue"] == "3"
    assert keys["Segment1_Color"] == "0 0 1"
    assert keys["Segment0_Extent"] == keys["Segment1_Extent"] == "0 13 0 11 0 9"
    assert keys["Segment1_Tags"].startswith("TerminologyEntry:Any context~SCT^49755003^")
    assert keys["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"


def test_a_term_is_written_as_slicer_documents_it() -> None:
    assert terminology_entry(TERMS["lesion"]) == (
        "Segmentation category and type - DICOM master list"
        "~SCT^49755003^Morphologically Abnormal Structure~SCT^52988006^Lesion~^^"
        "~Anatomic codes - DICOM master list~^^~^^"
    )


@pytest.mark.needs("slicerio")
@pytest.mark.parametrize("name", TERMS)
def test_the_library_of_slicer_reads_terms(name: str, path: Path) -> None:
    import slicerio

    term = TERMS[name]
    segments = [Segment(1, name, term.colour, terminology_entry(term))]
    write_slicer_segmentation(path, (labels() > 0), in_memory(labels(), AFFINE), segments)
    (found,) = slicerio.read_segmentation(str(path))["segments"]
    assert found["name"] == name
    assert found["terminology"] == {
        "contextName": "Segmentation category and type - DICOM master list",
        "category": ["SCT", term.category.value, term.category.meaning],
        "type": ["SCT", term.type.value, term.type.meaning],
        "anatomicContextName": "Anatomic codes - DICOM master list",
    }


def test_a_segmentation_is_a_volume_like_others(path: Path) -> None:
    write_slicer_segmentation(path, labels(), in_memory(labels(), AFFINE), SEGMENTS)
    volume = read_volume(path)
    assert same_places(labels(), AFFINE, volume.voxels, volume.affine)


def test_what_slicer_cut_is_put_back_into_the_volume(path: Path) -> None:
    cut = labels()[1:8, 2:11, 1:13]
    slicers(path, cut, *key(0), *key(1, label=3), offset=(1, 2, 1))
    assert read_slicer_segmentation(path).labels.shape == cut.shape
    for axis in (None, "axial"):
        chosen = arrangement(AFFINE, axis)
        volume = in_memory(chosen.apply(stored_like()), chosen.affine(AFFINE, SHAPE), arrangement=chosen)
        assert np.array_equal(labels_on(volume, path), chosen.apply(labels()))


def stored_like() -> np.ndarray:
    return np.zeros(SHAPE, np.int16)


def test_what_is_outside_of_the_volume_is_refused(path: Path) -> None:
    volume = in_memory(stored_like(), AFFINE)
    grown = np.pad(labels(), 2)
    slicers(path, grown, *key(0), *key(1, label=3), offset=(-2, -2, -2))
    assert np.array_equal(labels_on(volume, path), labels())
    grown[0, 0, :3] = 1
    slicers(path, grown, *key(0), *key(1, label=3), offset=(-2, -2, -2))
    with pytest.raises(ImageError, match=r"v\.seg\.nrrd: 3 of its labelled voxels are outside of the volume"):
        labels_on(volume, path)
    slicers(path, labels(), *key(0), *key(1, label=3), offset=(100, 0, 0))
    with pytest.raises(ImageError, match="are outside of the volume"):
        labels_on(volume, path)


def test_layers_become_one_label_map(path: Path) -> None:
    layers = np.stack([labels() == 1, labels() == 3], -1).astype(np.uint8)
    slicers(path, layers, *key(0), *key(1, layer=1))
    found = read_slicer_segmentation(path)
    assert np.array_equal(found.labels, np.where(labels() == 3, 2, labels()))
    assert found.segments == (
        Segment(1, "part 0", (128, 64, 255), "some~thing"),
        Segment(2, "part 1", (128, 64, 255), "some~thing"),
    )
    old = [line for line in (*key(0), *key(1)) if "Layer" not in line and "LabelValue" not in line]
    assert np.array_equal(read_slicer_segmentation(slicers(path, layers, *old)).labels, found.labels)


def test_voxels_in_several_segments_are_refused(path: Path) -> None:
    layers = np.stack([labels() > 0, labels() == 3], -1).astype(np.uint8)
    with pytest.raises(ImageError, match=r"v\.seg\.nrrd: 10 voxels are in several segments; make"):
        read_slicer_segmentation(slicers(path, layers, *key(0), *key(1, layer=1)))


@pytest.mark.parametrize(
    ("data", "keys", "why"),
    [
        (np.zeros((1, 1, 1), np.uint8), key(0), "its segments are empty"),
        (labels(), (), "has no segments of 3D Slicer"),
        (labels(), key(0, layer=1), "its segments are not label maps"),
        (labels(), ("Segment0_ID:=a", "Segment0_LabelValue:=MARKER"), "header is damaged"),
    ],
)
def test_segmentations_that_are_none(data: np.ndarray, keys: tuple[str, ...], why: str, path: Path) -> None:
    with pytest.raises(ImageError, match=rf"v\.seg\.nrrd: [^\n]*{why}") as caught:
        read_slicer_segmentation(slicers(path, data, *keys))
    assert "MARKER" not in str(caught.value)


def test_other_files_are_refused(path: Path) -> None:
    path.write_bytes(b"something else")
    with pytest.raises(ImageError, match="is not a segmentation of 3D Slicer"):
        read_slicer_segmentation(path)


@pytest.mark.parametrize("colour", ["", "red", "1 2", "0.5 0.5 nan"])
def test_a_colour_that_is_none_is_grey(colour: str, path: Path) -> None:
    slicers(path, labels(), "Segment0_ID:=a", f"Segment0_Color:={colour}")
    (segment,) = read_slicer_segmentation(path).segments
    assert segment.colour == (128, 128, 128)
    assert segment.name == "Segment 1"


@pytest.mark.parametrize(
    ("array", "segments"), [(labels()[1:], SEGMENTS), (labels().astype(float), SEGMENTS), (labels(), ())]
)
def test_what_is_no_label_map_is_refused(array: np.ndarray, segments: Any, path: Path) -> None:
    with pytest.raises(ValueError, match="is no label map"):
        write_slicer_segmentation(path, array, in_memory(labels(), AFFINE), segments)
