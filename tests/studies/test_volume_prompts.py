"""The study of prompts in volumes: what is drawn, and the prompts that are drawn from it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts

from msformer_deploy import VolumePoint, VolumePrompts


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("volume_prompts")


def test_what_is_drawn_has_its_objects(script: ModuleType) -> None:
    scenes = list(script.drawn())
    assert [list(objects) for _, _, objects in scenes] == [["one", "other"], ["liver", "spleen"], ["tube"]]
    for _, voxels, objects in scenes:
        for truth in objects.values():
            assert truth.shape == voxels.shape == script.SHAPE
            assert truth.any()
            assert not (truth[0].any() or truth[-1].any())
            assert voxels[truth].mean() > voxels[~truth].mean()


def test_prompts_are_drawn_from_the_truth(script: ModuleType) -> None:
    truth = np.zeros((5, 20, 30), bool)
    truth[1:4, 4:11, 6:9] = True
    truth[2, 4:13, 6:15] = True
    asked: list[Any] = []

    class Fake:
        def segment(self, volume: Any, prompts: VolumePrompts | None = None) -> Any:
            asked.append(prompts)
            return type("Found", (), {"mask": truth if prompts else ~truth})

    (row,) = script.scores(Fake(), "made", truth.astype(np.float32), {"object": truth})
    assert row["dsc"] == [0, 1, 1, 1]
    assert [bool(each and each.points) for each in asked] == [False, True, False, True]
    assert asked[1].points == [VolumePoint(10, 8, 2)]
    assert asked[2].boxes == [(6, 4, 1, 14, 12, 3)]
