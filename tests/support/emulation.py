"""Runs the CUDA sources on a CPU: compiled by g++ with the headers in ``kernels/emulator``, under a sanitiser.

A launch is a process of its own, so that a sanitiser's report or a crash ends that launch and not the tests, and every
buffer is an allocation of exactly its size. See ``kernels/emulator/emulator.h`` for what is and is not like a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from locations import ROOT
from torch import Tensor

from msformer_deploy.files import atomic_path

HEADERS = Path(__file__).parents[1] / "kernels" / "emulator"
CSRC = ROOT / "kernels" / "csrc"
BUILD = ROOT / "build" / "emulator"
OPTIONS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
    "none": [],
}
COMPILER = shutil.which("g++")
# On Linux its absence is a failure: neither a developer's machine nor CI may lose these tests unnoticed.
needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or (COMPILER is None and sys.platform != "linux"), reason="no g++ for the emulator"
)


class EmulationError(AssertionError):
    """A sanitiser or the emulator found something wrong with a launch."""


def build(source: str, capability: int, sanitizer: str, csrc: Path = CSRC, only: Collection[str] | None = None) -> Path:
    """Compile one CUDA source for the CPU, as for a GPU of this compute capability; cached by content.

    Args:
        source: its name.
        capability: 80 for 8.0.
        sanitizer: one of ``OPTIONS``.
        csrc: the folder with the sources.
        only: kernels to compile, which takes less time; None means all.
    """
    options = [*OPTIONS[sanitizer], f"-I{HEADERS}", f"-I{csrc}", f"-D__CUDA_ARCH__={10 * capability}"]
    text = (csrc / f"{source}.cu").read_bytes() + b"".join(path.read_bytes() for path in sorted(csrc.glob("*.cuh")))

    def compile_(executable: Path) -> None:
        program = executable.with_suffix(".cpp")
        names = re.findall(
            r'extern "C"\s+inline\s+void\s+(\w+)', _gcc([*options, "-E", "-P", "-x", "c++", str(csrc / f"{source}.cu")])
        )
        assert names, f"no kernels in {source}.cu"
        names = [name for name in names if only is None or name in only]
        program.write_text(
            f'#include "{csrc / source}.cu"\n#include <runner.h>\nint main() {{\n    auto request = runner::read();\n'
            + "".join(f'    request.run_if("{name}", {name});\n' for name in names)
            + "    return runner::finish(request);\n}\n"
        )
        # Not optimised: the kernels are compiled far more often than they run.
        _gcc([*options, "-O0", str(program), str(_emulator(sanitizer)), "-o", str(executable)])
        program.unlink()

    return _cached(f"{source}-{capability}-{sanitizer}", [text, repr((options, only)).encode()], compile_)


def _emulator(sanitizer: str) -> Path:
    own = ["-DFIND_RACES"] if sanitizer == "thread" else OPTIONS[sanitizer]
    return _cached(
        f"emulator-{sanitizer}.o",
        [repr(own).encode()],
        lambda path: _gcc([*own, "-O2", f"-I{HEADERS}", "-c", str(HEADERS / "emulator.cpp"), "-o", str(path)]),
    )


def _cached(name: str, parts: list[bytes], make: Callable[[Path], object]) -> Path:
    parts = [*parts, *(path.read_bytes() for path in sorted(HEADERS.iterdir()))]
    stem, dot, suffix = name.partition(".")
    path = BUILD / f"{stem}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}{dot}{suffix}"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            make(temporary)
    return path


def _gcc(options: list[str]) -> str:
    assert COMPILER is not None, "g++ is missing: install a C++17 compiler (Debian: g++)"
    command = [COMPILER, "-std=c++17", "-g1", "-Wall", "-Wno-unknown-pragmas", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:4000]}"
    return done.stdout


@cache
def _placed(sanitizer: str) -> list[str]:
    """How to start a launch: the thread sanitiser of older compilers fails where addresses are randomised widely."""
    fixed = ["setarch", platform.machine(), "-R"]
    if sanitizer != "thread" or shutil.which("setarch") is None:
        return []
    allowed = subprocess.run([*fixed, "true"], capture_output=True, check=False).returncode == 0
    return fixed if allowed else []


class EmulatedLauncher:
    """Stands in for the launcher of ``kernels.launch``: takes CPU tensors and runs the kernels on them."""

    def __init__(
        self,
        capability: int = 80,
        sanitizer: str = "address",
        seed: int = 0,
        csrc: Path = CSRC,
        only: Collection[str] | None = None,
    ) -> None:
        self.capability, self.sanitizer, self.seed, self.csrc, self.only = capability, sanitizer, seed, csrc, only
        self.launched: list[str] = []

    def launch(
        self,
        source: str,
        kernel: str,
        grid: tuple[int, int, int],
        block: int,
        shared_bytes: int,
        arguments: Sequence[Tensor | ctypes.c_int32 | ctypes.c_int64 | ctypes.c_float | None],
    ) -> None:
        executable = build(source, self.capability, self.sanitizer, self.csrc, self.only)
        self.seed += 1
        self.launched.append(kernel)
        lines = [
            f"{kernel} {grid[0]} {grid[1]} {grid[2]} {block} {shared_bytes} {self.seed} {len(arguments)}\n".encode()
        ]
        buffers = []
        for argument in arguments:
            if argument is None:
                lines.append(b"null 0\n")
            elif isinstance(argument, Tensor):
                assert argument.is_contiguous(), "kernels take contiguous tensors"
                data = argument.view(-1).view(torch.uint8).numpy()
                buffers.append(data)
                lines.append(b"pointer %d\n%b" % (data.nbytes, data.tobytes()))
            elif isinstance(argument, ctypes.c_float):
                lines.append(b"float %d\n" % struct.unpack("<I", struct.pack("<f", argument.value)))
            else:
                lines.append(b"int%d %d\n" % (8 * ctypes.sizeof(argument), argument.value))
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=3:halt_on_error=1"}
        done = subprocess.run(
            [*_placed(self.sanitizer), str(executable)],
            input=b"".join(lines),
            capture_output=True,
            check=False,
            env=environment,
            timeout=240,
        )
        if done.returncode != 0:
            message = done.stderr.decode(errors="replace")[:4000]
            raise EmulationError(f"{kernel}, grid {grid}, block {block}: exit {done.returncode}\n{message}")
        at = 0
        for data in buffers:
            data[:] = np.frombuffer(done.stdout, np.uint8, data.nbytes, at)
            at += data.nbytes
        assert at == len(done.stdout)
