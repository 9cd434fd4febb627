"""The judge: what contrast is, that it segments as ``run`` does, and what decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_1samp

from msformer_deploy import Segmenter
from msformer_deploy.errors import ImageError
from msformer_deploy.images.inputs import Item, discover
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.pretraining.candidate import candidate
from msformer_deploy.pretraining.judging import CONFIDENCE, Judged, Verdict, contrast, explained, judge, read_truth
from msformer_deploy.weights.network import load_network, tie_upsampling

ROWS, COLUMNS = np.mgrid[:60, :80]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 15**2


class Result:
    """What contrast is told of a segmentation."""

    def __init__(self, image: Any, labels: np.ndarray) -> None:
        self.image, self.network_labels = image, labels


@pytest.fixture
def halves(tmp_path: Path) -> Any:
    """An image that is dark on its left."""
    from msformer_deploy.images.read import read_image

    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[:, :32] = 60
    Image.fromarray(pixels).save(tmp_path / "halves.png")
    return read_image(tmp_path / "halves.png")


def split_at(column: int) -> np.ndarray:
    return np.broadcast_to(np.arange(64) < column, (64, 64)).astype(np.uint8)


def test_contrast_is_large_where_the_image_is_steep(halves):
    right, beside, far = (contrast(Result(halves, split_at(column))) for column in (32, 34, 50))
    assert right > beside > far
    assert right > 10
    assert far < 0.01
    assert contrast(Result(halves, split_at(0))) == 0


def test_borders_anywhere_have_a_contrast_of_one(picture):
    from msformer_deploy.images.read import image_from_array

    noise = np.random.default_rng(0).integers(0, 2, (257, 257)).astype(np.uint8)
    assert contrast(Result(image_from_array(picture), noise)) == pytest.approx(1, abs=0.01)


def test_contrast_knows_no_brightness(picture):
    from msformer_deploy.images.read import image_from_array

    labels = (np.mgrid[:65, :65][0] > 30).astype(np.uint8)
    dim = image_from_array((picture // 2).astype(np.uint8))
    assert contrast(Result(image_from_array(picture), labels)) == pytest.approx(contrast(Result(dim, labels)), rel=0.02)


def test_it_judges_what_run_would_write(tiny_bundle, images, tmp_path):
    items = discover([images])
    network = tie_upsampling(load_network(tiny_bundle))
    (tmp_path / "weights").mkdir()
    bundle = candidate(network, tmp_path / "weights", tiny_bundle.system, tiny_bundle.seed, tiny_bundle.refinement)
    steps = []
    found = judge(bundle, {items[0]: DISC, items[2]: None}, 1, lambda: steps.append(1))
    assert [each.image for each in found] == ["a.png", "more/c.tif"]
    result = Segmenter(tiny_bundle, backend="torch").segment(items[0].path)
    assert found[0].dsc == overlap(result.mask, DISC).dsc
    assert (found[0].contrast, found[0].explained) == (contrast(result), explained(result))
    assert found[1].dsc is None
    assert len(steps) == 2


def test_truth_is_read_and_an_empty_one_refused(images, tmp_path):
    item = Item(images / "a.png", Path("a.png"))
    Image.fromarray(DISC).save(tmp_path / "mask.png")
    assert np.array_equal(read_truth(item, tmp_path / "mask.png"), DISC)
    Image.fromarray(DISC & False).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"mask\.png: an empty mask cannot judge"):
        read_truth(item, tmp_path / "mask.png")


def verdict(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> Verdict:
    """Of contrast, explained variance and DSC."""
    return Verdict(
        *(tuple(Judged(f"{place}.png", *each) for place, each in enumerate(all_)) for all_ in (before, after))
    )


THREE = [(1.0, 0.5, None)] * 3


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        (THREE, [(1.1, 0.6, None), (1.2, 0.6, None), (1.15, 0.6, None)], True),
        (THREE, [(1.1, 0.6, None), (2.2, 0.6, None), (1.0, 0.6, None)], False),
        (THREE, [(1.1, 0.4, None), (1.2, 0.4, None), (1.15, 0.4, None)], False),
        (THREE, [(0.9, 0.6, None)] * 3, False),
        (THREE, THREE, False),
        (THREE[:1], [(9.0, 0.9, None)], False),
        ([(2.0, 0.5, 0.5)], [(1.0, 0.4, 0.51)], True),
        ([(1.0, 0.5, 0.5)], [(2.0, 0.6, 0.5)], False),
    ],
    ids=["sure", "one image alone", "one score alone", "worse", "equal", "one image", "larger DSC", "equal DSC"],
)
def test_what_decides(before, after, better):
    found = verdict(before, after)
    assert found.better is better
    told = found.as_dict()
    assert told["decided_by"] == (["contrast", "explained"] if before[0][2] is None else ["dsc"])
    contrast_, explained_, dsc = after[0]
    image = {"image": "0.png", "contrast": contrast_, "explained": explained_, "dsc": dsc}
    assert told["adapted"]["images"][0] == image
    assert ("DSC" in found.summary()) == found.with_truth


def test_the_sure_gain_is_the_end_of_student_s_interval():
    found = verdict(THREE, [(1.1, 0.6, None), (1.3, 0.6, None), (1.2, 0.6, None)])
    expected = ttest_1samp([0.1, 0.3, 0.2], 0, alternative="greater").confidence_interval(CONFIDENCE).low
    assert found._sure_gain("contrast") == pytest.approx(expected)


def test_regions_explain_the_variance_between_them(halves):
    all_, none, half = (explained(Result(halves, split_at(column))) for column in (32, 0, 48))
    assert all_ == pytest.approx(1)
    assert none == pytest.approx(0, abs=1e-9)
    assert half == pytest.approx(1 / 3, abs=0.01)
