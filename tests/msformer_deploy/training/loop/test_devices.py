"""Fabric where training is possible, and one line of error where it is not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from msformer_deploy.errors import BackendUnavailable, UsageError
from msformer_deploy.training.loop.devices import end_others, is_first_process, open_fabric


def test_without_fabric_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(BackendUnavailable, match=r'needs lightning-fabric.*pip install "msformer-deploy\[train\]"$'):
        open_fabric("cpu")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (0, "--device cuda needs a CUDA device, but torch finds none"),
        (1, "--devices 2 needs as many CUDA devices, but 1"),
    ],
)
def test_gpus_that_are_not_here_are_told(monkeypatch, found, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(BackendUnavailable, match=message):
        open_fabric("cuda", devices=2)


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_fabric("auto").device.type == "cpu"
    with pytest.raises(UsageError, match="training in fp16 needs a GPU"):
        open_fabric("auto", "fp16")


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_products(precision, expected):
    fabric = open_fabric("cpu", precision)
    with fabric.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_the_first_process_speaks():
    assert is_first_process()


def test_others_are_ended():
    ended = []
    launcher = SimpleNamespace(procs=[SimpleNamespace(kill=lambda: ended.append(1))] * 2)
    end_others(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
    assert ended == [1, 1]
    end_others(SimpleNamespace(strategy=SimpleNamespace(launcher=None)))
