"""Which images are corrected in each draw, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.evaluation.corrected import DRAWS, Corrected, draws
from msformer_deploy.refinement.like import Example, Identity


@pytest.mark.parametrize(("images", "count"), [(6, 5), (6, 1), (24, 10), (100, 3)])
def test_every_image_is_corrected_about_equally_often(images: int, count: int) -> None:
    found = draws(images, count)
    assert len(found) == min(images, DRAWS)
    assert all(len(set(each)) == count for each in found)
    assert found == draws(images, count)
    if images <= DRAWS:
        counts = np.bincount(np.concatenate(found), minlength=images)
        assert (counts == count).all()


def test_nothing_is_judged_where_no_image_is_left() -> None:
    assert draws(3, 3) == []
    (found,) = Corrected([2]).summary(Identity("msformer", 33, "x"))
    assert (found["draws"], found["images"], found["difference"]["mean"]) == (0, 0, None)


def test_the_others_are_judged_beside_their_label_free_masks() -> None:
    judged = Corrected([1, 1, 2])
    for seed in range(4):
        rng = np.random.default_rng(seed)
        mask = np.zeros((40, 50), bool)
        mask[10:30, 10 + seed : 30 + seed] = True
        figure = np.full((33, 33), 0.1, np.float32)
        figure[8:25, 7:20] = 0.9
        judged.add(f"{seed}.png", Example(rng.random((3, 33, 33)).astype(np.float32), figure, mask))
    one, two = judged.summary(Identity("msformer", 33, "x"))
    assert [one["corrected"], two["corrected"]] == [1, 2]
    assert (two["images"], two["draws"]) == (4, 4)
    assert two["dsc"]["mean"] - two["label_free"]["mean"] == pytest.approx(two["difference"]["mean"])
    assert two["difference"]["low"] <= two["difference"]["mean"] <= two["difference"]["high"]


def test_no_image_is_judged_by_a_head_that_it_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """These heads know the images that they have seen, and nothing else."""

    class Memory:
        def __init__(self, examples: list[Example], _: Identity) -> None:
            self._seen = [each.figure for each in examples]

        def apply(self, _: np.ndarray, figure: np.ndarray) -> np.ndarray:
            return np.where(any(figure is each for each in self._seen), 1 - figure, figure)

    monkeypatch.setattr("msformer_deploy.evaluation.corrected.learn", Memory)
    judged = Corrected([2])
    mask = np.zeros((33, 33), bool)
    mask[5:20, 5:20] = True
    for name in ("a.png", "b.png", "c.png"):
        pixels = np.zeros((3, 33, 33), np.float32)
        judged.add(name, Example(pixels, np.where(mask, 0.1, 0.9).astype(np.float32), mask))
    (two,) = judged.summary(Identity("msformer", 33, "x"))
    assert (two["dsc"]["mean"], two["difference"]["mean"]) == (two["label_free"]["mean"], 0)
