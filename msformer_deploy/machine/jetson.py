"""NVIDIA's Jetson boards: the model, its JetPack, and the source of wheels for its GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RELEASE = Path("/etc/nv_tegra_release")
MODEL = Path("/proc/device-tree/model")

# JetPack by major version of Jetson Linux (L4T), from NVIDIA's JetPack archive.
_JETPACK = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
_OLDEST = 6


@dataclass(frozen=True)
class Jetson:
    """A Jetson board.

    Attributes:
        model: name in the device tree.
        l4t: version of Jetson Linux, such as ``36.4.3``; empty where it is unknown, as in some containers.
    """

    model: str
    l4t: str

    @property
    def jetpack(self) -> int | None:
        """Major version of JetPack; None where it is unknown."""
        return _JETPACK.get(int(self.l4t.partition(".")[0])) if self.l4t else None

    @property
    def too_old(self) -> bool:
        """Whether its CUDA and TensorRT are older than every version that this package supports."""
        return self.jetpack is not None and self.jetpack < _OLDEST

    @property
    def wheels(self) -> str:
        """Where wheels for the GPU come from, in one line."""
        if self.too_old:
            return f"update to JetPack {_OLDEST} or newer: CUDA and TensorRT of JetPack {self.jetpack} are too old"
        if self.jetpack == 6:
            return (
                "NVIDIA's Jetson package index for JetPack 6 has GPU wheels, but most are for Python 3.10, which is"
                " too old: use JetPack 7.2, or an Ubuntu 24.04 container for JetPack 6"
            )
        if self.jetpack == 7:
            return "install builds for CUDA 13 on 64-bit Arm, or those of NVIDIA's Jetson package index for JetPack 7"
        return "see NVIDIA's Jetson package index for this JetPack"

    def __str__(self) -> str:
        version = f"JetPack {self.jetpack}, " if self.jetpack else ""
        return f"{self.model} ({version}L4T {self.l4t or 'unknown'})"


def find_jetson() -> Jetson | None:
    """This board, or None if this machine is no Jetson."""
    model = _text(MODEL).rstrip("\0")
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(RELEASE))
    if release is None and "Jetson" not in model:
        return None
    return Jetson(model or "NVIDIA Jetson", f"{release[1]}.{release[2]}" if release else "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
