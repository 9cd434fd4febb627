"""Read every image file of some folders, and compare the pixels with those of a second decoder.

    pip install opencv-python-headless
    python studies/files_sweep.py FOLDER... [--markdown FILE] [--seconds N]

Meant for the test suites of image libraries, which have the odd files. Each file is read by ``read_image`` in a process
of its own, whose death, silence for longer than --seconds, traceback or lines on stderr are faults. The second decoder
is OpenCV, or where that gives up the one of Pillow and imagecodecs that was not asked before. Pixels are compared as
they are stored, upright: the same but for rounding; with loss, by 3 of 255 on average, as decoders of JPEG differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.errors import DeployError, ImageError
from msformer_deploy.images.decoders.formats import HEAD, SUPPORTED, identify
from msformer_deploy.images.read import read_image, read_stored

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".btf"),
    *(".webp", ".gif", ".jp2", ".j2k", ".jpc", ".j2c", ".jpx", ".avif"),
)
MAX_OFF = {False: 1.0, True: 3.0}  # by whether the file is compressed with loss: of 255, on average
FAULTS = ("crash", "hang", "traceback", "lines on stderr", "refused as damaged, other reads it", "different")
MOST_COMPARED = 2_000_000  # pixels; of larger ones every few rows
MAX_LISTED = 400


class Verdict(NamedTuple):
    """What became of a file."""

    what: str
    reason: str = ""


def judge(path: Path, errors: Path) -> Verdict:
    """Read a file both ways."""
    noise = errors.stat().st_size
    try:
        read_image(path)
        line = ""
    except ImageError as error:
        line = str(error).removeprefix(f"{path}: ")
    if errors.stat().st_size > noise:
        return Verdict("lines on stderr", errors.read_text(errors="replace")[noise : noise + 100])
    if "not supported" in line or line.startswith("not a "):
        return Verdict("refused as not supported", line)
    if "over the limit" in line or "are too many" in line:
        return Verdict("refused as too large", line)
    try:
        ours = read_stored(path)
    except DeployError as error:
        line = str(error).removeprefix(f"{path}: ")
        other, by = second(path)
        if other is None:
            return Verdict("refused, other refuses too", line)
        return Verdict("refused as damaged, other reads it" if "damaged" in line else "refused", f"{line} [{by}]")
    other, by = second(path)
    if other is None:
        return Verdict("read, other refuses", "")
    off = difference(ours.values, other, ours.white_is_zero)
    if isinstance(off, str) or off > MAX_OFF[ours.lossy]:
        reason = off if isinstance(off, str) else f"{off:.1f} of 255 on average"
        return Verdict("different", f"{reason} [{by}]; {'; '.join(ours.notes)}")
    return Verdict("same, too small or of one value" if line else "same", line)


def second(path: Path) -> tuple[NDArray[Any] | None, str]:
    """The pixels of another decoder, grey or RGB, and its name; None where there is none."""
    import cv2

    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        pixels = None
    if pixels is not None:
        return (pixels if pixels.ndim == 2 else pixels[..., ::-1]), "OpenCV"
    with path.open("rb") as file:
        found = identify(file.read(HEAD))
    name = "" if found is None else found.name
    try:
        if name in ("TIFF", "GIF", "BMP"):
            from PIL import Image, ImageOps

            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                return np.array(upright if upright.mode[0] in "IF" else upright.convert("RGB")), "Pillow"
        import imagecodecs

        decode = {
            "PNG": imagecodecs.png_decode,
            "JPEG": imagecodecs.jpeg8_decode,
            "WebP": imagecodecs.webp_decode,
            "JPEG 2000": imagecodecs.jpeg2k_decode,
            "AVIF": imagecodecs.avif_decode,
        }[name]
        pixels = decode(path.read_bytes())
    except Exception:  # whatever a decoder raises, it gives no pixels
        return None, ""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    return pixels, "imagecodecs"


def difference(ours: NDArray[Any], other: NDArray[Any], white_is_zero: bool) -> float | str:
    """Of 255, on average; or words where shapes differ."""
    if ours.shape[:2] != other.shape[:2]:
        return f"{ours.shape[1]} x {ours.shape[0]} and {other.shape[1]} x {other.shape[0]}"
    step = max(1, ours.shape[0] * ours.shape[1] // MOST_COMPARED)
    first, second = comparable(ours[::step]), comparable(other[::step])
    if ours.dtype in (bool, np.uint8, np.uint16) and ours.dtype == other.dtype:
        return float(np.abs(first - second).mean())
    if other.dtype == np.uint8 and ours.dtype in (bool, np.uint8):
        return float(np.abs(first - second).mean())
    # Deep ones to which decoders give other scales: the same but for the scale.
    first, second = stretched(first), stretched(second)
    if white_is_zero and other.dtype == np.uint8:
        first = 1 - first
    return float(np.abs(first - second).mean() * 255)


def stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """From minimum to maximum."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low or 1)


def comparable(values: NDArray[Any]) -> NDArray[np.float32]:
    """RGB (H, W, 3), whole numbers of 8 and 16 bits in 0..255."""
    rgb = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
    scale = {"bool": 255, "uint16": 1 / 257}.get(values.dtype.name, 1)
    return np.nan_to_num(rgb.astype(np.float32), posinf=0, neginf=0) * np.float32(scale)


def serve(connection: Connection, errors: Path) -> None:
    """Judge files until there are none; whatever is written to stderr goes to a file."""
    handle = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 2)
    while True:
        path = connection.recv()
        if path is None:
            return
        try:
            connection.send(judge(path, errors))
        except Exception as error:  # that is what is looked for
            connection.send(Verdict("traceback", f"{type(error).__name__}: {error}"[:200]))


def judged(paths: Sequence[Path], seconds: float) -> Iterator[tuple[Path, Verdict]]:
    """Every file with its verdict; a process that dies or falls silent is replaced."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder, "stderr")
        errors.touch()
        worker = None
        for path in paths:
            if worker is None:
                ours, theirs = context.Pipe()
                worker = context.Process(target=serve, args=(theirs, errors), daemon=True)
                worker.start()
                theirs.close()
                ours.send(Path(__file__).with_name("none"))  # its imports take a while
                ours.recv()
            ours.send(path)
            try:
                verdict = ours.recv() if ours.poll(seconds) else Verdict("hang", f"over {seconds:.0f} s")
            except EOFError:
                verdict = Verdict("crash", "the process died")
            if verdict.what in ("hang", "crash"):
                worker.kill()
                worker.join()
                worker = None
            yield path, verdict
        if worker is not None:
            ours.send(None)
            worker.join()


def kind_of(path: Path) -> str:
    """The format for the table."""
    with path.open("rb") as file:
        found = identify(file.read(HEAD))
    return found.name if found is not None and found.name in SUPPORTED else "other"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge all and print the table; the exit code is 1 after a crash, a hang, a traceback or a line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    paths = sorted(
        path
        for folder in options.folders
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.stat().st_size
    )
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    listed = []
    for path, verdict in judged(paths, options.seconds):
        counts[verdict.what][kind_of(path)] += 1
        if not verdict.what.startswith("same"):
            listed.append((verdict.what, short(path, options.folders), verdict.reason))
    kinds = [kind for kind in (*SUPPORTED, "other") if any(kind in row for row in counts.values())]
    rows = [
        [what, *(str(row[kind] or "") for kind in kinds), str(row.total())]
        for what, row in sorted(counts.items(), key=lambda item: -item[1].total())
    ]
    total = [sum(row[kind] for row in counts.values()) for kind in kinds]
    rows.append(["all", *map(str, total), str(len(paths))])
    lines = ["| | " + " | ".join([*kinds, "all"]) + " |", "|---" * (len(kinds) + 2) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", machine(), "", "| what | file | why |", "|---|---|---|"]
    lines += [f"| {what} | {name} | {reason.replace('|', '/')} |" for what, name, reason in sorted(listed)[:MAX_LISTED]]
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(what in FAULTS[:4] for what in counts))


def short(path: Path, folders: Sequence[Path]) -> str:
    """The file by its place in the folder that was named."""
    for folder in folders:
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return path.name


def machine() -> str:
    """What read the files."""
    names = ("pillow", "tifffile", "imagecodecs", "numpy", "opencv-python-headless")
    return f"{platform.platform()}, Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in names
    )


if __name__ == "__main__":
    sys.exit(main())
