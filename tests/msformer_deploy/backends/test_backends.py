"""Devices and providers: what is asked for is what runs, or the request is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device, parse_device
from msformer_deploy.errors import BackendUnavailable, UsageError

CPU = Device("cpu")


@pytest.mark.parametrize(
    ("text", "device"),
    [("auto", Device("auto")), ("cpu", CPU), ("cuda", Device("cuda", 0)), ("cuda:3", Device("cuda", 3))],
)
def test_devices_are_read(text, device):
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["", "gpu", "cpu:1", "auto:0", "cuda:", "cuda:x", "CUDA", "cuda:0 "])
def test_unknown_devices_are_refused(text):
    with pytest.raises(UsageError, match="device"):
        parse_device(text)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_backends_agree_on_the_encoder(tiny_bundle, name):
    images = np.random.default_rng(0).random((2, 3, 33, 33), dtype=np.float32)
    with open_backend("torch", tiny_bundle, CPU) as reference, open_backend(name, tiny_bundle, CPU, 1) as backend:
        assert backend.name == name
        for got, truth in zip(backend.encode(images), reference.encode(images), strict=True):
            np.testing.assert_allclose(np.asarray(got), np.asarray(truth), rtol=1e-3, atol=1e-5)


def test_auto_takes_onnxruntime_and_then_torch(tiny_bundle, monkeypatch):
    assert open_backend("auto", tiny_bundle, Device("auto")).name == "onnxruntime"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert open_backend("auto", tiny_bundle, Device("auto")).name == "torch"


def test_an_unknown_backend_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="tensorflow"):
        open_backend("tensorflow", tiny_bundle, CPU)


def test_torch_has_no_whole_method_graph(tiny_bundle):
    with pytest.raises(BackendUnavailable, match="onnxruntime"):
        open_backend("torch", tiny_bundle, CPU, graph="segmenter")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU, so asking for one succeeds")
@pytest.mark.parametrize("name", ["onnxruntime", "torch", "auto"])
def test_an_explicit_gpu_never_falls_back(tiny_bundle, name):
    with pytest.raises(BackendUnavailable, match="cuda:1"):
        open_backend(name, tiny_bundle, Device("cuda", 1))
