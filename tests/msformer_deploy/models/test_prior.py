"""The prior's network: shapes, size, and what it does not depend on."""

from __future__ import annotations

import pytest
import torch

from msformer_deploy.models.prior import MULTIPLE, PROMPTS, Prior


@pytest.fixture(scope="module")
def network() -> Prior:
    torch.manual_seed(0)
    return Prior().eval()


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (MULTIPLE, 4 * MULTIPLE)])
def test_one_logit_for_every_pixel(network: Prior, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        found = network(torch.rand(2, 3, *size), torch.zeros(2, PROMPTS, *size))
    assert found.shape == (2, 1, *size)
    assert found.dtype == torch.float32


def test_it_is_small(network: Prior) -> None:
    assert sum(each.numel() for each in network.parameters()) <= 1_500_000
    assert sum(each.numel() for each in network.state_dict().values()) * 2 <= 3_000_000


def test_brightness_and_contrast_do_not_matter(network: Prior) -> None:
    images, prompts = torch.rand(1, 3, 64, 64), torch.zeros(1, PROMPTS, 64, 64)
    with torch.inference_mode():
        plain, changed = network(images, prompts), network(5 + 10 * images, prompts)
    torch.testing.assert_close(plain, changed, atol=6e-3, rtol=0)  # logits of other images are 0.07 apart


def test_a_flat_image_gives_numbers(network: Prior) -> None:
    with torch.inference_mode():
        assert network(torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, PROMPTS, 64, 64)).isfinite().all()


def test_prompts_matter(network: Prior) -> None:
    images, none = torch.rand(1, 3, 64, 64), torch.zeros(1, PROMPTS, 64, 64)
    box = none.clone()
    box[:, 2, 16:48, 16:48] = 1
    with torch.inference_mode():
        assert not torch.equal(network(images, none), network(images, box))
