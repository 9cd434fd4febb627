"""The complete state of a training run in one safetensors file: tensors, and all else as JSON in the metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ... import files
from ...errors import DeployError, UsageError, printable

FORMAT = "msformer-deploy training state 1"


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state, atomically.

    Args:
        path: file to write; an existing file is replaced.
        state: dicts, lists and tuples, nested in any way, of tensors, numbers, strings, booleans and None.

    Raises:
        DeployError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_flattened(state, "", tensors))
    metadata = {"format": FORMAT, "state": tree, "sha256": _digest(tree, tensors)}
    content = save(tensors, metadata)
    try:
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        reason = error.strerror or error
        raise DeployError(f"{printable(path)}: cannot be written ({reason}); make room, then --resume") from error


def read(path: Path) -> dict[str, Any]:
    """Read a state that :func:`write` wrote; its tensors are on the CPU.

    Raises:
        DeployError: the file cannot be read, is cut short or damaged.
        UsageError: the file is not such a state.
    """
    start_again = "start the run again with --force"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UsageError(f"{printable(path)}: is not a training state of this version; {start_again}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise DeployError(
            f"{printable(path)}: cannot be read, cut short or damaged ({error}); {start_again}"
        ) from error
    if metadata.get("sha256") != _digest(metadata.get("state", ""), tensors):
        raise DeployError(f"{printable(path)}: is damaged, its checksum differs; {start_again}")
    state: dict[str, Any] = _restored(json.loads(metadata["state"]), tensors)
    return state


def _flattened(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value for JSON, and move its tensors to ``tensors``, named by their path in the value."""
    match value:
        case Tensor():
            tensors[path] = value.detach().cpu().clone().contiguous()  # safetensors refuses tensors that share memory
            return {"tensor": path}
        case dict():
            # As pairs, because the keys of an optimiser's state are numbers, and JSON allows only strings.
            return {"dict": [[key, _flattened(each, f"{path}/{key}", tensors)] for key, each in value.items()]}
        case list() | tuple():
            items = [_flattened(each, f"{path}/{index}", tensors) for index, each in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": items}
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{path}: the state of a run cannot hold a {type(value).__name__}")


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"tensor": path}:
            return tensors[path]
        case {"dict": pairs}:
            return {key: _restored(each, tensors) for key, each in pairs}
        case {"list": items}:
            return [_restored(each, tensors) for each in items]
        case {"tuple": items}:
            return tuple(_restored(each, tensors) for each in items)
    return value


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tree and of the names and bytes of the tensors, in the order of their names."""
    found = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
