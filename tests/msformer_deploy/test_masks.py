"""The shape of masks and what is inside. How masks are read is tried in ``tests/export/test_evidence.py`` as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy import masks
from msformer_deploy.errors import ImageError
from msformer_deploy.evaluation.truth import read_truths
from msformer_deploy.imaging import read_image
from msformer_deploy.training.pairs import read_binary_mask


def draw(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    """A picture whose right half is bright."""
    path.parent.mkdir(exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, size[0] // 2 :] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_a_mask_gets_the_shape_asked_for(tmp_path):
    image = read_image(draw(tmp_path / "a.png"))
    mask = draw(tmp_path / "mask.png", (80, 60))
    for shape in ((30, 40), (8, 16)):
        read = masks.read_mask(mask, image, shape)
        assert read.shape == shape
        assert np.array_equal(read, np.tile(np.arange(shape[1]) >= shape[1] // 2, (shape[0], 1)))


@pytest.mark.parametrize(("image", "mask"), [("a.png", "a.bmp"), ("a.bmp", "a.tif"), ("a.jpg", "a.png")])
@pytest.mark.parametrize("colours", [True, False])
def test_an_image_in_another_format_is_no_mask_of_itself(tmp_path, image, mask, colours):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3) if colours else (30, 40), np.uint8)
    Image.fromarray(pixels).save(tmp_path / image)
    Image.open(tmp_path / image).save(tmp_path / mask)
    picture = read_image(tmp_path / image)
    for read in (
        lambda: masks.read_mask(tmp_path / mask, picture, (30, 40)),
        lambda: read_truths(tmp_path / mask, picture),
        lambda: read_binary_mask(tmp_path / mask, picture),
    ):
        with pytest.raises(ImageError, match="the mask has the pixels of its image; put the mask in its place"):
            read()


def test_a_drawing_that_looks_like_its_mask_is_judged(tmp_path):
    image, mask = draw(tmp_path / "a.png"), draw(tmp_path / "a.bmp")
    assert masks.read_mask(mask, read_image(image), (30, 40)).any()


@pytest.mark.parametrize(
    ("values", "suffix", "least"),
    [
        ([0, 1, 2], ".png", 1),
        ([0, 85, 170, 255], ".png", 85),  # ids that were made visible: none is background
        (range(16), ".png", 1),
        (range(0, 256, 5), ".png", 128),  # soft borders
        (range(0, 100, 5), ".png", 1),  # nothing in the brighter half
        ([0, 255], ".jpg", 128),
    ],
)
def test_what_is_inside(tmp_path, values, suffix, least):
    pixels = np.tile(np.repeat(np.array(values, np.uint8), 8), (32, 1))
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(masks.inside(masks.read_file(path)), pixels >= least)
