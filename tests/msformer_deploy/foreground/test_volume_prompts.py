"""Prompts of volumes: where millimetres lead to, in files of each format, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
pytest.importorskip("nibabel", reason="nibabel is not installed")
import dicoms
import volumes

from msformer_deploy import read_volume
from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.prompts import Box, Point
from msformer_deploy.foreground.volume_prompts import (
    Placed,
    VolumeBox,
    VolumePoint,
    VolumePrompts,
    coordinates,
)
from msformer_deploy.images.space import Spacing
from msformer_deploy.images.volume import Volume

SIZE = (9, 40, 50)  # slices, rows and columns of files, which have another value in every voxel
VOXEL = (7, 4, 31)  # stored slice, row and column that are pointed at
SPACING = Spacing(0.5, 0.5, "file")


def numbers() -> np.ndarray:
    return np.arange(np.prod(SIZE)).reshape(SIZE).astype(np.int32)


def oblique() -> np.ndarray:
    """Turned about all three axes, with another spacing along each; millimetres in DICOM's coordinates."""
    affine = np.eye(4)
    for axis, angle in enumerate((0.3, -0.5, 0.9)):
        turn, (one, other) = np.eye(4), [each for each in range(3) if each != axis]
        turn[[one, other, one, other], [one, other, other, one]] = (
            *([np.cos(angle)] * 2), -np.sin(angle), np.sin(angle),
        )  # fmt: skip
        affine = affine @ turn
    affine[:3, :3] *= (0.5, 0.75, 2.5)
    affine[:3, 3] = (-7.25, 11.5, 5)
    return affine


AFFINES = [*volumes.affines()[::5], oblique()]
NAMES = [*map(volumes.name_of, volumes.affines()[::5]), "oblique"]


def pointed_at(volume: Volume, *place: float) -> float:
    """The value of the voxel that a place leads to."""
    placed = Placed(VolumePrompts([VolumePoint(*place)]), volume)
    (index,) = placed.seeds
    shown = placed.of(index)
    assert shown is not None
    ((column, row, inside),) = shown.points
    assert inside
    return float(volume.voxels[index, row, column])


@pytest.mark.parametrize("axis", [None, "coronal"])
@pytest.mark.parametrize("affine", AFFINES, ids=NAMES)
def test_a_point_in_nifti_is_where_nibabel_says(tmp_path: Path, affine: np.ndarray, axis: str | None) -> None:
    import nibabel

    path = volumes.nifti(tmp_path / "v.nii", numbers(), affine)
    place = nibabel.load(path).affine @ (*VOXEL[::-1], 1)
    # Not in the middle of the voxel, and rounded as people copy it.
    near = np.round(place[:3] + 0.2 * nibabel.load(path).affine[:3, 0], 3)
    volume = read_volume(path, axis=axis if affine is not AFFINES[-1] else None)
    assert coordinates(volume) == "RAS"
    assert pointed_at(volume, *near) == numbers()[VOXEL]


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("affine", AFFINES[::3], ids=NAMES[::3])
def test_a_point_in_nrrd_and_metaimage_is_where_simpleitk_says(tmp_path: Path, affine: np.ndarray, suffix: str) -> None:
    import SimpleITK

    image = volumes.simpleitk_image(numbers(), affine)
    SimpleITK.WriteImage(image, tmp_path / f"v.{suffix}")
    place = image.TransformIndexToPhysicalPoint(VOXEL[::-1])
    volume = read_volume(tmp_path / f"v.{suffix}")
    assert coordinates(volume) == "LPS"
    assert pointed_at(volume, *place) == numbers()[VOXEL]


def test_a_point_in_dicom_is_where_its_header_says(tmp_path: Path) -> None:
    pixels = numbers()[0].astype(np.uint16)
    turned = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [2.0, 0.5]}  # rows go down, in the plane
    for index in range(4):
        found = dicoms.slice_at(index, pixels + 10_000 * index, **turned, InstanceNumber=9 - index)
        found.ImagePositionPatient = [30.0 - 3 * index, -20.0, 50.0]
        dicoms.save(found, tmp_path / f"{index}.dcm")
    volume = read_volume(tmp_path)
    assert coordinates(volume) == "LPS"
    # The third slice, row 6, column 11: Y is -20 + 11 * 0.5, Z is 50 - 6 * 2.
    value = pointed_at(volume, 30 - 3 * 2, -20 + 11 * 0.5, 50 - 6 * 2.0) * volume.slope + volume.intercept
    assert value == pixels[6, 11] + 20_000


def made(affine: np.ndarray | None = None, shape: tuple[int, int, int] = (10, 30, 40), **others: object) -> Volume:
    """A volume in LPS; as it is, X counts columns from 0 in halves, Y rows from 10, Z slices from -5 in threes."""
    if affine is None:
        affine = np.diag([0.5, 0.5, 3.0, 1.0])
        affine[:3, 3] = 0, 10, -5
    return replace(volumes.in_memory(np.zeros(shape, np.uint8), affine), spacing=SPACING, thickness=3.0, **others)


def test_a_box_has_the_voxels_whose_centres_are_in_it_whichever_corners_it_names() -> None:
    corners = VolumeBox(2.0001, 12.6, -2, 3.9999, 11.9, 4.1)  # columns 4 to 8, rows 4 and 5, slices 1 to 3
    placed = Placed(VolumePrompts(boxes=[corners]), made())
    assert [index for index in range(10) if placed.of(index) is not None] == [1, 2, 3]
    assert placed.of(2).boxes == (Box(4, 4, 8, 5),)
    assert np.argwhere(placed.bounds(2)).tolist() == [[row, column] for row in (4, 5) for column in range(4, 9)]
    assert not placed.bounds(4).any()
    assert [index for index in range(10) if placed.settles(index)] == [2]
    assert placed.seeds == []


def test_a_box_in_an_oblique_volume_is_no_rectangle_and_bounds_each_slice() -> None:
    affine = oblique()
    volume = made(affine, (12, 60, 60))
    indices = np.stack([*np.indices(volume.shape)[::-1], np.ones(volume.shape)])
    places = np.einsum("ij,j...->i...", affine, indices)[:3]
    centre = places[:, 6, 30, 30]
    box = VolumeBox(*(centre - np.array([4, 5, 6])), *(centre + np.array([5, 6, 7])))
    inside = np.logical_and.reduce(
        [(low <= each) & (each <= high) for low, each, high in zip(box[:3], places, box[3:], strict=True)]
    )
    placed = Placed(VolumePrompts(boxes=[box]), volume)
    assert [placed.bounds(index).tolist() for index in range(12)] == inside.tolist()
    (rectangle,) = placed.of(6).boxes
    filled = inside[6, rectangle.top : rectangle.bottom + 1, rectangle.left : rectangle.right + 1]
    assert filled.any(axis=0).all()
    assert filled.any(axis=1).all()
    assert not filled.all()


def test_points_of_a_slice_stand_with_the_boxes_that_reach_it() -> None:
    shown = VolumePrompts(
        [VolumePoint(3, 12, 1), VolumePoint(3, 20, 1, inside=False)], [VolumeBox(2, 12, -2, 4, 13, 4)]
    )
    placed = Placed(shown, made())
    assert placed.seeds == [2]
    assert placed.of(2).points == (Point(6, 4), Point(6, 20, inside=False))
    assert placed.of(1).points == ()
    assert placed.settles(2)


@pytest.mark.parametrize(
    ("points", "boxes", "said"),
    [
        ([], [], "the prompts have no point and no box"),
        (
            [(-1, 12, 1)],
            [],
            r"^point -1,12,1 is not in the volume, which in millimetres has X from -0\.25 to 19\.75 \(to the left\), Y"
            r" from 9\.75 to 24\.75 \(to the back\), Z from -6\.5 to 23\.5 \(to the head\)$",
        ),
        ([(3, 12, 23.6)], [], "point 3,12,23.6 is not in the volume"),
        ([], [(3, 12, 1, 5, 25, 4)], "box 3,12,1,5,25,4 is not in the volume, which in millimetres has X from"),
        ([], [(3.1, 12, 1, 3.2, 20, 4)], "box 3.1,12,1,3.2,20,4 has no voxel's centre in it; make it larger"),
        ([(3, 12, 1), (3.1, 12.1, 2, 0)], [], "point 3.1,12.1,2 is in a voxel that is shown as inside and as outside"),
        ([(3, 20, 1)], [(2, 12, -2, 4, 13, 4)], "point 3,20,1 is shown as inside, but its voxel is not in the box"),
    ],
)
def test_what_cannot_be_obeyed_is_one_line(points: list, boxes: list, said: str) -> None:
    shown = VolumePrompts(
        [VolumePoint(*each[:3], len(each) == 3) for each in points], [VolumeBox(*each) for each in boxes]
    )
    with pytest.raises(UsageError, match=said):
        shown.require_fit(made())


def test_the_outermost_places_of_a_volume_are_in_it() -> None:
    shown = VolumePrompts([VolumePoint(-0.25, 24.75, 23.5)], [VolumeBox(-0.25, 9.75, -6.5, 19.75, 24.75, 23.5)])
    placed = Placed(shown, made())
    assert placed.of(9).points == (Point(0, 29),)
    assert placed.bounds(0).all()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"in_space": False}, "^memory: its slices are frames in time, or their places are not known, so it takes no"),
        ({"placed": False}, "^memory: its header does not say where it lies in millimetres, so it takes no prompts"),
    ],
)
def test_a_volume_without_a_place_takes_no_prompts(others: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        VolumePrompts([VolumePoint(3, 12, 1)]).require_fit(made(**others))
