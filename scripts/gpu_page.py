"""Turns the results of scripts/gpu_hour.sh into a page of docs/results, and prints the rows for the README.

    python scripts/gpu_page.py [FOLDER] [--page FILE]

What was not measured is said to be so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "studies"))
from gpu_check import Timing, table  # noqa: E402

BATCHES = (1, 8, 32)
NOT_MEASURED = "not measured"
# Steps whose numbers are shown as they are.
RAW = {"full": "Steps of mode full", "contrastive": "The contrastive loss", "sanitizer": "compute-sanitizer"}


def main() -> None:
    """Write the page, or print it; then print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "gpu-hour")
    parser.add_argument("--page", type=Path, help="docs/results/DATE-gpu.md, say")
    arguments = parser.parse_args()
    try:
        results = read(arguments.folder)
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename}: is not there; run scripts/gpu_hour.sh first")
    text = page(results)
    if arguments.page is None:
        print(text)
    else:
        arguments.page.write_text(text + "\n", encoding="utf-8")
    print("\n".join(rows(results)))


def read(folder: Path) -> dict[str, Any]:
    """What every step has written, by its name; of ``summary`` the list of steps.

    Raises:
        FileNotFoundError: there is no summary.
    """
    results: dict[str, Any] = {"summary": json.loads((folder / "summary.json").read_text())["steps"]}
    for step in results["summary"]:
        path = folder / f"{step['name']}.json"
        if path.exists():
            results[step["name"]] = json.loads(path.read_text())
    return results


def page(results: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    environment = _environment(results)
    parts = [
        f"# On a GPU: {environment.get('gpu', 'none')}",
        "\n".join(f"- {name}: {value}" for name, value in environment.items() if name != "gpu") or "There was no GPU.",
        "Command: `scripts/gpu_hour.sh`. What a step prints is in its log.",
        "## Steps",
        _grid(
            ("step", "result", "seconds", "why"),
            [(each["name"], each["status"], f"{each['seconds']:.0f}", each["reason"]) for each in results["summary"]],
        ),
        "## Goals",
        _grid(("goal", "measured", ""), list(goals(results))),
    ]
    if checks := results.get("kernels", {}).get("checks"):
        parts += [
            "## Kernels against float64",
            _grid(("operation", "type", "batch", "error", "allowed", ""), _checks(checks)),
        ]
    for name, title in (("kernels", "Kernels against torch"), ("compiled", "Kernels against torch.compile")):
        if timings := results.get(name, {}).get("timings"):
            parts += [f"## {title}", "Milliseconds, medians.", table([Timing(**each) for each in timings])]
    pipelines = [
        (batch, each["way"], each["images_per_second"]) for batch in BATCHES for each in _pipeline(results, batch)
    ]
    if pipelines:
        parts += ["## Folder runs", _grid(("batch", "way", "images per second"), pipelines)]
    for name, title in (
        ("full", "Steps of mode full"),
        ("contrastive", "The contrastive loss"),
        ("sanitizer", "compute-sanitizer"),
    ):
        if name in results:
            facts = results[name].get("sanitizer", results[name])
            parts += [f"## {title}", f"```json\n{json.dumps(_short(facts), indent=1)}\n```"]
    return "\n\n".join(parts)


def goals(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Goal, what was measured, and whether it is met."""

    def ratio(operation: str, rival: str, ours: str, step: str = "kernels") -> float | None:
        found = [each for each in results.get(step, {}).get("timings", ()) if each["operation"] == operation]
        known = [each[rival] / each[ours] for each in found if each[rival] and each[ours]]
        return min(known, default=None)

    def judged(
        goal: str, value: float | None, wanted: float, unit: str, *, lower: bool = False
    ) -> tuple[str, str, str]:
        if value is None:
            return goal, NOT_MEASURED, ""
        met = value <= wanted if lower else value >= wanted
        return goal, f"{value:.2f} {unit}".strip(), "met" if met else "missed"

    worst = "of torch's time, in the worst case"
    yield judged("argmax 2 times as fast as torch", ratio("cluster_argmax", "torch_eager", "ours"), 2, f"x, {worst}")
    attention = ratio("cross_scale_attention", "torch_eager", "ours")
    yield judged("attention 2 times as fast as eager torch", attention, 2, f"x, {worst}")
    compiled = ratio("cross_scale_attention", "torch_compiled", "ours_with_launches", "compiled")
    yield judged("attention not slower than torch.compile", compiled, 1, f"x, {worst}")
    steps = [
        each["ours"]
        for each in results.get("kernels", {}).get("timings", ())
        if each["operation"].endswith("steps") and each["batch"] == 1 and each["ours"]
    ]
    yield judged("15 steps of one image within 0.5 ms", max(steps, default=None), 0.5, "ms", lower=True)
    speed = next((each["images_per_second"] for each in _pipeline(results, 8) if each["way"] == "run"), None)
    yield judged("200 images per second from file to files, batch 8", speed, 200, "images per second")


def rows(results: Mapping[str, Any]) -> list[str]:
    """Rows of the README's table; none where nothing was measured on a GPU."""
    gpu = _environment(results).get("gpu")
    if gpu is None:
        return ["No rows for the README: nothing was measured on a GPU."]
    speeds = [
        f"{each['images_per_second']:.0f} at batch {batch}"
        for batch in BATCHES
        for each in _pipeline(results, batch)
        if each["way"] == "run"
    ]
    lines = (
        [f"| a folder on {gpu}, backend torch, images per second | {', '.join(speeds)} | | `scripts/gpu_hour.sh` |"]
        if speeds
        else []
    )
    for goal, measured, met in goals(results):
        if measured != NOT_MEASURED:
            lines.append(f"| {gpu}: {goal} | {measured} ({met}) | | `scripts/gpu_hour.sh` |")
    return lines


def _environment(results: Mapping[str, Any]) -> dict[str, Any]:
    found = next((results[name]["environment"] for name in ("kernels", "compiled", "sanitizer") if name in results), {})
    named = ("gpu", "capability", "memory_gib", "driver", "torch_cuda", "launcher", "commit", "date")
    known = {name: found[name] for name in named if name in found}
    if "versions" in found:
        known["versions"] = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return known


def _pipeline(results: Mapping[str, Any], batch: int) -> Sequence[Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = results.get(f"pipeline-{batch}", {}).get("rows", ())
    return rows


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    verdicts = {True: "passed", False: "WRONG", None: "not enough memory"}
    return [
        (
            *(each["operation"], each["dtype"], str(each["batch"])),
            f"{each['error']:.1e}" if isinstance(each["error"], float) else each["error"],
            f"{each['tolerance']:.0e}" if "tolerance" in each else "",
            verdicts[each["ok"]],
        )
        for each in checks
    ]


def _short(facts: Any) -> Any:
    """Without the raw samples, which are in the JSON."""
    if isinstance(facts, dict):
        return {name: _short(value) for name, value in facts.items() if name not in ("losses", "machine")}
    return facts if not isinstance(facts, list) or len(facts) <= 8 else f"{len(facts)} values"


def _grid(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    cells = [[str(cell).replace("|", "/") for cell in line] for line in lines]
    return tabulate(cells, headers=head, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
