"""The deployable folder: written at once or not at all, verified before anything in it is opened. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BundleError, DeployError, UsageError
from ..machine.memory import require_memory
from ..registry import PRECISIONS, SYSTEMS, Precision, RefineSettings, System
from .fingerprint import Fingerprint

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
ENCODER = "encoder.onnx"
SEGMENTER = "segmenter.onnx"
HEAD = "head.safetensors"
WEIGHTS = "weights.safetensors"
REQUIRED = (ENCODER, SEGMENTER, HEAD, WEIGHTS)
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

    @classmethod
    def of(cls, system: System, variant: str | None = None) -> ModelSizes:
        """A system's own, of one of its variants.

        Raises:
            UsageError: it has no such variant.
        """
        return cls(system.side, system.width, system.clusters, system.blocks, system.variant(variant))


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Make one with :func:`load_bundle`."""

    path: Path
    manifest: dict[str, Any]
    sizes: ModelSizes
    refinement: RefineSettings

    @property
    def system(self) -> str:
        """Name of the system, as in the registry."""
        return str(self.manifest["system"])

    @property
    def seed(self) -> int:
        """Seed the weights were drawn with."""
        return int(self.manifest["seed"])

    @property
    def facts(self) -> dict[str, Any]:
        """A copy of what the manifest says beside its schema and files, as :func:`write_manifest` takes it."""
        return {key: deepcopy(value) for key, value in self.manifest.items() if key not in ("schema_version", "files")}

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions whose graphs the bundle has."""
        files = self.manifest["files"]
        return tuple(
            each for each in PRECISIONS if {graph_name("encoder", each), graph_name("segmenter", each)} <= files.keys()
        )

    @property
    def precision(self) -> Precision:
        """The one to run when none is asked for."""
        return self.manifest.get("precision", "fp32")

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What every backend must compute; older bundles have none."""
        entry = self.manifest.get("fingerprint")
        return None if entry is None else Fingerprint.read(entry)

    def fingerprint_of(self, precision: Precision) -> Fingerprint | None:
        """What the graphs of a precision must compute; those from before each had its own are held to fp32's."""
        entry = self.manifest.get("precisions", {}).get(precision, {}).get("fingerprint")
        return self.fingerprint if entry is None or self.fingerprint is None else self.fingerprint.lowered(entry)

    def file(self, name: str) -> Path:
        """Path of one file of the bundle."""
        return self.path / name

    def graph_file(self, graph: Graph, precision: Precision) -> Path:
        """Path of a graph.

        Raises:
            UsageError: the bundle has no graphs of that precision.
        """
        if precision not in self.precisions:
            raise UsageError(
                f"{self.path}: has no {precision} graphs, only {', '.join(self.precisions)}; add them with"
                f" 'msformer-deploy export --output {self.path} --update --precision {precision}'"
            )
        return self.file(graph_name(graph, precision))

    def head(self) -> np.ndarray:
        """The initial cluster head, float32 (K, C), on features of C channels; of a trained system its last layer."""
        from safetensors.numpy import load_file

        return load_file(self.file(HEAD))["head"]


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open the bundle at ``path`` after checking its manifest, schema, paths, sizes, hashes and graphs.

    Raises:
        BundleError: one line that says what is wrong with it.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise BundleError(f"{folder}/{MANIFEST}: 'files' must map each file to its sha256 and bytes; export it again")
    for name in REQUIRED:
        if name not in files:
            raise BundleError(f"{folder}/{MANIFEST}: {name} is not listed in it; export the bundle again")
    for name, entry in files.items():
        try:
            _verify_file(folder, name, entry)
        except (OSError, RuntimeError, ValueError) as error:  # unreadable, a loop of links, no possible file name
            raise BundleError(f"{folder}: {name!r} cannot be read ({error}); copy the bundle again") from error
    try:
        if manifest["system"] not in SYSTEMS:
            raise BundleError(
                f"{folder}/{MANIFEST}: system {manifest['system']!r} is none of {', '.join(SYSTEMS)};"
                " upgrade msformer-deploy"
            )
        sizes = _sizes(manifest["model"], str(manifest["system"]))
        refinement = RefineSettings(**manifest["refinement"])
        bundle = Bundle(folder, manifest, sizes, refinement)
        _ = bundle.seed
        if bundle.precision not in bundle.precisions:
            raise BundleError(
                f"{folder}/{MANIFEST}: precision {bundle.precision!r} is the default, but its graphs are not listed;"
                " export the bundle again"
            )
        for key in ("precisions", "engines"):
            if not all(isinstance(entry, dict) for entry in dict(manifest.get(key, {})).values()):
                raise BundleError(f"{folder}/{MANIFEST}: {key!r} is damaged; export the bundle again")
        fingerprints = [bundle.fingerprint_of(each) for each in bundle.precisions]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise BundleError(f"{folder}/{MANIFEST}: damaged ({error!r}); export the bundle again") from error
    outputs = {name: _verify_graph(folder / name, set(files), sizes) for name in files if name.endswith(".onnx")}
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
    if any(each is not None and len(each.features) != channels for each in fingerprints):
        raise BundleError(f"{folder}/{MANIFEST}: the fingerprint is damaged; export the bundle again")
    return bundle


def _sizes(entry: dict[str, Any], system: str) -> ModelSizes:
    sizes = ModelSizes(**entry)
    for value in (sizes.side, sizes.width, sizes.clusters, sizes.blocks):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{value!r} is not a size")
    if sizes.variant not in (SYSTEMS[system].variants or ("",)):
        raise ValueError(f"{sizes.variant!r} is no variant of {system}")
    return sizes


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
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{folder}/{MANIFEST}: schema version {version} is newer than this program's {SCHEMA_VERSION};"
            " upgrade msformer-deploy"
        )
    assert isinstance(manifest, dict)
    return manifest


def _verify_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
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
    if size != entry.get("bytes"):
        raise BundleError(f"{path}: {size} bytes where the manifest says {entry.get('bytes')}; copy the bundle again")
    if sha256(path) != entry.get("sha256"):
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
        return hashlib.file_digest(stream, "sha256").hexdigest()


def free_place(path: Path, force: bool = False) -> Path:
    """Where a bundle for ``path`` goes: a link to a bundle stays a link.

    Args:
        path: the bundle to make.
        force: replace an existing bundle; only a folder that holds a manifest is ever replaced.

    Raises:
        UsageError: ``path`` exists and may not be replaced.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not force:
            raise UsageError(f"{path}: exists already; choose another --output or pass --force")
        if not (path / MANIFEST).is_file():
            raise UsageError(f"{path}: exists and is not a bundle, so --force will not replace it")
    return path


@contextmanager
def new_bundle(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; when the block succeeds it becomes ``path``, else nothing is left of it.

    Args:
        path: the bundle to make.
        force: replace an existing bundle; only a folder that holds a manifest is ever replaced.

    Raises:
        UsageError: if ``path`` exists and may not be replaced, or its parent cannot be written.
        DeployError: the disk is full or fails.
    """
    path = free_place(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
    try:
        yield temporary
        # Temporary folders and weights are written for their owner alone; a bundle is copied and served.
        for path_inside in (temporary, *temporary.rglob("*")):
            path_inside.chmod(0o755 if path_inside.is_dir() else 0o644)
        _replace(temporary, path)
    except OSError as error:
        raise DeployError(
            f"{path}: cannot be written ({error.strerror or error}); make room, then try again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, path: Path) -> None:
    """Rename ``folder`` to ``path``; what was there is removed only after that."""
    if not path.exists():
        os.replace(folder, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    former = aside / "former"
    try:
        os.replace(path, former)
        os.replace(folder, path)
    except BaseException:
        if former.exists() and not path.exists():
            os.replace(former, path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a filled folder: ``facts``, and every file in it with its hash and size.

    Args:
        folder: the bundle being made.
        facts: system, seed, model (sizes), refinement, and whatever else is to be known of the bundle.
    """
    names = sorted(
        item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file() and item.name != MANIFEST
    )
    files = {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    manifest = {"schema_version": SCHEMA_VERSION, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
