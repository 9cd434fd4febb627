"""Scores of classes in volumes: by hand, against MONAI on the whole volume, and that nothing empty flatters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from msformer_deploy.measures.volumes import score_mask, score_volume, summarise

NAN = math.nan


def volume(*boxes: tuple[int, slice, slice, slice]) -> np.ndarray:
    made = np.zeros((8, 30, 40), np.uint8)
    for class_id, slices, rows, columns in boxes:
        made[slices, rows, columns] = class_id
    return made


CUBE = (1, slice(2, 5), slice(10, 20), slice(10, 20))
SHIFTED = (1, slice(2, 5), slice(10, 20), slice(13, 23))
HIGHER = (1, slice(3, 6), slice(10, 20), slice(10, 20))
EMPTY = volume()


def one(prediction: np.ndarray, truth: np.ndarray, **given: object) -> object:
    (found,) = score_volume("v", prediction, truth, 2, **given)
    return found


def test_dice_and_hd95_in_voxels_and_millimetres():
    pytest.importorskip("monai.metrics")
    along, across = one(volume(SHIFTED), volume(CUBE)), one(volume(HIGHER), volume(CUBE))
    assert along.dice == pytest.approx(0.7)
    assert across.dice == pytest.approx(2 / 3)
    assert (along.hd95, across.hd95) == (3, 1)
    spacing = (10.0, 2.0, 1.5)
    assert one(volume(SHIFTED), volume(CUBE), spacing=spacing).hd95 == pytest.approx(4.5)
    assert one(volume(HIGHER), volume(CUBE), spacing=(10, 2, 1.5)).hd95 == pytest.approx(10)
    perfect = one(volume(CUBE), volume(CUBE), spacing=spacing)
    assert (perfect.dice, perfect.hd95, perfect.prediction_empty, perfect.truth_empty) == (1, 0, False, False)


@pytest.mark.parametrize("spacing", [None, (7.0, 1.3, 1.7)])
def test_distances_are_those_of_monai_on_the_whole_volume(spacing):
    monai = pytest.importorskip("monai.metrics.hausdorff_distance")
    import torch

    rng = np.random.default_rng(0)
    ours, theirs = (np.zeros((6, 30, 30), bool) for _ in range(2))
    ours[:, 3:20, 4:18], theirs[0:5, 5:25, 2:15] = rng.random((6, 17, 14)) > 0.3, rng.random((5, 20, 13)) > 0.3
    expected = monai.compute_hausdorff_distance(
        torch.from_numpy(ours)[None, None],
        torch.from_numpy(theirs)[None, None],
        include_background=True,
        percentile=95,
        spacing=None if spacing is None else list(spacing),
    )
    found = one(ours.astype(np.uint8), theirs.astype(np.uint8), spacing=spacing)
    assert found.hd95 == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("prediction", "truth", "dice", "hd95", "published"),
    [
        (EMPTY, volume(CUBE), 0, NAN, (0, 0)),
        (volume(CUBE), EMPTY, 0, NAN, (0, 0)),
        (EMPTY, EMPTY, NAN, NAN, (0, 0)),
    ],
    ids=["prediction", "truth", "both"],
)
def test_what_is_empty(prediction, truth, dice, hd95, published):
    found = one(prediction, truth)
    assert (found.dice, found.hd95) == pytest.approx((dice, hd95), nan_ok=True)
    assert (found.prediction_empty, found.truth_empty) == (not prediction.any(), not truth.any())
    as_published = one(prediction, truth, published=True)
    assert (as_published.dice, as_published.hd95) == published


def test_an_empty_prediction_never_raises_a_mean():
    pytest.importorskip("monai.metrics")
    good = score_volume("a", volume(SHIFTED), volume(CUBE), 3)
    missed = score_volume("b", EMPTY, volume(CUBE), 3)
    invented = score_volume("c", volume(CUBE), EMPTY, 3)
    first, second = summarise([*good, *missed, *invented])
    assert first.dice == pytest.approx(0.7 / 3)
    assert (first.volumes, first.dice_defined, first.hd95_defined) == (3, 3, 1)
    assert (first.missed, first.invented) == (1, 1)
    assert first.hd95 == 3
    assert math.isnan(second.dice)
    assert math.isnan(second.hd95)
    assert (second.volumes, second.dice_defined, second.missed, second.invented) == (3, 0, 0, 0)
    published = summarise(
        [
            *score_volume("a", volume(SHIFTED), volume(CUBE), 2, published=True),
            *score_volume("b", EMPTY, volume(CUBE), 2, published=True),
        ]
    )[0]
    assert published.hd95 == 1.5, "which is how the published protocol flatters"


def test_every_class_but_background_is_scored_by_itself():
    two = (2, slice(2, 5), slice(10, 20), slice(25, 30))
    scores = score_volume("v", volume(CUBE), volume(CUBE, two), 4, distances=False)
    assert [(each.class_id, each.hd95) for each in scores] == [(1, None), (2, None), (3, None)]
    assert [each.dice for each in scores] == pytest.approx([1, 0, NAN], nan_ok=True)
    assert summarise(scores)[0].hd95 is None


@pytest.mark.parametrize(
    ("prediction", "truth", "given", "part"),
    [
        (EMPTY[:2], EMPTY, {}, "one shape"),
        (EMPTY[0], EMPTY[0], {}, "one shape"),
        (EMPTY, EMPTY, {"published": True, "spacing": (1, 1, 1)}, "in voxels"),
    ],
)
def test_wrong_use_is_named(prediction, truth, given, part):
    with pytest.raises(ValueError, match=part):
        score_volume("v", prediction, truth, 2, **given)


@pytest.mark.needs("monai")
@pytest.mark.parametrize("spacing", [None, (5.0, 1.0, 0.5)])
def test_a_mask_has_the_scores_of_an_image_and_the_distance_of_a_class(spacing):
    ours, theirs = volume(SHIFTED), volume(CUBE)
    found = score_mask(ours > 0, theirs > 0, spacing)
    (expected,) = score_volume("v", ours, theirs, 2, spacing)
    assert (found.dsc, found.hd95, found.surface_dice) == (expected.dice, expected.hd95, None)
    both, either = np.count_nonzero(ours & theirs), np.count_nonzero(ours | theirs)
    assert (found.iou, found.hm) == pytest.approx((both / either, 1 - both / either))
    assert found.xor == (either - both) / np.count_nonzero(theirs)
    assert (found.prediction_pixels, found.truth_pixels) == (np.count_nonzero(ours), np.count_nonzero(theirs))
    assert score_mask(ours > 0, theirs > 0, spacing, distances=False).hd95 is None
    assert math.isnan(score_mask(ours > 0, EMPTY > 0, spacing).hd95)
