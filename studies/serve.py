"""Load on ``msformer-deploy serve``, over the loopback, by a client of its own.

    python studies/serve.py load IMAGE... [--bundle DIR] [--seconds 20] [--json FILE] [--markdown FILE]
    python studies/serve.py soak IMAGE... [--bundle DIR] [--requests 20000] [--json FILE] [--markdown FILE]

``load`` first measures ``run`` on the same images, all files written, and then the service with as many clients as it
has places. Requests then come at fixed rates, whether earlier ones were answered or not: parts and multiples of what
the service achieved. It prints the latencies of those that were answered with a mask, how many were refused, and
the memory of the server. ``soak`` sends many requests and prints the memory on the way.

The client runs on the same cores as the server, and its share is in all numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from script import exit_code, tell

from msformer_deploy.doctor.diagnosis import diagnose
from msformer_deploy.errors import DeployError
from msformer_deploy.images.inputs import discover
from msformer_deploy.measures.tables import ruled

PARTS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 3.0)  # of the throughput
PLACES = 8
OPENED = 500  # requests after which memory is taken as the beginning


class Server(NamedTuple):
    """A service in a process of its own."""

    host: str
    port: int
    process: int

    def memory(self) -> float:
        """Resident memory of the process, MB."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        (line,) = (each for each in status.splitlines() if each.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6


class Answered(NamedTuple):
    """One request: its status (0 where the connection broke) and its seconds."""

    status: int
    seconds: float


@contextmanager
def serving(options: Sequence[str]) -> Iterator[Server]:
    """Run the service, until the ``with`` ends."""
    command = [sys.executable, "-m", "msformer_deploy", "serve", "--port", "0", *options]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if " at http://" not in line:
                raise DeployError("the service did not start")
            host, _, port = line.split(" at http://")[1].split(";")[0].rpartition(":")
            server = Server(host, int(port), process.pid)
            asyncio.run(_ready(server))
            yield server
        finally:
            process.terminate()
            process.wait(60)


async def _ready(server: Server) -> None:
    for _ in range(600):
        if (await get(server, "/v2/health/ready")) == 200:
            return
        await asyncio.sleep(0.1)
    raise DeployError("the service is not ready after a minute")


async def get(server: Server, path: str) -> int:
    """Status of a GET."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        return await _exchange(reader, writer, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    finally:
        writer.close()


class Client:
    """Connections that are kept, one for each request at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def segment(self, content: bytes) -> Answered:
        """Send one image, and wait for its mask."""
        head = f"POST /segment HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
        start = time.perf_counter()
        try:
            while self._free and self._free[-1][0].at_eof():  # idle for so long that the server has closed it
                self._free.pop()[1].close()
            reader, writer = (
                self._free.pop() if self._free else await asyncio.open_connection(self._server.host, self._server.port)
            )
            status = await _exchange(reader, writer, head.encode() + content)
        except (OSError, asyncio.IncompleteReadError):
            return Answered(0, time.perf_counter() - start)
        self._free.append((reader, writer))
        return Answered(status, time.perf_counter() - start)

    def close(self) -> None:
        """End all connections."""
        for _, writer in self._free:
            writer.close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def closed_loop(
    server: Server, contents: Sequence[bytes], requests: int, clients: int, done: Callable[[int], None]
) -> list[Answered]:
    """So many clients, each of which sends its next request when it has its answer."""
    client, found = Client(server), list[Answered]()
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            found.append(await client.segment(contents[number % len(contents)]))
            done(len(found))

    await asyncio.gather(*(work() for _ in range(clients)))
    client.close()
    return found


async def open_loop(server: Server, contents: Sequence[bytes], rate: float, seconds: float) -> list[Answered]:
    """Requests at a fixed rate, whether earlier ones were answered or not."""
    client, start = Client(server), time.perf_counter()
    tasks: list[asyncio.Task[Answered]] = []
    for number in itertools.count():
        due = start + number / rate
        if due > start + seconds:
            break
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(client.segment(contents[number % len(contents)])))
    found = await asyncio.gather(*tasks)
    client.close()
    return found


def options_of(arguments: argparse.Namespace) -> list[str]:
    """What ``run`` and ``serve`` are given."""
    return [] if arguments.bundle is None else ["--bundle", str(arguments.bundle)]


def run_rate(paths: Sequence[Path], repeats: int, options: Sequence[str]) -> float:
    """Images per second of ``run`` on these images, by its report: without the start of the process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for number in range(repeats):
            for index, path in enumerate(paths):
                shutil.copy(path, folder / f"{number:03}-{index:03}{path.suffix}")
        output = Path(scratch) / "results"
        command = [sys.executable, "-m", "msformer_deploy", "run", str(folder), "--output", str(output), "--quiet"]
        command += options
        subprocess.run(command, check=True, capture_output=True)
        counts = json.loads((output / "report.json").read_text(encoding="utf-8"))["summary"]
    return float(counts["done"] / counts["seconds"])


def percentiles(found: Sequence[Answered]) -> list[float]:
    """p50, p95 and p99 of the requests that were answered with a mask, milliseconds."""
    seconds = sorted(each.seconds for each in found if each.status == 200)
    if len(seconds) < 2:
        return [float("nan")] * 3
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [1000 * cuts[place] for place in (49, 94, 98)]


def load(arguments: argparse.Namespace) -> None:
    """Throughput, and latencies against the offered load."""
    paths = [item.path for item in discover(arguments.inputs)]
    contents = [path.read_bytes() for path in paths]
    repeats = -(-arguments.warm_up // len(paths))
    rate_of_run = run_rate(paths, repeats, options_of(arguments))
    with serving(options_of(arguments)) as server:
        asyncio.run(closed_loop(server, contents, arguments.warm_up, PLACES, lambda _: None))
        start = time.perf_counter()
        count = len(asyncio.run(closed_loop(server, contents, arguments.warm_up, PLACES, lambda _: None)))
        rate = count / (time.perf_counter() - start)
        rows = []
        for part in PARTS:
            offered = part * rate
            start = time.perf_counter()
            found = asyncio.run(open_loop(server, contents, offered, arguments.seconds))
            took = time.perf_counter() - start
            statuses = Counter(each.status for each in found)
            p50, p95, p99 = percentiles(found)
            rows.append(
                {
                    "part": part,
                    "offered": offered,
                    "masks_per_second": statuses[200] / took,
                    "requests": len(found),
                    "statuses": dict(statuses),
                    "p50": p50,
                    "p95": p95,
                    "p99": p99,
                    "memory": server.memory(),
                }
            )
    heads = ["offered/s", "masks/s", "p50 ms", "p95 ms", "p99 ms", "answered", "429", "others", "server MB"]
    cells = [
        [
            *(f"{row[name]:.1f}" for name in ("offered", "masks_per_second")),
            *(f"{row[name]:.0f}" for name in ("p50", "p95", "p99")),
            str(row["statuses"].get(200, 0)),
            str(row["statuses"].get(429, 0)),
            str(row["requests"] - row["statuses"].get(200, 0) - row["statuses"].get(429, 0)),
            f"{row['memory']:.0f}",
        ]
        for row in rows
    ]
    table = ruled([heads, *cells], "r")
    said = (
        f"{len(paths)} images; run {rate_of_run:.2f} images/s, serve with {PLACES} clients {rate:.2f} images/s,"
        f" ratio {rate / rate_of_run:.2f}\n\n{table}\n"
    )
    facts = {"run": rate_of_run, "serve": rate, "rows": rows, "seconds": arguments.seconds, "machine": diagnose()}
    tell(said, facts, arguments)


def soak(arguments: argparse.Namespace) -> None:
    """Memory after many requests."""
    contents = [item.path.read_bytes() for item in discover(arguments.inputs)]
    points: list[dict[str, float]] = []
    with serving(options_of(arguments)) as server:
        start = time.perf_counter()

        def note(count: int) -> None:
            if count == OPENED or count % arguments.every == 0:
                memory, seconds = server.memory(), time.perf_counter() - start
                points.append({"requests": count, "memory": memory, "seconds": seconds})
                print(f"{count} requests, {memory:.1f} MB, {seconds:.0f} s", file=sys.stderr)

        found = asyncio.run(closed_loop(server, contents, arguments.requests, PLACES, note))
    statuses = Counter(each.status for each in found)
    rows = [[str(int(each["requests"])), f"{each['memory']:.1f}", f"{each['seconds']:.0f}"] for each in points]
    beginning = next((each["memory"] for each in points if each["requests"] == OPENED), float("nan"))
    growth = points[-1]["memory"] / beginning - 1 if points else float("nan")
    table = ruled([["requests", "server MB", "s"], *rows], "r")
    said = f"statuses {dict(statuses)}; growth after {OPENED} requests: {growth:+.1%}\n\n{table}\n"
    tell(said, {"points": points, "statuses": dict(statuses), "growth": growth, "machine": diagnose()}, arguments)


def main() -> int:
    """Measure; the exit code is that of the failure, if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "soak"))
    parser.add_argument("inputs", nargs="+", type=Path, help="images, or folders of them")
    parser.add_argument("--bundle", type=Path, help="in place of the default one")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--warm-up", type=int, default=100, help="requests, and images of run")
    parser.add_argument("--requests", type=int, default=20_000, help="of soak")
    parser.add_argument("--every", type=int, default=1000, help="requests between two readings of memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    return exit_code({"load": load, "soak": soak}[arguments.what], arguments)


if __name__ == "__main__":
    sys.exit(main())
