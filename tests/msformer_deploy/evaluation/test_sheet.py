"""The contact sheet: which images are on it, in which order, and what is drawn of each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.evaluation import sheet
from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.images.read import InputImage
from msformer_deploy.segmenter import Segmentation

TRUTH = np.zeros((90, 120), bool)
TRUTH[20:50, 30:70] = True


def result(name: str, shape: tuple[int, int] = (90, 120)) -> Segmentation:
    """Grey picture, label map of two halves, mask of the left half."""
    image = InputImage(np.full((*shape, 3), 120, np.uint8), name, (0.0, 255.0))
    left = np.tile(np.arange(shape[1]) < shape[1] // 2, (shape[0], 1))
    labels = left.astype(np.uint8)
    probability = left.astype(np.float32)
    return Segmentation(
        image, labels, left, labels, np.array([1, 1]), [], False, probability, Confidence(1.0, 0.5, 1.0, None), {}
    )


def drawn(given: list[tuple[str, float]], path: Path) -> Image.Image:
    made = sheet.ContactSheet()
    for name, dsc in given:
        made.offer(name, dsc, result(name), TRUTH, 6)
    made.write(path)
    return Image.open(path)


def rows_of(picture: Image.Image) -> int:
    return round((picture.height - sheet.GAP - sheet.LINE) / (sheet.LINE + sheet.CELL[1] + sheet.GAP))


def titles(made: sheet.ContactSheet) -> list[str]:
    return [entry.title for entry in made._worst.values()]


def test_the_ten_worst_are_kept_worst_first(tmp_path):
    scores = np.random.default_rng(0).permutation(25) / 25
    made = sheet.ContactSheet()
    for dsc in scores:
        made.offer(f"{dsc:.2f}", dsc, result(f"{dsc:.2f}"), TRUTH, 6)
    assert titles(made) == [f"{dsc:.2f}" for dsc in sorted(scores)[:10]]
    made.write(tmp_path / "x.png")
    assert rows_of(Image.open(tmp_path / "x.png")) == 10


def test_an_image_is_there_once_with_its_worst_result():
    made = sheet.ContactSheet()
    for seed, dsc in enumerate((0.5, 0.2, 0.7)):
        made.offer(f"seed {seed}", dsc, result("a"), TRUTH, 6)
    assert titles(made) == ["seed 1"]


def test_an_image_that_was_pushed_out_comes_back_when_it_gets_worse():
    made = sheet.ContactSheet()
    made.offer("first", 0.9, result("a"), TRUTH, 6)
    for place in range(10):
        made.offer(f"{place}", 0.5, result(f"{place}"), TRUTH, 6)
    assert "first" not in titles(made)
    made.offer("again", 0.1, result("a"), TRUTH, 6)
    assert titles(made)[0] == "again"
    assert len(titles(made)) == 10


def test_an_image_that_is_withdrawn_is_gone():
    made = sheet.ContactSheet()
    for name in "ab":
        made.offer(name, 0.5, result(name), TRUTH, 6)
    made.withdraw("a")
    made.withdraw("never there")
    assert titles(made) == ["b"]


def test_no_score_is_not_shown(tmp_path):
    assert rows_of(drawn([("a", math.nan)], tmp_path / "x.png")) == 0
    assert rows_of(drawn([("a", math.nan), ("b", 0.0)], tmp_path / "y.png")) == 1


def test_each_row_has_image_truth_label_map_and_mask(tmp_path):
    picture = np.asarray(drawn([("a", 0.25)], tmp_path / "x.png")).astype(int)
    top = sheet.GAP + sheet.LINE
    title = picture[top : top + sheet.LINE, : sheet.CELL[0]]
    assert title.min() < 50, "text"
    top += sheet.LINE
    cells = [picture[top : top + 225, left : left + 300] for left in map(sheet._left, range(4))]
    assert (cells[0] == 120).all()
    assert (cells[1] == sheet.TRUTH_COLOUR).all(axis=2).any()
    assert len(np.unique(cells[2].reshape(-1, 3), axis=0)) == 2
    left, right = cells[3][:, :100], cells[3][:, -100:]
    assert (cells[3] == sheet.MASK_COLOUR).all(axis=2).any()
    assert (cells[3] == sheet.TRUTH_COLOUR).all(axis=2).any()
    assert left[100, 20].tolist() == [120] * 3
    assert right[100, 80].tolist() == [40] * 3, "dimmed outside the mask"


@pytest.mark.parametrize("shape", [(8, 3000), (3000, 8), (8, 8)])
def test_any_shape_fits_its_cell(tmp_path, shape):
    made = sheet.ContactSheet()
    made.offer("a", 0.1, result("a", shape), np.ones(shape, bool), 6)
    made.write(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").width == sheet._left(4)


def test_a_long_name_keeps_its_end(tmp_path):
    name = "x" * 300 + "\n the end.png"
    assert sheet._end(name).endswith("the end.png")
    assert len(sheet._end(name)) <= sheet.NAME_WIDTH + 3
