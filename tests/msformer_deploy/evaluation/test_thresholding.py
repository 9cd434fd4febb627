"""Otsu's threshold in a strong form: what it takes for the object, at any size."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.evaluation.thresholding import by_threshold


def drawn(side: int, background: tuple[float, ...], inside: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image (3, side, side) of a disc, and the disc."""
    rows, columns = np.mgrid[:side, :side] / (side - 1) - 0.5
    disc = np.hypot(rows - 0.05, columns) < 0.2
    return np.where(disc, *(np.array(each, np.float32)[:, None, None] for each in (inside, background))), disc


@pytest.mark.parametrize("side", [65, 129, 257])
@pytest.mark.parametrize(
    ("background", "inside"),
    [((0.3, 0.4, 0.5), (0.5, 0.6, 0.7)), ((0.5, 0.6, 0.7), (0.3, 0.4, 0.5)), ((0.4, 0.4, 0.4), (0.4, 0.6, 0.4))],
    ids=["bright", "dark", "in one channel"],
)
def test_the_object_is_what_is_off_the_rim(side, background, inside):
    image, disc = drawn(side, background, inside)
    found = by_threshold(image)
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.95


def test_the_channel_whose_classes_differ_most_decides():
    image, disc = drawn(129, (0.4, 0.4, 0.4), (0.4, 0.6, 0.4))
    image[0, 30:40, 60:70] += 0.1  # a weaker step around less
    found = by_threshold(image)
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.95


def test_the_blur_is_relative_to_the_side():
    """Two pixels of 257 are half a pixel of 65, which leaves a small object its size."""
    rows, columns = np.mgrid[:65, :65] / 64 - 0.5
    small = np.hypot(rows, columns) < 0.03
    image = np.repeat(np.where(small, 0.7, 0.4)[None], 3, axis=0)
    assert np.array_equal(by_threshold(image), small)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_one_colour_has_no_object(value):
    assert not by_threshold(np.full((3, 65, 65), value, np.float32)).any()
