"""Time and memory of one image in a new process: from the start of the command to the files on disk.

    python studies/cold_start.py IMAGE [--repeats 10] [--json FILE] [--markdown FILE]

For each runtime that is installed, ``msformer-deploy run`` segments the image with the default bundle, with an empty
cache (``first``) and with what that run kept (``again``). Beside them stands the time of Python that imports NumPy and
ONNX Runtime and does nothing. The commands take turns, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from script import exit_code, tell

from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.machine.extras import is_installed

RUNTIMES = ("onnxruntime", "openvino")
IMPORTS = "imports only"


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall-clock seconds of a command, and the peak of its memory in MB.

    Raises:
        DeployError: it failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    with process.stderr as stream:
        said = stream.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise DeployError(f"{' '.join(command)}: exit code {process.returncode}; {said.splitlines()[-1:]}")
    return seconds, usage.ru_maxrss / 1024


def main() -> int:
    """Measure; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--repeats", type=int, default=10, help="number of times for each command; default: 10")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """What was asked for."""
    if arguments.repeats < 1:
        raise UsageError("--repeats must be 1 or more")
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for round_ in range(-1, arguments.repeats):  # the first round reads files from the disk, and does not count
            for name, command, cache in commands(arguments.image, folder):
                if name.endswith("first"):
                    shutil.rmtree(cache, ignore_errors=True)
                environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "ORT_DISABLE_TELEMETRY": "1"}
                result = measured(command, environment)
                if round_ >= 0:
                    found.setdefault(name, []).append(result)
    rows = {
        name: {
            "median_s": statistics.median(seconds for seconds, _ in results),
            "lowest_s": min(seconds for seconds, _ in results),
            "highest_s": max(seconds for seconds, _ in results),
            "peak_mb": max(peak for _, peak in results),
        }
        for name, results in found.items()
    }
    lines = ["| one image in a new process | median | lowest to highest | peak memory |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['median_s']:.2f} s | {row['lowest_s']:.2f} to {row['highest_s']:.2f} s"
        f" | {row['peak_mb']:.0f} MB |"
        for name, row in rows.items()
    ]
    tell("\n".join(lines) + "\n", {"repeats": arguments.repeats, "rows": rows}, arguments)


def commands(image: Path, folder: Path) -> list[tuple[str, list[str], Path]]:
    """Name, command and cache of each row."""
    imports = [name for name in ("numpy", "onnxruntime") if is_installed(name)]
    rows = [(IMPORTS, [sys.executable, "-c", f"import {', '.join(imports)}"], folder / "none")]
    for runtime in filter(is_installed, RUNTIMES):
        output = ["--output", str(folder / runtime), "--force", "--quiet"]
        command = [sys.executable, "-m", "msformer_deploy", "run", str(image), "--backend", runtime, *output]
        rows += [(f"{runtime}, {which}", command, folder / f"cache-{runtime}") for which in ("first", "again")]
    return rows


if __name__ == "__main__":
    sys.exit(main())
