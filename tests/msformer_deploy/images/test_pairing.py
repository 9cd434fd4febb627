"""The pairs of images and masks, the files without a partner, and the ambiguous names that are refused."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.images.inputs import PassedOver, discover
from msformer_deploy.images.pairing import masks_among, pair, pair_folders, without_masks


def write(folder: Path, *names: str) -> list[Path]:
    """Files that differ."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    return paths


def paired(root: Path, images: str = "images", masks: str = "masks") -> dict[str, str]:
    """The pairs, by their places in the folders."""
    found = pair_folders(root / images, root / masks)
    return {str(one.relative_to(root / images)): str(two.relative_to(root / masks)) for one, two in found.pairs.items()}


class TestTwoFolders:
    def test_names_pair_whatever_the_suffix_and_the_rest_is_told(self, tmp_path):
        a, c, d, b = write(tmp_path / "images", "a.png", "c.jpg", "d.PNG", "more/b.tif")
        masks = write(tmp_path / "masks", "a.bmp", "b.Png", "x.png", "y.tif", "notes.txt", "more/z.gif")
        passed_over = PassedOver()
        found = pair_folders(tmp_path / "images", tmp_path / "masks", passed_over=passed_over)
        assert list(found.pairs.items()) == [(a, masks[0]), (b, masks[1])]
        assert found.images_without_mask == (c, d)
        assert found.masks_without_image == (masks[5], masks[2], masks[3])
        assert passed_over.counts == {".txt": 1}

    @pytest.mark.parametrize(("limit", "taken"), [(1, "0"), (3, "036"), (10, "0123456789"), (11, "0123456789")])
    def test_a_limit_takes_an_even_spread_and_what_it_leaves_is_not_unpaired(self, tmp_path, limit, taken):
        for folder in ("images", "masks"):
            write(tmp_path / folder, *(f"{digit}.png" for digit in range(10)))
        found = pair_folders(tmp_path / "images", tmp_path / "masks", limit)
        assert "".join(path.stem for path in found.pairs) == taken
        assert (found.images_without_mask, found.masks_without_image) == ((), ())

    @pytest.mark.parametrize(
        ("image", "mask"),
        [
            ("x.png", "x_mask.png"),
            ("x.png", "x_Mask.PNG"),
            ("x.jpg", "x-mask.png"),
            ("x.png", "x.mask.png"),
            ("x.png", "x mask.png"),
            ("x.png", "mask_x.png"),
            ("x.png", "x_seg.png"),
            ("x.png", "x_gt.bmp"),
            ("ISIC_0000001.jpg", "ISIC_0000001_segmentation.png"),
            ("ISIC_0000001.jpg", "ISIC_0000001_Segmentation.png"),
            ("IMD002.bmp", "IMD002_lesion.bmp"),
            ("x.png", "x_label.png"),
            ("x.png", "x-label.png"),
            ("x.png", "x_labels.png"),
            ("21.tif", "21_manual1.gif"),
            ("21_training.tif", "21_manual1.gif"),
            ("x_image.png", "x_mask.png"),
            ("img_7.png", "mask_7.png"),
            ("x_7.png", "x_mask_7.png"),
            ("benign (1).png", "benign (1)_mask.png"),
            ("x_lesion.png", "x_lesion.png"),
            ("x_lesion.png", "x_lesion_mask.png"),
            ("image.png", "mask.png"),
            ("p1/image.png", "p1/mask.png"),
            ("p1/photo.png", "p1/segmentation.png"),
            ("x.png", "deep/x.png"),
            ("deep/x.png", "x_mask.png"),
            ("u\u0308.png", "\u00fc.png"),
        ],
    )
    def test_words_that_say_mask(self, tmp_path, image, mask):
        write(tmp_path / "images", image)
        write(tmp_path / "masks", mask)
        assert paired(tmp_path) == {image: mask}

    @pytest.mark.parametrize("mask", ["xmask.png", "x_masked.png", "x1_mask.png", "y_mask.png", "x_other.png"])
    def test_other_names_do_not_pair(self, tmp_path, mask):
        write(tmp_path / "images", "x.png")
        write(tmp_path / "masks", mask)
        with pytest.raises(UsageError, match=r"no mask has the name of an image in .*images$"):
            paired(tmp_path)

    def test_masks_are_in_the_subfolders_of_their_images(self, tmp_path):
        names = ["a/x.png", "b/x.png", "b/deep/x.png", "x.png"]
        write(tmp_path / "images", *names)
        write(tmp_path / "masks", *names)
        assert paired(tmp_path) == dict(zip(names, names, strict=True))
        found = pair_folders(tmp_path / "images", tmp_path / "masks")
        assert (found.images_without_mask, found.masks_without_image) == ((), ())

    def test_names_that_are_masks_in_one_folder_are_images_in_another(self, tmp_path):
        names = ["x.png", "x_lesion.png"]
        write(tmp_path / "images", *names)
        write(tmp_path / "masks", *names)
        assert paired(tmp_path) == dict(zip(names, names, strict=True))

    def test_masks_among_the_images_are_not_images(self, tmp_path):
        write(tmp_path / "images", "x.png", "x_mask.png", "y.png")
        write(tmp_path / "masks", "x.png")
        found = pair_folders(tmp_path / "images", tmp_path / "masks")
        assert [path.name for path in found.pairs] == ["x.png"]
        assert [path.name for path in found.images_without_mask] == ["y.png"]
        assert [path.name for path in found.masks_among_images] == ["x_mask.png"]
        items = discover([tmp_path / "images"])
        assert [item.path.name for item in found.images_of(items)] == ["x.png", "y.png"]

    @pytest.mark.parametrize("name", ["._x.png", ".x.png", "__MACOSX/x.png", "Thumbs.db"])
    def test_hidden_files_are_neither_images_nor_masks(self, tmp_path, name):
        for folder in ("images", "masks"):
            write(tmp_path / folder, "x.png", name)
        found = pair_folders(tmp_path / "images", tmp_path / "masks")
        assert len(found.pairs) == 1
        assert (found.images_without_mask, found.masks_without_image) == ((), ())

    @pytest.mark.skipif(sys.platform == "win32", reason="this system has no named pipes")
    def test_a_pipe_among_masks_is_passed_over_and_never_opened(self, tmp_path):
        write(tmp_path / "images", "x.png", "y.png")
        write(tmp_path / "masks", "x.png")
        os.mkfifo(tmp_path / "masks" / "y.png")
        passed_over = PassedOver()
        found = pair_folders(tmp_path / "images", tmp_path / "masks", passed_over=passed_over)
        assert [path.name for path in found.images_without_mask] == ["y.png"]
        assert passed_over.counts == {"special file": 1}

    def test_masks_that_lead_to_one_file_are_masks_of_their_own(self, tmp_path):
        write(tmp_path, "empty.png")
        write(tmp_path / "images", "x.png", "y.png")
        (tmp_path / "masks").mkdir()
        for name in ("x.png", "y.png", "gone.png"):
            (tmp_path / "masks" / name).symlink_to(tmp_path / "empty.png")
        assert paired(tmp_path) == {"x.png": "x.png", "y.png": "y.png"}

    def test_images_of_several_folders_find_their_masks(self, tmp_path):
        images = [*write(tmp_path / "one", "b.png"), *write(tmp_path / "other", "a.jpg", "c.png")]
        masks = write(tmp_path / "masks", "a.png", "b.png", "z.png")
        found = pair(discover([tmp_path / "one", tmp_path / "other"]), tmp_path / "masks")
        assert list(found.pairs.items()) == [(images[0], masks[1]), (images[1], masks[0])]

    @pytest.mark.parametrize(
        ("images", "masks", "told"),
        [
            (["a.png", "a.bmp"], ["a.png"], r"a\.png: the mask .* may belong to this image or to .*a\.bmp"),
            (["a/x.png", "b/x.png"], ["x.png"], r"b/x\.png: .* may belong to this image or to .*a/x\.png"),
            (["a/x.png", "b/x.png"], ["x_mask.png"], r"b/x\.png: the mask .* may belong to this image"),
            (["a/x.png", "b/x.png"], ["b/x.png", "c/x.png"], r"c/x\.png may belong to this image or to"),
            (["a.png"], ["a.png", "a.bmp"], r"a\.png: a second mask of .*a\.png, beside .*a\.bmp"),
            (["a.png"], ["a.png", "a_mask.png"], r"a_mask\.png: a second mask of|a\.png: a second mask of"),
            (["a.png"], ["a_mask.png", "a_seg.png"], "a second mask of"),
            (["a.png"], ["a_mask.png", "a_mask_1.png"], r"a_mask\.png: a second mask of .*beside|a second mask of"),
            (["a.png"], ["p/a.png", "q/a.png"], "a second mask of"),
            (["p/a.png", "p/b.png"], ["p/mask.png"], "may belong to this image or to"),
            (["21_training.tif", "21_test.tif"], ["21_manual1.gif"], "may belong to this image or to"),
        ],
    )
    def test_what_names_leave_open_is_refused(self, tmp_path, images, masks, told):
        write(tmp_path / "images", *images)
        write(tmp_path / "masks", *masks)
        with pytest.raises(UsageError, match=told) as caught:
            paired(tmp_path)
        assert "\n" not in str(caught.value)

    def test_nothing_paired_is_an_error(self, tmp_path):
        write(tmp_path / "images", "a.png")
        write(tmp_path / "masks", "b.png", "a.czi")
        with pytest.raises(UsageError, match=r"masks: no mask has .* in .*images; passed over: 1 \.czi; convert"):
            paired(tmp_path)

    @pytest.mark.parametrize(("masks", "told"), [("nowhere", "nowhere: no such folder"), ("a.png", "is a file, not a")])
    def test_what_is_no_folder_of_masks(self, tmp_path, masks, told):
        write(tmp_path, "images/a.png", "a.png")
        with pytest.raises(UsageError, match=told):
            paired(tmp_path, masks=masks)


def link(image: Path, mask: Path) -> None:
    mask.symlink_to(image)


class TestNoImageIsItsOwnMask:
    @pytest.mark.parametrize("make", [link, os.link, shutil.copyfile])
    @pytest.mark.parametrize("mask", ["x.png", "x_mask.png", "x.bmp", "deep/x.png"])
    def test_links_and_copies_are_refused(self, tmp_path, make: Callable[[Path, Path], object], mask):
        (image, _) = write(tmp_path / "images", "x.png", "y.png")
        (place, _) = write(tmp_path / "masks", mask, "y.png")
        place.unlink()
        make(image, place)
        with pytest.raises(UsageError, match=r"the mask is the image .*x\.png itself, by a link or as a copy"):
            paired(tmp_path)

    @pytest.mark.parametrize("make", [link, os.link, shutil.copyfile])
    def test_images_beside_masks_that_are_called_so_are_no_masks(self, tmp_path, make):
        for image in write(tmp_path / "images", "x.png", "y.png"):
            (tmp_path / "masks").mkdir(exist_ok=True)
            make(image, tmp_path / "masks" / image.name)
        write(tmp_path / "masks", "x_mask.png", "y_mask.png")
        assert paired(tmp_path) == {"x.png": "x_mask.png", "y.png": "y_mask.png"}

    @pytest.mark.parametrize("names", [["x.png", "y.png"], ["x.png", "x.jpg"], ["x.png", "y_mask.png"]])
    @pytest.mark.parametrize("masks", ["all", "all/../all", "link"])
    def test_one_folder_without_names_that_tell(self, tmp_path, names, masks):
        write(tmp_path / "all", *names)
        (tmp_path / "link").symlink_to(tmp_path / "all")
        with pytest.raises(UsageError, match="images and masks are in one folder, and no name says which") as caught:
            paired(tmp_path, "all", masks)
        assert "\n" not in str(caught.value)

    def test_an_image_of_the_folder_of_masks(self, tmp_path):
        write(tmp_path / "all", "x.png", "x_mask.png", "y.png")
        found = pair_folders(tmp_path / "all" / "x.png", tmp_path / "all")
        assert [path.name for path in found.pairs.values()] == ["x_mask.png"]
        with pytest.raises(UsageError, match="no name says which"):
            pair_folders(tmp_path / "all" / "y.png", tmp_path / "all")

    def test_a_slice_in_hdf5_holds_its_own_label(self, tmp_path):
        write(tmp_path / "all", "p_slice_0.h5", "p_slice_1.HDF5")
        names = ["p_slice_0.h5", "p_slice_1.HDF5"]
        assert paired(tmp_path, "all", "all") == dict(zip(names, names, strict=True))


class TestOneTree:
    @pytest.mark.parametrize(
        "pairs",
        [
            {"x.png": "x_mask.png", "y.jpg": "y_mask.png"},
            {"x.png": "x_Segmentation.png"},
            {"x.png": "mask_x.png"},
            {"x_image.png": "x_mask.png"},
            {"x_lesion.png": "x_lesion_mask.png"},
            {"p1/image.png": "p1/mask.png", "p2/image.png": "p2/mask.png"},
            {"p1/photo.png": "p1/mask.png", "p2/other.png": "p2/mask.png"},
            {"images/x.png": "masks/x.png", "images/y.png": "masks/y.png"},
            {"images/x.png": "masks/x_mask.png"},
            {"train/images/x.png": "train/masks/x.png", "test/images/x.png": "test/masks/x.png"},
            {"p/images/x.png": "p/labels/x.png"},
            {"x.png": "masks/x.png"},
        ],
    )
    def test_names_tell_masks_from_images(self, tmp_path, pairs):
        write(tmp_path / "all", *pairs, *pairs.values())
        assert paired(tmp_path, "all", "all") == pairs
        found = pair_folders(tmp_path / "all", tmp_path / "all")
        assert (found.images_without_mask, found.masks_without_image, found.masks_among_images) == ((), (), ())
        items = discover([tmp_path / "all"])
        assert sorted(masks_among(items), key=lambda item: item.path) == sorted(
            (item for item in items if str(item.relative) in pairs.values()), key=lambda item: item.path
        )

    def test_an_image_without_mask_is_told(self, tmp_path):
        write(tmp_path / "all", "x.png", "x_mask.png", "y.png")
        found = pair_folders(tmp_path / "all", tmp_path / "all")
        assert len(found.pairs) == 1
        assert [path.name for path in found.images_without_mask] == ["y.png"]

    @pytest.mark.parametrize(
        "names",
        [
            ["p/a.png", "p/b.png", "p/mask.png"],
            ["x.png", "x_mask.png", "x_mask_1.png"],
            ["21_training.tif", "21_manual1.gif", "21_training_mask.gif"],
            ["x.jpg", "x.png", "x_mask.png"],
        ],
    )
    def test_what_names_leave_open_is_refused(self, tmp_path, names):
        write(tmp_path / "all", *names)
        with pytest.raises(UsageError, match=r"a second mask of|may belong to this image"):
            paired(tmp_path, "all", "all")

    @pytest.mark.parametrize(("images", "masks"), [("all", "all/truth"), ("all/pictures", "all")])
    def test_one_folder_within_the_other(self, tmp_path, images, masks):
        write(tmp_path / images, "x.png", "more/y.png")
        write(tmp_path / masks, "x.png", "more/y.png")
        assert paired(tmp_path, images, masks) == {"x.png": "x.png", "more/y.png": "more/y.png"}
        assert not pair_folders(tmp_path / images, tmp_path / masks).images_without_mask


RESULTS = [
    f"{name}.{kind}.png"
    for name in ("a.png", "more/b.tif")
    for kind in ("labels", "mask", "overlay", "probability", "candidate-1", "candidate-2", "candidate-3")
]


class TestResultsOfRun:
    """The masks that run writes, corrected or not, are masks of its images."""

    EXPECTED: ClassVar = {"a.png": "a.png.mask.png", "more/b.tif": "more/b.tif.mask.png"}

    def test_masks_pair_and_what_is_beside_them_is_no_second_mask(self, tmp_path):
        write(tmp_path / "images", "a.png", "more/b.tif")
        write(tmp_path / "results", *RESULTS, "a.png.json", "report.json", "index.html")
        assert paired(tmp_path, masks="results") == self.EXPECTED
        assert pair_folders(tmp_path / "images", tmp_path / "results").masks_without_image == ()

    def test_images_of_one_name_and_several_suffixes_have_masks_of_their_own(self, tmp_path):
        write(tmp_path / "images", "a.png", "a.jpg")
        write(tmp_path / "results", "a.png.mask.png", "a.jpg.mask.png")
        assert paired(tmp_path, masks="results") == {"a.png": "a.png.mask.png", "a.jpg": "a.jpg.mask.png"}

    def test_a_label_map_without_a_mask_beside_it_is_taken_as_one(self, tmp_path):
        write(tmp_path / "images", "a.png")
        write(tmp_path / "results", "a.png.labels.png")
        assert paired(tmp_path, masks="results") == {"a.png": "a.png.labels.png"}

    def test_a_mask_by_hand_beside_that_of_run_leaves_a_choice(self, tmp_path):
        write(tmp_path / "images", "a.png")
        write(tmp_path / "results", "a.png.mask.png", "a.png")
        with pytest.raises(UsageError, match=r"a second mask of .*a\.png"):
            paired(tmp_path, masks="results")


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (["x.png", "x_mask.png"], ["x_mask.png"]),
        (["x.png", "y_mask.png"], []),
        (["a/x.png", "b/x_mask.png"], []),
        (["x_1.png", "x_2.png"], []),
        (["mask.png"], []),
        (["x.png", "x_lesion.png", "x_lesion_gt.png"], ["x_lesion.png", "x_lesion_gt.png"]),
    ],
)
def test_masks_among_images_need_their_image_beside_them(tmp_path, names, masks):
    write(tmp_path, *names)
    items = discover([tmp_path])
    assert [item.relative.as_posix() for item in masks_among(items)] == masks
    said: list[str] = []
    kept = without_masks(items, said.append)
    assert [item.relative.as_posix() for item in kept] == sorted(set(names) - set(masks))
    assert said == ([f"passed over as masks by their names: {len(masks)} ({', '.join(masks)})"] if masks else [])


class TestClinicalFiles:
    @pytest.mark.parametrize(
        ("image", "mask"),
        [
            ("x.png", "x.png.mask.nii.gz"),
            ("x.png", "x_mask.nii.gz"),
            ("x.png", "x.nii.gz"),
            ("x.png", "x.NII.GZ"),
            ("x.png", "x.seg.nrrd"),
            ("x.png", "x.png.seg.nrrd"),
            ("x.png", "x.mha"),
            ("v.nii.gz", "v.nii.gz"),
            ("v.nii.gz", "v.nii.gz.mask.nii.gz"),
            ("v.nii.gz", "v_seg.nii.gz"),
            ("v.nii.gz", "v-label.nrrd"),
            ("v.nii.gz", "v.seg.nrrd"),
            ("v.nii.gz", "v.nii.gz.seg.nrrd"),
            ("v.nrrd", "v.nrrd.mask.nrrd"),
            ("v.mha", "mask_v.nii.gz"),
            ("p/image.nii.gz", "p/mask.nii.gz"),
            ("p/v.nii.gz", "p/masks/v.nii.gz"),
        ],
    )
    def test_names(self, tmp_path, image, mask):
        write(tmp_path / "images", image, "other.png")
        write(tmp_path / "masks", mask)
        assert paired(tmp_path) == {image: mask}

    def test_two_compressed_files_are_two_names(self, tmp_path):
        names = ["a.nii.gz", "b.nii.gz", "a.b.nii.gz"]
        write(tmp_path / "images", *names)
        write(tmp_path / "masks", *names)
        assert paired(tmp_path) == {name: name for name in sorted(names)}

    def test_volumes_are_named(self, tmp_path):
        write(tmp_path / "images", "a.png", "v.nii.gz", "w.mha")
        write(tmp_path / "masks", "a.nii.gz", "v.nii.gz")
        found = pair_folders(tmp_path / "images", tmp_path / "masks")
        assert [path.name for path in found.volumes] == ["v.nii.gz", "w.mha"]
        assert [path.name for path in found.images_without_mask] == ["w.mha"]
        assert all(item.kind == "volume" for item in found.volumes.values())

    @pytest.mark.parametrize(
        ("kept", "others"),
        [
            ("v.nii.gz.mask.nii.gz", ("labels.nii.gz", "probability.nii.gz", "candidate-2.nii.gz", "overlay.png")),
            ("v.nii.gz.mask.nrrd", ("labels.nrrd", "probability.nrrd", "candidate-1.nrrd", "overlay.png")),
            ("v.nii.gz.seg.nrrd", ("labels.nrrd", "probability.nrrd", "overlay.png")),
            ("v.nii.gz.mask.nii.gz", ("slices/0001.mask.png", "slices/0001.labels.png", "slices/0002.mask.png")),
        ],
    )
    def test_other_results_are_passed_over(self, tmp_path, kept, others):
        write(tmp_path / "images", "v.nii.gz")
        write(tmp_path / "masks", kept, *(f"v.nii.gz.{name}" for name in others))
        found = pair_folders(tmp_path / "images", tmp_path / "masks")
        assert [mask.name for mask in found.pairs.values()] == [kept]
        assert found.masks_without_image == ()

    @pytest.mark.parametrize(
        "masks",
        [
            ("v.nii.gz.mask.nii.gz", "v.nii.gz.seg.nrrd"),
            ("v.nii.gz.mask.nii.gz", "v.nii.gz.mask.nrrd"),
            ("v_mask.nii.gz", "v.seg.nrrd"),
            ("v.nii.gz", "v.nrrd"),
            ("v_mask.nii.gz", "v_label.nii.gz"),
        ],
    )
    def test_two_masks_are_refused(self, tmp_path, masks):
        write(tmp_path / "images", "v.nii.gz")
        write(tmp_path / "masks", *masks)
        with pytest.raises(UsageError, match=r"a second mask of .*v\.nii\.gz, beside"):
            pair_folders(tmp_path / "images", tmp_path / "masks")

    def test_in_one_folder(self, tmp_path):
        write(tmp_path / "all", "v.nii.gz", "v_seg.nii.gz", "w.nrrd", "w.seg.nrrd", "x.png", "x_mask.nii.gz")
        assert paired(tmp_path, "all", "all") == {
            "v.nii.gz": "v_seg.nii.gz",
            "w.nrrd": "w.seg.nrrd",
            "x.png": "x_mask.nii.gz",
        }
        found = pair_folders(tmp_path / "all", tmp_path / "all")
        assert (found.images_without_mask, found.masks_without_image) == ((), ())

    def test_a_volume_is_no_mask_of_itself(self, tmp_path):
        write(tmp_path / "images", "v.nii.gz")
        (tmp_path / "masks").mkdir()
        shutil.copy(tmp_path / "images" / "v.nii.gz", tmp_path / "masks" / "v.nii.gz")
        with pytest.raises(UsageError, match=r"v\.nii\.gz: the mask is the image .* itself"):
            pair_folders(tmp_path / "images", tmp_path / "masks")


@pytest.mark.needs("pydicom", "highdicom")
class TestDicom:
    """Files whose headers alone matter: a segmentation here has neither frames nor references."""

    @pytest.fixture
    def scans(self, tmp_path: Path) -> Path:
        import dicom_files

        dicom_files.series(tmp_path / "images" / "a" / "b", 3)
        return tmp_path / "images"

    @staticmethod
    def seg(path: Path) -> Path:
        import dicom_files

        path.parent.mkdir(parents=True, exist_ok=True)
        return dicom_files.write(path, dicom_files.common("1.2.840.10008.5.1.4.1.1.66.4", "SEG"))

    @pytest.mark.parametrize("mask", ["a/b.seg.dcm", "a/b.mask.nii.gz", "a/b_seg.nrrd", "a/b.nii.gz", "b.seg.nrrd"])
    def test_a_series_has_the_name_of_its_folder(self, tmp_path, scans, mask):
        if mask.endswith(".dcm"):
            self.seg(tmp_path / "masks" / mask)
        else:
            write(tmp_path / "masks", mask)
        found = pair_folders(scans, tmp_path / "masks")
        assert found.pairs == {scans / "a" / "b": tmp_path / "masks" / mask}
        assert list(found.volumes) == [scans / "a" / "b"]

    @pytest.mark.parametrize("place", ["a/b/1.2.3", "a/b/seg.dcm", "masks/a/b/any", "a/b/seg/1"])
    def test_a_folder_may_hold_one_segmentation(self, tmp_path, scans, place):
        mask = self.seg(tmp_path / "masks" / place)
        assert pair_folders(scans, tmp_path / "masks").pairs == {scans / "a" / "b": mask}

    def test_two_segmentations_of_a_series_are_refused(self, tmp_path, scans):
        self.seg(tmp_path / "masks" / "a" / "b" / "1.dcm")
        self.seg(tmp_path / "masks" / "a" / "b" / "2.dcm")
        with pytest.raises(UsageError, match=r"a second mask of .*b, beside"):
            pair_folders(scans, tmp_path / "masks")

    def test_series_and_segmentation_in_one_folder(self, tmp_path, scans):
        mask = self.seg(scans / "a" / "b" / "seg.dcm")
        passed_over = PassedOver()
        assert pair_folders(scans, scans, passed_over=passed_over).pairs == {scans / "a" / "b": mask}
        assert passed_over.counts == {}

    def test_the_only_series_has_the_only_segmentation(self, tmp_path, scans):
        mask = self.seg(tmp_path / "masks" / "any.dcm")
        assert pair_folders(scans / "a" / "b", tmp_path / "masks").pairs == {scans / "a" / "b": mask}

    def test_results_beside_a_series(self, tmp_path, scans):
        write(
            scans / "a", "b.mask.nii.gz", "b.labels.nii.gz", "b.probability.nii.gz", "b.candidate-2.nii.gz",
            "b.overlay.png", "b.slices/0001.mask.png", "b.slices/0001.labels.png",
        )  # fmt: skip
        found = pair_folders(scans, scans)
        assert found.pairs == {scans / "a" / "b": scans / "a" / "b.mask.nii.gz"}
        assert found.masks_without_image == ()

    def test_other_objects_of_dicom_are_no_masks(self, tmp_path, scans):
        import dicom_files

        self.seg(tmp_path / "masks" / "a" / "b.seg.dcm")
        dicom_files.write(tmp_path / "masks" / "a" / "b.sc.dcm", dicom_files.ct(7))
        passed_over = PassedOver()
        found = pair_folders(scans, tmp_path / "masks", passed_over=passed_over)
        assert [path.name for path in found.pairs.values()] == ["b.seg.dcm"]
        assert found.masks_without_image == ()
        assert passed_over.counts == {"DICOM images": 1}

    @pytest.mark.parametrize(
        "mask", ["x.dcm.seg.dcm", "x.seg.dcm", "x.dcm", "x_mask.dcm", "x.dcm.mask.png", "x.nii.gz"]
    )
    def test_an_image_of_one_file(self, tmp_path, mask):
        import dicom_files

        dicom_files.one(tmp_path / "images", dicom_files.ct())
        (tmp_path / "images" / "image.dcm").rename(tmp_path / "images" / "x.dcm")
        if mask.endswith(".dcm"):
            self.seg(tmp_path / "masks" / mask)
        else:
            write(tmp_path / "masks", mask)
        assert paired(tmp_path) == {"x.dcm": mask}

    def test_numbers_of_files_without_a_suffix_are_their_names(self, tmp_path):
        import dicom_files

        for number, name in ((1, "1.2.840.1"), (2, "1.2.840.2")):
            (tmp_path / "images").mkdir(exist_ok=True)
            dicom_files.write(tmp_path / "images" / name, dicom_files.cr(number))
        write(tmp_path / "masks", "1.2.840.1.mask.png", "1.2.840.1.labels.png", "1.2.840.2.nii.gz")
        assert paired(tmp_path) == {"1.2.840.1": "1.2.840.1.mask.png", "1.2.840.2": "1.2.840.2.nii.gz"}

    def test_slices_are_images_where_volumes_are_not_wanted(self, tmp_path, scans):
        write(tmp_path / "masks", *(f"a/b/{number:03}.png" for number in (1, 2, 3)))
        found = pair_folders(scans, tmp_path / "masks", series=False)
        assert len(found.pairs) == 3
        assert not found.volumes
