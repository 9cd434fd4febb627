"""The rules that choose a mask, on drawn label maps."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.rules import MAX_CANDIDATES, RULES, choose, of_classes, parse_rule
from msformer_deploy.foreground.view import View

SIDE = 65
PLAIN = ("auto", "largest", "all", "lung-ct")


def disc(radius: int, row: int = 32, column: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def chosen(rule: str, labels: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """The mask on a label map, of a grey image if none is given."""
    given = np.full((3, SIDE, SIDE), 0.5, np.float32) if image is None else image
    return choose(parse_rule(rule), labels, View(given))


def test_all_is_every_part_outside_the_background_cluster():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(15)] = 4
    labels[disc(5, row=8, column=8)] = 2
    labels[60, 60] = 2
    labels[disc(3)] = 0
    assert np.array_equal(chosen("all", labels), disc(15) | disc(5, row=8, column=8))


def test_largest_is_the_largest_part_outside_the_background_cluster():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(15)] = 4
    labels[disc(5, row=8, column=8)] = 4
    assert np.array_equal(chosen("largest", labels), disc(15))


@pytest.mark.parametrize("rule", ["largest", "all"])
def test_the_black_frame_of_a_scope_is_no_part(rule):
    labels = disc(15).astype(np.uint8)
    frame = ~disc(29)
    labels[frame] = 2
    image = np.full((3, SIDE, SIDE), 0.5, np.float32)
    image[:, frame] = 0.02
    assert np.array_equal(chosen(rule, labels, image), disc(15))


def test_one_cluster_is_taken_by_its_id():
    labels = np.where(disc(6), 3, disc(15)).astype(np.uint8)
    assert np.array_equal(chosen("cluster:3", labels), disc(6))
    assert not chosen("cluster:77", labels).any()


@pytest.mark.parametrize("rule", ["largest", "all"])
def test_a_map_of_one_cluster_has_no_object(rule):
    assert not chosen(rule, np.zeros((SIDE, SIDE), np.uint8)).any()


@pytest.mark.parametrize(
    "text",
    [
        *("", "best", "cluster", "cluster:", "cluster:-1", "cluster:x", "cluster:ID", "AUTO", "classes", "auto:1"),
        *("candidate", "candidate:", "candidate:N", "candidate:-1"),
        *("dermoscopy", "endoscopy", "regions"),  # rules of earlier versions
    ],
)
def test_unknown_rules_are_refused_with_those_that_there_are(text):
    with pytest.raises(UsageError) as error:
        parse_rule(text)
    assert str(error.value) == f"foreground {text!r} is unknown; choose one of {', '.join(RULES)}"


@pytest.mark.parametrize("number", [0, MAX_CANDIDATES + 1, 77])
def test_a_candidate_that_no_image_has_is_refused(number):
    with pytest.raises(
        UsageError, match=f"^foreground candidate:{number} does not exist; choose a number from 1 to 3$"
    ):
        parse_rule(f"candidate:{number}")


@pytest.mark.parametrize("text", [*PLAIN, "candidate:1", "candidate:3", "cluster:12"])
def test_rules_print_as_they_are_written(text):
    assert str(parse_rule(text)) == text


def test_every_rule_that_is_named_can_be_given():
    assert {text.replace("ID", "0").replace("N", "1") for text in RULES} == {*PLAIN, "candidate:1", "cluster:0"}


@pytest.mark.parametrize(
    ("text", "number"), [("auto", 1), ("candidate:1", 1), ("candidate:3", 3), ("cluster:2", None), ("largest", None)]
)
def test_auto_is_the_first_candidate(text, number):
    assert parse_rule(text).candidate == number


@pytest.mark.parametrize("text", ["candidate:1", "candidate:2", "largest", "all", "lung-ct"])
def test_a_trained_system_refuses_what_chooses_among_clusters_or_candidates(text):
    with pytest.raises(
        UsageError, match=f"^foreground {text} .* a trained system has classes; choose auto or cluster:ID$"
    ):
        of_classes(parse_rule(text))


@pytest.mark.parametrize("text", [*PLAIN, "candidate:2", "cluster:1"])
def test_the_figure_is_of_the_candidates_alone(text):
    assert parse_rule(text).of_figure == (text in ("auto", "candidate:2"))


@pytest.mark.parametrize(("text", "expected"), [("auto", [[False, True, True]]), ("cluster:2", [[False, False, True]])])
def test_of_a_trained_system_all_that_is_not_background_or_one_class_is_taken(text, expected):
    rule = of_classes(parse_rule(text))
    assert rule.candidate is None
    image = View(np.full((3, 1, 3), 0.5, np.float32))
    mask = choose(rule, np.array([[0, 1, 2]], np.uint8), image)
    assert mask.tolist() == expected
