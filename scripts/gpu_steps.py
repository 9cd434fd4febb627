"""The steps of scripts/gpu_hour.sh, each in a time box: results are written at once, and none stops the next.

    python scripts/gpu_steps.py [--call 1|2|3|4 ...] [--parts FOLDER] [--output FOLDER] [--dry-run]

Exit code 0 if every step passed or was skipped for want of something, which is said; 1 if one failed or got no time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
UNAVAILABLE = 4  # exit code of what cannot run here, see docs/reference/exit-codes.md
NO_TESTS = 5  # exit code of pytest that found nothing to run
SUMMARY = "summary.json"
CALLS = (1, 2, 3, 4)
GPU_TESTS = (
    *("tests/kernels/test_gpu.py", "tests/kernels/test_launch.py", "tests/msformer_deploy/backends/test_gpu.py"),
    *("tests/msformer_deploy/backends/test_tensorrt.py", "tests/msformer_deploy/refinement/test_passes.py"),
    "tests/studies/test_contrastive.py",
)


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        call: of the machine, which lasts ten minutes at most.
        seconds: its time box.
        command: for Python; ``{out}``, ``{bundle}``, ``{pictures}``, ``{picture}`` and ``{data}`` stand for places.
    """

    name: str
    call: int
    seconds: int
    command: tuple[str, ...]


def _throughput(batch: int) -> Step:
    way = ("--backend", "torch", "--device", "cuda", "--batch", str(batch), "--rounds", "3")
    where = ("{pictures}", "--bundle", "{bundle}", "--json", f"{{out}}/pipeline-{batch}.json")
    return Step(f"pipeline-{batch}", 1, 45, ("studies/throughput.py", *where, *way))


def _kernels(name: str, call: int, seconds: int, *options: str) -> Step:
    return Step(name, call, seconds, ("studies/gpu_check.py", "--json", f"{{out}}/{name}.json", *options))


def _program(name: str, call: int, seconds: int, *arguments: str) -> Step:
    return Step(name, call, seconds, ("-m", "msformer_deploy", *arguments))


PRECISIONS = ("--precision", "fp32", "--precision", "fp16")
COMPARED = (
    *("benchmark", "{bundle}", "--device", "cuda", *PRECISIONS, "--whole-graph", "--images", "{picture}"),
    *("--baseline", "torch", "--min-dice", "0.97", "--force"),
)
STEPS = (
    _program("doctor", 1, 30, "doctor"),
    _kernels("kernels", 1, 150, "--parts", "checks,times", "--batches", "1,8,32", "--seconds", "0.2"),
    *map(_throughput, (1, 8, 32)),
    Step(
        "full",
        1,
        50,
        ("studies/full_refinement.py", "{picture}", "--device", "cuda", "--steps", "20", "--json", "{out}/full.json"),
    ),
    Step("contrastive", 1, 40, ("studies/contrastive.py", "--device", "cuda", "--json", "{out}/contrastive.json")),
    Step("tests", 1, 150, ("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *GPU_TESTS)),
    _kernels("sanitizer", 2, 300, "--parts", "sanitizer", "--sanitizer-seconds", "140"),
    _kernels("compiled", 2, 280, "--parts", "compiled", "--batches", "1,8", "--seconds", "0.2"),
    _program("onnxruntime", 3, 200, *COMPARED, "--backend", "onnxruntime", "--json", "{out}/onnxruntime.json"),
    _program("engines", 3, 250, "export", "--output", "{bundle}", *PRECISIONS, "--tensorrt", "--update"),
    _program("tensorrt", 3, 140, *COMPARED, "--backend", "tensorrt", "--json", "{out}/tensorrt.json"),
    Step(
        "m2snet",
        4,
        1800,
        (
            *("studies/m2snet.py", "--data", "{data}/ph2", "--device", "cuda", "--precision", "fp16", "--side", "352"),
            *("--epochs", "250", "--fold", "0", "--folder", "{out}/m2snet"),
        ),
    ),
    Step(
        "mcsc",
        4,
        3600,
        (
            "studies/mcsc_acdc.py",
            "--data",
            "{data}/acdc/slices",
            "--full",
            "--device",
            "cuda",
            "--json",
            "{out}/mcsc.json",
        ),
    ),
)


@dataclass
class Result:
    """What became of a step; ``reason`` is empty where it passed."""

    name: str
    call: int
    status: str  # passed, failed, skipped, no time
    reason: str
    seconds: float


def main() -> int:
    """Run the steps of the calls that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", type=int, choices=CALLS, action="append", help="steps of this call; all by default")
    parser.add_argument("--parts", type=Path, default=ROOT / "gpu-parts", help="what scripts/gpu_parts.py gathered")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-hour", help="where results and logs go")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="labelled images, for call 4"
    )
    parser.add_argument("--dry-run", action="store_true", help="try the script where there is no GPU")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.dry_run and not arguments.parts.is_dir():
        arguments.parts = stand_ins(arguments.output / "parts")
    places = {
        "out": arguments.output,
        "bundle": arguments.parts / "bundle",
        "pictures": arguments.parts / "pictures",
        "picture": next(iter(sorted((arguments.parts / "pictures").glob("*"))), arguments.parts / "pictures"),
        "data": arguments.data,
    }
    wanted = [step for step in STEPS if step.call in (arguments.call or CALLS)]
    results = []
    for result in run(wanted, {name: str(path) for name, path in places.items()}, arguments.output):
        results.append(result)
        print(f"{result.status:8} {result.name:14} {result.seconds:6.1f} s  {result.reason}", flush=True)
    counts = Counter(result.status for result in results)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    print(f"{told}; see {arguments.output / SUMMARY}")
    return 1 if counts["failed"] or counts["no time"] else 0


def run(steps: Sequence[Step], places: dict[str, str], output: Path) -> Iterator[Result]:
    """Run steps one after the other; the summary, which keeps those of earlier calls, is written after each."""
    summary = output / SUMMARY
    known = {each["name"]: each for each in json.loads(summary.read_text())["steps"]} if summary.exists() else {}
    for step in steps:
        result = run_step(step, places, output / f"{step.name}.log")
        known[step.name] = asdict(result)
        ordered = [known[each.name] for each in STEPS if each.name in known]
        temporary = summary.with_suffix(".part")
        temporary.write_text(json.dumps({"steps": ordered}, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, summary)
        yield result


def run_step(step: Step, places: dict[str, str], log: Path) -> Result:
    """Run one command; its output goes to ``log``, and its processes end with its time."""
    command = [sys.executable, *(word.format(**places) for word in step.command)]
    start = time.perf_counter()
    with log.open("w+b") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        file.seek(0)
        said = file.read().decode(errors="replace")
    status, reason = judge(code, said)
    return Result(
        step.name,
        step.call,
        status,
        reason or (f"more than {step.seconds} s" if code is None else ""),
        round(time.perf_counter() - start, 1),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def judge(code: int | None, said: str) -> tuple[str, str]:
    """Status and reason of a command by its exit code and what it said; None as the code of one that got no time."""
    if code is None:
        return "no time", ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = (errors or lines or ["it said nothing"])[-1]
    if code == UNAVAILABLE:
        return "skipped", last
    tests = re.search(r"(\d+) skipped", last) if code in (0, NO_TESTS) else None
    if tests and " passed" not in last:
        reasons = [line.partition(": ")[2] for line in lines if line.startswith("SKIPPED ")]
        return "skipped", f"{tests[1]} tests: {'; '.join(dict.fromkeys(reasons)) or 'none ran'}"
    if code == 0:
        return "passed", ""
    return "failed", f"{last} (exit code {code})"


def stand_ins(folder: Path) -> Path:
    """A small bundle and a picture, for a machine that has nothing of scripts/gpu_parts.py."""
    export = [sys.executable, "-m", "msformer_deploy", "export", "--preset", "fast", "--output", folder / "bundle"]
    subprocess.run([*map(str, export), "--force", "--quiet"], check=True)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:120, :160]
    disc = (rows - 60) ** 2 + (columns - 80) ** 2 < 30**2
    Image.fromarray(np.where(disc, 90, 180).astype(np.uint8)).save(folder / "pictures" / "disc.png")
    return folder


if __name__ == "__main__":
    sys.exit(main())
