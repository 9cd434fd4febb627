"""Networks from the files of weights that ``train`` and ``import-weights`` write, ready for export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.folder import ModelSizes, sha256
from ..errors import UsageError, printable
from ..models.deployed import ObjectNetwork, SliceNetwork
from ..models.subtraction import MULTIPLE
from .checkpoint_import import check_weights, read_weights
from .file_format import weights_format
from .network import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..registry import System


@dataclass(frozen=True)
class Trained:
    """A network with its weights.

    Attributes:
        network: the network in its deployed form.
        sizes: sizes of the network.
        provenance: record of the weights in the bundle: hash and metadata of each file.
    """

    network: nn.Module
    sizes: ModelSizes
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _File:
    path: Path
    weights: dict[str, Tensor]
    said: dict[str, str]


def read_trained(system: System, paths: Sequence[Path], variant: str | None = None, side: int | None = None) -> Trained:
    """Read the network of a trained system from its files of weights.

    Args:
        system: the system.
        paths: one .safetensors file; for a variant with several networks, one file of each.
        variant: variant of the system. Default: the first one.
        side: side of the images, pixels; only MSNet and M2SNet accept another side. Default: the side of training.

    Raises:
        UsageError: a file cannot be read, belongs to another system or does not fit the network, or the side does not
            fit.
    """
    files = [_read(path, system) for path in paths]
    sizes = ModelSizes.of(system, variant)
    if system.name == "mcsc":
        if side is not None:
            raise UsageError("mcsc is exported at the side of its training; drop --side")
        network, sizes = _slices(system, files, sizes)
    else:
        network, sizes = _object(system, files, sizes)
        sizes = replace(sizes, side=sizes.side if side is None else side)
        if sizes.side % MULTIPLE:
            raise UsageError(f"side {sizes.side} does not fit {system.name}; choose a multiple of {MULTIPLE}")
    provenance = {file.path.name: {"sha256": sha256(file.path), **file.said} for file in files}
    return Trained(network, sizes, {"weights": provenance})


def _read(path: Path, system: System) -> _File:
    from safetensors import safe_open

    weights = read_weights(path)
    if weights_format(path) != "safetensors":
        raise UsageError(
            f"{printable(path)}: is not a .safetensors file; make one with 'msformer-deploy import-weights'"
            if "import-weights" in system.commands
            else f"{printable(path)}: is not a .safetensors file; give one that 'msformer-deploy train' wrote"
        )
    with safe_open(path, "pt") as file:
        said = dict(file.metadata() or {})
    if said.get("system") != system.name:
        known = said.get("system", "an unknown system")
        raise UsageError(f"{printable(path)}: belongs to {known}, not to {system.name}; give weights of {system.name}")
    return _File(path, weights, said)


def _object(system: System, files: Sequence[_File], sizes: ModelSizes) -> tuple[nn.Module, ModelSizes]:
    if len(files) != 1:
        raise UsageError(f"system {system.name} is one network; give --weights once")
    (file,) = files
    blocks = sum(name.startswith("resnet.layer1.") and name.endswith(".conv1.weight") for name in file.weights)
    stem = file.weights.get("output1.0.weight")
    sizes = replace(
        sizes,
        side=_number(file, "side", sizes.side),
        width=sizes.width if stem is None or stem.ndim != 4 else stem.shape[1],
        blocks=blocks or sizes.blocks,
    )
    network = FAMILIES[system.name].build(sizes, {})
    assert isinstance(network, ObjectNetwork)
    _load(network.normalised.network, file, system.name)
    return network, sizes


def _slices(system: System, files: Sequence[_File], sizes: ModelSizes) -> tuple[nn.Module, ModelSizes]:
    wanted = ("unet", "swin") if sizes.variant == "both" else (sizes.variant,)
    by_network = {file.said.get("network", ""): file for file in files}
    if len(files) != len(wanted) or by_network.keys() != set(wanted):
        given = ", ".join(f"{printable(file.path)} ({file.said.get('network', 'unknown')})" for file in files)
        raise UsageError(
            f"variant {sizes.variant} needs the weights of {' and '.join(wanted)}, but these are {given};"
            " give --weights once for each, or another --variant"
        )
    sides = {_number(file, "side", sizes.side) for file in files}
    classes = {_number(file, "classes", sizes.clusters) for file in files}
    if len(sides) > 1 or len(classes) > 1:
        raise UsageError("the networks differ in side or classes; give networks of one run")
    sizes = replace(sizes, side=sides.pop(), clusters=classes.pop())
    said = {name: _said_sizes(by_network[name]) for name in wanted}
    try:
        network = FAMILIES[system.name].build(sizes, said)
    except (TypeError, ValueError) as error:
        named = " and ".join(printable(by_network[name].path) for name in wanted)
        raise UsageError(f"{named}: sizes are damaged ({error}); train again") from error
    assert isinstance(network, SliceNetwork)
    for name in wanted:
        _load(network.networks[name], by_network[name], f"{system.name}'s {name}")
    return network, replace(sizes, width=network.width)


def _load(network: nn.Module, file: _File, name: str) -> None:
    check_weights(file.weights, network.state_dict(), file.path, name)
    network.load_state_dict(file.weights)


def _number(file: _File, key: str, default: int) -> int:
    value = file.said.get(key, str(default))
    if not value.isdigit() or int(value) < 1:
        raise UsageError(f"{printable(file.path)}: its {key} is {value!r}, not a size; train or import it again")
    return int(value)


def _said_sizes(file: _File) -> Mapping[str, Any]:
    try:
        said = json.loads(file.said.get("sizes", "{}"))
    except ValueError as error:
        raise UsageError(f"{printable(file.path)}: its sizes are damaged; train again") from error
    if not isinstance(said, dict):
        raise UsageError(f"{printable(file.path)}: its sizes are damaged; train again")
    return said
