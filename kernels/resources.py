"""``make kernels``: assemble every kernel for every supported device, and show the resources that each needs.

The PTX is that of the wheel and the assembler is that of the driver, so the result is valid for a device without having
one.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click

from msformer_deploy.errors import DeployError
from msformer_deploy.files import write_text

from .compile import CUBIN_CAPABILITIES, PTX_CAPABILITIES, SOURCES, ptx_capability, ptx_name, source_path
from .compilers import Nvcc, find_nvcc
from .geometry import max_shared_bytes


class Resources(NamedTuple):
    """Resources of one kernel on one device, with those of functions that were not inlined."""

    registers: int  # per thread
    shared: int  # bytes per block, the part that is known at compile time
    stack: int  # bytes per thread, as the next two
    spill_stores: int
    spill_loads: int


Table = dict[str, dict[int, Resources]]  # kernel, capability


def parse_resources(log: str) -> dict[str, Resources]:
    """Parse the assembler's report: resources by kernel."""
    found: dict[str, Resources] = {}
    kernel = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
            found[kernel] = Resources(0, 0, 0, 0, 0)
        elif not kernel:
            continue
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, stores, loads = map(int, match.groups())
            before = found[kernel]
            found[kernel] = before._replace(
                stack=before.stack + stack,
                spill_stores=before.spill_stores + stores,
                spill_loads=before.spill_loads + loads,
            )
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[kernel] = found[kernel]._replace(registers=int(match[1]), shared=int(shared[1]) if shared else 0)
    return found


def assemble_all(nvcc: Nvcc, sources: Sequence[str], folder: Path) -> tuple[Table, list[DeployError]]:
    """Write the PTX and the cubins of the sources into ``folder``; return the kernels' resources and the failures."""
    failures: list[DeployError] = []
    table: Table = {}

    def translate(task: tuple[str, int]) -> bytes | DeployError:
        source, target = task
        try:
            ptx = nvcc.ptx(source_path(source), target)
        except DeployError as error:
            return error
        (folder / ptx_name(source, target)).write_bytes(ptx)
        return ptx

    def assemble(task: tuple[str, int]) -> dict[str, Resources] | DeployError:
        source, capability = task
        ptx = translated[source, ptx_capability(capability)]
        try:
            cubin, log = nvcc.assemble(ptx, capability, f"{source}.cu")
        except DeployError as error:
            return error
        (folder / f"{source}.sm_{capability}.cubin").write_bytes(cubin)
        return parse_resources(log)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [(source, target) for source in sources for target in PTX_CAPABILITIES]
        translated: dict[tuple[str, int], bytes] = {}
        for task, ptx in zip(tasks, pool.map(translate, tasks), strict=True):
            if isinstance(ptx, DeployError):
                failures.append(ptx)
            else:
                translated[task] = ptx
        tasks = [
            (source, capability)
            for source in sources
            for capability in CUBIN_CAPABILITIES
            if (source, ptx_capability(capability)) in translated
        ]
        for (_, capability), kernels in zip(tasks, pool.map(assemble, tasks), strict=True):
            if isinstance(kernels, DeployError):
                failures.append(kernels)
            else:
                for kernel, resources in kernels.items():
                    table.setdefault(kernel, {})[capability] = resources
    return table, failures


def render(table: Table) -> Iterator[str]:
    """Yield a row per kernel with a column per device: registers, and spilled bytes (stores and loads) after ``!``.

    Shared memory is the maximum per block over all sizes.
    """
    dynamic = max_shared_bytes()
    rows = [["kernel: registers !spilled bytes", "shared", *(f"sm_{capability}" for capability in CUBIN_CAPABILITIES)]]
    for kernel, devices in sorted(table.items(), key=lambda item: _natural(item[0])):
        cells = [_cell(devices.get(capability)) for capability in CUBIN_CAPABILITIES]
        shared = dynamic.get(kernel, 0) + max(resources.shared for resources in devices.values())
        rows.append([kernel, str(shared), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        yield "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])
    wasteful = [
        f"{kernel} on sm_{capability}: {taken.stack} bytes of stack, {taken.spill_stores} stored and"
        f" {taken.spill_loads} loaded again"
        for kernel, devices in table.items()
        for capability, taken in devices.items()
        if taken.stack or taken.spill_stores or taken.spill_loads
    ]
    yield from wasteful or ["no kernel spills registers or uses a stack"]


def _cell(taken: Resources | None) -> str:
    if taken is None:
        return "-"
    spilled = taken.spill_stores + taken.spill_loads
    return f"{taken.registers}!{spilled}" if spilled else str(taken.registers)


def _natural(name: str) -> list[str]:
    """A sort key with n2 before n16."""
    return [part.zfill(4) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/kernels"),
    show_default=True,
    help="Folder for PTX, cubins and report.json.",
)
@click.pass_context
def main(context: click.Context, output: Path) -> None:
    """Compile every CUDA kernel for every device and show the resources of each. Exit code 1: one does not compile."""
    started = time.perf_counter()
    try:
        nvcc = find_nvcc()
    except DeployError as error:
        click.echo(f"error: {error}", err=True)
        context.exit(error.exit_code)
    output.mkdir(parents=True, exist_ok=True)
    table, failures = assemble_all(nvcc, SOURCES, output)
    seconds = time.perf_counter() - started
    for line in render(table):
        click.echo(line)
    report = {
        "compiler": nvcc.name,
        "seconds": round(seconds, 1),
        "most_dynamic_shared": max_shared_bytes(),
        "failures": [str(failure) for failure in failures],
        "kernels": {
            kernel: {f"sm_{capability}": taken._asdict() for capability, taken in devices.items()}
            for kernel, devices in table.items()
        },
    }
    write_text(output / "report.json", json.dumps(report, indent=1) + "\n")
    for failure in failures:
        click.echo(f"error: {failure}", err=True)
    click.echo(
        f"{len(table)} kernels, {len(CUBIN_CAPABILITIES)} targets, {len(failures)} failures,"
        f" {seconds:.1f} s, {nvcc.name}, {output / 'report.json'}"
    )
    context.exit(1 if failures else 0)
