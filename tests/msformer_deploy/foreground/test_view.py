"""What several rules ask of an image: each is worked out once."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy import RefineSettings, Segmenter
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.evaluation.baselines import baseline
from msformer_deploy.foreground import view
from msformer_deploy.foreground.view import SIDE, View
from msformer_deploy.images.read import image_from_array, resize_nearest

ROWS, COLUMNS = np.mgrid[:90, :120]


def scene(*, framed: bool = True) -> np.ndarray:
    """A polyp on mucosa, uint8 (90, 120, 3) RGB; with a frame, which is filled before the network sees it."""
    pixels = np.where(np.hypot(ROWS - 45, COLUMNS - 60)[..., None] < 15, (230, 90, 80), (170, 60, 50))
    if framed:
        pixels[np.hypot(ROWS - 45, COLUMNS - 60) > 55] = 4
    return pixels.astype(np.uint8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every question that was worked out, in turn."""
    made: list[str] = []

    def counted(name: str) -> None:
        real = getattr(view, name)
        monkeypatch.setattr(view, name, lambda image: made.append(name) or real(image))

    counted("is_coloured")
    counted("has_frame")
    return made


@pytest.mark.parametrize("rule", ["auto", "largest"])
@pytest.mark.parametrize("regions", [0, 2])
def test_an_image_is_asked_once_whether_it_has_colours_and_a_frame(
    tiny_bundle: Bundle, calls: list[str], regions: int, rule: str
) -> None:
    segmenter = Segmenter(tiny_bundle, settings=RefineSettings(steps=1, regions=regions), foreground_rule=rule)
    segmenter.segment(scene())
    needed = ["is_coloured", "has_frame"] if regions else []
    assert calls == needed
    segmenter.segment_batch([image_from_array(scene()), image_from_array(scene(framed=False))])
    assert sorted(calls) == sorted(3 * needed)


@pytest.mark.needs("scipy")
def test_a_baseline_asks_once(calls: list[str]) -> None:
    baseline("otsu", image_from_array(scene()))
    assert calls == ["is_coloured", "has_frame"]


@pytest.mark.parametrize("side", [33, SIDE, 257])
def test_the_small_square_and_the_brightness_are_made_once(side: int) -> None:
    square = np.random.default_rng(0).random((3, side, side), np.float32)
    made = View(square)
    for channel, small in zip(square, made.small, strict=True):
        np.testing.assert_array_equal(small, resize_nearest(channel, SIDE, SIDE))
    np.testing.assert_array_equal(made.brightness, square.mean(axis=0))
    assert made.brightness.dtype == np.float32
    assert made.small is made.small
    assert made.brightness is made.brightness
