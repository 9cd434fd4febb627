"""What mask files mean: ids, soft borders, colours, other sizes, inverted; and the publication's way to resize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.errors import ImageError
from msformer_deploy.images import truth
from msformer_deploy.images.read import InputImage, image_from_array

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def image() -> InputImage:
    return image_from_array(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))


@pytest.fixture
def ids() -> np.ndarray:
    """Class 1 in a square, class 2 in another; the rest is background. uint8 (60, 80)."""
    made = np.zeros((HEIGHT, WIDTH), np.uint8)
    made[10:30, 20:50], made[40:50, 20:50] = 1, 2
    return made


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("scale", [1, 85, 127])
def test_all_but_background_is_inside_and_every_class_can_be_alone(image, ids, tmp_path, scale):
    path = saved(tmp_path / "a.png", ids * np.uint8(scale))
    found = truth.read_truths(path, image)
    assert (found.notes, found.warnings) == ((), ())
    assert np.array_equal(found.masks[None], ids > 0)
    found = truth.read_truths(path, image, (2 * scale, scale, 9))
    assert list(found.masks) == [2 * scale, scale, 9]
    assert np.array_equal(found.masks[scale], ids == 1)
    assert np.array_equal(found.masks[2 * scale], ids == 2)
    assert not found.masks[9].any()


def test_a_palette_holds_ids(image, ids, tmp_path):
    picture = Image.fromarray(ids)
    picture.putpalette([0, 0, 0, 60, 0, 0, 0, 250, 0])  # dark red is no background
    picture.save(tmp_path / "a.png")
    found = truth.read_truths(tmp_path / "a.png", image)
    assert np.array_equal(found.masks[None], ids > 0)
    assert found.notes == ("in colours, all but black taken for inside",)
    assert np.array_equal(truth.read_truths(tmp_path / "a.png", image, (2,)).masks[2], ids == 2)


def test_colours_are_told_and_hold_no_ids(image, ids, tmp_path):
    path = saved(tmp_path / "a.png", np.array([(0, 0, 0), (60, 0, 0), (0, 250, 0)], np.uint8)[ids])
    found = truth.read_truths(path, image)
    assert np.array_equal(found.masks[None], ids > 0)
    assert found.notes == ("in colours, all but black taken for inside",)
    with pytest.raises(ImageError, match=r"a\.png: a mask in colours holds no class ids; save"):
        truth.read_truths(path, image, (1,))


def test_many_colours_are_not_soft(image, tmp_path):
    ramp = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    ramp[..., 1] = np.linspace(0, 255, WIDTH)
    found = truth.read_truths(saved(tmp_path / "a.png", ramp), image)
    assert np.array_equal(found.masks[None], ramp[..., 1] > 0)


def test_equal_channels_are_grey(image, ids, tmp_path):
    path = saved(tmp_path / "a.png", np.repeat(ids[..., None], 3, axis=2))
    assert truth.read_truths(path, image).notes == ()
    assert np.array_equal(truth.read_truths(path, image, (2,)).masks[2], ids == 2)


def test_a_mask_compressed_with_loss_is_cut_at_half_and_holds_no_ids(image, ids, tmp_path):
    path = saved(tmp_path / "a.jpg", (ids > 0) * np.uint8(255), quality=30)
    assert len(np.unique(np.asarray(Image.open(path)))) > 16, "small values everywhere"
    found = truth.read_truths(path, image)
    assert (found.masks[None] == (ids > 0)).mean() > 0.99
    assert found.notes == ("with soft values, the brighter half of the range taken for inside",)
    with pytest.raises(ImageError, match="compressed with loss holds no class ids"):
        truth.read_truths(path, image, (1,))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_soft_borders_are_cut_at_half_of_the_range(image, tmp_path, dtype, top):
    ramp = np.tile(np.linspace(0, top, WIDTH).astype(dtype), (HEIGHT, 1))
    found = truth.read_truths(saved(tmp_path / "a.png", ramp), image)
    assert np.array_equal(found.masks[None], ramp > top // 2)
    assert found.notes == ("with soft values, the brighter half of the range taken for inside",)


def test_sixteen_bits_hold_ids(image, ids, tmp_path):
    path = saved(tmp_path / "a.png", ids.astype(np.uint16) * np.uint16(300))
    assert np.array_equal(truth.read_truths(path, image, (600,)).masks[600], ids == 2)
    assert np.array_equal(truth.read_truths(path, image).masks[None], ids > 0)


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, 7e4])
def test_values_that_are_no_ids_are_refused(image, tmp_path, value):
    pixels = np.zeros((HEIGHT, WIDTH), np.float32)
    pixels[3, 4] = value
    with pytest.raises(ImageError, match=r"a\.tif: has values that are not whole numbers from 0 to 65535"):
        truth.read_truths(saved(tmp_path / "a.tif", pixels), image)


def test_whole_floats_and_single_bits_are_masks(image, ids, tmp_path):
    for name, pixels in (("a.tif", ids.astype(np.float32)), ("b.png", ids > 0)):
        assert np.array_equal(truth.read_truths(saved(tmp_path / name, pixels), image).masks[None], ids > 0)


def test_another_size_is_resized_and_other_proportions_are_refused(image, ids, tmp_path):
    path = saved(tmp_path / "a.png", ids.repeat(2, axis=0).repeat(2, axis=1))
    for classes in ((), (1, 2)):
        found = truth.read_truths(path, image, classes)
        assert found.notes == ("of another size than the image, resized by nearest neighbour",)
        assert np.array_equal(np.logical_or.reduce(list(found.masks.values())), ids > 0)
    with pytest.raises(ImageError, match=r"a\.png: a mask of 60 x 80 for an image of 80 x 60"):
        truth.read_truths(saved(tmp_path / "a.png", ids.T.copy()), image)


def test_an_inverted_mask_is_told_and_not_turned(image, ids, tmp_path):
    found = truth.read_truths(saved(tmp_path / "a.png", (ids == 0) * np.uint8(255)), image)
    (warning,) = found.warnings
    assert warning == "the mask covers more than half of the image and most of its rim: inverted? Used unchanged"
    assert np.array_equal(found.masks[None], ids == 0)


@pytest.mark.parametrize("inside", [True, False], ids=["large", "all of the rim"])
def test_large_or_at_the_rim_alone_is_not_inverted(image, tmp_path, inside):
    pixels = np.full((HEIGHT, WIDTH), not inside)
    pixels[1:-1, 1:-1] = inside
    assert truth.read_truths(saved(tmp_path / "a.png", pixels), image).warnings == ()


@pytest.mark.parametrize(("value", "warnings"), [(0, ()), (1, ("the mask covers the whole image",))])
def test_one_value_only(image, tmp_path, value, warnings):
    found = truth.read_truths(saved(tmp_path / "a.png", np.full((HEIGHT, WIDTH), value, np.uint8)), image)
    assert found.warnings == warnings
    assert found.masks[None].mean() == value


def test_warnings_name_the_class(image, ids, tmp_path):
    path = saved(tmp_path / "a.png", ids)
    (warning,) = truth.read_truths(path, image, (1, 0)).warnings
    assert warning.startswith("class 0 covers more than half")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_publications_truth_is_all_that_is_not_zero_after_bilinear_resizing(ids, tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", (ids > 0) * np.uint8(255), quality=95)
    found = truth.published_truth(path)
    picture = Image.fromarray((ids > 0) * np.uint8(255)).resize((257, 257), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.asarray(picture) > 0)
    assert np.array_equal(truth.at_published_side(ids > 0), found)
    assert truth.published_truth(path, 40).shape == (40, 40)
    assert np.array_equal(truth.published_truth(path, None), ids > 0)
