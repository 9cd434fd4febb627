"""Installs the wheel with each Python that is here, in an empty environment without torch, and runs it there.

    python .ci/pythons.py dist/msformer_deploy-0.1.0-py3-none-any.whl

In each environment: the size of what was installed; the commands run, inspect, doctor and list, with a home that nobody
can write to and no network; and, with the oldest and the newest, the tests of the runtime, which import the installed
wheel and not the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MINORS = (10, 11, 12, 13)  # of Python 3, as the classifiers in pyproject.toml
TORCHLESS = Path("tests/msformer_deploy")
# The tests of what runs without torch.
TESTS = (
    *("backends/test_base.py", "backends/test_onnxruntime.py", "backends/test_onnxruntime_failures.py"),
    *("benchmark/test_gates.py", "benchmark/test_load.py", "benchmark/test_process.py", "benchmark/test_table.py"),
    *("bundle", "commands/test_doctor.py", "commands/test_inspect.py", "commands/test_list.py"),
    *("commands/test_options.py", "commands/test_reports.py", "commands/test_streams.py", "doctor", "foreground"),
    *("images", "machine", "measures", "results", "test_cli.py", "test_errors.py", "test_registry.py"),
)
# These compare with SciPy, scikit-image or torch from their first line on.
LEFT_OUT = (
    *("doctor/test_probes.py", "foreground/test_blur.py", "foreground/test_frame.py", "foreground/test_morphology.py"),
    *("images/test_draw.py", "images/test_hdf5.py", "machine/test_cores.py", "machine/test_forks.py"),
    *("measures/test_overlap.py", "measures/test_physical.py", "measures/test_statistics.py"),
)
TESTED = (10, 13)  # the oldest and the newest; what is between runs the commands, and make test runs on one of them
MIN_PASSED = 1000  # tests; fewer are no proof that the runtime works
# Megabytes (10^6 bytes) of site-packages with [cpu] and its bytecode, without pip. For Python 3.10 the newest
# imagecodecs is 55 MB larger than later ones, and ONNX Runtime 1.23 brings SymPy with 54 MB.
MAX_MEGABYTES, MAX_MEGABYTES_OF = 380, {10: 420}
# The wheel: 2.6 MB are the prior's weights, 0.9 MB the kernels' PTX, 1.2 MB their machine code for four kinds of GPU,
# which saves these the compilation at first use, 1.3 MB the default bundles with theirs, and 8.4 MB the page, most of
# it ONNX Runtime's two builds for WebAssembly and for WebGPU (3.7 and 4.1 MB).
MAX_WHEEL = 15.4
# Where the kernel gives no network of one's own: the same refusal in Python.
FENCE = """import socket
def refused(*_, **__):
    raise OSError("the network is cut off")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
"""
PICTURE = """import numpy as np
from PIL import Image
rows, columns = np.mgrid[:240, :320]
image = 150 + 40 * columns[..., None] / 320 + np.random.default_rng(0).integers(-6, 6, (240, 320, 3))
image[(rows - 120) ** 2 + (columns - 160) ** 2 < 60**2] = (90, 50, 40)
Image.fromarray(image.clip(0, 255).astype(np.uint8)).save("disc.png")
"""
MASK = """import sys
import numpy as np
from PIL import Image
rows, columns = np.mgrid[:240, :320]
disc = (rows - 120) ** 2 + (columns - 160) ** 2 < 60**2
mask = np.asarray(Image.open(sys.argv[1])) > 0
print(2 * (mask & disc).sum() / (mask.sum() + disc.sum()))
"""


class Fault(Exception):
    """What does not work with a Python, in one line."""


class Result(NamedTuple):
    """What was found with one Python."""

    version: str
    runtime: str  # ONNX Runtime's version
    megabytes: float
    passed: int
    skipped: int
    seconds: float


def main() -> None:
    """Check every Python; exit with 1 if one fails or none is here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "pythons", help="for the environments")
    parser.add_argument("--jobs", type=int, default=1, help="Pythons that are tested at the same time")
    parser.add_argument("--tested", nargs="*", type=int, default=TESTED, help="minor versions for which tests are run")
    arguments = parser.parse_args()
    found = {minor: find(minor, places(minor)) for minor in MINORS}
    wheel, folder = arguments.wheel.resolve(), arguments.folder.resolve()
    try:
        print(f"the wheel has {require_small(wheel):.1f} MB")
    except Fault as fault:
        sys.exit(f"error: {fault}")

    def result_of(minor: int) -> str | None:
        python = found[minor]
        if python is None:
            return None
        try:
            return line(check(python, minor, wheel, folder, tested=minor in arguments.tested))
        except Fault as fault:
            return f"error: {fault}"

    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = dict(zip(MINORS, pool.map(result_of, MINORS), strict=True))
    sys.exit(conclude(results, sys.version_info.minor))


def conclude(said_of: Mapping[int, str | None], running: int) -> str | None:
    """Print what was found with each Python; what to exit with: an error if one failed or none is here.

    Args:
        said_of: a line for each Python by its minor version, ``error: ...`` where it failed, None where it is absent.
        running: the minor version of the Python that runs this script.
    """
    for minor, result in said_of.items():
        absent = f"not tested, because no python3.{minor} that starts is here"
        print(f"Python 3.{minor}: {absent if result is None else result}")
    tested = [minor for minor, result in said_of.items() if result is not None]
    if not tested:
        return "error: no Python was tested; install one of " + ", ".join(f"python3.{minor}" for minor in said_of)
    if tested == [running]:
        print(f"only Python 3.{running}, which runs this script, was tested")
    failed = [f"3.{minor}" for minor in tested if str(said_of[minor]).startswith("error: ")]
    return f"error: the package does not work with Python {', '.join(failed)}" if failed else None


def line(result: Result) -> str:
    """A result in one line."""
    tests = f"{result.passed} tests passed, {result.skipped} skipped"
    return (
        f"{result.version}, ONNX Runtime {result.runtime}, {result.megabytes:.0f} MB installed, commands run,"
        f" {tests if result.passed else 'no tests'}, {result.seconds:.0f} s"
    )


def places(minor: int, path: str | None = None, home: Path | None = None) -> list[Path]:
    """Where a ``python3.minor`` may be: on PATH, and where pyenv keeps its own, the newest first.

    Args:
        minor: 11 for Python 3.11.
        path: in place of PATH.
        home: in place of the user's home folder.
    """
    folders = (os.environ.get("PATH", "") if path is None else path).split(os.pathsep)
    on_path = [Path(folder, f"python3.{minor}") for folder in folders if folder]
    versions = ((Path.home() if home is None else home) / ".pyenv" / "versions").glob(f"3.{minor}*")
    newest = sorted(versions, key=lambda each: [int(part) for part in re.findall(r"\d+", each.name)], reverse=True)
    return [*on_path, *(each / "bin" / "python" for each in newest)]


def find(minor: int, candidates: Iterable[Path]) -> Path | None:
    """The first that starts and is of that version; pyenv's stand-ins on PATH start only where a version is chosen."""
    for candidate in candidates:
        if not candidate.is_file():
            continue
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        try:
            said = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if said.returncode == 0 and said.stdout.strip() == f"3.{minor}":
            return candidate
    return None


def check(python: Path, minor: int, wheel: Path, folder: Path, *, tested: bool) -> Result:
    """Install and run with one Python, and run the tests if it is to be ``tested``.

    Raises:
        Fault: something does not work.
    """
    begin, place = time.monotonic(), folder / f"3.{minor}"
    shutil.rmtree(place, ignore_errors=True)
    said([python, "-m", "venv", "--without-pip", place])
    own = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(own, f"{wheel}[cpu]")
    purelib = Path(said([own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    installed, allowed = megabytes(purelib), MAX_MEGABYTES_OF.get(minor, MAX_MEGABYTES)
    if installed > allowed:
        raise Fault(f"{installed:.0f} MB are installed, allowed {allowed}")
    if said([own, "-c", "import importlib.util; print(importlib.util.find_spec('torch'))"]).strip() != "None":
        raise Fault("torch is installed, so nothing here shows that the runtime does without it")
    with tempfile.TemporaryDirectory(prefix="msformer-deploy-") as away:
        run_commands(own, Path(away))
        passed = skipped = 0
        if tested:
            install(own, "pytest", "pytest-timeout")
            passed, skipped = run_tests(own, Path(away), purelib)
    versions = "import platform, onnxruntime; print(platform.python_version(), onnxruntime.__version__)"
    version, runtime = said([own, "-c", versions]).split()
    return Result(version, runtime, installed, passed, skipped, time.monotonic() - begin)


def require_small(wheel: Path) -> float:
    """The size of the wheel in megabytes (10^6 bytes).

    Raises:
        Fault: it is too large, or carries no compiled kernels, so that its size says nothing.
    """
    size = wheel.stat().st_size / 1e6
    if size > MAX_WHEEL:
        raise Fault(f"the wheel has {size:.1f} MB, allowed {MAX_WHEEL}")
    if not any(name.endswith(".ptx.xz") for name in zipfile.ZipFile(wheel).namelist()):
        raise Fault("the wheel carries no compiled kernels; build it where nvcc or NVRTC is installed")
    return size


def install(python: Path, *packages: str) -> None:
    """Install with the pip of the Python that runs this script, so that the environment itself has none."""
    pins = ROOT / "constraints.txt"
    said([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--constraint", pins, *packages])


def megabytes(folder: Path) -> float:
    """Size of all files below a folder, in 10^6 bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def run_commands(python: Path, away: Path) -> None:
    """Run the commands in a folder away from the checkout, without a network, a home or a cache."""
    nowhere = away / "file"
    nowhere.touch()  # below a file nobody can write, root neither
    cut_off, fence = network_fence(away)
    environment = {**os.environ, **fence, "HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere / "cache")}

    def call(*command: str | Path) -> str:
        return said([*cut_off, python, *command], away, environment)

    probe = "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 9), 5)\nexcept OSError as e:\n    print(e)"
    if not call("-c", probe) or "timed out" in call("-c", probe):
        raise Fault("the network is not cut off, so nothing here shows that the commands do without it")
    call("-c", PICTURE)
    program = python.with_name("msformer-deploy")
    for system in ("msformer", "s3net"):
        output = away / system
        said([*cut_off, program, "run", "disc.png", "--system", system, "--output", output], away, environment)
        dice = float(call("-c", MASK, output / "disc.png.mask.png"))
        if not dice > 0.9:
            raise Fault(f"run finds a disc with DSC {dice:.3f} by {system}, needed 0.9")
    shipped = call("-c", "from msformer_deploy.bundle.shipped import FOLDER; print(*FOLDER.iterdir(), sep='\\n')")
    for bundle in shipped.split("\n")[:-1]:
        if "segmenter.onnx" not in said([*cut_off, program, "inspect", bundle], away, environment):
            raise Fault(f"inspect does not show the graph of {bundle}")
    diagnosis = json.loads(said([*cut_off, program, "doctor", "--json"], away, environment))
    works = {each["name"] for each in diagnosis["checks"] if each["works"]}
    if lacking := {"silence", "onnxruntime CPUExecutionProvider"} - works:
        raise Fault(f"doctor says that this does not work: {', '.join(sorted(lacking))}")
    quick = ["--backend", "onnxruntime", "--min-seconds", "0.1", "--min-iterations", "2", "--warmup-seconds", "0"]
    if "whole graph" not in said(
        [*cut_off, program, "benchmark", "--images", "disc.png", "-q", *quick], away, environment
    ):
        raise Fault("benchmark does not measure the whole graph")
    if "msformer " not in said([*cut_off, program, "list"], away, environment):
        raise Fault("list does not show msformer")


def network_fence(away: Path) -> tuple[list[str], Mapping[str, str]]:
    """What goes before a command and into its environment, so that it has no network."""
    own = ["unshare", "--map-root-user", "--net"]
    if shutil.which(own[0]) and subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0:
        return own, {}
    fence = away / "fence"
    fence.mkdir()
    (fence / "sitecustomize.py").write_text(FENCE)
    return [], {"PYTHONPATH": str(fence)}


def run_tests(python: Path, away: Path, purelib: Path) -> tuple[int, int]:
    """Run the tests against what is installed; how many passed and were skipped."""
    tests = ROOT / TORCHLESS
    command = [
        *(python, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider"),
        *("-m", "not (slow or made_first or gpu or trt or data or golden)"),
        *(f"--ignore={tests / each}" for each in LEFT_OUT),
        *(tests / each for each in TESTS),
    ]
    done = subprocess.run(
        [str(each) for each in command],
        cwd=away,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        raise Fault(f"tests end with exit code {done.returncode}: {done.stdout.splitlines()[-1]}")
    if f"msformer_deploy: {purelib}" not in done.stdout:
        raise Fault(f"the tests did not import what is installed in {purelib}")
    passed, skipped = counts(done.stdout)
    if passed < MIN_PASSED:
        raise Fault(f"only {passed} tests passed, needed {MIN_PASSED}; the others were not run")
    return passed, skipped


def counts(output: str) -> tuple[int, int]:
    """How many tests passed and were skipped, by the last line of pytest."""
    found = {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", output.splitlines()[-1])}
    return found.get("passed", 0), found.get("skipped", 0)


def said(command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a command prints to stdout.

    Raises:
        Fault: it fails, or prints something to stderr.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    shown = " ".join(word for word in words if "\n" not in word)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Fault(f"{shown} ends with exit code {done.returncode}: {''.join(last)}")
    if done.stderr.strip() and "pip" not in words:
        raise Fault(f"{shown} prints to stderr: {done.stderr.strip().splitlines()[0]}")
    return done.stdout


if __name__ == "__main__":
    main()
