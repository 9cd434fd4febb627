"""Times of the page in a real Chromium, with a mouse: from drop to mask, from a correction to its mask, and what loads.

    python studies/page.py IMAGE... [--rounds 5] [--markdown FILE] [--json FILE]

Each preset gets a page of its own. Images are dropped when the page says that it is ready. Each image is corrected in
``--rounds`` places by clicks on a diagonal, and by a box after that. A time ends when the mask is drawn. Needs Debian's
chromium, Node.js and ``npm ci --prefix web``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from script import exit_code, tell

from msformer_deploy.errors import DeployError
from msformer_deploy.images.read import read_image
from msformer_deploy.web.server import address_of, open_server
from msformer_deploy.web.site import PRESETS, write_site

DRIVER = Path(__file__).parents[1] / "web" / "test" / "browser.mjs"
READY = "document.getElementById('loaded').textContent.startsWith('Ready')"


def visit(address: str, preset: str, images: list[Path], rounds: int) -> dict[str, Any]:
    """One page: a preset, and all images one after the other."""
    steps: list[list[Any]] = [
        ["note", "chosen", f"document.getElementById('preset').value = '{preset}'"],
        ["note", "told", "document.getElementById('preset').dispatchEvent(new Event('change'))"],
        ["wait", READY],
        ["note", f"milliseconds to ready, {preset}", "performance.now()"],
    ]
    for image in images:
        found = read_image(image)
        steps.append(["drop", [str(image)]])
        places = [(round + 1) / (rounds + 1) for round in range(rounds)]
        steps += [["key", ["1"]]]
        steps += [
            ["click", int(part * found.width), int(part * found.height), f"{preset} click {number} {image.name}"]
            for number, part in enumerate(places)
        ]
        box = [[found.width // 4, found.height // 4], [3 * found.width // 4, 3 * found.height // 4]]
        steps += [["key", ["3"]], ["drag", box, f"{preset} box {image.name}"]]
    return {"address": address, "steps": steps}


def measure(images: list[Path], rounds: int) -> dict[str, Any]:
    """Open each preset once; times by preset."""
    chromium = shutil.which("chromium")
    if chromium is None or shutil.which("node") is None:
        raise DeployError("chromium or Node.js is not installed; install both to time the page")
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        site, plan = Path(scratch) / "site", Path(scratch) / "plan.json"
        site.mkdir()
        write_site(site)
        with open_server(site, 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                for preset in PRESETS:
                    visits = [visit(address_of(server), preset, images, rounds)]
                    given = {"chromium": chromium, "arguments": ["--disable-gpu"], "folder": scratch, "log": None}
                    plan.write_text(json.dumps({**given, "visits": visits}))
                    done = subprocess.run(["node", str(DRIVER), str(plan)], capture_output=True, text=True)
                    if done.returncode != 0:
                        raise DeployError(f"the page could not be timed: {done.stderr.strip()[-300:]}")
                    rows[preset] = row(json.loads(done.stdout), preset)
            finally:
                server.shutdown()
                thread.join()
        packed = {path.name: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    return {"images": [image.name for image in images], "presets": rows, "bytes": packed}


def row(seen: dict[str, Any], preset: str) -> dict[str, Any]:
    """Medians and the longest times of one preset, and the times of all corrections."""
    drops = [each["fromDrop"] for each in seen["seconds"].values()]
    prompts = list(seen["milliseconds"].values())
    return {
        "seconds_to_ready": seen["values"][f"milliseconds to ready, {preset}"] / 1000,
        "seconds_from_drop": statistics.median(drops),
        "longest_seconds_from_drop": max(drops),
        "milliseconds_of_a_correction": statistics.median(prompts),
        "longest_milliseconds_of_a_correction": max(prompts),
        "corrections": seen["milliseconds"],
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        "| preset | ready, s | drop to mask, s (longest) | correction to mask, ms (longest) |",
        "|---|---:|---:|---:|",
    ]
    for preset, each in found["presets"].items():
        drop = f"{each['seconds_from_drop']:.2f} ({each['longest_seconds_from_drop']:.2f})"
        corrected = f"{each['milliseconds_of_a_correction']:.0f} ({each['longest_milliseconds_of_a_correction']:.0f})"
        lines.append(f"| {preset} | {each['seconds_to_ready']:.1f} | {drop} | {corrected} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    found = measure(arguments.image, arguments.rounds)
    tell(table(found), found, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    return exit_code(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
