"""The CUDA kernels as code that a driver can load: from the wheel, else from the user's cache, else compiled now.

Some devices get machine code (a cubin) of the wheel. All others get the PTX of the highest capability that they
support, and their driver compiles it. This module must be importable with only the standard library installed, because
it compiles what the wheel carries.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import lzma
import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.files import atomic_path, write_text
from msformer_deploy.machine.homes import user_cache

from .compilers import NVCC_OPTIONS, Compiler, Nvcc, find_compiler, find_nvrtc

SOURCES = ("cluster_argmax", "cross_scale_attention", "head_refine_step")
PTX_CAPABILITIES = (75, 80)  # the two paths through the sources: plain multiply-add, and tensor cores
CUBIN_CAPABILITIES = (75, 80, 86, 87, 89, 90, 100, 110, 120)  # the devices for which every change is assembled
# Those whose machine code is in the wheel: Jetson Orin, GeForce 40 and L4, H100 and H200, GeForce 50.
SHIPPED_CAPABILITIES = (87, 89, 90, 120)
RECIPE = 1  # increase it if the same sources and options are compiled differently

SOURCE_FOLDER = Path(__file__).parent / "csrc"
SHIPPED_FOLDER = Path(__file__).parent / "compiled"
MANIFEST = "manifest.json"


class Image(NamedTuple):
    """Code that the driver loads."""

    data: bytes
    kind: Literal["ptx", "cubin"]
    capability: int  # its target: 80 is compute capability 8.0
    origin: str  # "shipped", "cache" or "compiled by <compiler>"
    isa: str  # version of the PTX language; empty for a cubin

    def only(self, kernel: str) -> Image:
        """PTX with only one kernel, because the driver compiles all that it is given; a cubin as it is."""
        if self.kind == "cubin":
            return self

        def keep(entry: re.Match[bytes]) -> bytes:
            return entry[0] if entry[1] == kernel.encode() else b""

        entries = rb"^\.visible \.entry (\w+)\(.*?^}\n"
        return self._replace(data=re.sub(entries, keep, self.data, flags=re.MULTILINE | re.DOTALL))


def load(source: str, capability: int) -> Image:
    """PTX of one of ``SOURCES`` for a device of compute capability ``capability`` (86 is 8.6).

    Raises:
        BackendUnavailable: the device is too old, or nothing fits and no compiler is installed.
        DeployError: the source does not compile.
    """
    target = ptx_capability(capability)
    try:
        return _shipped(source, target)
    except _NotShippedError as reason:
        try:
            compiler = find_compiler()
        except BackendUnavailable as error:
            raise BackendUnavailable(f"CUDA kernels: {reason}; {error}") from error
    return _cached(source, "ptx", target, compiler, compiler.ptx)


def shipped_cubin(source: str, capability: int, cuda: str) -> Image | None:
    """Machine code of the wheel for exactly this capability, so that the driver need not compile.

    Args:
        source: one of ``SOURCES``.
        capability: of the device (89 is 8.9).
        cuda: version of CUDA that the driver supports, such as "13.0". A driver takes machine code of the compilers of
            its major version and of earlier ones: CUDA Compatibility, "Minor Version Compatibility".

    Returns:
        None where the wheel has none that fits: then :func:`load` has PTX of the same.
    """
    try:
        record, code = _read_shipped(source, cubins_name(source))
        begin, length = record["cubins"][str(capability)]
        compiler = str(record["compiler"])
    except (_NotShippedError, KeyError, TypeError, ValueError):
        return None
    if _version(cuda)[0] < _version(compiler.split()[-1])[0]:
        return None
    return Image(code[begin : begin + length], "cubin", capability, "shipped", "")


def recompile_with_nvrtc(source: str, capability: int) -> Image:
    """Compile for a driver that finds the PTX of ``load`` too new, with the oldest installed NVRTC for the device.

    The result is a cubin if possible: a driver accepts cubins of every CUDA version with its major version, but PTX
    only up to its own version. The wheel's PTX is not used.

    Raises:
        BackendUnavailable: the device is too old, or NVRTC is not installed.
        DeployError: the source does not compile.
    """
    target = ptx_capability(capability)
    versions = find_nvrtc()
    for nvrtc in versions:
        if capability in nvrtc.capabilities():
            return _cached(source, "cubin", capability, nvrtc, nvrtc.cubin)
    return _cached(source, "ptx", target, versions[0], versions[0].ptx)


# The newest version of the PTX language that a driver for a version of CUDA knows: PTX ISA, "Release Notes".
NEWEST_ISA: dict[tuple[int, ...], tuple[int, ...]] = {
    (12, 0): (8, 0), (12, 1): (8, 1), (12, 2): (8, 2), (12, 3): (8, 3), (12, 4): (8, 4), (12, 5): (8, 5),
    (12, 6): (8, 5), (12, 7): (8, 6), (12, 8): (8, 7), (12, 9): (8, 8), (13, 0): (9, 0), (13, 1): (9, 1),
}  # fmt: skip


def load_for_driver(source: str, capability: int, cuda: str | None) -> Image:
    """PTX as of :func:`load` that a driver for this version of CUDA accepts; of an older NVRTC if it must be.

    This is for those who pass PTX on without loading it. A driver that is newer than ``NEWEST_ISA`` accepts everything,
    and so does one whose version is not known (None).

    Raises:
        BackendUnavailable: the device is too old, no compiler is installed, or only too new ones.
        DeployError: the source does not compile.
    """
    image = load(source, capability)
    if cuda is None or _version(cuda) > max(NEWEST_ISA) or _version(image.isa) <= NEWEST_ISA.get(_version(cuda), (0,)):
        return image
    for nvrtc in find_nvrtc():
        if nvrtc.version <= _version(cuda):
            return _cached(source, "ptx", ptx_capability(capability), nvrtc, nvrtc.ptx)
    raise BackendUnavailable(
        f"the driver (for CUDA {cuda}) is older than the PTX of our kernels (ISA {image.isa}, {image.origin}), and no"
        f" NVRTC of CUDA {cuda} or older is installed; update the driver, or install that NVRTC"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def ptx_capability(capability: int) -> int:
    """The highest member of ``PTX_CAPABILITIES`` that a device supports.

    Raises:
        BackendUnavailable: the device is older than all of them.
    """
    usable = [served for served in PTX_CAPABILITIES if served <= capability]
    if not usable:
        raise BackendUnavailable(
            f"a GPU of compute capability {capability / 10} is too old for the CUDA kernels, which need"
            f" {min(PTX_CAPABILITIES) / 10} or newer; use --device cpu"
        )
    return max(usable)


def source_hash(source: str) -> str:
    """SHA-256 of everything that determines the compiled code of a source, except the compiler's version."""
    digest = hashlib.sha256(json.dumps([RECIPE, NVCC_OPTIONS]).encode())
    for path in (source_path(source), *sorted(SOURCE_FOLDER.glob("*.cuh"))):
        content = path.read_bytes()
        digest.update(f"\n{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def source_path(source: str) -> Path:
    """The path of a source."""
    return SOURCE_FOLDER / f"{source}.cu"


def ptx_name(source: str, capability: int) -> str:
    """The file name of a source's PTX."""
    return f"{source}.compute_{capability}.ptx"


def shipped_name(source: str, capability: int) -> str:
    """The file name of a source's PTX in the package, where it is compressed to a sixteenth of its size."""
    return f"{ptx_name(source, capability)}.xz"


def cubins_name(source: str) -> str:
    """The file name of a source's cubins in the package: compressed together, because they resemble one another."""
    return f"{source}.cubins.xz"


def ship(folder: Path) -> None:
    """Compile the kernels of a wheel into ``folder``, with a manifest of the files; old files are deleted first.

    NVRTC does not assemble, so a wheel that it makes has PTX alone.

    Raises:
        BackendUnavailable: there is no compiler; the folder is then empty.
        DeployError: a source does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("*.xz"), folder / MANIFEST):
        stale.unlink(missing_ok=True)
    compiler = find_compiler()
    files: dict[str, dict[str, Any]] = {}

    def write(source: str, name: str, code: bytes, **facts: Any) -> None:
        (folder / name).write_bytes(lzma.compress(code))
        digest = hashlib.sha256(code).hexdigest()
        files[name] = {"source": source_hash(source), "sha256": digest, "compiler": compiler.name, **facts}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [(source, capability) for source in SOURCES for capability in PTX_CAPABILITIES]
        results = pool.map(lambda task: compiler.ptx(source_path(task[0]), task[1]), tasks)
        translated = dict(zip(tasks, results, strict=True))
        for (source, capability), ptx in translated.items():
            write(source, shipped_name(source, capability), ptx, isa=ptx_isa(ptx))
        if isinstance(compiler, Nvcc):
            assemble, tasks = compiler.assemble, [(source, each) for source in SOURCES for each in SHIPPED_CAPABILITIES]

            def machine_code(task: tuple[str, int]) -> bytes:
                source, capability = task
                return assemble(translated[source, ptx_capability(capability)], capability, f"{source}.cu")[0]

            assembled = dict(zip(tasks, pool.map(machine_code, tasks), strict=True))
            for source in SOURCES:
                parts = {capability: assembled[source, capability] for capability in SHIPPED_CAPABILITIES}
                ends = list(itertools.accumulate(map(len, parts.values()), initial=0))
                places = {str(each): [begin, len(parts[each])] for each, begin in zip(parts, ends, strict=False)}
                write(source, cubins_name(source), b"".join(parts.values()), cubins=places)
    write_text(folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def ptx_isa(ptx: bytes) -> str:
    """The version of the PTX language of ``ptx``."""
    version = re.search(rb"^\.version\s+(\S+)", ptx, re.MULTILINE)
    return version[1].decode() if version else ""


class _NotShippedError(Exception):
    """Why a file of the wheel cannot be used."""


def _shipped(source: str, capability: int) -> Image:
    _, ptx = _read_shipped(source, shipped_name(source, capability))
    return Image(ptx, "ptx", capability, "shipped", ptx_isa(ptx))


def _read_shipped(source: str, name: str) -> tuple[dict[str, Any], bytes]:
    try:
        record: dict[str, Any] = json.loads((SHIPPED_FOLDER / MANIFEST).read_bytes())["files"][name]
        recorded = record["source"], record["sha256"]
        code = lzma.decompress((SHIPPED_FOLDER / name).read_bytes())
    except FileNotFoundError:
        raise _NotShippedError(f"{name} does not come with this installation") from None
    except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise _NotShippedError(f"{SHIPPED_FOLDER / name} or its manifest is damaged") from error
    if recorded[0] != source_hash(source):
        raise _NotShippedError(f"{SHIPPED_FOLDER / name} was made from other sources")
    if recorded[1] != hashlib.sha256(code).hexdigest():
        raise _NotShippedError(f"{SHIPPED_FOLDER / name} is damaged")
    return record, code


def _cached(
    source: str,
    kind: Literal["ptx", "cubin"],
    capability: int,
    compiler: Compiler,
    compile_source: Callable[[Path, int], bytes],
) -> Image:
    version = compiler.name.replace(" ", "-")
    folder, name = cache_folder(), f"{source}.{kind}.{capability}.{version}.{source_hash(source)}"
    data, origin = (_read_entry(folder / name) if folder else None), "cache"
    if data is None:
        data, origin = compile_source(source_path(source), capability), f"compiled by {compiler.name}"
        if folder:
            _write_entry(folder / name, data)
        else:
            _warn_once("this user has no home folder for compiled CUDA kernels: each start compiles them again")
    return Image(data, kind, capability, origin, ptx_isa(data) if kind == "ptx" else "")


def cache_folder() -> Path | None:
    """The folder for this user's compiled images; None if the user has no home.

    Without a usable folder, each start compiles again.
    """
    cache = user_cache()
    return None if cache is None else cache / "kernels"


# A cache entry is the SHA-256 of its data as hexadecimal digits, a line break, and the data.


def _read_entry(path: Path) -> bytes | None:
    """The data of a cache entry; None if there is no complete entry."""
    try:
        digest, _, data = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return data if digest == hashlib.sha256(data).hexdigest().encode() else None


def _write_entry(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    except OSError as error:
        _warn_once(f"cannot keep compiled CUDA kernels in {path.parent} ({error.strerror}): each start compiles again")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
