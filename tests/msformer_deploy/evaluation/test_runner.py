"""Images that give no mask, with a segmenter that is none; the whole of it is tested in commands/test_evaluate.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.errors import DeployError, ImageError
from msformer_deploy.evaluation.runner import MOST_FAILURES_IN_A_ROW, Evaluation, Request
from msformer_deploy.segmenter import Segmenter


@pytest.fixture
def pairs(picture: np.ndarray, tmp_path: Path) -> dict[Path, Path]:
    made = {}
    for number in range(MOST_FAILURES_IN_A_ROW + 1):
        image, mask = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(picture).save(image)
        Image.fromarray(np.where(picture[..., 0] < 100, 255, 0).astype(np.uint8)).save(mask)
        made[image] = mask
    return made


def failing(error: Exception) -> Segmenter:
    def segment(_: Any) -> None:
        raise error

    return cast("Segmenter", SimpleNamespace(segment=segment))


def test_images_without_the_candidate_asked_for_fail_alone_however_many(pairs: dict[Path, Path]) -> None:
    told: list[str] = []
    evaluation = Evaluation(Request(("label-free",), ()), pairs, told.append)
    evaluation.run(failing(ImageError("x.png: has only 1 candidate")), False, lambda: None)
    assert told == ["x.png: has only 1 candidate"] * len(pairs)
    assert evaluation.failed.keys() == pairs.keys()


def test_a_segmenter_that_fails_again_and_again_ends_it(pairs: dict[Path, Path]) -> None:
    evaluation = Evaluation(Request(("label-free",), ()), pairs, lambda _: None)
    with pytest.raises(DeployError, match=f"failed {MOST_FAILURES_IN_A_ROW} times in a row"):
        evaluation.run(failing(ValueError("why")), False, lambda: None)
    assert len(evaluation.failed) == MOST_FAILURES_IN_A_ROW
