"""Images and masks: paired, split, checked and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled import write_pairs
from PIL import Image

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.training.supervised.pairs import Pair, Reader, check, find_pairs, read_pair, split


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_pairs(tmp_path, 4)


def pairs(count: int) -> list[Pair]:
    return [Pair(Path(f"{index}.png"), Path(f"{index}.png")) for index in range(count)]


class TestFindPairs:
    def test_all_are_paired_by_name_whatever_the_suffix(self, folders):
        _, masks = folders
        Image.open(masks / "02.png").convert("L").save(masks / "02.jpg")
        (masks / "02.png").unlink()
        found = find_pairs(*folders)
        assert [(each.image.name, each.mask.name) for each in found] == [
            ("00.png", "00.png"),
            ("01.png", "01.png"),
            ("02.png", "02.jpg"),
            ("03.png", "03.png"),
        ]

    @pytest.mark.parametrize(("side", "part"), [(1, "images without a mask"), (0, "masks without an image")])
    def test_what_is_left_over_is_named(self, folders, side, part):
        for name in ("00", "02"):
            (folders[side] / f"{name}.png").unlink()
        with pytest.raises(UsageError, match=rf"^{part} of the same name in .*: 2 \(00.png, 02.png\); add"):
            find_pairs(*folders)

    def test_not_more_than_some_are_named(self, tmp_path):
        images, masks = write_pairs(tmp_path, 6)
        for name in range(5):
            (masks / f"{name:02}.png").unlink()
        with pytest.raises(UsageError, match=r"^images .*: 5 \(00.png, 01.png, 02.png, \.\.\.\);"):
            find_pairs(images, masks)

    def test_folders_that_are_not_there(self, folders, tmp_path):
        for given in ((tmp_path / "absent", folders[1]), (folders[0], tmp_path / "absent")):
            with pytest.raises(UsageError, match="absent: no such folder"):
                find_pairs(*given)

    def test_a_folder_without_images(self, folders, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(UsageError, match="no images"):
            find_pairs(tmp_path / "empty", folders[1])


class TestSplit:
    def test_every_pair_is_on_one_side_and_the_seed_says_which(self):
        made = [split(pairs(20), 0.2, seed) for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
        for each in made:
            assert len(each.validation) == 4
            assert sorted(each.training + each.validation) == sorted(pairs(20))
            assert list(each.training) == [pair for pair in pairs(20) if pair in each.training]

    @pytest.mark.parametrize(("count", "share", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (9, 0.0, 0), (10, 0.99, 9)])
    def test_each_side_has_one_at_least(self, count, share, expected):
        made = split(pairs(count), share, 0)
        assert (len(made.training), len(made.validation)) == (count - expected, expected)

    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_a_single_image_is_too_few(self, share):
        with pytest.raises(UsageError, match="too few images, 1: give at least 2"):
            split(pairs(1), share, 0)


class TestMasks:
    def read(self, folders: tuple[Path, Path], values: np.ndarray, suffix: str = "png") -> np.ndarray:
        path = folders[1] / f"mask.{suffix}"
        Image.fromarray(values).save(path)
        return read_pair(Pair(folders[0] / "00.png", path), 64)[1]

    @pytest.mark.parametrize("inside", [1, 7, 255])
    def test_any_one_value_is_inside(self, folders, inside):
        values = np.zeros((72, 80), np.uint8)
        values[:36] = inside
        mask = self.read(folders, values)
        assert (mask.shape, mask.dtype) == ((1, 64, 64), np.float32)
        assert (mask[0, :31] == 1).all()
        assert (mask[0, 33:] == 0).all()

    def test_soft_grey_is_cut_at_half(self, folders):
        values = np.repeat(np.arange(0, 240, 3, dtype=np.uint8)[None], 72, axis=0)
        mask = self.read(folders, values)
        first = int(np.flatnonzero(values[0] >= 128)[0]) * 64 / 80
        assert set(np.unique(mask[0, :, : int(first) - 1])) == {0}
        assert set(np.unique(mask[0, :, int(first) + 2 :])) == {1}

    def test_compression_with_loss_does_not_matter(self, folders):
        disc = np.asarray(Image.open(folders[1] / "00.png").convert("L"))
        exact, lossy = self.read(folders, disc), self.read(folders, disc, "jpg")
        assert np.abs(exact - lossy).mean() < 0.01
        assert (lossy[0, :8] == 0).all(), "faint values far from the disc are background"

    @pytest.mark.parametrize(("fill", "mean"), [(0, 0.0), (255, 1.0)])
    def test_empty_and_full_masks_are_taken(self, folders, fill, mean):
        assert self.read(folders, np.full((72, 80), fill, np.uint8)).mean() == mean

    def test_classes_are_told(self, folders):
        values = (np.mgrid[:72, :80][0] // 20).astype(np.uint8)
        with pytest.raises(ImageError, match="a mask with the values 0, 1, 2, 3; the network learns one object"):
            self.read(folders, values)

    def test_two_classes_without_background_are_told(self, folders):
        with pytest.raises(ImageError, match="the values 1, 2"):
            self.read(folders, (np.mgrid[:72, :80][0] // 36 + 1).astype(np.uint8))

    def test_colours_are_told(self, folders):
        values = np.zeros((72, 80, 3), np.uint8)
        values[:30, :, 0], values[30:50, :, 1] = 255, 255
        with pytest.raises(ImageError, match="is a coloured mask"):
            self.read(folders, values)

    def test_another_shape_is_told(self, folders):
        with pytest.raises(ImageError, match="a mask of 80 x 60 for an image of 80 x 72"):
            self.read(folders, np.zeros((60, 80), np.uint8))


def test_images_are_rgb_and_squeezed(folders, tmp_path):
    image = np.zeros((72, 80, 3), np.uint8)
    image[:36] = (255, 128, 51)
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels, _ = read_pair(Pair(tmp_path / "a.png", folders[1] / "00.png"), 64)
    assert (pixels.shape, pixels.dtype) == ((3, 64, 64), np.float32)
    np.testing.assert_allclose(pixels[:, :31].mean(axis=(1, 2)), (1, 128 / 255, 0.2), atol=1e-6)


class TestReader:
    SIZE = 4 * 4 * 64**2  # bytes of three channels and a mask in float32, at side 64

    @pytest.mark.parametrize(("room", "kept"), [(0, 0), (SIZE - 1, 0), (SIZE, 1), (2 * SIZE + 1, 2), (9 * SIZE, 4)])
    def test_pairs_stay_in_memory_as_far_as_there_is_room(self, folders, room, kept):
        reader, found = Reader(64, room), find_pairs(*folders)
        first = [reader(pair) for pair in found]
        for pair, arrays in zip(found, first, strict=True):
            for got, expected in zip(arrays, read_pair(pair, 64), strict=True):
                np.testing.assert_array_equal(got, expected)
        again = [reader(pair) for pair in found]
        assert [new is old for new, old in zip(again, first, strict=True)] == [True] * kept + [False] * (4 - kept)


class TestCheck:
    def test_the_digest_is_of_names_images_and_masks(self, folders, tmp_path):
        steps = []
        digest = check(find_pairs(*folders), lambda: steps.append(1))
        assert len(steps) == 4
        assert check(find_pairs(*folders), int) == digest
        moved = tmp_path / "elsewhere"
        moved.mkdir()
        for each in folders:
            each.rename(moved / each.name)
        assert check(find_pairs(moved / "images", moved / "masks"), int) == digest, "where they are does not matter"
        (moved / "masks" / "00.png").write_bytes((moved / "masks" / "01.png").read_bytes())
        assert check(find_pairs(moved / "images", moved / "masks"), int) != digest

    @pytest.mark.parametrize("side", [0, 1])
    def test_a_bad_file_is_told(self, folders, side):
        (folders[side] / "02.png").write_text("no picture")
        with pytest.raises(ImageError, match=r"02.png: "):
            check(find_pairs(*folders), int)


@pytest.mark.needs("nibabel")
class TestClinicalMasks:
    def test_masks_of_images_are_read(self, tmp_path: Path) -> None:
        from volumes import nifti

        images, masks = write_pairs(tmp_path, 3)
        expected = [read_pair(each, 32)[1] for each in find_pairs(images, masks)]
        for path in list(masks.iterdir()):
            pixels = np.asarray(Image.open(path))
            nifti(masks / f"{path.stem}.nii.gz", (pixels > 0).astype(np.uint8)[None], np.eye(4))
            path.unlink()
        pairs = find_pairs(images, masks)
        assert [each.mask.name for each in pairs] == ["00.nii.gz", "01.nii.gz", "02.nii.gz"]
        assert all(np.array_equal(read_pair(each, 32)[1], one) for each, one in zip(pairs, expected, strict=True))
        assert len(check(pairs, lambda: None)) == 64

    def test_volumes_are_refused(self, tmp_path: Path) -> None:
        images, masks = write_pairs(tmp_path, 3)
        for folder in (images, masks):
            (folder / "v.nii.gz").write_bytes(folder.name.encode())
        with pytest.raises(UsageError, match=r"images: has volumes, .*: 1 \(v\.nii\.gz\); save their slices and those"):
            find_pairs(images, masks)
