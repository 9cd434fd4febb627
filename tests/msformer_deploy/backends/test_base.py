"""Devices, by the name that a user gives."""

from __future__ import annotations

import pytest

from msformer_deploy.backends.base import Device, parse_device
from msformer_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "device"),
    [("auto", Device("auto")), ("cpu", Device("cpu")), ("cuda", Device("cuda", 0)), ("cuda:3", Device("cuda", 3))],
)
def test_devices_are_read(text, device):
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["", "gpu", "cpu:1", "auto:0", "cuda:", "cuda:x", "CUDA", "cuda:0 "])
def test_unknown_devices_are_refused(text):
    with pytest.raises(UsageError, match="device"):
        parse_device(text)
