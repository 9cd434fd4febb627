"""Skin and mucosa in drawn images: redness against the clearness of a lesion, whatever the frame and the light."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.evaluation.mucosa import FRAME, is_mucosa
from msformer_deploy.foreground.contrast import contrast_of
from msformer_deploy.foreground.view import View

SIDE = 129
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
OBJECT = np.hypot(ROWS, COLUMNS) < 0.2
ROUND = np.hypot(ROWS, COLUMNS) < 0.48
NOTHING = np.zeros(OBJECT.shape, bool)
SKIN, RED_SKIN, MUCOSA = (0.45, 0.5, 0.65), (0.3, 0.35, 0.6), (0.2, 0.25, 0.6)  # BGR


def picture(colour: tuple[float, float, float], contrast: float) -> np.ndarray:
    """(3, SIDE, SIDE): the object is darker by the contrast."""
    noise = 0.05 * np.random.default_rng(0).standard_normal(OBJECT.shape)
    return (np.array(colour)[:, None, None] * (1 - contrast * OBJECT + noise)).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1, 1.4])
@pytest.mark.parametrize(
    ("colour", "contrast", "mucosa"),
    [(SKIN, 0.4, False), (SKIN, 0.1, False), (MUCOSA, 0.02, True), (RED_SKIN, 0.4, False)],
    ids=["clear lesion", "faint lesion", "red, nothing clear", "red, and a clear lesion"],
)
def test_what_is_redder_than_its_lesion_is_clear(colour, contrast, mucosa, gamma, framed):
    image = picture(colour, contrast) ** gamma
    if framed:
        image[:, ~ROUND] = 0.02
    assert is_mucosa(View(image), OBJECT) == mucosa


@pytest.mark.parametrize("framed", [False, True])
def test_where_both_are_equal_a_frame_decides(framed):
    image = picture(RED_SKIN, 0.07)
    if framed:
        image[:, ~ROUND] = 0.02
    assert contrast_of(OBJECT, View(image)) == pytest.approx(np.log(0.6 / 0.35), abs=FRAME / 2)
    assert is_mucosa(View(image), OBJECT) == framed


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("colour", [SKIN, MUCOSA], ids=["skin", "mucosa"])
def test_without_a_lesion_a_frame_decides(colour, framed):
    image = picture(colour, 0.0)
    if framed:
        image[:, ~ROUND] = 0.02
    assert is_mucosa(View(image), NOTHING) == framed


def test_a_black_image_is_not():
    assert not is_mucosa(View(np.zeros((3, SIDE, SIDE), np.float32)), OBJECT)
