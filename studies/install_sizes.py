"""What each choice of extras takes on the disk: an empty environment for each, installed from the wheel.

    python studies/install_sizes.py WHEEL [--rows cpu openvino cpu,torch ...]

Prints a table in Markdown. A size is that of all files in site-packages with the bytecode that pip makes, in 10^6
bytes; the environment has no pip of its own. Versions are those of constraints.txt. torch is the build that pip finds
first: its version says which one that was, such as 2.13.0+cpu.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from script import exit_code

from msformer_deploy.errors import DeployError

ROOT = Path(__file__).resolve().parents[1]
# What you want, by the extras to install.
ROWS = {
    "cpu": "run bundles on a CPU with ONNX Runtime",
    "openvino": "run bundles on a CPU with OpenVINO",
    "cpu,openvino": "both runtimes: `run` takes the faster one",
    "cpu,dicom": "read and write clinical images: DICOM, NIfTI, NRRD",
    "cpu,torch": "learn in torch on a bundle of your own: other seeds and steps, `--refine full`",
    "cpu,export": "make bundles, and all of the row above on the default ones",
    "cpu,train": "train a model of your own",
    "cpu,evaluate": "score masks against the truth",
    "gpu": "run bundles on an NVIDIA GPU; CUDA and cuDNN come on top",
}
SHOWN = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")  # packages that decide a size


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="extras to measure")
    return exit_code(measure, parser.parse_args())


def measure(given: argparse.Namespace) -> None:
    """Measure the rows and print the table."""
    print("| what you want | extras | installed | with |\n|---|---|---|---|")
    for extras in given.rows:
        size, versions = measured(f"{given.wheel.resolve()}[{extras}]")
        print(row(extras, size, versions), flush=True)
    today = datetime.date.today().isoformat()
    print(f"\nMeasured on {today} with Python {platform.python_version()} on {platform.system()} {platform.machine()}.")


def row(extras: str, size: float, versions: dict[str, str]) -> str:
    """A line of the table; ``size`` in 10^6 bytes."""
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    return f"| {ROWS[extras]} | `[{extras}]` | {size:,.0f} MB | {shown} |"


def measured(requirement: str) -> tuple[float, dict[str, str]]:
    """Size in 10^6 bytes of what a requirement installs, and its packages with their versions.

    Raises:
        DeployError: pip cannot install it.
    """
    with tempfile.TemporaryDirectory(prefix="msformer-deploy-") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = Path(folder, "Scripts" if os.name == "nt" else "bin", "python")
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        command = [*pip, "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or [done.stderr.strip()]
            raise DeployError(f"pip cannot install {requirement}: {lines[0].removeprefix('ERROR: ')}")
        frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
        versions = dict(line.split("==") for line in frozen.splitlines() if "==" in line)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
        return sum(path.lstat().st_size for path in packages.rglob("*") if not path.is_dir()) / 1e6, versions


if __name__ == "__main__":
    sys.exit(main())
