"""Copies to and from a GPU. No GPU is needed: torch's fake tensors refuse whatever would wait for one."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from msformer_deploy.backends import transfers
from msformer_deploy.backends.transfers import downloaded, packed, unpacked, uploaded

GENERATOR = torch.Generator().manual_seed(0)
OF_BATCH = [
    torch.randint(0, 99, (3, 5), generator=GENERATOR).to(torch.uint8),
    torch.randint(0, 999, (7,), generator=GENERATOR),
    torch.rand(5, 3, generator=GENERATOR).T,  # not contiguous
    torch.randint(0, 999, (3, 3), generator=GENERATOR).to(torch.int32).to(torch.uint16),
    torch.rand(1, generator=GENERATOR) > 0.5,
    torch.empty(0, 4),
]


def test_what_is_packed_is_unpacked() -> None:
    content = packed(OF_BATCH)
    assert content.dtype == torch.uint8
    for array, tensor in zip(unpacked(content.numpy(), OF_BATCH), OF_BATCH, strict=True):
        assert array.flags.aligned
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


def test_the_memory_of_a_cpu_is_shared() -> None:
    arrays = downloaded(OF_BATCH)
    assert [np.shares_memory(array, tensor.numpy()) for array, tensor in zip(arrays, OF_BATCH, strict=True)][:4] == [
        True
    ] * 4
    pixels = np.zeros((2, 2), np.float32)
    assert np.shares_memory(uploaded(pixels, "cpu").numpy(), pixels)


@pytest.mark.slow
def test_a_gpu_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing waits for nothing, and then there is one copy."""
    with FakeTensorMode():
        on_gpu = [torch.empty(each.shape, dtype=each.dtype, device="cuda") for each in OF_BATCH]
        assert packed(on_gpu).shape == (sum(each.numel() * each.element_size() for each in OF_BATCH),)
    copies = []

    def pack(tensors: Any) -> Any:
        assert tensors is on_gpu
        return Mock(cpu=lambda: copies.append(1) or packed(OF_BATCH))

    monkeypatch.setattr(transfers, "packed", pack)
    for array, tensor in zip(downloaded(on_gpu), OF_BATCH, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())
    assert copies == [1]


def test_an_upload_is_pinned_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = Mock()
    monkeypatch.setattr(torch, "from_numpy", lambda array: tensor)
    found = uploaded(np.zeros(3), "cuda:1")
    tensor.pin_memory().to.assert_called_once_with(torch.device("cuda:1"), non_blocking=True)
    assert found is tensor.pin_memory().to()
