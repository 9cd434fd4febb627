"""Where backend torch computes, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from msformer_deploy.backends.base import parse_device
from msformer_deploy.backends.torch import torch_device


@pytest.fixture
def rounding() -> Iterator[list[Any]]:
    """Where torch keeps whether products may be rounded to TF32; both allow it at first here."""
    places = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [each.allow_tf32 for each in places]
    for each in places:
        each.allow_tf32 = True
    yield places
    for each, allowed in zip(places, before, strict=True):
        each.allow_tf32 = allowed


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "auto"])
def test_float32_is_not_rounded_on_a_gpu(monkeypatch: Any, rounding: list[Any], name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert torch_device(parse_device(name)).type == "cuda"
    assert [each.allow_tf32 for each in rounding] == [False, False]


def test_on_a_cpu_the_process_keeps_its_settings(rounding: list[Any]) -> None:
    assert torch_device(parse_device("cpu")).type == "cpu"
    assert [each.allow_tf32 for each in rounding] == [True, True]
