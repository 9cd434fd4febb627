"""One run on two Ray nodes of this machine: the same files as one plain run, also when a node is killed, and how fast.

    python studies/cluster.py --folder FOLDER [--images 2000] [--json FILE]

Makes small images, and segments them four times: with a plain ``run``, on one node, on two nodes, and on two nodes of
which one is killed (-9) when a third of the images are done. A node is a ``ray start`` with one CPU, bound to a core of
its own; the plain run and the driver are bound to the core of the first node. Every port is on the loopback.

Shows for each the seconds of the command, images per second, and whether its files are those of the plain run: all
pictures and measurements.csv byte for byte, records and report.json without their times. The gallery, which shows
times, is not compared. FOLDER must be new, and its path short: Ray makes sockets in it. Needs Linux and the extra
[ray].
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from script import exit_code

from msformer_deploy import DeployError

NODE = Path(__file__).with_name("ray_node.py")
STARTED, START_SECONDS = "Ray runtime started", 120.0
COMMAND = (sys.executable, "-m", "msformer_deploy", "run")
# Nothing is sent, nothing listens but on the loopback (this is Ray's name for that), and nobody else connects.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # the head reports once even so
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


def main() -> int:
    """Measure; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new, with a short path")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Run all four, print a table in Markdown, and write it as JSON.

    Raises:
        DeployError: a command fails, or its files are not those of the plain run.
    """
    folder = arguments.folder.resolve()
    images = folder / "images"
    make_images(images, arguments.images)
    rows = [{"run": "plain run", **segmented(images, folder / "plain", arguments.images)}]
    expected = digests(folder / "plain")
    for name, count, killed in (("one node", 1, False), ("two nodes", 2, False), ("two nodes, one killed", 2, True)):
        output = folder / name.replace(" ", "-").replace(",", "")
        with nodes(folder / f"r{len(rows)}", count) as cluster:
            victim = cluster.processes[1].pid if killed else None
            rows.append({"run": name, **segmented(images, output, arguments.images, cluster.address, victim)})
        found = digests(output)
        if found != expected:
            different = sorted(each for each in expected.keys() | found.keys() if expected.get(each) != found.get(each))
            raise DeployError(f"{name}: {len(different)} files are not those of the plain run, such as {different[0]}")
    print("| run | seconds | images/s | of the plain run |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['run']} | {row['seconds']:.1f} | {row['rate']:.2f} | {row['rate'] / rows[0]['rate']:.2f} |")
    print(f"\nTwo nodes over one: {rows[2]['rate'] / rows[1]['rate']:.2f}. All {len(expected)} files are the same.")
    if arguments.json:
        arguments.json.write_text(json.dumps({"images": arguments.images, "rows": rows}, indent=1) + "\n")


def make_images(folder: Path, count: int) -> None:
    """Write discs of all sizes and places on noise, 96 x 72 pixels."""
    folder.mkdir(parents=True)
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[:72, :96]
    for number in range(count):
        pixels = rng.integers(140, 170, (72, 96, 3))
        row, column, radius = rng.integers(20, 52), rng.integers(24, 72), rng.integers(8, 20)
        pixels[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] -= 80
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:05}.png")


def segmented(
    images: Path, output: Path, count: int, address: str | None = None, victim: int | None = None
) -> dict[str, Any]:
    """Run the command on core 0; the seconds from its start to its end.

    Args:
        images: folder of inputs.
        output: folder of results.
        count: number of images.
        address: of a cluster; None for a plain run.
        victim: process of a node that is killed when a third of the images are done.

    Raises:
        DeployError: the command fails, or an image is missing in its report, or there twice.
    """
    arguments = [*COMMAND, str(images), "--output", str(output), "--threads", "1", "-q"]
    arguments += [] if address is None else ["--ray", address]
    start, killed_after = time.perf_counter(), None
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=bound_to(0)
    ) as command:
        while victim is not None and command.poll() is None and killed_after is None:
            if len(list(output.glob("*.json"))) >= count / 3:
                for process in tree(victim):
                    os.kill(process, signal.SIGKILL)
                killed_after = time.perf_counter() - start
            time.sleep(0.2)
        said = command.communicate()[1]
    seconds = time.perf_counter() - start
    if command.returncode:
        raise DeployError(f"{' '.join(arguments)}: ended with exit code {command.returncode}: {said.strip()[-300:]}")
    if victim is not None and killed_after is None:
        raise DeployError("the command ended before the node was killed; pass more --images")
    entries = json.loads((output / "report.json").read_text())["images"]
    names = [entry["input"] for entry in entries]
    if len(set(names)) != len(names) or len(names) != count:
        raise DeployError(f"{output}: its report has {len(names)} images, {len(set(names))} different ones of {count}")
    return {"seconds": seconds, "rate": count / seconds, "killed_after": killed_after}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the gallery by its name; records and reports without their times."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "index.html":
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(_timeless(json.loads(content))).encode()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in ("seconds", "images_per_second")}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


class Nodes:
    """A cluster of this machine: the address of its head, and the process of each node."""

    def __init__(self, address: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.address, self.processes = address, processes


@contextmanager
def nodes(folder: Path, count: int) -> Iterator[Nodes]:
    """Start a cluster, and end it: one CPU for each node, and a core of its own as far as there are.

    Args:
        folder: new, for what Ray writes.
        count: number of nodes.

    Raises:
        DeployError: a node does not start.
    """
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    os.environ.update({**SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(32)})  # for the driver as well
    head = ("--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}")
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_node(folder / f"{number}.log", number, head if not number else ("--address", address)))
            for number in range(count)
        ]
        yield Nodes(address, processes)


@contextmanager
def _node(log: Path, number: int, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    common = ("--node-ip-address=127.0.0.1", "--num-cpus=1", "--disable-usage-stats", "--block")
    # Ray takes a second node only where clusters are switched on, and the head's address only where it is not replaced.
    environment = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(NODE), "start", *arguments, *common],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            preexec_fn=bound_to(number),
        )
    try:
        end = time.monotonic() + START_SECONDS
        while STARTED not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                raise DeployError(f"node {number} of Ray did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)
        yield process
    finally:
        for each in tree(process.pid):
            os.kill(each, signal.SIGKILL)
        process.wait()


def bound_to(core: int) -> Any:
    """What binds a new process to one of the cores that this one may use."""
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[core % len(cores)]})


def tree(process: int) -> list[int]:
    """A process and all that it has started, which still run."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [process] if Path(f"/proc/{process}").exists() else []
    for each in found:
        found += children.get(each, [])
    return found


if __name__ == "__main__":
    sys.exit(main())
