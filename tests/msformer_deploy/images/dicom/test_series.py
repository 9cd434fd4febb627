from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicoms import PIXELS, image, save, sequence, series, slice_at
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.images.dicom import series as module
from msformer_deploy.images.dicom.opened import Opened
from msformer_deploy.images.dicom.series import NOT_IN_SPACE, read_volume

TILT = np.radians(10)
OBLIQUE = [np.cos(TILT), np.sin(TILT), 0, 0, 0, -1]


def test_slices_are_in_order_of_their_positions(tmp_path: Path) -> None:
    paths = series(tmp_path / "ct", InstanceNumber=1, RescaleSlope=2, RescaleIntercept=-1000)
    volume = read_volume(sorted(paths))
    assert volume.voxels.dtype == np.int16
    assert volume.voxels[:, 0, 0].tolist() == [0, 5, 10, 15]
    assert (volume.slope, volume.intercept) == (2, -1000)
    assert volume.source.files == tuple(paths)
    assert volume.source.frames == (None,) * 4
    assert (volume.thickness, volume.in_space) == (5, True)
    assert volume.spacing is not None
    assert (volume.spacing.row, volume.spacing.column) == (0.5, 0.75)
    np.testing.assert_allclose(volume.affine, [[0.75, 0, 0, -10], [0, 0.5, 0, -20], [0, 0, 5, 0], [0, 0, 0, 1]])
    assert volume.name == str(tmp_path / "ct")
    assert volume.span == (-1000, PIXELS.max() * 2 - 1000)


def test_simpleitk_puts_voxels_at_the_same_places(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    right, down = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    normal = np.cross(right, down)
    for index in range(5):
        position = [format(each, ".10g") for each in np.array([3, 4, 5]) - 2.5 * index * normal]
        found = slice_at(0, PIXELS + index, ImagePositionPatient=position)
        found.ImageOrientationPatient = [format(each, ".10g") for each in OBLIQUE]
        save(found, tmp_path / f"{index}.dcm")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs = reader.Execute()
    ours = read_volume(list(tmp_path.iterdir()))
    np.testing.assert_array_equal(ours.voxels, sitk.GetArrayFromImage(theirs))
    for index in [(0, 0, 0), (3, 2, 4), (11, 15, 1)]:
        np.testing.assert_allclose(
            (ours.affine @ [*index, 1])[:3], theirs.TransformIndexToPhysicalPoint(index), atol=1e-4
        )


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_other_planes_keep_every_voxel_in_its_place(tmp_path: Path, axis: Any) -> None:
    plain = read_volume(series(tmp_path))
    turned = read_volume(sorted(tmp_path.iterdir()), axis=axis)
    np.testing.assert_array_equal(turned.arrangement.undo(turned.voxels), plain.voxels)
    index = np.array([1, 2, 3])  # column, row, slice
    point = (turned.affine @ [*index, 1])[:3]
    column, row, slice_ = np.rint(np.linalg.solve(plain.affine, [*point, 1])[:3]).astype(int)
    assert turned.voxels[3, 2, 1] == plain.voxels[slice_, row, column]
    sizes = np.linalg.norm(turned.affine[:3, :3], axis=0)
    assert turned.spacing is not None
    assert (turned.spacing.column, turned.spacing.row, turned.thickness) == pytest.approx(tuple(sizes))


def test_slices_of_a_tilted_gantry_are_sheared(tmp_path: Path) -> None:
    paths = [
        save(slice_at(0, PIXELS, ImagePositionPatient=[0, 0.4 * index, 2 * index]), tmp_path / f"{index}")
        for index in range(3)
    ]
    volume = read_volume(paths)
    assert volume.thickness == pytest.approx(2)
    np.testing.assert_allclose(volume.affine[:3, 2], [0, 0.4, 2])
    for axis in ("coronal", "sagittal"):
        with pytest.raises(
            ImageError, match=rf"tilted against their direction, so it has no {axis} slices; omit --axis"
        ):
            read_volume(paths, axis=axis)


def test_a_volume_of_one_value_has_nothing_to_segment_whatever_the_window(tmp_path: Path) -> None:
    paths = [
        save(slice_at(5 * index, np.full_like(PIXELS, 7), WindowCenter=7, WindowWidth=10), tmp_path / f"{index}")
        for index in range(3)
    ]
    with pytest.raises(ImageError, match="every voxel has the same value; there is nothing to segment"):
        read_volume(paths)


@pytest.mark.parametrize("colour", [(9, 9, 9), (200, 60, 60)])
def test_colours_without_contrast_are_refused(tmp_path: Path, colour: tuple[int, ...]) -> None:
    frames = np.full((3, 16, 12, 3), colour, np.uint8)
    with pytest.raises(ImageError, match="cine: every voxel has the same value; there is nothing to segment"):
        read_volume([save(image(frames, NumberOfFrames=3), tmp_path / "cine")])
    frames[2, 5, 5] = 0
    assert len(read_volume([save(image(frames, NumberOfFrames=3), tmp_path / "cine")])) == 3


def padded_series(folder: Path, planes: list[np.ndarray], **elements: Any) -> list[Path]:
    """Slices in which -2000 is padding."""
    paths = []
    for height, pixels in enumerate(planes):
        found = slice_at(height, pixels, **elements)
        found.add_new("PixelPaddingValue", "SS", -2000)
        paths.append(save(found, folder / f"{height}"))
    return paths


@pytest.mark.parametrize("window", [None, (40.0, 400.0)])
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
def test_padding_alone_is_nothing_to_segment(tmp_path: Path, window: tuple[float, float] | None, function: str) -> None:
    elements = {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": function}
    nothing = np.full_like(PIXELS, -2000)
    with pytest.raises(ImageError, match="every voxel is padding; there is nothing to segment"):
        read_volume(padded_series(tmp_path, [nothing] * 3, **elements), window)
    plain = np.where(PIXELS > 700, 7, nothing)
    with pytest.raises(ImageError, match="every voxel has the same value; there is nothing to segment"):
        read_volume(padded_series(tmp_path, [plain, nothing], **elements), window)


def test_what_differs_in_a_slice_that_is_not_sampled_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slice is padding; of the others three are sampled, and the object is in another one."""
    monkeypatch.setattr(module, "_SAMPLED", 3)
    plain = np.full_like(PIXELS, 7)
    planes = [np.full_like(PIXELS, -2000), plain, PIXELS, plain, plain, plain]
    assert read_volume(padded_series(tmp_path, planes)).span == (PIXELS.min(), PIXELS.max())
    with pytest.raises(ImageError, match="every voxel has the same value"):
        read_volume(padded_series(tmp_path, [*planes[:2], plain, *planes[3:]]))


def test_rescales_that_differ_become_intensities(tmp_path: Path) -> None:
    paths = [
        save(slice_at(height, PIXELS, RescaleSlope=1 + height, RescaleIntercept=0), tmp_path / f"{height}")
        for height in range(3)
    ]
    volume = read_volume(paths)
    assert volume.voxels.dtype == np.float32
    assert (volume.slope, volume.intercept) == (1, 0)
    for height in range(3):
        np.testing.assert_allclose(volume.voxels[height], PIXELS * (1.0 + height))


def test_the_most_common_window_holds_for_all(tmp_path: Path) -> None:
    paths = [
        save(slice_at(height, PIXELS, WindowCenter=40 if height else 0, WindowWidth=81), tmp_path / f"{height}")
        for height in range(3)
    ]
    volume = read_volume(paths)
    assert volume.span == (-0.5, 79.5)
    assert volume.notes == ("its slices have 2 windows; that of 2 of 3 is used for all",)
    assert read_volume(paths, window=(100, 51)).span == (74.5, 124.5)


@pytest.mark.parametrize("function", ["SIGMOID", "table"])
def test_shades_without_a_line_become_voxels(tmp_path: Path, function: str) -> None:
    from msformer_deploy.images.read import read_image

    more: dict[str, Any] = {"WindowCenter": 700, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"}
    if function == "table":
        tables = sequence(LUTDescriptor=[300, 100, 12], LUTData=[index * 13 for index in range(300)])
        tables[0]["LUTDescriptor"].VR = tables[0]["LUTData"].VR = "US"
        more = {"VOILUTSequence": tables}
    paths = series(tmp_path, **more)
    volume = read_volume(paths)
    assert volume.voxels.dtype == np.uint16
    for index, path in enumerate(paths):
        np.testing.assert_allclose(volume.picture(index).pixels, read_image(path).pixels, atol=1e-5)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [-2000, 30000])
@pytest.mark.parametrize("slopes", [(1, 1), (1, 2)])
def test_padding_is_black_in_every_slice(tmp_path: Path, photometric: str, value: int, slopes: tuple[int, int]) -> None:
    paths = []
    for height, slope in enumerate(slopes):
        pixels = PIXELS.copy()
        pixels[3:5, 4:9] = value
        found = slice_at(height, pixels, PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept=0)
        found.add_new("PixelPaddingValue", "SS", value)
        paths.append(save(found, tmp_path / f"{height}"))
    volume = read_volume(paths)
    assert volume.span[0] == 0
    assert volume.span[1] < 5000
    for index in range(2):
        assert not volume.picture(index).pixels[3:5, 4:9].any()


def test_slices_as_pictures_are_those_of_single_images(tmp_path: Path) -> None:
    from msformer_deploy.images.read import read_image

    paths = series(tmp_path, PhotometricInterpretation="MONOCHROME1", WindowCenter=600, WindowWidth=800)
    volume = read_volume(paths)
    for index, path in enumerate(paths):
        np.testing.assert_allclose(volume.picture(index).pixels, read_image(path).pixels, atol=1e-6)


def test_frames_without_positions_keep_their_order(tmp_path: Path) -> None:
    frames = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])
    volume = read_volume([save(image(frames), tmp_path / "cine")])
    np.testing.assert_array_equal(volume.voxels, frames)
    assert (volume.thickness, volume.spacing) == (None, None)
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    assert volume.source.frames == (1, 2, 3)
    assert not volume.in_space
    assert not volume.placed
    assert volume.notes == (NOT_IN_SPACE,)
    with pytest.raises(UsageError, match="no positions in the patient, so it has no axial plane"):
        read_volume([tmp_path / "cine"], axis="axial")


def test_frames_in_colour(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3)).astype(np.uint8)
    found = image(frames, NumberOfFrames=3)
    volume = read_volume([save(found, tmp_path / "cine")])
    np.testing.assert_array_equal(volume.voxels, frames)


def enhanced(heights: list[float]) -> Dataset:
    """An enhanced object whose frames each begin with their height, and differ in rescale."""
    frames = np.stack([PIXELS] * len(heights))
    frames[:, 0, 0] = heights
    found = image(frames)
    found.SharedFunctionalGroupsSequence = sequence(
        PixelMeasuresSequence=sequence(PixelSpacing=[0.5, 0.75]),
        PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        FrameVOILUTSequence=sequence(WindowCenter=40, WindowWidth=81),
    )
    items = []
    for height in heights:
        item = Dataset()
        item.PlanePositionSequence = sequence(ImagePositionPatient=[0, 0, height])
        item.PixelValueTransformationSequence = sequence(RescaleSlope=1, RescaleIntercept=height)
        items.append(item)
    found.PerFrameFunctionalGroupsSequence = Sequence(items)
    return found


def test_an_enhanced_object(tmp_path: Path) -> None:
    volume = read_volume([save(enhanced([9, 0, 6, 3]), tmp_path / "a")])
    assert volume.source.frames == (2, 4, 3, 1)
    assert volume.voxels[:, 0, 0].tolist() == [0, 6, 12, 18]
    assert (volume.thickness, volume.span) == (3, (-0.5, 79.5))
    assert volume.spacing is not None
    assert volume.spacing.column == 0.75


def test_frames_at_one_place_are_several_times(tmp_path: Path) -> None:
    volume = read_volume([save(enhanced([3, 3, 3]), tmp_path / "a")])
    assert (len(volume), volume.thickness, volume.in_space) == (3, None, False)
    with pytest.raises(UsageError, match="show one place at several times, so it has no coronal slices; leave --axis"):
        read_volume([tmp_path / "a"], axis="coronal")
    np.testing.assert_allclose(volume.affine[:3, 3], [0, 0, 3])


def test_some_frames_at_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="2 slices are where another one is: frame 1, frame 3; the object holds"):
        read_volume([save(enhanced([3, 6, 3]), tmp_path / "a")])


def test_an_object_of_several_volumes_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_volume([save(enhanced([0, 3, 6] * 2), tmp_path / "a")])
    assert str(caught.value).endswith(
        "6 slices are where another one is: frame 1, frame 4, frame 2 and 3 more; the object holds several volumes"
        " (4-D), such as times or echoes; export one of them as a series or an object of its own"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PlanePositionSequence": None}, "frame 2; export the object again"),
        (
            {"PlaneOrientationSequence": sequence(ImageOrientationPatient=[1, 0, 0, 0, 0, 1])},
            "another orientation than the others: frame 2; export each stack of the object as a series or an object",
        ),
        (
            {"PlanePositionSequence": sequence(ImagePositionPatient=[50, 0, 3])},
            "not in one line: frame 2; export each stack of the object",
        ),
        ({"PlanePositionSequence": sequence(ImagePositionPatient=[0, 0, 5])}, "; export the object again with all its"),
    ],
    ids=["no position", "orientation", "aside", "gap"],
)
def test_frames_of_an_object_cannot_be_moved_to_another_folder(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    found = enhanced([0, 3, 6, 9])
    for keyword, value in change.items():
        if value is None:
            del found.PerFrameFunctionalGroupsSequence[1][keyword]
        else:
            setattr(found.PerFrameFunctionalGroupsSequence[1], keyword, value)
    with pytest.raises(ImageError, match=message) as caught:
        read_volume([save(found, tmp_path / "a")])
    assert "move" not in str(caught.value)


FAULTS = [
    (
        {},
        {"ImagePositionPatient": [-10, -20, 5]},
        "2 slices are where another one is: .*; keep one of each position; .*4-D",
    ),
    ({"PatientID": "AB"}, {"PatientID": "CD"}, "v: 1 of 4 slices has another patient ID than the others: 02.dcm; move"),
    ({}, {"StudyInstanceUID": "2.25.7"}, "v: 1 of 4 slices has another study than the others: 02.dcm; move"),
    (
        {"FrameOfReferenceUID": "2.25.8"},
        {"FrameOfReferenceUID": "2.25.9"},
        "v: 1 of 4 slices has another frame of reference than the others: 02.dcm; move",
    ),
    ({}, {"ImagePositionPatient": None}, "1 of 4 slices has no position or no orientation in the patient: 02.dcm"),
    ({}, {"ImageOrientationPatient": None}, "1 of 4 slices has no position or no orientation in the patient: 02.dcm"),
    (
        {},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]},
        "1 of 4 slices has another orientation than .*: 02.dcm; move",
    ),
    ({}, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "has an orientation that is not two perpendicular .*02.dcm"),
    ({}, {"PixelSpacing": None}, "1 of 4 slices has no valid pixel spacing, .*: 02.dcm; export"),
    ({}, {"PixelSpacing": [0.5, 0.8]}, "1 of 4 slices has another pixel spacing than the others: 02.dcm"),
    ({"PixelSpacing": None}, {}, "4 of 4 slices have no valid pixel spacing, .*: 01.dcm, 02.dcm, 03.dcm and 1 more;"),
    ({}, {"ImagePositionPatient": [-10, -20, 12]}, "not evenly spaced: 7 mm between 03.dcm and 02.dcm, and at 1 more"),
    ({}, {"ImagePositionPatient": [30, -20, 10]}, "slices are not in one line: .*02.dcm"),
    ({}, {"PhotometricInterpretation": "MONOCHROME1"}, "low values are white in some slices and black in others"),
    ({"WindowCenter": 90000, "WindowWidth": 10}, {}, "all voxels lie beyond the window; choose another --window"),
    ({}, {"Rows": 15}, "1 of 4 slices has another size than the others: 02.dcm; move them to another folder"),
    ({}, {"Rows": None}, "02.dcm: its header has no number of rows"),
    ({}, {"PixelData": None}, "02.dcm: has no pixels, or its header is cut short"),
    ({}, {"RescaleSlope": 0}, "02.dcm: its rescale slope is 0"),
]


@pytest.mark.parametrize(("all_have", "one_has", "message"), FAULTS, ids=lambda value: str(value))
def test_slices_that_do_not_fit_are_named(
    tmp_path: Path, all_have: dict[str, Any], one_has: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "v"
    for index, height in enumerate((15, 10, 5, 0)):
        elements = all_have | (one_has if index == 1 else {})
        found = slice_at(height, PIXELS, **{key: value for key, value in elements.items() if value is not None})
        for key, value in elements.items():
            if value is None:
                del found[key]
        save(found, folder / f"{index + 1:02}.dcm")
    with pytest.raises(ImageError, match=message) as caught:
        read_volume(sorted(folder.iterdir()))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_slice_is_a_gap_between_two_files(tmp_path: Path) -> None:
    paths = series(tmp_path, (0, 5, 10, 20, 25, 30))
    with pytest.raises(ImageError, match=r"10 mm between 04\.dcm and 03\.dcm, where 5 mm is usual; add the missing"):
        read_volume(paths)


def test_positions_that_were_rounded_are_no_gap(tmp_path: Path) -> None:
    heights = tuple(round(0.625 * index, 1) for index in range(9))
    assert read_volume(series(tmp_path, heights)).thickness == pytest.approx(0.625)


def test_no_slices() -> None:
    with pytest.raises(ImageError, match="has no slices"):
        read_volume([])


def test_a_file_replaced_by_one_of_its_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the object's own number is another one."""
    paths = [save(slice_at(height, SOPInstanceUID="1.2.3"), tmp_path / f"{height}") for height in range(3)]
    headers = module._headers

    def then_replaced(*arguments: Any) -> Any:
        found, status = headers(*arguments), paths[1].stat()
        save(slice_at(1, SOPInstanceUID="1.2.4"), paths[1])
        os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
        assert paths[1].stat().st_size == status.st_size
        return found

    monkeypatch.setattr(module, "_headers", then_replaced)
    with pytest.raises(ImageError, match="1: has changed while it was read; wait until it is complete"):
        read_volume(paths)


def test_a_file_that_is_overwritten_while_its_frames_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(image(np.stack([PIXELS] * 3)), tmp_path / "cine")
    frames = Opened.frames

    def overwritten(self: Opened) -> Any:
        for index, pixels in enumerate(frames(self)):
            if index == 1:
                with path.open("r+b") as file:
                    file.seek(0, 2)
                    file.write(b"more")
            yield pixels

    monkeypatch.setattr(Opened, "frames", overwritten)
    with pytest.raises(ImageError, match="cine: has changed while it was read; wait until it is complete"):
        read_volume([path])


@pytest.mark.parametrize("rows", [12, 16, 20])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    paths = series(tmp_path)
    headers = module._headers

    def then_changed(*arguments: Any) -> Any:
        found = headers(*arguments)
        save(slice_at(10, PIXELS[:rows] if rows <= 16 else np.zeros((rows, 12), np.int16)), paths[1])
        return found

    monkeypatch.setattr(module, "_headers", then_changed)
    with pytest.raises(ImageError, match=r"03\.dcm: has changed while it was read; wait until it is complete"):
        read_volume(paths)


def test_voxels_are_in_memory_once(tmp_path: Path) -> None:
    import tracemalloc

    large = np.arange(512 * 512, dtype=np.int32).reshape(512, 512).astype(np.int16)
    paths = [
        save(slice_at(height, large, WindowCenter=0, WindowWidth=9), tmp_path / f"{height}") for height in range(40)
    ]
    read_volume(paths[:2])
    tracemalloc.start()
    volume = read_volume(paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * volume.voxels.nbytes
