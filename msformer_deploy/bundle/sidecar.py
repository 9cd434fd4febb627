"""The sidecar of a TensorRT engine, ``engine.json``: what was built, how, and for which machine."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..errors import BundleError, UsageError
from ..machine.trt_flavour import one_line
from ..registry import Precision, TrtFlavour
from .folder import ENGINES, Graph
from .typed import typed

SCHEMA_VERSION = 1
SIDECAR = "engine.json"
ENGINE = "model.engine"
PORTABLE = "portable"  # TensorRT-RTX's engines for every GPU it supports from 8.0 on
Compatibility = Literal["none", "same-compute-capability", "ampere-plus"]
COMPATIBILITIES: tuple[Compatibility, ...] = ("none", "same-compute-capability", "ampere-plus")
Plugins = Literal["auto", "always", "never"]
PLUGINS: tuple[Plugins, ...] = ("auto", "always", "never")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built. Recorded beside it, and told again in the command that rebuilds it.

    Attributes:
        batch: least, likeliest and most images in one call.
        workspace_mb: most scratch memory a layer may take, MiB; TensorRT's own limit by default.
        compatibility: other GPUs that a full TensorRT's engine also runs on.
        compute_capabilities: of the GPUs TensorRT-RTX builds for, kept in order and each once; empty for one engine for
            all from 8.0 on.
        refit: whether weights may be changed in the engine.
        plugins: whether our kernels go into the engine: ``auto`` where TensorRT takes them.
        version_compatible: whether later versions of the same major may run a full TensorRT's engine.
    """

    batch: tuple[int, int, int] = (1, 1, 1)
    workspace_mb: int | None = None
    compatibility: Compatibility = "none"
    compute_capabilities: tuple[str, ...] = ()
    refit: bool = False
    plugins: Plugins = "auto"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        least, likeliest, most = self.batch
        if not 1 <= least <= likeliest <= most:
            raise UsageError(f"engine batch sizes must be 1 <= minimum <= most likely <= maximum, got {self.batch}")
        # In one order, because an engine's folder is named after them.
        ordered = sorted(set(self.compute_capabilities), key=lambda each: (numbers(each), each))
        object.__setattr__(self, "compute_capabilities", tuple(ordered))

    def arguments(self) -> list[str]:
        """Command-line options of ``export`` that give these, those at their default left out."""
        defaults, given = EngineOptions(), []
        if self.batch != defaults.batch:
            given += ["--trt-batch", *map(str, self.batch)]
        if self.workspace_mb is not None:
            given += ["--trt-workspace", str(self.workspace_mb)]
        if self.compatibility != defaults.compatibility:
            given += ["--trt-compatibility", self.compatibility]
        for capability in self.compute_capabilities:
            given += ["--trt-compute-capability", capability]
        if self.refit:
            given.append("--trt-refit")
        if self.plugins != defaults.plugins:
            given += ["--trt-plugins", self.plugins]
        if self.version_compatible:
            given.append("--trt-version-compatible")
        return given


class TensorInfo(TypedDict):
    """An input or output: its type by TensorRT's name, such as FLOAT; -1 for the number of images."""

    name: str
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class Record:
    """What ``engine.json`` says of the engine beside it.

    Attributes:
        graph, precision: what was built.
        flavour, flavour_version: the TensorRT that built it.
        platform: operating system and processor, such as linux_x86_64.
        gpu: name of the GPU it was built on; None without one.
        compute_capabilities: it runs on; ``portable`` for all from 8.0 on.
        cuda, driver: CUDA versions of TensorRT's libraries and of the driver, where known.
        onnx_sha256: of the graph it was built from.
        options: how.
        kernels: ``plugins`` where our kernels are in it, ``inlined`` where TensorRT compiled the functions' bodies,
            with the reason.
        inputs, outputs: name, dtype and shape of each.
        layers: how many TensorRT's parser made of the graph.
        precisions: layers by class and type, read back from ``precisions_of``.
        precisions_of: ``engine`` where it could be inspected, ``network`` where no GPU was there to open it.
        sha256, bytes: of the engine.
        build_seconds: parsing included.
    """

    graph: Graph
    precision: Precision
    flavour: TrtFlavour
    flavour_version: str
    platform: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    cuda: str | None
    driver: str | None
    onnx_sha256: str
    options: EngineOptions
    kernels: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    layers: int
    precisions: dict[str, dict[str, int]]
    precisions_of: Literal["engine", "network"]
    sha256: str
    bytes: int
    build_seconds: float
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)

    @property
    def folder(self) -> str:
        """Where the engine lies in a bundle: one folder per graph, precision and target."""
        target = "-".join(
            f"sm{each.replace('.', '')}" if each != PORTABLE else each for each in self.compute_capabilities
        )
        return f"{ENGINES}/{self.graph}-{self.precision}-{self.flavour}-{self.flavour_version}-{target}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``engine.json``."""
        return asdict(self)


def numbers(version: str) -> tuple[int, ...]:
    """Those in a version or a compute capability, in their order."""
    return tuple(map(int, re.findall(r"\d+", version)))


def this_platform() -> str:
    """Operating system and processor, as in :attr:`Record.platform`."""
    return f"{platform.system()}_{platform.machine()}".lower()


def read_record(path: Path) -> Record:
    """Read an ``engine.json``.

    Raises:
        BundleError: it is not one, or from a newer version.
    """
    try:
        found = parse(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); build the engine again") from error
    if isinstance(found, str):
        raise BundleError(f"{path}: {found}; build the engine again")
    return found


def parse(data: bytes) -> Record | str:
    """A sidecar's content, or one line that says why it is none."""
    try:
        content = json.loads(data)
        version = content["schema_version"]
        if version > SCHEMA_VERSION:
            return f"schema version {version} is newer than this program's {SCHEMA_VERSION} (upgrade msformer-deploy)"
        # None may be missing: the default of an option is not what an engine without it was built by.
        options = {each.name: content["options"][each.name] for each in fields(EngineOptions)}
        return typed({**content, "options": options}, Record)
    except (ValueError, KeyError, TypeError, UsageError, RecursionError) as error:
        return f"not an engine's sidecar ({type(error).__name__}: {one_line(error)[:100]})"


def write_record(folder: Path, record: Record) -> None:
    """Write ``engine.json`` into the folder of an engine that is being made."""
    (folder / SIDECAR).write_text(json.dumps(record.as_dict(), indent=1) + "\n", encoding="utf-8")
