"""Which images calibrate, which judge, and how masks are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.export import evidence


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Empty folders for images and masks."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    return images, masks


def draw(path: Path, high: int = 255, size: tuple[int, int] = (40, 30)) -> None:
    """A picture whose left half is dark and whose right half has the value ``high``."""
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, size[0] // 2 :] = high
    Image.fromarray(pixels).save(path)


def names(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in paths]


def test_the_built_in_images_are_real_and_there():
    found = evidence.built_in()
    assert len(found.calibration) == 3
    assert [path for path, _ in found.judged] == list(found.calibration)
    (first, *_) = found.samples(33)
    assert first.image.shape == (1, 3, 33, 33)
    assert first.image.dtype == np.float32
    assert first.truth is None


@pytest.mark.parametrize(
    ("count", "calibration", "judged"),
    [
        (1, ["0.png"], ["0.png"]),
        (3, ["0.png", "1.png", "2.png"], ["0.png", "1.png", "2.png"]),
        (4, ["0.png", "2.png"], ["1.png", "3.png"]),
        (5, ["0.png", "2.png", "4.png"], ["1.png", "3.png"]),
    ],
)
def test_images_that_calibrate_do_not_judge_where_there_are_enough(folders, count, calibration, judged):
    images, _ = folders
    for index in range(count):
        draw(images / f"{index}.png")
    found = evidence.from_folders(images)
    assert names(found.calibration) == calibration
    assert names(path for path, _ in found.judged) == judged


def test_of_many_images_an_even_spread_is_taken(folders):
    images, _ = folders
    draw(images / "000.png", size=(8, 8))
    for index in range(1, 200):
        (images / f"{index:03}.png").hardlink_to(images / "000.png")
    found = evidence.from_folders(images)
    assert len(found.calibration) <= evidence.MOST_CALIBRATED
    assert len(found.judged) <= evidence.MOST_JUDGED


def test_masks_are_found_by_name_and_images_without_one_are_left_out(folders):
    images, masks = folders
    for name in ("a.png", "b.jpg", "c.png"):
        draw(images / name)
    draw(masks / "a.bmp")
    draw(masks / "b.png")
    draw(masks / "z.png")
    (masks / "notes.txt").write_text("not a mask")
    found = evidence.from_folders(images, masks)
    assert [(image.name, mask.name) for image, mask in found.judged if mask] == [("a.png", "a.bmp"), ("b.jpg", "b.png")]


@pytest.mark.parametrize(("suffix", "high"), [(".png", 255), (".png", 1), (".jpg", 255), (".png", 128), (".png", 3)])
def test_a_mask_is_the_brighter_half_whatever_its_scale(folders, suffix, high):
    """JPEG leaves small values everywhere; masks of 0 and 1 are common."""
    images, masks = folders
    draw(images / "a.png", 200)
    draw(masks / f"a{suffix}", high)
    (sample,) = evidence.from_folders(images, masks).samples(32)
    assert sample.truth is not None
    assert (sample.truth == (np.arange(32) >= 16)[None, :]).mean() > 0.95
    assert sample.truth.shape == (32, 32)


def test_an_empty_mask_is_empty(folders):
    images, masks = folders
    draw(images / "a.png", 200)
    draw(masks / "a.png", high=0)
    (sample,) = evidence.from_folders(images, masks).samples(32)
    assert sample.truth is not None
    assert not sample.truth.any()


def test_what_is_not_there_is_told(folders, tmp_path):
    images, masks = folders
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        evidence.from_folders(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no images"):
        evidence.from_folders(images)
    draw(images / "a.png", 200)
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        evidence.from_folders(images, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no mask has the name of an image"):
        evidence.from_folders(images, masks)
    draw(masks / "a.png")
    draw(masks / "a.bmp")
    with pytest.raises(UsageError, match=r"a\.png: a second mask of .*a\.png, beside .*a\.bmp"):
        evidence.from_folders(images, masks)
    (masks / "a.bmp").unlink()
    draw(images / "a.bmp")
    with pytest.raises(UsageError, match="may belong to this image or to"):
        evidence.from_folders(images, masks)


@pytest.mark.parametrize(("size", "fits"), [((40, 30), True), ((80, 60), True), ((53, 40), True), ((30, 40), False)])
def test_a_mask_has_its_images_proportions(folders, size, fits):
    images, masks = folders
    draw(images / "a.png", 200)
    draw(masks / "a.png", size=size)
    samples = evidence.from_folders(images, masks).samples(32)
    if fits:
        assert len(list(samples)) == 1
    else:
        with pytest.raises(ImageError, match="a mask of 30 x 40 for an image of 40 x 30"):
            list(samples)


def test_a_mask_whose_shape_is_transparency_is_refused(folders):
    images, masks = folders
    draw(images / "a.png", 200)
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[:, 20:, 3] = 255
    Image.fromarray(pixels).save(masks / "a.png")
    with pytest.raises(ImageError, match="transparency"):
        list(evidence.from_folders(images, masks).samples(32))
    pixels[..., 3] = 255
    pixels[:, 20:, :3] = 255
    Image.fromarray(pixels).save(masks / "a.png")
    (sample,) = evidence.from_folders(images, masks).samples(32)
    assert sample.truth is not None
    assert sample.truth.mean() == 0.5


def test_a_mask_that_cannot_be_read_is_told(folders):
    images, masks = folders
    draw(images / "a.png", 200)
    (masks / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png: not a PNG, JPEG"):
        list(evidence.from_folders(images, masks).samples(32))
