"""NVIDIA's driver, queried through its own library. Every GPU runtime needs the driver, and no wheel contains it."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import BackendUnavailable
from .forks import is_forked

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

# CUresult of cuda.h. The driver itself describes every other code.
_SUCCESS, _NOT_INITIALIZED, _NO_DEVICE = 0, 3, 100


# CUdevice_attribute of cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class Gpu(NamedTuple):
    """A GPU: its name and its compute capability, such as 8.6."""

    name: str
    capability: str


@dataclass(frozen=True)
class Driver:
    """A driver that works.

    Attributes:
        cuda: major and minor version of the newest CUDA that the driver supports.
        devices: the GPUs that this process may use, in the order of their ordinals.
    """

    cuda: tuple[int, int]
    devices: tuple[Gpu, ...]

    def __str__(self) -> str:
        return f"driver for CUDA {self.version}, {self.names}"

    @property
    def version(self) -> str:
        """:attr:`cuda` as text, such as 13.0."""
        return f"{self.cuda[0]}.{self.cuda[1]}"

    @property
    def names(self) -> str:
        """Names of the devices, in one line."""
        return ", ".join(device.name for device in self.devices)

    def serves(self, cuda: str) -> bool:
        """Whether the driver runs libraries that were built with a CUDA version such as ``13.0``.

        By NVIDIA's minor version compatibility, a library runs on every driver of its major version or a newer one.
        """
        return self.cuda[0] >= int(cuda.partition(".")[0])


def find_driver() -> Driver:
    """Load and query the driver.

    Raises:
        BackendUnavailable: there is no driver, it does not start, or it shows no GPU.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise BackendUnavailable(
            f"there is no NVIDIA driver ({LIBRARY} is not found); install it, or give the container its GPUs"
        ) from None
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise BackendUnavailable(
            "the NVIDIA driver shows no GPU; "
            + ("plug one in, or give the container its GPUs" if hidden is None else f"CUDA_VISIBLE_DEVICES={hidden!r}")
        )
    if code == _NOT_INITIALIZED and is_forked():
        raise BackendUnavailable(
            "the NVIDIA driver does not start in a process that was forked from a process that uses it; start processes"
            " with multiprocessing's method 'spawn'"
        )
    if code != _SUCCESS:
        raise BackendUnavailable(
            f"the NVIDIA driver does not start ({_text(library, code)}); reboot after an update, or install it again"
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(version))
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    # cuDriverGetVersion encodes 13.1 as 13010.
    return Driver(
        (version.value // 1000, version.value % 1000 // 10),
        tuple(_gpu(library, ordinal) for ordinal in range(count.value)),
    )


def _gpu(library: Any, ordinal: int) -> Gpu:
    name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    # A device handle is its ordinal, but only the driver may say so.
    device = ctypes.c_int()
    _call(library, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(library, "cuDeviceGetName", name, len(name), device)
    _call(library, "cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, device)
    _call(library, "cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def _call(library: Any, function: str, *arguments: Any) -> None:
    if (code := getattr(library, function)(*arguments)) != _SUCCESS:
        raise BackendUnavailable(f"the NVIDIA driver fails in {function} ({_text(library, code)}); install it again")


def _text(library: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if library.cuGetErrorString(code, ctypes.byref(text)) != _SUCCESS or text.value is None:
        return f"error {code}"
    return f"error {code}: {text.value.decode(errors='replace')}"
