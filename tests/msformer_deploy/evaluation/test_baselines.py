"""Otsu and k-means in their strong form, on pictures whose object is known."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.evaluation import BASELINES
from msformer_deploy.evaluation.baselines import baseline
from msformer_deploy.images.read import image_from_array
from msformer_deploy.measures.overlap import overlap

SHAPE = 180, 240
ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]]
DISC = (ROWS - 90) ** 2 + (COLUMNS - 110) ** 2 < 40**2


def picture(background: tuple[int, int, int], disc: tuple[int, int, int]) -> np.ndarray:
    """A disc on a plain ground with some noise, uint8 (180, 240, 3)."""
    rng = np.random.default_rng(0)
    made = np.where(DISC[..., None], disc, background) + rng.integers(-8, 9, (*SHAPE, 3))
    return made.clip(0, 255).astype(np.uint8)


def dsc(name: str, pixels: np.ndarray) -> float:
    return overlap(baseline(name, image_from_array(pixels)), DISC).dsc


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    ("background", "disc"),
    [
        ((200, 180, 170), (110, 90, 80)),  # darker
        ((110, 110, 110), (200, 200, 200)),  # brighter
        ((90, 150, 190), (180, 150, 100)),  # not in grey
    ],
    ids=["dark", "bright", "colour"],
)
def test_the_object_is_what_holds_little_of_the_rim(name, background, disc):
    assert dsc(name, picture(background, disc)) > 0.95


@pytest.mark.parametrize("name", BASELINES)
def test_a_scopes_frame_is_no_object(name):
    pixels = picture((200, 180, 170), (110, 90, 80))
    pixels[(ROWS - 90) ** 2 + (COLUMNS - 120) ** 2 > 110**2] = 5
    assert dsc(name, pixels) > 0.95


SKIN, MUCOSA = (190, 210, 150), (250, 100, 100)  # the first not red at all, as the outline of half a picture is faint


@pytest.mark.parametrize(
    ("ground", "framed", "darker"),
    [(SKIN, False, True), (SKIN, True, True), (MUCOSA, False, True), (MUCOSA, True, False)],
    ids=["skin", "skin, black corners", "red", "endoscope"],
)
def test_otsu_takes_the_darker_class_but_in_the_picture_of_an_endoscope(ground, framed, darker):
    dark = COLUMNS < 100  # with more of the rim than of the area, so that nothing but its darkness makes it the object
    noise = np.random.default_rng(0).integers(-8, 9, (*SHAPE, 1))
    pixels = (np.where(dark[..., None], 0.6, 1) * ground + noise).clip(0, 255)
    if framed:
        pixels[(ROWS - 90) ** 2 + (COLUMNS - 120) ** 2 > 110**2] = 5
    found = baseline("otsu", image_from_array(pixels.astype(np.uint8)))
    assert found.any()
    assert (found & dark).sum() == (found.sum() if darker else 0)


@pytest.mark.parametrize("name", BASELINES)
def test_the_central_region_is_kept_and_its_holes_are_filled(name):
    pixels = picture((200, 180, 170), (110, 90, 80))
    pixels[85:95, 105:115] = (200, 180, 170)
    pixels[8:28, 200:230] = (110, 90, 80)
    assert dsc(name, pixels) > 0.95


@pytest.mark.parametrize("name", BASELINES)
def test_one_value_in_the_field_of_view_is_no_object(name):
    pixels = np.full((*SHAPE, 3), 200, np.uint8)
    pixels[0, 0] = 0  # an image of one value is refused when it is read
    got = baseline(name, image_from_array(pixels))
    assert got.shape == SHAPE
    assert got.mean() < 0.01


def test_deep_grey_is_taken_as_well():
    pixels = np.where(DISC, 900, 3000).astype(np.uint16)
    assert all(dsc(name, pixels) > 0.95 for name in BASELINES)


def test_kmeans_takes_a_third_class_where_there_are_three_colours():
    pixels = picture((220, 210, 200), (30, 20, 10))
    pixels[:, 120:][~DISC[:, 120:]] = (90, 80, 70)
    assert dsc("kmeans", pixels) > 0.95
    assert dsc("otsu", pixels) < 0.5


@pytest.mark.parametrize("around", [0, 255])
@pytest.mark.parametrize("name", BASELINES)
def test_what_is_inside_a_body_is_found_through_the_emptiness_around_it(name, around):
    """As in a slice of a chest: lungs are as empty as what is around the body."""
    rng = np.random.default_rng(0)
    pixels = np.full(SHAPE, around)
    body = ((ROWS - 90) / 80) ** 2 + ((COLUMNS - 120) / 110) ** 2 < 1
    pixels[body & ~DISC] = 128
    noisy = (pixels + rng.integers(-8, 9, SHAPE)).clip(0, 255).astype(np.uint8)
    assert dsc(name, noisy) > 0.95


def test_the_darker_class_of_dermoscopy_is_the_object_even_on_the_rim():
    """A lesion that fills most of a skin image holds most of the rim as well."""
    large = (ROWS - 90) ** 2 + (COLUMNS - 110) ** 2 < 105**2
    pixels = np.where(large[..., None], (110, 90, 80), (220, 180, 160)).astype(np.uint8)
    assert overlap(baseline("otsu", image_from_array(pixels)), large).dsc > 0.9
