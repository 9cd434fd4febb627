"""Several plausible objects in drawn probabilities: which are found, in which order, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.errors import ImageError
from msformer_deploy.foreground.candidates import MAX_IOU, Candidate, candidates, take
from msformer_deploy.foreground.confidence import confidence_of, evidence
from msformer_deploy.foreground.rules import MAX_CANDIDATES
from msformer_deploy.foreground.threshold import threshold_of
from msformer_deploy.images.read import resize_linear

SIDE = 96
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
LEFT, RIGHT = (np.hypot(ROWS - 48, COLUMNS - column) < 14 for column in (24, 72))


def probability(ground: float = 0.05, **shares: float) -> np.ndarray:
    """Two discs on a ground, float32 (SIDE, SIDE)."""
    drawn = np.full((SIDE, SIDE), ground, np.float32)
    drawn[LEFT], drawn[RIGHT] = shares.get("left", ground), shares.get("right", ground)
    return drawn


def found(given: np.ndarray) -> list[np.ndarray]:
    return [each.mask for each in candidates(given, given)]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def same(masks: list[np.ndarray], *expected: np.ndarray) -> bool:
    return len(masks) == len(expected) and all(map(np.array_equal, masks, expected))


def test_one_clear_object_is_the_only_candidate():
    assert same(found(probability(left=0.95)), LEFT)


def test_all_parts_are_first_where_all_are_certain_then_each_part_the_heavier_one_first():
    assert same(found(probability(left=0.8, right=0.9)), LEFT | RIGHT, RIGHT, LEFT)


def test_what_is_less_probable_is_second_and_the_mask_of_auto_stays_first():
    assert same(found(probability(ground=0.01, left=0.95, right=0.32)), LEFT, LEFT | RIGHT, RIGHT)


def test_nothing_probable_leaves_the_first_empty_and_finds_the_others():
    first, *others = found(probability(ground=0.01, left=0.19))
    assert not first.any()
    assert same(others, LEFT)


def test_parts_of_equal_weight_come_in_the_order_of_their_rows_and_columns():
    assert same(found(probability(left=0.9, right=0.9)), LEFT | RIGHT, LEFT, RIGHT)


@pytest.mark.parametrize(("radius", "count"), [(2, 1), (4, 2)])
def test_specks_are_no_candidates(radius, count):
    """A disc of radius 2 covers 0.1 % of the image, one of radius 4 covers 0.5 %."""
    given = probability(left=0.95)
    given[np.hypot(ROWS - 10, COLUMNS - 80) < radius] = 0.4
    masks = found(given)
    assert len(masks) == 1 or radius > 2
    parts = [mask for mask in masks if not (mask & LEFT).any()]
    assert len(parts) == count - 1


def test_the_whole_image_is_no_candidate_unless_it_is_the_mask_of_auto():
    assert same(found(np.full((SIDE, SIDE), 0.19, np.float32)), np.zeros((SIDE, SIDE), bool))
    assert same(found(np.full((SIDE, SIDE), 0.9, np.float32)), np.ones((SIDE, SIDE), bool))


@pytest.mark.needs("scipy")
@pytest.mark.parametrize("seed", range(5))
def test_of_any_probability_candidates_differ_and_are_sorted(seed):
    from scipy import ndimage

    given = ndimage.gaussian_filter(np.random.default_rng(seed).random((SIDE, SIDE)), 5).astype(np.float32)
    given = (given - given.min()) / (given.max() - given.min())
    got = candidates(given, given)
    masks = [each.mask for each in got]
    assert 1 < len(got) <= MAX_CANDIDATES
    assert np.array_equal(masks[0], given > threshold_of(given))
    assert all(iou(one, other) < MAX_IOU for place, one in enumerate(masks) for other in masks[:place])
    expected = [evidence(mask, given)[0] for mask in masks[1:]]
    assert expected == sorted(expected, reverse=True)
    assert [each.confidence for each in got] == [confidence_of(mask, given) for mask in masks]
    again = candidates(given.copy(), given)
    assert same([each.mask for each in again], *masks)


@pytest.mark.needs("scipy")
@pytest.mark.parametrize("size", [(300, 400), (61, 40), (SIDE, SIDE)])
def test_masks_are_drawn_at_the_size_of_the_image(size):
    """At another size each is what the resized probability gives; the parts stay apart."""
    from scipy import ndimage

    given = ndimage.gaussian_filter(probability(left=0.8, right=0.95), 1)
    at_size = resize_linear(given, *size)
    both, *parts = candidates(given, at_size)
    assert np.array_equal(both.mask, at_size > threshold_of(given))
    assert len(parts) == 2
    for part in parts:
        numbered, _ = ndimage.label(at_size > part.threshold)
        (number,) = set(np.unique(numbered[part.mask]))
        assert np.array_equal(part.mask, numbered == number), "a border of the probability, without steps"


def test_a_part_is_drawn_without_a_neighbour_beside_it():
    given = probability()
    given[20:40, 20:40], given[40:60, 40:60] = 0.9, 0.6  # they touch at a corner
    parts = [each for each in candidates(given, given) if each.within is not None]
    assert parts
    for part in parts:
        assert part.mask[:40, :40].any() != part.mask[40:, 40:].any()


def test_a_mask_is_made_when_it_is_asked_for_and_once():
    given = probability(left=0.9)
    (only,) = candidates(given, given)
    assert "mask" not in vars(only)
    assert only.mask is only.mask


@pytest.mark.parametrize(
    ("count", "number", "said"),
    [
        (1, 2, "a.png: has only 1 candidate, so candidate:2 does not exist; choose candidate:1"),
        (2, 3, "a.png: has only 2 candidates, so candidate:3 does not exist; choose candidate:1 or candidate:2"),
    ],
)
def test_a_candidate_that_an_image_has_not_is_one_line(count, number, said):
    given = probability(left=0.9)
    all_found = [Candidate(confidence_of(LEFT, given), given, 0.1 * place) for place in range(count)]
    assert take(all_found, count, "a.png") is all_found[-1]
    with pytest.raises(ImageError) as error:
        take(all_found, number, "a.png")
    assert str(error.value) == said
