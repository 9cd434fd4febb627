"""Import of weights that were trained elsewhere, without running any code in their files."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DeployError, UsageError, printable
from ..files import atomic_path
from .file_format import weights_format

if TYPE_CHECKING:
    from torch import Tensor

Source = Literal["msnet", "m2snet", "res2net"]

# Keys under which training scripts save a state dict. A moving average is preferred to the weights it averages, so its
# keys come first.
AVERAGES = ("params_ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema")
WRAPPERS = (
    "state_dict", "model_state_dict", "net_state_dict", "network_state_dict", "model_state", "network_weights",
    "params", "weights", "model", "module", "net", "network",
)  # fmt: skip
# Parts that torch.compile, DataParallel, DeepSpeed, FSDP and activation checkpointing add anywhere in a name.
PARTS = ("_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
BESIDE = ("optim", "opt_", "sched", "lr_", "scaler", "loss", "metric")  # beginnings of keys that are not of a network
MAX_DEPTH = 8  # nested wrappers; a pickle may contain itself
AVERAGE_COUNTER = "n_averaged"  # added by torch's AveragedModel
OWNERS = ("model", "network", "net")  # attributes that hold a whole network, as in Lightning's modules
BACKBONE = "resnet."  # prefix of the backbone in the whole networks
CLASSIFIER = ("fc.weight", "fc.bias")  # of the backbone; not used
COUNTER = "num_batches_tracked"
MAX_NAMED = 3  # weights in one message


def import_weights(source: Path, network: Source) -> dict[str, Tensor]:
    """Read weights of MSNet, M2SNet or their backbone, named as in :class:`.models.subtraction.SubtractionNet`.

    Args:
        source: the authors' .pth file, plain or wrapped by a training script, or a .safetensors file.
        network: ``res2net`` is the backbone alone, trained on ImageNet; its weights get the names that they have in the
            whole networks.

    Returns:
        every weight of the network, on the CPU; floating-point weights are float32.

    Raises:
        UsageError: the file cannot be read, holds more than tensors, or does not fit the network.
    """
    import torch

    from ..models.res2net import Res2Net
    from ..models.subtraction import M2SNet, MSNet

    with torch.device("meta"):  # only names and shapes are needed
        model = {"msnet": MSNet, "m2snet": M2SNet, "res2net": Res2Net}[network]()
    expected = model.state_dict()
    prefix = "" if network == "res2net" else BACKBONE
    found = read_weights(source)
    for name in CLASSIFIER:
        found.pop(prefix + name, None)
    for name, wanted in expected.items():
        # PyTorch before 0.4.1 did not count batches. With a fixed momentum, nothing depends on the count.
        if name.endswith(COUNTER):
            found.setdefault(name, torch.zeros_like(wanted, device="cpu"))
    check_weights(found, expected, source, network)
    added = BACKBONE if network == "res2net" else ""
    return {
        # A copy, because two tensors of a file may share memory, and safetensors refuses to write such tensors.
        added + name: found[name].detach().to(wanted.dtype, copy=True).contiguous()
        for name, wanted in expected.items()
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file of safetensors or torch, whatever its suffix; no code in it is run.

    Wrappers around it (:data:`AVERAGES`, :data:`WRAPPERS`, else any key except :data:`BESIDE`) and the parts that
    training adds to names (:data:`PARTS`, :data:`OWNERS`) are removed, nested in any order.

    Raises:
        UsageError: there is no such file, it is of another kind or damaged, it holds other things than named tensors,
            or it holds several state dicts.
    """
    import torch
    from safetensors.torch import load_file

    name = printable(path)
    content: Any
    try:
        if weights_format(path) == "safetensors":
            content = load_file(path)
        else:
            # Opened here, because torch.load would depend on the suffix.
            with path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of the pickle protocol before it refuses the file
                content = torch.load(file, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{name}: refused, because it holds more than tensors, or its pickle protocol is not 2; no code in it was"
            " run; save the state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # damage can raise any error in the readers
        raise UsageError(f"{name}: damaged or cut short; download or copy it again") from error
    found = _unwrapped(content, name)
    if found is None:
        raise UsageError(f"{name}: holds no named tensors; save a model's state_dict() in it")
    return _renamed(found, name)


def _unwrapped(content: Any, file: str, max_depth: int = MAX_DEPTH) -> dict[str, Tensor] | None:
    """The state dict in the content of a file; None if there is none.

    Raises:
        UsageError: there are several.
    """
    if not isinstance(content, dict) or not max_depth:
        return None
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and _is_dense(value)}
    if len(tensors) < len(content):
        known = (*AVERAGES, *WRAPPERS)
        others = [key for key in content if isinstance(key, str) and not key.lower().startswith(BESIDE)]
        for keys in (AVERAGES, WRAPPERS, [key for key in others if key not in known]):
            inside = {key: _unwrapped(content.get(key), file, max_depth - 1) for key in keys}
            found = {key: state for key, state in inside.items() if state is not None}
            if len(found) > 1:
                names = ", ".join(map(printable, found))
                raise UsageError(f"{file}: holds several sets of weights ({names}); save only the set that you want")
            if found:
                return next(iter(found.values()))
    # Scalars such as the epoch may be among the weights; scalars alone are not weights.
    return tensors if any(tensor.ndim for tensor in tensors.values()) else None


def _renamed(state: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return the state dict with the names of the network itself.

    Raises:
        UsageError: two weights would have the same name.
    """
    names = {key: ".".join(part for part in key.split(".") if part not in PARTS) for key in state}
    names.pop(AVERAGE_COUNTER, None)
    while (owner := next(iter(names.values())).partition(".")[0]) in OWNERS and all(
        name.startswith(f"{owner}.") for name in names.values()
    ):
        names = {key: name.removeprefix(f"{owner}.") for key, name in names.items()}
    found: dict[str, Tensor] = {}
    for key, name in names.items():
        if name in found:
            raise UsageError(f"{file}: holds {printable(name)} twice, under different names; save only one network")
        found[name] = state[key]
    return found


def _is_dense(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Check that weights fit a network by name, shape and kind of number.

    Args:
        found: weights of the file.
        expected: state dict of the network.
        path: the file, for the message.
        network: name of the network, for the message.

    Raises:
        UsageError: they do not fit; the message has the first weights that are missing, unknown or of another shape.
    """
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted.shape)}"
        for name, wanted in expected.items()
        if name in found and found[name].shape != wanted.shape
    ]
    kinds = [
        f"{name} ({found[name].dtype})"
        for name, wanted in expected.items()
        if name in found and found[name].is_floating_point() != wanted.is_floating_point()
    ]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": shapes,
        "not of the right kind of number": kinds,
    }
    shown = [f"{what}: {_first(names)}" for what, names in problems.items() if names]
    if shown:
        raise UsageError(f"{printable(path)}: does not fit {network}; {'; '.join(shown)}; give weights of that network")


def _first(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:MAX_NAMED])
    return f"{shown} and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else shown


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, atomically; equal weights and metadata give equal bytes.

    Args:
        path: file to write; an existing file is replaced.
        weights: weights by name.
        metadata: ``system``, and any other facts on the weights.

    Raises:
        DeployError: the file cannot be written.
    """
    from safetensors.torch import save

    content = _in_order(save(dict(weights), dict(metadata)))  # not save_file: only the owner may read its files
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise DeployError(
            f"{printable(path)}: cannot be written ({error.strerror or error}); make room or choose another place"
        ) from error


def _in_order(content: bytes) -> bytes:
    """A .safetensors file with its metadata sorted: safetensors writes them in an order that changes from run to run.

    The format is eight bytes for the length of the header, the header as JSON, then the weights.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights begin at a multiple of eight
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))
