"""Which images teach and which judge, and what the network sees of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.frame import without_frame
from msformer_deploy.images.inputs import Item, discover
from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.pretraining.images import batches, digest, readable, split
from msformer_deploy.pretraining.settings import PretrainSettings

SETTINGS = PretrainSettings(side=33, steps=6, batch=2)


def items(count: int) -> list[Item]:
    return [Item(Path(f"{index}.png"), Path(f"{index}.png")) for index in range(count)]


@pytest.mark.parametrize(
    ("count", "share", "held_out"), [(2, 0.2, 1), (2, 0.99, 1), (5, 0.2, 1), (24, 0.2, 5), (10, 0.5, 5), (10, 0.999, 9)]
)
def test_a_share_is_held_out_and_both_parts_have_images(count, share, held_out):
    found = items(count)
    parts = split(found, share, seed=0)
    assert len(parts.held_out) == held_out
    assert sorted(parts.training + parts.held_out, key=found.index) == found
    assert list(parts.held_out) == sorted(parts.held_out, key=found.index)


def test_the_seed_decides_which():
    drawn = {split(items(20), 0.2, seed).held_out for seed in (0, 0, 1, 2)}
    assert len(drawn) == 3


def test_only_those_that_can_judge_are_held_out():
    found = items(10)
    able = {found[1], found[7]}
    assert set(split(found, 0.5, 0, able).held_out) == able
    assert len(split(found, 0.1, 0, able).held_out) == 1


@pytest.mark.parametrize(
    ("count", "able", "least", "part"),
    [
        (1, None, 1, "too few images, 1: at least 2 are needed"),
        (2, None, 2, "too few images, 2: at least 3 are needed, one to learn from and 2 to judge on"),
        (3, (), 1, "none of the images"),
    ],
)
def test_too_few(count, able, least, part):
    with pytest.raises(UsageError, match=part):
        split(items(count), 0.2, 0, able, least)


def test_at_least_so_many_are_held_out():
    assert [len(split(items(count), 0.2, 0, least=2).held_out) for count in (3, 9, 24)] == [2, 2, 5]


def test_what_cannot_be_read_is_told_and_left_out(images):
    (images / "b.jpg").write_text("no picture")
    told, steps = [], []
    found = readable(discover([images]), told.append, lambda: steps.append(1))
    assert [item.relative.as_posix() for item in found] == ["a.png", "more/c.tif"]
    assert len(steps) == 3
    (error,) = told
    assert str(images / "b.jpg") in str(error)


def test_the_digest_is_that_of_a_list_of_sha256sum(images):
    found = discover([images])
    lines = [f"{hashlib.sha256(item.path.read_bytes()).hexdigest()}  {item.relative.as_posix()}\n" for item in found]
    assert digest(found) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest(found[:2]) != digest(found)


def test_batches_are_of_a_seed_and_show_each_image_once_a_pass(tmp_path):
    found = noisy(tmp_path, 3)
    first, again, other = (list(batches(found, SETTINGS, seed)) for seed in (0, 0, 1))
    assert [len(each) for each in first] == [2, 1, 2, 1, 2, 1]
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    known = [without_frame(network_input(read_image(item.path), 33)) for item in found]
    for start in (0, 2, 4):
        seen = [which(image, known) for batch in first[start : start + 2] for image in batch]
        assert sorted(index for index, _ in seen) == [0, 1, 2]
    assert first[0].dtype == np.float32


def noisy(folder: Path, count: int) -> list[Item]:
    """Images none of which is a flip of another."""
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return discover([folder])


def which(image: np.ndarray, known: list[np.ndarray]) -> tuple[int, tuple[int, int]]:
    """Which of the images it is, and how it was flipped."""
    flips = [(rows, columns) for rows in (1, -1) for columns in (1, -1)]
    (found,) = [
        (index, flip)
        for index, each in enumerate(known)
        for flip in flips
        if np.array_equal(image, each[:, :: flip[0], :: flip[1]])
    ]
    return found


def test_every_flip_occurs(tmp_path):
    found = noisy(tmp_path, 1)
    known = [without_frame(network_input(read_image(found[0].path), 33))]
    shown = batches(found, replace(SETTINGS, steps=40), 0)
    assert {which(batch[0], known)[1] for batch in shown} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
