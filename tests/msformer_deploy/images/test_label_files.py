"""Clinical ground truth: what every writer writes comes back on the same pixels, and what does not fit is refused.

The objects are asymmetric in every direction: a mirrored or turned mask is the fault to find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import volumes
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import BackendUnavailable, ImageError
from msformer_deploy.images.inputs import Item
from msformer_deploy.images.masks import read_file
from msformer_deploy.images.read import InputImage, read_image
from msformer_deploy.images.truth import read_truths, read_volume_truths
from msformer_deploy.images.volumes import slicer
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.write import write_volume
from msformer_deploy.registry import Format
from msformer_deploy.results import clinical
from msformer_deploy.results.formats import Wanted
from msformer_deploy.training.supervised.pairs import read_binary_mask

pytestmark = [pytest.mark.needs("nibabel", "nrrd", "pydicom", "highdicom")]
SHAPE = (16, 24)


def asymmetric(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A mask that no turn and no mirror leaves as it is."""
    mask = np.zeros(shape, bool)
    mask[2:9, 3:6] = True
    mask[2:4, 6:14] = True
    return mask


def picture(path: Path, shape: tuple[int, int] = SHAPE) -> InputImage:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return read_image(path)


def a_bundle(folder: Path) -> Bundle:
    (folder / "bundle.json").write_text("{}")
    return cast("Bundle", SimpleNamespace(system="msformer", file=lambda _: folder / "bundle.json"))


def written(folder: Path, image: InputImage, path: Path, format_: Format, mask: np.ndarray) -> list[Path]:
    """The masks that ``run --format`` writes of an image."""
    result = clinical.Result(
        clinical.as_volume(image),
        np.where(mask, 3, 1).astype(np.uint8)[None],
        mask[None],
        {},
        lambda _: mask.astype(np.float32),
        lambda _: np.zeros((*mask.shape, 3), np.uint8),
        a_bundle(folder),
        "object",
    )
    item = Item(path, Path(path.name))
    found = clinical.write(item, folder, result, Wanted((format_,)))[format_]
    return [folder / each for each in found if ".mask." in each or ".seg." in each]


def dicom_images() -> dict[str, Callable[[], Any]]:
    import dicom_files

    return {
        "axial": dicom_files.ct,
        "sagittal": lambda: dicom_files.ct(**dicom_files.place(1, orientation=(0, 1, 0, 0, 0, -1))),
        "flipped": lambda: dicom_files.ct(**dicom_files.place(1, orientation=(-1, 0, 0, 0, -1, 0))),
        "no position": dicom_files.cr,
        "colour": dicom_files.us,
    }


class TestRoundTrip:
    @pytest.mark.parametrize("format_", ["nifti", "nrrd", "mha"])
    def test_results_of_an_image_are_its_mask(self, format_: Format, tmp_path: Path) -> None:
        image = picture(tmp_path / "x.png")
        masks = written(tmp_path, image, tmp_path / "x.png", format_, asymmetric())
        assert len(masks) == 1
        for path in masks:
            truths = read_truths(path, image)
            assert np.array_equal(truths.masks[None], asymmetric()), path.name
            assert truths.notes == ()
            assert np.array_equal(read_binary_mask(path, image), asymmetric())

    @pytest.mark.parametrize("kind", ["axial", "sagittal", "flipped", "no position", "colour"])
    @pytest.mark.parametrize("format_", ["nifti", "nrrd", "mha", "seg"])
    def test_results_of_a_dicom_image_are_its_mask(self, kind: str, format_: Format, tmp_path: Path) -> None:
        import dicom_files

        path = dicom_files.write(tmp_path / "x.dcm", dicom_images()[kind]())
        image = read_image(path)
        for mask in (asymmetric(), np.zeros(SHAPE, bool)):
            for file in written(tmp_path, image, path, format_, mask):
                assert np.array_equal(read_truths(file, image).masks[None], mask), file.name

    @pytest.mark.needs("SimpleITK")
    @pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
    @pytest.mark.parametrize("axes", [2, 3])
    def test_arrays_that_simpleitk_writes_keep_their_rows(self, suffix: str, axes: int, tmp_path: Path) -> None:
        import SimpleITK

        array = asymmetric().astype(np.uint8)
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(array if axes == 2 else array[None]), str(tmp_path / f"m{suffix}")
        )
        truths = read_truths(tmp_path / f"m{suffix}", picture(tmp_path / "x.png"))
        assert np.array_equal(truths.masks[None], asymmetric())

    @pytest.mark.needs("SimpleITK")
    def test_simpleitk_sees_our_results_in_the_same_rows(self, tmp_path: Path) -> None:
        import SimpleITK

        image = picture(tmp_path / "x.png")
        for format_ in ("nifti", "nrrd", "mha"):
            path = written(tmp_path, image, tmp_path / "x.png", cast("Format", format_), asymmetric())[0]
            found = SimpleITK.ReadImage(str(path))
            assert np.array_equal(SimpleITK.GetArrayFromImage(found)[0] > 0, asymmetric())
            assert found.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def in_the_patient(
    path: Path, orientation: tuple[float, ...], first: tuple[float, float, float], mask: np.ndarray
) -> Path:
    """A mask as SimpleITK writes it, with the place in the patient that it has in a DICOM image."""
    import SimpleITK

    directions = np.array(orientation, float).reshape(2, 3)
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8)[None])
    image.SetSpacing((0.7, 0.5, 4.0))
    image.SetOrigin(first)
    image.SetDirection(np.stack([*directions, np.cross(*directions)], axis=1).ravel().tolist())
    SimpleITK.WriteImage(image, str(path))
    return path


class TestImages:
    def test_axes_that_point_elsewhere_are_turned_and_a_note_says_so(self, tmp_path: Path) -> None:
        import nibabel

        # To the right and to the front: rows and columns both run against those of a picture.
        nibabel.Nifti1Image(asymmetric()[::-1, ::-1].T.astype(np.uint8), np.eye(4)).to_filename(tmp_path / "m.nii")
        truths = read_truths(tmp_path / "m.nii", picture(tmp_path / "x.png"))
        assert np.array_equal(truths.masks[None], asymmetric())
        assert truths.notes == ("turned as their headers say",)

    def test_a_header_without_directions_keeps_rows_and_columns(self, tmp_path: Path) -> None:
        import nibabel

        made = nibabel.Nifti1Image(asymmetric().T.astype(np.uint8), None)
        made.to_filename(tmp_path / "m.nii")
        assert np.array_equal(read_truths(tmp_path / "m.nii", picture(tmp_path / "x.png")).masks[None], asymmetric())

    @pytest.mark.needs("SimpleITK")
    @pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0)])
    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
    def test_masks_with_the_place_of_a_dicom_image(
        self, orientation: tuple[float, ...], suffix: str, tmp_path: Path
    ) -> None:
        import dicom_files

        path = dicom_files.write(tmp_path / "x.dcm", dicom_files.ct(**dicom_files.place(1, orientation=orientation)))
        image, first = read_image(path), (-10.0, 20.0, 30.0)
        mask = in_the_patient(tmp_path / f"m{suffix}", orientation, first, asymmetric())
        assert np.array_equal(read_truths(mask, image).masks[None], asymmetric())
        # The same voxels, stored with the last row first.
        down = np.array(orientation[3:]) * 0.5 * (SHAPE[0] - 1)
        turned = (*orientation[:3], *(-each for each in orientation[3:]))
        last = cast("tuple[float, float, float]", tuple((np.array(first) + down).tolist()))
        mask = in_the_patient(tmp_path / f"t{suffix}", turned, last, asymmetric()[::-1])
        assert np.array_equal(read_truths(mask, image).masks[None], asymmetric())
        moved = in_the_patient(tmp_path / f"o{suffix}", orientation, (-10.0, 20.0, 31.5), asymmetric())
        if orientation == (0, 1, 0, 0, 0, -1):
            with pytest.raises(ImageError, match=r"begins 1\.5 mm from the first voxel"):
                read_truths(moved, image)

    def test_a_segmentation_of_slicer_may_be_cut(self, tmp_path: Path) -> None:
        image = picture(tmp_path / "x.png")
        place = clinical.as_volume(image)
        cut = replace(place, voxels=np.zeros((1, 7, 11), np.uint8), affine=place.affine.copy())
        cut.affine[:2, 3] = 3, 2  # column and row of its first voxel
        segments = [slicer.Segment(1, "object", (255, 0, 0))]
        slicer.write_slicer_segmentation(tmp_path / "x.seg.nrrd", asymmetric()[None, 2:9, 3:14], cut, segments)
        assert np.array_equal(read_truths(tmp_path / "x.seg.nrrd", image).masks[None], asymmetric())

    def test_every_image_of_a_series_has_its_slice_of_a_segmentation(self, tmp_path: Path) -> None:
        import dicom_files

        source = dicom_files.series(tmp_path / "series", 4)
        masks = np.stack([asymmetric(), np.zeros(SHAPE, bool), asymmetric()[::-1], asymmetric()[:, ::-1]])
        seg = segmentation(tmp_path / "seg.dcm", masks, source)
        for path, mask in zip(source.files, masks, strict=True):
            assert np.array_equal(read_truths(seg, read_image(path)).masks[None], mask)

    def test_a_segmentation_of_one_frame_fits_a_picture(self, tmp_path: Path) -> None:
        import dicom_files

        seg = segmentation(tmp_path / "seg.dcm", asymmetric()[None], dicom_files.one(tmp_path, dicom_files.ct()))
        assert np.array_equal(read_truths(seg, picture(tmp_path / "x.png")).masks[None], asymmetric())

    def test_ids_are_classes_also_many(self, tmp_path: Path) -> None:
        image = picture(tmp_path / "x.png", (40, 50))
        ids = np.kron(np.arange(20).reshape(4, 5), np.ones((10, 10))).astype(np.uint16)
        write_volume(tmp_path / "m.nii.gz", ids[None], clinical.as_volume(image), form="nifti")
        truths = read_truths(tmp_path / "m.nii.gz", image, (7, 19))
        assert np.array_equal(truths.masks[7], ids == 7)
        assert np.array_equal(truths.masks[19], ids == 19)
        assert np.array_equal(read_truths(tmp_path / "m.nii.gz", image).masks[None], ids > 0)

    def test_another_size_is_resized_with_a_note_and_another_shape_refused(self, tmp_path: Path) -> None:
        image, large = picture(tmp_path / "x.png"), picture(tmp_path / "large.png", (32, 48))
        (path,) = written(tmp_path, image, tmp_path / "x.png", "nifti", asymmetric())
        truths = read_truths(path, large)
        assert np.array_equal(truths.masks[None], np.kron(asymmetric(), np.ones((2, 2), bool)))
        assert truths.notes == ("of another size than the image, resized by nearest neighbour",)
        with pytest.raises(
            ImageError, match=r"a mask of 24 x 16 for an image of 30 x 30; give one of the image's shape"
        ):
            read_truths(path, picture(tmp_path / "y.png", (30, 30)))


class TestRefused:
    @pytest.fixture
    def image(self, tmp_path: Path) -> InputImage:
        return picture(tmp_path / "x.png", (64, 64))

    def test_probabilities(self, image: InputImage, tmp_path: Path) -> None:
        rows, columns = np.mgrid[:64, :64]
        shades = np.round(255 / (1 + np.exp((np.hypot(rows - 30, columns - 25) - 15) / 3))).astype(np.uint8)
        write_volume(tmp_path / "m.nrrd", shades[None], clinical.as_volume(image), form="nrrd")
        with pytest.raises(ImageError, match=r"m\.nrrd: has \d+ values that change from pixel to pixel"):
            read_truths(tmp_path / "m.nrrd", image)
        write_volume(tmp_path / "f.nrrd", shades[None] / np.float32(255), clinical.as_volume(image), form="nrrd")
        with pytest.raises(ImageError, match="not whole numbers from 0 to 65535; give labels, not intensities"):
            read_truths(tmp_path / "f.nrrd", image)

    def test_intensities(self, image: InputImage, tmp_path: Path) -> None:
        noise = np.random.default_rng(1).integers(0, 3000, (1, 64, 64)).astype(np.uint16)
        write_volume(tmp_path / "m.nii.gz", noise, clinical.as_volume(image), form="nifti")
        with pytest.raises(ImageError, match="values that change from pixel to pixel"):
            read_file(tmp_path / "m.nii.gz", image)

    def test_several_slices_and_several_volumes(self, image: InputImage, tmp_path: Path) -> None:
        import nibabel

        for shape, message in (((64, 64, 3), "labels of 3 slices for an image"), ((64, 64, 1, 2), "holds 2 volumes")):
            nibabel.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)).to_filename(tmp_path / "m.nii.gz")
            with pytest.raises(ImageError, match=message):
                read_truths(tmp_path / "m.nii.gz", image)

    def test_a_damaged_file(self, image: InputImage, tmp_path: Path) -> None:
        write_volume(tmp_path / "m.nii.gz", np.ones((1, 64, 64), np.uint8), clinical.as_volume(image), form="nifti")
        content = (tmp_path / "m.nii.gz").read_bytes()
        for damaged in (content[:-20], content[:20], b"\x1f\x8b" + bytes(30), b""):
            (tmp_path / "m.nii.gz").write_bytes(damaged)
            with pytest.raises(ImageError, match=r"m\.nii\.gz: "):
                read_truths(tmp_path / "m.nii.gz", image)

    def test_a_segmentation_of_other_images(self, tmp_path: Path) -> None:
        import dicom_files

        source = dicom_files.series(tmp_path / "series", 3)
        seg = segmentation(tmp_path / "seg.dcm", np.stack([asymmetric()] * 3), source)
        other = dicom_files.write(tmp_path / "x.dcm", dicom_files.ct(9))
        with pytest.raises(
            ImageError, match=r"seg\.dcm: references other images than .*x\.dcm; give the segmentation of"
        ):
            read_truths(seg, read_image(other))

    def test_a_segmentation_that_lies_elsewhere_than_its_images(self, tmp_path: Path) -> None:
        import dicom_files
        import pydicom

        source = dicom_files.series(tmp_path / "series", 3)
        seg = segmentation(tmp_path / "seg.dcm", np.stack([asymmetric()] * 3), source)
        volume = series_volume(source)
        read_volume_truths(seg, volume)
        dataset = pydicom.dcmread(seg)
        orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        orientation.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        dataset.save_as(seg)
        for read in (
            lambda: read_volume_truths(seg, volume),
            lambda: read_truths(seg, read_image(source.files[1])),
        ):
            with pytest.raises(ImageError, match=r"seg\.dcm: lies elsewhere than the images that it references"):
                read()

    def test_a_dicom_image_is_no_segmentation(self, tmp_path: Path) -> None:
        import dicom_files

        path = dicom_files.write(tmp_path / "m.dcm", dicom_files.ct())
        with pytest.raises(ImageError, match=r"m\.dcm: is not a DICOM segmentation"):
            read_truths(path, picture(tmp_path / "x.png"))

    @pytest.mark.parametrize(
        ("module", "extra", "name"), [("nibabel", "volumes", "m.nii.gz"), ("pydicom", "dicom", "m.dcm")]
    )
    def test_a_missing_extra(
        self, module: str, extra: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import dicom_files

        from msformer_deploy.machine import extras

        image = picture(tmp_path / "x.png")
        written(tmp_path, image, tmp_path / "m", "nifti", asymmetric())[0].rename(tmp_path / "m.nii.gz")
        dicom_files.write(tmp_path / "m.dcm", dicom_files.ct())
        there = extras.is_installed
        monkeypatch.setattr(extras, "is_installed", lambda each: each != module and there(each))
        with pytest.raises(BackendUnavailable, match=rf"pip install \"msformer-deploy\[{extra}\]\""):
            read_truths(tmp_path / name, image)

    def test_nothing_of_a_header_is_in_a_message(self, tmp_path: Path) -> None:
        import dicom_files

        source = dicom_files.series(tmp_path / "series", 3)
        seg = segmentation(tmp_path / "seg.dcm", np.stack([asymmetric()] * 3), source)
        other = dicom_files.write(tmp_path / "x.dcm", dicom_files.ct(9))
        with pytest.raises(ImageError) as caught:
            read_truths(seg, read_image(other))
        assert not any(text in str(caught.value) for text in ("Müller", "P-4711", "2.25.", "A-1", "Doe"))


def segmentation(path: Path, masks: np.ndarray, source: Any) -> Path:
    """A SEG as ``run`` writes it."""
    from msformer_deploy.results.dicom.identity import MadeBy
    from msformer_deploy.results.dicom.segmentation import write_segmentation

    write_segmentation(path, masks, source, ["object"], made_by=MadeBy("msformer", "0" * 64))
    return path


def series_volume(source: Any, axis: Any = None) -> Any:
    from msformer_deploy.images.dicom import series

    return series.read_volume(tuple(dict.fromkeys(source.files)), axis=axis)


def solid(slices: int) -> np.ndarray:
    """An object in a volume that no turn and no mirror leaves as it is; not in the first slice nor the fourth."""
    mask = np.zeros((slices, *SHAPE), bool)
    mask[1:] = asymmetric()
    mask[2, 9:12, 15:20] = True
    mask[3] = False
    return mask


class TestVolumes:
    @pytest.mark.parametrize("axis", [None, "axial", "coronal", "sagittal"])
    @pytest.mark.parametrize("step", [2.5, -2.5])
    @pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
    def test_a_segmentation_lies_on_the_images_that_it_references(
        self, axis: Any, step: float, orientation: tuple[float, ...], tmp_path: Path
    ) -> None:
        import dicom_files

        source = dicom_files.series(tmp_path / "series", 9, orientation=orientation, step=step)
        seg = segmentation(tmp_path / "seg.dcm", solid(9), source)
        volume = series_volume(source, axis)
        found = read_volume_truths(seg, volume).masks[None]
        in_files = solid(9) if step > 0 else solid(9)[::-1]  # slices of a volume are in order along the normal
        assert np.array_equal(volume.arrangement.undo(found), in_files)

    def test_also_in_an_object_of_several_frames(self, tmp_path: Path) -> None:
        import dicom_files

        for name, backwards in (("forwards", False), ("backwards", True)):
            source = dicom_files.one(tmp_path / name, dicom_files.enhanced_ct(9, backwards=backwards))
            seg = segmentation(tmp_path / name / "seg.dcm", solid(9), source)
            found = read_volume_truths(seg, series_volume(source)).masks[None]
            assert np.array_equal(found, solid(9)[::-1] if backwards else solid(9))

    def test_frames_without_positions_are_found_by_their_numbers(self, tmp_path: Path) -> None:
        import dicom_files

        source = dicom_files.one(tmp_path, dicom_files.us_frames(9))
        seg = segmentation(tmp_path / "seg.dcm", solid(9), source)
        assert np.array_equal(read_volume_truths(seg, series_volume(source)).masks[None], solid(9))

    @pytest.mark.parametrize("affine", volumes.affines()[::7], ids=volumes.name_of)
    def test_in_a_volume_that_is_not_dicom_a_segmentation_lies_by_position(
        self, affine: np.ndarray, tmp_path: Path
    ) -> None:
        """The volume was converted: its axes are in any order, and slice 4 is not in the segmentation."""
        import dicom_files

        source = dicom_files.series(tmp_path / "series", 9)
        seg = segmentation(tmp_path / "seg.dcm", solid(9), source)
        volume = series_volume(source)
        order = [int(np.abs(affine[:3, axis]).argmax()) for axis in range(3)]
        turned = volume.voxels.transpose(*(2 - order[2 - axis] for axis in range(3)))
        truth = solid(9).transpose(*(2 - order[2 - axis] for axis in range(3)))
        place = np.eye(4)
        for axis in range(3):
            place[:3, axis] = volume.affine[:3, order[axis]]
        place[:3, 3] = volume.affine[:3, 3]
        for axis in range(3):
            if affine[order[axis], axis] < 0:
                place[:3, 3] += place[:3, axis] * (turned.shape[2 - axis] - 1)
                place[:3, axis] *= -1
                turned, truth = np.flip(turned, 2 - axis), np.flip(truth, 2 - axis)
        volumes.nifti(tmp_path / "v.nii.gz", np.ascontiguousarray(turned), place)
        read = read_volume(tmp_path / "v.nii.gz")
        assert np.array_equal(read.arrangement.undo(read_volume_truths(seg, read).masks[None]), truth)

    def test_other_files_lie_by_their_geometry(self, tmp_path: Path) -> None:
        import dicom_files

        volume = series_volume(dicom_files.series(tmp_path / "series", 9), "sagittal")
        truth = volume.arrangement.apply(solid(9))
        for form in ("nifti", "nrrd", "mha"):
            write_volume(tmp_path / "m", truth, volume, form=cast("Any", form))
            assert np.array_equal(read_volume_truths(tmp_path / "m", volume).masks[None], truth)

    def test_classes_and_warnings(self, tmp_path: Path) -> None:
        import dicom_files

        volume = series_volume(dicom_files.series(tmp_path / "series", 9))
        ids = np.where(solid(9), 1, 2).astype(np.uint8)
        write_volume(tmp_path / "m.nii.gz", ids, volume, form="nifti")
        truths = read_volume_truths(tmp_path / "m.nii.gz", volume, (1, 2))
        assert np.array_equal(truths.masks[1], solid(9))
        assert np.array_equal(truths.masks[2], ~solid(9))
        assert truths.warnings == (
            "class 2 covers more than half of the volume and most of its rim: inverted? Used unchanged",
        )

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        import dicom_files

        source = dicom_files.series(tmp_path / "series", 9)
        volume = series_volume(source)
        shorter = series_volume(replace(source, files=source.files[:5]))
        seg = segmentation(tmp_path / "seg.dcm", solid(9), source)
        with pytest.raises(
            ImageError, match=r"seg\.dcm: 4 of its 7 slices reference other images than those of .*series"
        ):
            read_volume_truths(seg, shorter)
        write_volume(tmp_path / "m.nii.gz", solid(9)[:5], shorter, form="nifti")
        with pytest.raises(ImageError, match=r"m\.nii\.gz: labels of 24 x 16 x 5 voxels for a volume of 24 x 16 x 9"):
            read_volume_truths(tmp_path / "m.nii.gz", volume)
        shades = np.random.default_rng(0).integers(0, 255, (9, *SHAPE)).astype(np.uint8)
        write_volume(tmp_path / "p.nii.gz", shades, volume, form="nifti")
        with pytest.raises(ImageError, match=r"p\.nii\.gz: has \d+ values that change from pixel to pixel"):
            read_volume_truths(tmp_path / "p.nii.gz", volume)
        picture(tmp_path / "m.png")
        with pytest.raises(ImageError, match=r"m\.png: is not the ground truth of a volume; give NIfTI, NRRD"):
            read_volume_truths(tmp_path / "m.png", volume)

    def test_a_segmentation_without_references_and_positions_is_refused(self, tmp_path: Path) -> None:
        import dicom_files
        import pydicom

        source = dicom_files.one(tmp_path, dicom_files.us_frames(9))
        few = np.where(np.arange(9)[:, None, None] == 4, solid(9), False)
        for masks, message in (
            (few, r"has neither references to the images of .* nor positions"),
            (solid(9), r"has several frames of one segment in one place, or does not say where they are"),
        ):
            seg = segmentation(tmp_path / "seg.dcm", masks, source)
            dataset = pydicom.dcmread(seg)
            for group in dataset.PerFrameFunctionalGroupsSequence:
                del group.DerivationImageSequence
            del dataset.ReferencedSeriesSequence
            dataset.save_as(seg)
            with pytest.raises(ImageError, match=message):
                read_volume_truths(seg, series_volume(source))
