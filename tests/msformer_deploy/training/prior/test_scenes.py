"""Scenes: the same by seed and index, within range, with a figure and with prompts that fit it."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from msformer_deploy.errors import UsageError
from msformer_deploy.training.prior import scenes
from msformer_deploy.training.prior.scenes import FAMILIES, LARGEST, LATE, SIDES, SMALLEST, Scene, scene
from msformer_deploy.training.prior.scenes.canvas import Canvas, Drawing
from msformer_deploy.training.prior.scenes.prompts import disc, prompted

SIDE = 64
GENERIC = ("blobs", "bodies", "many")


def same(one: Scene, other: Scene) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_figures_within_range(family: str) -> None:
    for index in range(6):
        found = scene(0, index, SIDE, family)
        assert (found.image.shape, found.image.dtype) == ((3, SIDE, SIDE), np.float32)
        assert 0 <= found.image.min() <= found.image.max() <= 1
        assert np.ptp(found.image) > 0.02
        assert (found.figure.shape, found.figure.dtype) == ((SIDE, SIDE), np.bool_)
        assert 0 < found.figure.mean() <= LARGEST  # a prompt may ask for less than SMALLEST
        assert (found.prompts.shape, found.prompts.dtype) == ((3, SIDE, SIDE), np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_differ_from_scene_to_scene(family: str) -> None:
    figures = [scene(0, index, SIDE, family).figure for index in range(4)]
    assert not any(np.array_equal(figures[0], each) for each in figures[1:])


def test_scenes_depend_on_seed_and_index_alone() -> None:
    forwards = [scene(3, index, SIDE) for index in range(8)]
    backwards = [scene(3, index, SIDE) for index in reversed(range(8))][::-1]
    assert all(same(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert not same(forwards[0], forwards[1])
    assert not same(forwards[0], scene(4, 0, SIDE))


def test_another_process_draws_the_same_scenes() -> None:
    program = """
import hashlib
from msformer_deploy.training.prior.scenes import scene
print(hashlib.sha256(b"".join(part.tobytes() for part in scene(3, 5, 64))).hexdigest())
"""
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    here = hashlib.sha256(b"".join(part.tobytes() for part in scene(3, 5, SIDE))).hexdigest()
    assert there == here


def test_no_file_is_read_for_a_scene() -> None:
    """No real image can take part."""
    program = f"""
import sys
from msformer_deploy.training.prior.scenes import FAMILIES, scene
scene(0, 0, {SIDE}, "blobs")  # numpy and scipy import parts of themselves on first use
def refuse(event, what):
    if event in ("open", "socket.connect", "subprocess.Popen"):
        raise PermissionError(f"{{event}} {{what}}")
sys.addaudithook(refuse)
for name in FAMILIES:
    for index in range(2):
        scene(0, index, {SIDE}, name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("late", "share"), [(False, 46 / 141.5), (True, 38 / 149.5)])
def test_many_scenes_are_of_no_kind_in_particular(late: bool, share: float) -> None:
    weights = {name: weight for name, (_, weight) in FAMILIES.items()} | (LATE if late else {})
    assert sum(weights[name] for name in GENERIC) / sum(weights.values()) == pytest.approx(share)


def test_late_weights_are_of_families_and_change_what_is_drawn() -> None:
    assert LATE.keys() <= FAMILIES.keys()
    early, late = ([scene(5, index, SIDE, late=late).image for index in range(60)] for late in (False, True))
    changed = sum(not np.array_equal(*pair) for pair in zip(early, late, strict=True))
    assert 5 < changed < 55


@pytest.mark.parametrize("side", SIDES)
def test_scenes_are_drawn_within_the_limits_of_their_side(side: int) -> None:
    for family in FAMILIES:
        for index in range(2):
            assert scene(1, index, side, family).figure.shape == (side, side)


@pytest.mark.parametrize("side", [SIDES[0] - 1, SIDES[1] + 1])
def test_other_sides_are_refused(side: int) -> None:
    with pytest.raises(UsageError, match=f"the side of a scene must be 32 to 100 pixels, not {side}"):
        scene(0, 0, side)


def test_a_figure_that_vanishes_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def shy(c: Canvas) -> Drawing:
        figure = np.zeros((c.side, c.side), bool)
        figure[:8] = c.chance(0.5)
        return Drawing(np.zeros((3, c.side, c.side), np.float32), figure)

    monkeypatch.setitem(scenes.FAMILIES, "shy", (shy, 1))
    assert all(scene(0, index, SIDE, "shy").figure.mean() >= SMALLEST for index in range(10))
    monkeypatch.setitem(scenes.FAMILIES, "empty", (lambda c: shy(c)._replace(figure=np.zeros((SIDE, SIDE), bool)), 1))
    with pytest.raises(RuntimeError, match="empty: no figure of a usable size"):
        scene(0, 0, SIDE, "empty")


def drawing(*boxes: tuple[int, int, int, int], others: int = 0) -> Drawing:
    """Boxes (top, left, bottom, right) as one figure; so many of them are asked for on their own."""
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Drawing(np.zeros((3, SIDE, SIDE), np.float32), masks.any(axis=0), list(masks[:others]))


@pytest.fixture
def asked() -> list[tuple[np.ndarray, np.ndarray]]:
    """Prompts and figures of two boxes, many times."""
    two = drawing((8, 8, 24, 30), (40, 36, 60, 56), others=1)
    return [prompted(np.random.default_rng(index), two) for index in range(300)]


def test_half_of_the_scenes_have_no_prompt(asked: list[tuple[np.ndarray, np.ndarray]]) -> None:
    empty = [not prompts.any() for prompts, _ in asked]
    assert 0.4 < np.mean(empty) < 0.6
    assert all(figure.sum() == 16 * 22 + 20 * 20 for (_, figure), none in zip(asked, empty, strict=True) if none)


def test_prompts_fit_what_they_ask_for(asked: list[tuple[np.ndarray, np.ndarray]]) -> None:
    seen = {"positive": 0, "negative": 0, "box": 0, "one box of two": 0}
    for prompts, figure in asked:
        positive, negative, box = prompts > 0
        seen["positive"] += positive.any()
        seen["negative"] += negative.any()
        seen["box"] += box.any()
        seen["one box of two"] += figure.sum() < 16 * 22 + 20 * 20
        for centre in centres(positive):
            assert figure[centre]
        for centre in centres(negative):
            assert not figure[centre]
        if box.any():
            assert box[figure].all()
            rows, columns = np.nonzero(figure)
            assert box.sum() <= 1.35 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert min(seen.values()) > 20


def centres(points: np.ndarray) -> list[tuple[int, int]]:
    """Of discs that stand alone."""
    labels, count = ndimage.label(points)
    size = int(disc(SIDE, SIDE // 2, SIDE // 2).sum())
    alone = [label for label in range(1, count + 1) if (labels == label).sum() == size]
    return [tuple(round(each) for each in ndimage.center_of_mass(labels == label)) for label in alone]


def test_the_bank_of_noise_is_not_written_to() -> None:
    canvas = Canvas(np.random.default_rng(0), SIDE, 0)
    field = canvas.noise(0.2)
    with pytest.raises(ValueError, match="read-only"):
        field += 1
