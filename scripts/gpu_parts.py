"""Gathers what scripts/gpu_hour.sh needs on a machine without a network: wheels, a bundle and pictures.

    python scripts/gpu_parts.py FOLDER [--without-wheels]

Run it where there is a network, in the environment of ``make check``; without wheels it needs none.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from msformer_deploy.images.samples import sample_images, shown_images

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.12"  # of the machine with the GPU
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")
COPIES = 16  # of each picture, so that a folder run lasts


def main() -> None:
    """Fill the folder; exit with 1 if pip or the export fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without-wheels", action="store_true")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if not arguments.without_wheels:
        download(folder / "wheels")
    export = [sys.executable, "-m", "msformer_deploy", "export", "--output", folder / "bundle", "--force"]
    export += ["--precision", "fp32", "--precision", "fp16"]
    subprocess.run([*map(str, export)], check=True)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for image in dict.fromkeys([*shown_images(), *sample_images()]):
        for copy in range(COPIES):
            shutil.copyfile(image, pictures / f"{image.stem}-{copy:02}{image.suffix}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.0f} MiB")


def download(wheels: Path) -> None:
    """Wheels for the machine with the GPU, in the pinned versions."""
    platforms = [f"--platform={each}" for each in PLATFORMS]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    files = ["--constraint", ROOT / "constraints.txt", "--requirement", ROOT / "scripts" / "gpu-wheels.txt"]
    subprocess.run([*pip, f"--python-version={PYTHON}", *platforms, *files, "--dest", wheels], check=True)


if __name__ == "__main__":
    main()
