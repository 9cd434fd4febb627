"""The driver's library is replaced by one that answers as cuda.h says, because there may be none here."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.machine import driver
from msformer_deploy.machine.driver import Driver, Gpu, find_driver

TEXTS = {
    803: b"system has unsupported display driver / cuda driver combination",
    999: b"unknown error",
}


class Library:
    """libcuda with some GPUs; ``codes`` names the functions that fail."""

    def __init__(self, version: int = 13010, names: tuple[bytes, ...] = (b"NVIDIA A", b"NVIDIA B"), **codes: int):
        self.version, self.names, self.codes = version, names, codes

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.codes.get("cuInit", 0)

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return self.codes.get("cuDriverGetVersion", 0)

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 70 + ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert size == len(name)
        name.value = self.names[device.value - 70]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: device.value - 70}[attribute]  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
        return self.codes.get("cuDeviceGetAttribute", 0)

    def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802
        text._obj.value = TEXTS.get(code)
        return 0 if code in TEXTS else 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(**arguments: Any) -> None:
        def load(name: str) -> Library:
            assert name == driver.LIBRARY
            return Library(**arguments)

        monkeypatch.setattr(driver.ctypes, "CDLL", load)

    return install


@pytest.mark.parametrize(("version", "cuda"), [(13010, (13, 1)), (12040, (12, 4)), (11080, (11, 8)), (13000, (13, 0))])
def test_a_driver_says_what_it_serves(library: Any, version: int, cuda: tuple[int, int]) -> None:
    library(version=version)
    found = find_driver()
    assert found == Driver(cuda, (Gpu("NVIDIA A", "8.0"), Gpu("NVIDIA B", "8.1")))
    assert str(found) == f"driver for CUDA {cuda[0]}.{cuda[1]}, NVIDIA A, NVIDIA B"


@pytest.mark.parametrize(
    ("built", "serves"), [("12.0", True), ("12.9", True), ("11.8", True), ("13.0", False), ("13", False)]
)
def test_minor_versions_of_cuda_are_compatible(built: str, serves: bool) -> None:
    assert Driver((12, 2), (Gpu("a", "8.6"),)).serves(built) == serves


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(driver.ctypes, "CDLL", load)
    with pytest.raises(BackendUnavailable, match=r"there is no NVIDIA driver \(.+\); install it"):
        find_driver()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"cuInit": 100}, "the NVIDIA driver shows no GPU; plug one in"),
        ({"cuInit": 803}, "does not start .error 803: system has unsupported display driver"),
        ({"cuInit": 5}, r"does not start \(error 5\)"),
        ({"cuDriverGetVersion": 999}, "fails in cuDriverGetVersion .error 999: unknown error"),
    ],
)
def test_a_driver_that_does_not_work(
    library: Any, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], message: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    library(**codes)
    with pytest.raises(BackendUnavailable, match=message):
        find_driver()


def test_hidden_devices_are_named(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    library(cuInit=100)
    with pytest.raises(BackendUnavailable, match="CUDA_VISIBLE_DEVICES='-1'"):
        find_driver()
