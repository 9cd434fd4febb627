"""The deployable folder, verified before anything in it is opened. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..errors import BundleError, UsageError
from ..machine.memory import require_memory
from ..registry import PRECISIONS, SYSTEMS, Precision, RefineSettings, System
from .fingerprint import Fingerprint, Samples
from .typed import closed, typed

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 2  # 2: segmenter.onnx gives the probability of figure
MANIFEST = "bundle.json"
ENCODER = "encoder.onnx"
SEGMENTER = "segmenter.onnx"
HEAD = "head.safetensors"
LEARNED_HEAD = "like.safetensors"  # what corrected images taught (refinement/head_file.py)
WEIGHTS = "weights.safetensors"
REQUIRED = (ENCODER, SEGMENTER, HEAD, WEIGHTS)  # of a complete bundle; those in the package have less (.shipped)
LEFT_OUT = "left_out"  # entry of the manifest: what segmenter.onnx leaves to files of the package
ENGINES = "engines"
Graph = Literal["encoder", "segmenter"]


def graph_name(graph: Graph, precision: Precision) -> str:
    """File of a graph in a bundle; fp32, which every bundle has, goes without saying."""
    return f"{graph}.onnx" if precision == "fp32" else f"{graph}.{precision}.onnx"


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the network.

    Attributes:
        side: of the image, S.
        width: channels of an embedding, D.
        clusters: K; classes of a trained system.
        blocks: of each branch.
        variant: which of its system's variants of the encoder; empty where there is one only.
    """

    side: int
    width: int
    clusters: int
    blocks: int
    variant: str = ""

    def __post_init__(self) -> None:
        for name in ("side", "width", "clusters", "blocks"):
            if (size := getattr(self, name)) < 1:
                raise ValueError(f"{name}: {size} is not a size")

    @classmethod
    def of(cls, system: System, variant: str | None = None) -> ModelSizes:
        """A system's own, of one of its variants.

        Raises:
            UsageError: it has no such variant.
        """
        return cls(system.side, system.width, system.clusters, system.blocks, system.variant(variant))


@dataclass(frozen=True)
class LeftOut:
    """Tensors that a graph leaves to a file of the package (:mod:`.weights.packaged`).

    Attributes:
        file: its name.
        sha256: of it, hexadecimal.
        prefix: before the names of its tensors in the graph.
        tensors: their names in the file.
    """

    file: str
    sha256: str
    prefix: str
    tensors: list[str]


@dataclass(frozen=True)
class Bundle:
    """A bundle that :func:`load_bundle` verified; in an export also one that is not finished yet."""

    path: Path
    manifest: dict[str, Any]
    sizes: ModelSizes
    refinement: RefineSettings

    @property
    def system(self) -> str:
        """Name of the system, as in the registry."""
        name: str = self.manifest["system"]
        return name

    @property
    def seed(self) -> int:
        """Seed the weights were drawn with."""
        seed: int = self.manifest["seed"]
        return seed

    @property
    def facts(self) -> dict[str, Any]:
        """A copy of what the manifest says beside its schema and files, as :class:`.draft.Draft` takes it."""
        return {key: deepcopy(value) for key, value in self.manifest.items() if key not in ("schema_version", "files")}

    @property
    def complete(self) -> bool:
        """Whether it has all files: one in the package has the whole method only, without encoder, head and weights."""
        return ENCODER in self.manifest["files"]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What ``segmenter.onnx`` leaves out, because the package has it once for all its bundles."""
        return tuple(closed(entry, LeftOut, LEFT_OUT) for entry in self.manifest.get(LEFT_OUT, ()))

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions whose graphs the bundle has."""
        files = self.manifest["files"]
        kinds: tuple[Graph, ...] = ("encoder", "segmenter") if self.complete else ("segmenter",)
        return tuple(each for each in PRECISIONS if all(graph_name(kind, each) in files for kind in kinds))

    @property
    def precision(self) -> Precision:
        """The one to run when none is asked for."""
        return self.manifest.get("precision", "fp32")

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What every backend must compute; older bundles have none."""
        entry = self.manifest.get("fingerprint")
        return None if entry is None else closed(entry, Fingerprint, "fingerprint")

    def fingerprint_of(self, precision: Precision) -> Fingerprint | None:
        """What the graphs of a precision must compute; those from before each had its own are held to fp32's."""
        exact, own = self.fingerprint, self.manifest.get("precisions", {}).get(precision, {}).get("fingerprint")
        if exact is None or own is None:
            return exact
        return exact.lowered(closed(own, Samples, f"precisions.{precision}.fingerprint"))

    def file(self, name: str) -> Path:
        """Path of one file of the bundle."""
        return self.path / name

    def graph_file(self, graph: Graph, precision: Precision) -> Path:
        """Path of a graph.

        Raises:
            UsageError: the bundle has no such graph, or none of that precision.
        """
        if graph == "encoder" or precision not in self.precisions:
            self.require_complete()
        if precision not in self.precisions:
            raise UsageError(
                f"{self.path}: has no {precision} graphs, only {', '.join(self.precisions)}; add them with"
                f" 'msformer-deploy export --output {self.path} --update --precision {precision}'"
            )
        return self.file(graph_name(graph, precision))

    def require_complete(self) -> None:
        """See that it has encoder, head and weights.

        Raises:
            UsageError: it has the whole method only.
        """
        if not self.complete:
            raise UsageError(
                f"{self.path}: this bundle comes with the package and has the whole method only; make a complete one"
                f" with 'msformer-deploy export --system {self.system} --output FOLDER', and use that"
            )

    def head(self) -> np.ndarray:
        """The initial cluster head, float32 (K, C), on features of C channels; of a trained system its last layer."""
        from safetensors.numpy import load_file

        return load_file(self.file(HEAD))["head"]


class File(TypedDict):
    """What a manifest says of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class _Manifest:
    """What a bundle is opened by. Older manifests lack what has a default here, and every one says more."""

    system: str
    seed: int
    model: dict[str, Any]
    refinement: dict[str, Any]
    files: dict[str, File]
    precision: str = "fp32"
    precisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprint: dict[str, Any] | None = None
    left_out: list[dict[str, Any]] = field(default_factory=list)


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open the bundle at ``path`` after checking its manifest, schema, paths, sizes, hashes and graphs.

    Raises:
        BundleError: one line that says what is wrong with it.
    """
    bundle = load_files(Path(path))
    _verify_graphs(bundle)
    return bundle


def load_files(folder: Path) -> Bundle:
    """Open a bundle after checking all but what is in its graphs and head: their hashes say that they are the known.

    Raises:
        BundleError: one line that says what is wrong with it.
    """
    manifest = _read_manifest(folder)
    try:
        read = typed(manifest, _Manifest)
        if read.system not in SYSTEMS:
            raise BundleError(
                f"{folder}/{MANIFEST}: system {read.system!r} is none of {', '.join(SYSTEMS)}; upgrade msformer-deploy"
            )
        sizes = closed(manifest["model"], ModelSizes, "model")
        bundle = Bundle(folder, manifest, sizes, closed(manifest["refinement"], RefineSettings, "refinement"))
        for each in bundle.precisions:
            bundle.fingerprint_of(each)  # read, to see that it can be, as what is left out
        left_out = bundle.left_out
    except (ValueError, UsageError) as error:
        raise BundleError(f"{folder}/{MANIFEST}: damaged ({error}); export the bundle again") from error
    if sizes.variant not in (SYSTEMS[read.system].variants or ("",)):
        raise BundleError(
            f"{folder}/{MANIFEST}: variant {sizes.variant!r} is none of {read.system}; upgrade msformer-deploy"
        )
    for name in (SEGMENTER,) if left_out else REQUIRED:
        if name not in read.files:
            raise BundleError(f"{folder}/{MANIFEST}: {name} is not listed in it; export the bundle again")
    if read.precision not in bundle.precisions:
        raise BundleError(
            f"{folder}/{MANIFEST}: precision {read.precision!r} is the default, but its graphs are not listed;"
            " export the bundle again"
        )
    for name, entry in read.files.items():
        try:
            _verify_file(folder, name, entry)
        except (OSError, RuntimeError, ValueError) as error:  # unreadable, a loop of links, no possible file name
            raise BundleError(f"{folder}: {name!r} cannot be read ({error}); copy the bundle again") from error
    return bundle


def _verify_graphs(bundle: Bundle) -> None:
    """Look into the graphs and the head of a bundle.

    Raises:
        BundleError: one does not fit the manifest, or the others.
    """
    folder, sizes = bundle.path, bundle.sizes
    listed = set(bundle.manifest["files"])
    graphs = [name for name in bundle.manifest["files"] if name.endswith(".onnx")]
    outputs = {name: _verify_graph(folder / name, listed, sizes) for name in graphs}
    if not bundle.complete:
        return
    try:
        shape = bundle.head().shape
    except Exception as error:  # safetensors raises its own class
        require_memory(error, f"{folder}/{HEAD} cannot be read")
        raise BundleError(f"{folder}/{HEAD}: holds no readable head; export the bundle again") from error
    _, channels, *_ = [*outputs[ENCODER].get("features", []), 0, 0]
    if shape != (sizes.clusters, channels):
        raise BundleError(
            f"{folder}/{HEAD}: head has shape {shape}, expected {(sizes.clusters, channels)}; export the bundle again"
        )
    fingerprints = [bundle.fingerprint_of(each) for each in bundle.precisions]
    if any(each is not None and len(each.features) != channels for each in fingerprints):
        raise BundleError(f"{folder}/{MANIFEST}: the fingerprint is damaged; export the bundle again")


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BundleError(
            f"{folder}: there is no bundle here; make one with 'msformer-deploy export --output {folder}'"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder}: not a bundle, it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{folder}/{MANIFEST}: cannot be read ({error}); export the bundle again") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or version < 1:
        raise BundleError(f"{folder}/{MANIFEST}: no valid schema_version; export the bundle again")
    if version < SCHEMA_VERSION:
        raise BundleError(
            f"{folder}/{MANIFEST}: schema version {version} is older than this program's {SCHEMA_VERSION}; export the"
            f" bundle again: 'msformer-deploy export --system {manifest.get('system')} --output {folder} --force',"
            " with the other options that it was made with"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{folder}/{MANIFEST}: schema version {version} is newer than this program's {SCHEMA_VERSION};"
            " upgrade msformer-deploy"
        )
    assert isinstance(manifest, dict)
    return manifest


def _verify_file(folder: Path, name: str, entry: File) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or ":" in name or not relative.parts:
        raise BundleError(f"{folder}/{MANIFEST}: the path {name!r} leaves the bundle; do not use this bundle")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: this link leaves the bundle; do not use this bundle")
    if relative.parts[0] == ENGINES:  # engines.py checks these before it uses them; the rest is usable without
        return
    if not path.is_file():
        raise BundleError(f"{path}: missing from the bundle; copy the bundle again, whole")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise BundleError(f"{path}: {size} bytes where the manifest says {entry['bytes']}; copy the bundle again")
    if sha256(path) != entry["sha256"]:
        raise BundleError(f"{path}: damaged, its SHA-256 is not the manifest's; copy or export the bundle again")


def _verify_graph(path: Path, listed: set[str], sizes: ModelSizes) -> dict[str, list[int]]:
    """Refuse an ONNX file for images of another size, or whose tensors lie in files the manifest does not vouch for.

    Returns:
        shapes of its outputs, 0 where one is not fixed.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own classes
        require_memory(error, f"{path} cannot be read")
        raise BundleError(f"{path}: not a readable ONNX file; export the bundle again") from error
    expected = [3, sizes.side, sizes.side]
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        if shape != expected:
            raise BundleError(
                f"{path}: input {value.name!r} takes {shape}, the manifest says {expected}; export the bundle again"
            )
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if location not in listed:
            raise BundleError(f"{path}: tensor {tensor.name!r} lies outside the bundle ({location!r}); do not use it")
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.output}


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto anywhere below a protobuf message: initializers, attributes, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for child in value if descriptor.is_repeated else (value,):
                yield from _tensors(child)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        for block in iter(partial(stream.read, 2**20), b""):
            digest.update(block)
        return digest.hexdigest()
