"""The label-free choice of the mask on drawn label maps."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.rules import RULES, choose, parse_rule
from msformer_deploy.foreground.view import View

SIDE = 65


def disc(radius: int, row: int = 32, column: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def agreement(mask: np.ndarray, truth: np.ndarray) -> float:
    """DSC: removing specks may round corners off."""
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def scene(*, inside: float = 0.3, outside: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """A disc of two clusters on a ground of two clusters: labels (S, S) and image (3, S, S)."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[:, 40:] = 1
    labels[disc(15)] = 2
    labels[disc(6)] = 3
    brightness = np.where(disc(15), inside, outside).astype(np.float32) + 0.01 * labels
    return labels, np.repeat(brightness[None], 3, axis=0).astype(np.float32)


@pytest.mark.parametrize(("inside", "outside"), [(0.3, 0.7), (0.8, 0.4)])
def test_auto_takes_the_whole_object_whether_darker_or_brighter(inside, outside):
    labels, image = scene(inside=inside, outside=outside)
    assert agreement(choose(parse_rule("auto"), labels, View(image)), disc(15)) > 0.97


def test_auto_prefers_the_central_object_and_fills_its_holes():
    labels, image = scene()
    aside = disc(9, row=12, column=55)
    hole = disc(3)
    labels[aside], image[:, aside] = 2, 0.3
    labels[hole], image[:, hole] = 0, 0.7
    assert agreement(choose(parse_rule("auto"), labels, View(image)), disc(15)) > 0.97


def test_auto_ignores_the_black_frame_of_a_scope_even_in_the_object_s_cluster():
    labels, image = scene()
    frame = ~disc(29)
    labels[frame], image[:, frame] = 2, 0.02
    assert agreement(choose(parse_rule("auto"), labels, View(image)), disc(15)) > 0.97


def test_auto_drops_specks():
    labels, image = scene()
    labels[::7, ::7] = 5
    mask = choose(parse_rule("auto"), labels, View(image))
    assert not mask[~disc(17)].any()
    assert agreement(mask, disc(15)) > 0.9


def test_auto_finds_an_object_that_touches_the_border_by_its_brightness():
    labels, image = scene()
    touching = disc(15) | ((np.arange(SIDE) < 32)[:, None] & (np.abs(np.arange(SIDE) - 32) < 8)[None])
    labels[touching], image[:, touching] = 2, 0.35
    assert agreement(choose(parse_rule("auto"), labels, View(image)), touching) > 0.97


def test_two_parts_of_one_region_are_one_object():
    """Lungs: dark, inside a body that is no object because it encloses them; the air around is on the rim."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(28)] = 1
    lungs = disc(10, column=20) | disc(9, column=43)
    labels[lungs] = 0
    image = np.repeat(np.where(labels == 1, 0.8, 0.4).astype(np.float32)[None], 3, axis=0)
    for rule in ("auto", "regions"):
        assert np.array_equal(choose(parse_rule(rule), labels, View(image)), lungs)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("rule", ["auto", "regions", "lung-ct"])
def test_air_that_leaks_through_the_wall_of_the_body_leaves_the_lungs_what_they_are(rule, width):
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(28)] = 1
    lungs = disc(10, column=20) | disc(9, column=43)
    labels[lungs] = 0
    labels[32 : 32 + width, 50:] = 0
    image = np.repeat(np.where(labels == 1, 0.8, 0.4).astype(np.float32)[None], 3, axis=0)
    mask = choose(parse_rule(rule), labels, View(image))
    assert agreement(mask, lungs) > 0.9
    assert not mask[:, -3:].any()


def test_what_is_joined_to_the_border_by_more_than_a_leak_is_not_apart():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(28)] = 1
    labels[disc(10, column=20) | disc(9, column=43)] = 0
    labels[28:37, 43:] = 0
    image = np.repeat(np.where(labels == 1, 0.8, 0.4).astype(np.float32)[None], 3, axis=0)
    assert not choose(parse_rule("regions"), labels, View(image))[32, 43]


GREY, TINTED, SKIN, MUCOSA = (0.5, 0.5, 0.5), (0.5, 0.5, 0.52), (0.4, 0.5, 0.7), (0.2, 0.2, 0.65)


@pytest.mark.parametrize("black", [False, True])
@pytest.mark.parametrize(
    ("colour", "rule"), [(SKIN, "dermoscopy"), (MUCOSA, "endoscopy"), (GREY, "regions"), (TINTED, "regions")]
)
def test_auto_goes_by_colour_with_and_without_a_frame(colour, rule, black):
    labels, _ = scene()
    image = np.broadcast_to(np.array(colour, np.float32)[:, None, None], (3, SIDE, SIDE)).copy()
    image[:, disc(15)] *= 0.5
    image[:, disc(6, column=54)] *= 1.4  # as bright as a polyp
    if black:
        image[:, :4] = 0.01
    expected = choose(parse_rule(rule), labels, View(image))
    others = {"dermoscopy", "endoscopy", "regions"} - {rule}
    assert np.array_equal(choose(parse_rule("auto"), labels, View(image)), expected)
    assert all(not np.array_equal(choose(parse_rule(other), labels, View(image)), expected) for other in others)


def test_the_heaviest_region_has_its_holes_filled():
    labels = np.where(disc(15), 1, 0).astype(np.uint8)
    labels[disc(2)] = 0
    image = np.repeat(np.where(labels == 1, 0.4, 0.8).astype(np.float32)[None], 3, axis=0)
    assert np.array_equal(choose(parse_rule("regions"), labels, View(image)), disc(15))


def test_all_is_every_part_outside_the_background_cluster():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(15)] = 4
    labels[disc(5, row=8, column=8)] = 2
    labels[60, 60] = 2
    labels[disc(3)] = 0
    image = np.full((3, SIDE, SIDE), 0.5, np.float32)
    assert np.array_equal(choose(parse_rule("all"), labels, View(image)), disc(15) | disc(5, row=8, column=8))


def test_largest_is_the_largest_region_outside_the_background_cluster():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(15)] = 4
    labels[disc(5, row=8, column=8)] = 4
    image = np.full((3, SIDE, SIDE), 0.5, np.float32)
    assert np.array_equal(choose(parse_rule("largest"), labels, View(image)), disc(15))


def test_one_cluster_is_taken_by_its_id():
    labels, image = scene()
    assert np.array_equal(choose(parse_rule("cluster:3"), labels, View(image)), disc(6))
    assert not choose(parse_rule("cluster:77"), labels, View(image)).any()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "cluster:ID"])
def test_a_map_of_one_cluster_has_no_object(rule):
    image = np.full((3, SIDE, SIDE), 0.5, np.float32)
    assert not choose(parse_rule(rule), np.zeros((SIDE, SIDE), np.uint8), View(image)).any()


def test_a_dark_image_is_not_taken_for_a_frame():
    labels, image = scene(inside=0.15, outside=0.05)
    assert agreement(choose(parse_rule("auto"), labels, View(image)), disc(15)) > 0.97


@pytest.mark.parametrize("text", ["", "best", "cluster", "cluster:", "cluster:-1", "cluster:x", "AUTO"])
def test_unknown_rules_are_refused(text):
    with pytest.raises(UsageError, match="foreground"):
        parse_rule(text)


@pytest.mark.parametrize("text", [*RULES[:-1], "cluster:12"])
def test_rules_print_as_they_are_written(text):
    assert str(parse_rule(text)) == text
