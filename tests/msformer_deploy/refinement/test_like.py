"""The head that corrected images teach: what it learns, when it is left out, and that nothing depends on torch."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.refinement import like
from msformer_deploy.refinement.like import Example, Identity, learn

SIDE = 49
IDENTITY = Identity("msformer", SIDE, "x")


def example(seed: int, *, dark: bool = True, known: bool = False) -> Example:
    """A dark and a bright disc; the label-free rule takes the bright one, and people mean the dark one.

    With ``known`` it takes exactly what people mean.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    places = rng.integers(12, SIDE - 12, 2)
    one = (rows - places[0]) ** 2 + (columns - 12) ** 2 <= 49
    other = (rows - places[1]) ** 2 + (columns - 36) ** 2 <= 49
    if rng.random() < 0.5:
        one, other = other, one
    picture = np.where(one, 0.2, np.where(other, 0.9, 0.5)) + rng.normal(0, 0.02, (SIDE, SIDE))
    meant = one if dark else other
    figure = np.where(meant if known else other, 0.9, 0.05).astype(np.float32)
    return Example(np.stack([picture] * 3).astype(np.float32), figure, meant)


def dsc(examples: list[Example], head: like.LearnedHead) -> float:
    return float(np.mean([like._dsc(head.apply(each.pixels, each.figure), each.mask) for each in examples]))


def test_as_many_numbers_are_seen_as_a_head_must_have() -> None:
    each = example(0)
    assert like.seen(each.pixels, each.figure).shape == (like.GRID**2, like.SEEN)


def test_corrected_images_teach_which_of_two_objects_is_meant() -> None:
    rest = [example(seed) for seed in range(10, 16)]
    assert np.mean([like._dsc(each.figure, each.mask) for each in rest]) < 0.05
    three = learn([example(seed) for seed in range(3)], IDENTITY)
    assert three.part == 1
    assert dsc(rest, three) > 0.9


def test_a_head_that_explains_no_more_than_the_label_free_rule_changes_nothing() -> None:
    """What is corrected is random here, so no head can explain it, and the label-free rule is right."""
    rng = np.random.default_rng(0)

    def random_place(seed: int) -> Example:
        mask = np.zeros((SIDE, SIDE), bool)
        row, column = rng.integers(5, SIDE - 12, 2)
        mask[row : row + 7, column : column + 7] = True
        pixels = np.random.default_rng(seed).random((3, SIDE, SIDE)).astype(np.float32)
        return Example(pixels, np.where(mask, 0.55, 0.45).astype(np.float32), mask)

    head = learn([random_place(seed) for seed in range(5)], IDENTITY)
    judged = random_place(9)
    if head.part == 0:
        assert head.apply(judged.pixels, judged.figure) is judged.figure
    else:
        assert like._dsc(head.apply(judged.pixels, judged.figure), judged.mask) >= 0.99


def test_the_weight_is_chosen_on_images_that_the_head_has_not_seen() -> None:
    """Only the place says what is corrected here, on the left and then on the right; it says nothing of the other."""
    halves = []
    for seed, columns in enumerate((slice(8, 20), slice(29, 41))):
        mask = np.zeros((SIDE, SIDE), bool)
        mask[14:34, columns] = True
        found = mask.copy()
        found[14:22] = False
        pixels = np.random.default_rng(seed).random((3, SIDE, SIDE)).astype(np.float32)
        halves.append(Example(pixels, np.where(found, 0.8, 0.2).astype(np.float32), mask))
    assert learn(halves, IDENTITY).part == 0
    again = learn([halves[0], halves[0]], IDENTITY)
    assert again.part > 0, "what one image shows is true of its copy"


def test_more_images_loosen_the_penalty_of_random_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    four = learn([example(0)] * 4, IDENTITY)
    assert not np.allclose(four.coefficients, learn([example(0)], IDENTITY).coefficients, rtol=1e-2)
    monkeypatch.setattr(like, "RIDGE_HIDDEN", like.RIDGE_HIDDEN / 4)
    one = learn([example(0)], IDENTITY)
    assert np.allclose(four.coefficients, one.coefficients, rtol=1e-3, atol=1e-6)


def test_one_corrected_image_has_a_small_weight() -> None:
    head = learn([example(0)], IDENTITY)
    assert (head.part, head.images) == (like.PART_OF_ONE, 1)


def test_prompts_add_what_they_change() -> None:
    head = learn([example(seed) for seed in range(3)], IDENTITY)
    one = example(5)
    alone = head.apply(one.pixels, one.figure)
    assert np.allclose(head.apply(one.pixels, one.figure, one.figure), alone)
    prompted = one.figure.copy()
    prompted[:5, :5] = 0.95
    changed = head.apply(one.pixels, one.figure, prompted) - alone
    assert (changed[:5, :5] >= 0).all()
    assert changed[:5, :5].max() > 0.1
    assert np.abs(changed[6:]).max() < 1e-6


def test_equal_corrections_give_equal_heads_of_one_source_and_others_do_not() -> None:
    one, same, other = (learn([example(seed) for seed in seeds], IDENTITY) for seeds in ((0, 1), (0, 1), (0, 2)))
    assert np.array_equal(one.coefficients, same.coefficients)
    assert one.source == same.source
    assert one.source != other.source


@pytest.mark.parametrize("size", [(30, 40), (97, 97)])
def test_masks_have_the_size_of_their_image_and_figures_that_of_the_network(size: tuple[int, int]) -> None:
    one = example(0)._replace(mask=np.arange(size[0] * size[1]).reshape(size) % 7 < 3)
    found = learn([one, one], IDENTITY).apply(one.pixels, one.figure)
    assert found.shape == (SIDE, SIDE)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
