"""A model of a Triton model repository: the whole method of a bundle, and the configuration that Triton reads.

Nothing here runs Triton. What the configuration says is taken from the graph or the engine itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from msformer_deploy.backends.openvino import prepared
from msformer_deploy.bundle import engines
from msformer_deploy.bundle.draft import Kind, free_place, new_folder
from msformer_deploy.bundle.folder import LEARNED_HEAD, Bundle
from msformer_deploy.bundle.graph_info import describe
from msformer_deploy.bundle.sidecar import EngineOptions, Record
from msformer_deploy.errors import BackendUnavailable, UsageError
from msformer_deploy.registry import Precision, TritonBackend

CONFIGURATION = "config.pbtxt"
VERSION = "1"  # folder of the only version of the model
MODEL = Kind("a model of Triton", CONFIGURATION, "--triton")
MAX_BATCH = 8  # images that Triton may join in one call of a graph whose batch is open
# Names of ONNX and of TensorRT, in small letters, and those of Triton.
TYPES = {
    "float": "TYPE_FP32",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}
# Of ONNX Runtime: a GPU where Triton sees one, else the CPU. Triton's OpenVINO refuses any other than the CPU.
INSTANCES: dict[TritonBackend, str] = {"onnxruntime": "KIND_AUTO", "openvino": "KIND_CPU", "tensorrt": "KIND_GPU"}


@dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: of it in the graph.
        dtype: its type by Triton's name.
        shape: of it, without the batch where that is open.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """What Triton loads.

    Attributes:
        file: its name in the repository.
        data: its content.
        max_batch: maximum number of images in one call; 0 where the batch is always 1 and part of every shape.
        inputs, outputs: of the graph, in its order.
        note: what a person must know of the file, or nothing.
    """

    file: str
    data: bytes
    max_batch: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    note: str = ""


def require_place(system: str, repository: Path, bundle: Path, force: bool) -> Path:
    """The folder of the model in a repository, which may be written.

    Raises:
        UsageError: it exists and may not be replaced, or bundle and repository lie in each other.
    """
    place, other = free_place(repository / system, force, MODEL), bundle.resolve()
    if place.is_relative_to(other) or other.is_relative_to(repository.resolve()):
        raise UsageError(
            f"{repository}: the model repository and the bundle at --output must lie beside each other, because Triton"
            " takes every folder in a repository for a model; choose another --triton"
        )
    return place


def require_runnable(precision: Precision, backend: TritonBackend, learned: bool) -> None:
    """See that the backend can run the whole-method graph, and that the graph gives what the bundle gives.

    Args:
        precision: of the graph.
        backend: of Triton.
        learned: whether the bundle has a head that corrected images taught.

    Raises:
        UsageError: it cannot, or does not.
    """
    if learned:
        raise UsageError(
            "what corrected images taught a bundle is not in its whole-method graph, so Triton would segment without"
            " it; drop --triton, or export a bundle without --head"
        )
    if precision == "bf16" and backend != "tensorrt":
        raise UsageError(
            f"Triton's {backend} does not run bf16 graphs; pass another --precision, or --triton-backend tensorrt"
        )


def write_model(
    bundle: Bundle, repository: Path, backend: TritonBackend, precision: Precision, force: bool = False
) -> tuple[Path, Model]:
    """Write a bundle's whole method as a model of a Triton model repository; the whole folder, or nothing.

    Args:
        bundle: a verified bundle.
        repository: the folder of all models; the model is a folder of the system's name in it.
        backend: of Triton.
        precision: of the graph or the engine.
        force: replace the model if the repository has it.

    Returns:
        the folder of the model, and what is in it.

    Raises:
        UsageError: the folder exists or cannot be written, or the backend cannot run the graph.
        BackendUnavailable: the bundle has no engine that Triton can run.
        BundleError: an engine is damaged.
        DeployError: the disk is full.
    """
    require_place(bundle.system, repository, bundle.path, force)
    require_runnable(precision, backend, LEARNED_HEAD in bundle.manifest["files"])
    model = _engine(bundle, precision) if backend == "tensorrt" else _graph(bundle, backend, precision)
    place = repository / bundle.system
    with new_folder(place, force, MODEL) as folder:
        (folder / VERSION).mkdir()
        (folder / VERSION / model.file).write_bytes(model.data)
        (folder / CONFIGURATION).write_text(configuration(bundle.system, backend, model), encoding="utf-8")
    return place, model


def _graph(bundle: Bundle, backend: TritonBackend, precision: Precision) -> Model:
    path = bundle.graph_file("segmenter", precision)
    if backend == "onnxruntime":
        data = path.read_bytes()
        graph = onnx.load_from_string(data)
    else:
        # Standard operators only. One image in a call: Triton's OpenVINO refuses every batch but the largest, or fills
        # it up, at the full cost of each.
        graph = onnx.load_from_string(prepared(path, strips=False))
        for value in (*graph.graph.input, *graph.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        data = graph.SerializeToString()
    told = describe(graph)
    batch = MAX_BATCH if backend == "onnxruntime" else 0
    return Model("model.onnx", data, batch, _tensors(told["inputs"], batch), _tensors(told["outputs"], batch))


def require_engine(bundle: Bundle, precision: Precision) -> tuple[str, Record]:
    """The engine of the whole method that Triton can run: its folder in the bundle, and its sidecar.

    Raises:
        BackendUnavailable: there is none of the full TensorRT, or more than one, or it does not take a single image.
    """
    found = {
        folder: record
        for folder, record in engines.records(bundle).items()
        if (record.graph, record.precision, record.flavour) == ("segmenter", precision, "tensorrt")
        and not engines.is_stale(record, bundle)
    }
    if not found:
        command = engines.rebuild_command(bundle.path, precision, "tensorrt", EngineOptions())
        raise BackendUnavailable(
            f"{bundle.path}: has no engine of the {precision} segmenter by the full TensorRT, and Triton runs no other;"
            f" build it on the GPU that will run it: {command}"
        )
    if len(found) > 1:
        raise BackendUnavailable(
            f"{bundle.path}: has several engines of the {precision} segmenter ({', '.join(found)}), and a model of"
            " Triton has one; export a bundle with one of them"
        )
    ((folder, record),) = found.items()
    if record.options.batch[0] > 1:
        raise BackendUnavailable(
            f"{bundle.path}/{folder}: takes {record.options.batch[0]} images or more in a call, and Triton also sends"
            " one; build it with 1 as the minimum of --trt-batch"
        )
    return folder, record


def _engine(bundle: Bundle, precision: Precision) -> Model:
    folder, record = require_engine(bundle, precision)
    batch = record.options.batch[2]
    return Model(
        "model.plan",
        engines.verified(bundle, folder, record),
        batch,
        _tensors(record.inputs, batch),
        _tensors(record.outputs, batch),
        f"the engine was built on {record.gpu or 'no GPU'} with TensorRT {record.flavour_version}, and a Triton with"
        " another TensorRT or GPU may refuse it",
    )


def _tensors(told: Iterable[Mapping[str, Any]], batch: int) -> tuple[Tensor, ...]:
    """Of what a graph or a sidecar says; the batch is the first axis of every tensor."""
    return tuple(
        Tensor(each["name"], TYPES[each["dtype"].lower()], tuple(each["shape"][1:] if batch else each["shape"]))
        for each in told
    )


def configuration(name: str, backend: TritonBackend, model: Model) -> str:
    """The ``config.pbtxt`` of a model, in the text format of protocol buffers."""
    lines = [
        f'name: "{name}"',
        f'backend: "{backend}"',
        f'default_model_filename: "{model.file}"',
        f"max_batch_size: {model.max_batch}",
        *(line for each in model.inputs for line in _described("input", each)),
        *(line for each in model.outputs for line in _described("output", each)),
        f"instance_group [ {{ count: 1 kind: {INSTANCES[backend]} }} ]",
        # Without a delay: what waits when an instance is free goes together.
        *(["dynamic_batching { }"] if model.max_batch > 1 else []),
        *(line for images in sorted({1, max(model.max_batch, 1)}) for line in _warm_up(model, images)),
    ]
    return "\n".join(lines) + "\n"


def _described(kind: str, tensor: Tensor) -> list[str]:
    # Triton knows no tensor without axes: one number for each image is a list of one, which it makes of the graph's.
    dims, reshape = (tensor.shape, "") if tensor.shape else ((1,), " reshape { shape: [ ] }")
    return [f'{kind} [ {{ name: "{tensor.name}" data_type: {tensor.dtype} dims: {list(dims)}{reshape} }} ]']


def _warm_up(model: Model, images: int) -> list[str]:
    """A request of black images, before Triton says that the model is ready: runtimes are slow on their first ones."""
    return [
        "model_warmup [ {",
        f'  name: "{images} black"',
        f"  batch_size: {images}",
        *(
            f'  inputs {{ key: "{each.name}" value {{ data_type: {each.dtype} dims: {list(each.shape)}'
            " zero_data: true } }"
            for each in model.inputs
        ),
        "} ]",
    ]
