"""The study of prompts: what other methods are given, and a run with a method that needs no package."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.foreground.prompts import Box, Point


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("prompts")


def test_what_is_known_of_pixels(script: ModuleType) -> None:
    known = script.seeds((40, 60), [Point(30, 20), Point(10, 10, inside=False)], None)
    assert (known[20, 30], known[10, 10], known[5, 40], known[0, 5]) == (1, 2, 0, 2)
    boxed = script.seeds((40, 60), [], Box(10, 10, 39, 29))
    assert (boxed[20, 25], boxed[11, 11], boxed[9, 20]) == (1, 0, 2)


def test_grabcut_starts_from_its_mask_before(script: ModuleType) -> None:
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    picture = np.full((60, 80, 3), 60, np.uint8)
    picture[20:40, 25:55] = (200, 120, 90)
    picture += np.random.default_rng(0).integers(0, 20, picture.shape, np.uint8)
    truth = picture[..., 0] > 150
    points = [Point(40, 30), Point(70, 50, inside=False)]
    found = script.grabcut(picture, points, None, truth)
    assert (found & truth).sum() > 0.9 * truth.sum()
    assert not found[50, 70]
    assert script.grabcut(picture, points[:1], None)[30, 40]


def test_the_random_walker_stays_in_the_box(script: ModuleType) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[12:28, 12:38] = 200
    mask = script.random_walker(picture, [], Box(10, 10, 39, 29))
    assert mask[20, 25]
    mask[10:30, 10:40] = False
    assert not mask.any()


def test_a_run(
    script: ModuleType, tiny_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[20:40, 25:55] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(truth).save(tmp_path / "masks" / "a.png")

    def all_of_the_box(picture: np.ndarray, points: Any, box: Box | None, before: Any) -> np.ndarray:
        return script.seeds(picture.shape[:2], points, box) != script.GROUND

    monkeypatch.setattr(script, "METHODS", {"box": all_of_the_box})
    facts = tmp_path / "facts.json"
    given = ["--data", images.parent, "--bundle", tiny_bundle.path, "--json", facts]
    monkeypatch.setattr(sys, "argv", ["prompts.py", *map(str, given)])
    assert script.main() == 0
    (found,) = json.loads(facts.read_text())["images"]
    assert found["box: box"] == pytest.approx(1)
    assert all(0 <= found[kind] <= 1 for kind in ("none", "click", "box", "click2"))
    assert found["seconds of a click"] > 0
    assert found["seconds of a box"] > 0
