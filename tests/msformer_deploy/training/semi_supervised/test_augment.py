"""How slices are varied: picture and labels alike, in the published proportions, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.images.read import resize_nearest
from msformer_deploy.training.semi_supervised.augment import vary

SIDE = 32


def planes(height: int = 40, width: int = 24) -> list[np.ndarray]:
    image = np.random.default_rng(0).random((height, width), dtype=np.float32) * 0.9 + 0.1
    return [image, (image * 4).astype(np.uint8)]


def varied(seed: int, given: list[np.ndarray] | None = None) -> list[np.ndarray]:
    return vary(given or planes(), SIDE, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(12))
def test_the_picture_and_its_labels_stay_together(seed):
    image, labels = varied(seed)
    assert (image.shape, labels.shape) == ((SIDE, SIDE), (SIDE, SIDE))
    assert (image.dtype, labels.dtype) == (np.float32, np.uint8)
    assert set(np.unique(image)) <= {0, *planes()[0].ravel().tolist()}, "no value is made up"
    np.testing.assert_array_equal(labels, (image * 4).astype(np.uint8))


def test_the_seed_decides_all():
    np.testing.assert_array_equal(varied(3)[0], varied(3)[0])
    assert len({varied(seed)[0].tobytes() for seed in range(40)}) > 10


def test_a_quarter_stays_half_is_flipped_or_turned_by_quarters_a_quarter_turned_by_degrees():
    square = planes(SIDE, SIDE)
    exact = {np.flip(np.rot90(square[0], k), axis).tobytes() for k in range(4) for axis in range(2)}
    assert square[0].tobytes() not in exact, "a flip is never left out after quarter turns"
    found = [varied(seed, square)[0].tobytes() for seed in range(2000)]
    as_it_is = sum(each == square[0].tobytes() for each in found) / 2000
    flipped = sum(each in exact for each in found) / 2000
    unseen = 0.25 * 3 / 40  # turns by a degree move no centre of so small a picture into another pixel
    assert as_it_is == pytest.approx(0.25 + unseen, abs=0.03)
    assert flipped == pytest.approx(0.5, abs=0.03)
    assert exact <= set(found)


def test_turns_are_by_less_than_20_degrees_and_bring_0_in():
    line = np.zeros((61, 61), np.float32)
    line[30] = 1
    ramp = line * (np.arange(61) + 1) / 61  # tells a turn from a flip
    degrees = set()
    for seed in range(300):
        (turned,) = vary([ramp.astype(np.float32)], 61, np.random.default_rng(seed))
        rows, columns = np.nonzero(turned)
        if len(set(rows)) in (1, 61):  # as it was, or flipped and turned by quarters
            continue
        slope = np.polyfit(columns, rows, 1)[0]
        degrees.add(round(np.degrees(np.arctan(slope))))
    assert -20 <= min(degrees) < -15
    assert 15 < max(degrees) <= 20
    full = np.ones((61, 61), np.float32)
    corners = {vary([full], 61, np.random.default_rng(seed))[0][0, 0].item() for seed in range(50)}
    assert corners == {0.0, 1.0}


def test_what_is_not_varied_is_resized_by_nearest_neighbours():
    as_it_is = resize_nearest(planes()[0], SIDE, SIDE).tobytes()
    assert any(varied(seed)[0].tobytes() == as_it_is for seed in range(20))
