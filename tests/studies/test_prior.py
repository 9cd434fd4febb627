"""The table of the prior: its prompts come from the truth, its threshold and its judgement do not."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import scripts
import torch

from msformer_deploy.images.read import image_from_array


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("prior")


@pytest.fixture
def truth() -> np.ndarray:
    """A bar in an image twice as wide as high."""
    mask = np.zeros((100, 200), bool)
    mask[20:40, 50:150] = True
    return mask


def test_a_click_is_where_the_truth_is_thickest(script: ModuleType, truth: np.ndarray) -> None:
    positive, negative, box = script.click_on(truth, 50)
    rows, columns = np.nonzero(positive)
    assert 13 <= rows.mean() <= 16
    assert 12 < columns.mean() < 38
    assert not negative.any() and not box.any()


def test_a_box_holds_the_truth_and_no_more(script: ModuleType, truth: np.ndarray) -> None:
    positive, negative, box = script.box_around(truth, 50)
    rows, columns = np.nonzero(box)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 12, 37)
    assert not positive.any() and not negative.any()


def test_the_threshold_is_the_one_of_which_most_is_expected(script: ModuleType) -> None:
    probability = np.full((10, 10), 0.05, np.float32)
    probability[:5] = 0.4  # half of the image is figure by 0.4: one half is too much to ask
    threshold, expected = script.best_threshold(probability)
    assert 0.05 < threshold < 0.4
    assert expected == pytest.approx(2 * 20 / (20 + 2.5 + 50))


def test_soft_dice_prefers_the_mask_that_fits(script: ModuleType) -> None:
    probability = np.zeros((48, 48), np.float32)
    probability[12:36, 12:36] = 0.9
    fits, wide = np.zeros((96, 96), bool), np.ones((96, 96), bool)
    fits[24:72, 24:72] = True
    assert script.soft_dice(probability, fits) == pytest.approx(2 * 0.9 / 1.9, abs=1e-4)
    assert script.soft_dice(probability, wide) < 0.4
    assert script.soft_dice(probability, ~wide) == 0


class Bright(torch.nn.Module):
    """Figure is what is bright, and what is in the box."""

    def forward(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        return 20 * (images.mean(dim=1, keepdim=True) - 0.5) + 40 * prompts[:, 2:]


@pytest.mark.parametrize(("near", "taken"), [(0.9, "auto"), (1.5, "prior, best threshold")])
def test_another_mask_is_taken_where_it_fits_the_prior_well(
    script: ModuleType, truth: np.ndarray, monkeypatch: pytest.MonkeyPatch, near: float, taken: str
) -> None:
    monkeypatch.setattr(script, "NEAR", near)
    pixels = np.zeros((*truth.shape, 3), np.uint8)
    pixels[truth] = 255
    scores = script.judge(image_from_array(pixels), truth, truth, Bright(), 96).scores
    assert scores["best of four"] == scores[taken]
    assert scores["prior, best threshold"] < scores["auto"] == 1


def test_the_prior_sees_red_green_blue(script: ModuleType) -> None:
    seen = []

    class Looks(torch.nn.Module):
        def forward(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
            seen.append(images.mean(dim=(0, 2, 3)))
            return images[:, :1]

    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :, 0], pixels[:32, :, 1] = 255, 102
    script.Seen(Looks(), image_from_array(pixels), 64).probability()
    torch.testing.assert_close(seen[0], torch.tensor([0.5, 0.2, 0.0]))


def test_every_column_is_judged_against_the_truth(script: ModuleType, truth: np.ndarray) -> None:
    pixels = np.zeros((*truth.shape, 3), np.uint8)
    pixels[truth] = 255
    found = script.judge(image_from_array(pixels), truth, ~truth, Bright(), 96)
    assert found.scores.keys() == set(script.COLUMNS)
    assert found.scores["auto"] == 0
    assert min(found.scores[name] for name in ("prior", "prior, best threshold", "best of four", "click", "box")) > 0.9
    table = script.table_of({"x": found.scores}, {"x": 1})
    assert "| x | 1 | 0.000 |" in table
