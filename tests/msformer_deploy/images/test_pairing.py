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
