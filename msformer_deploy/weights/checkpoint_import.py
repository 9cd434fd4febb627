"""Weights of other people's training, read without running anything that a file may hold."""

from __future__ import annotations

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

# Under which training scripts save a state dict among other things; of weights and their moving average the average is
# meant to be used, so it comes first.
AVERAGES = ("params_ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema")
WRAPPERS = (
    "state_dict", "model_state_dict", "net_state_dict", "network_state_dict", "model_state", "network_weights",
    "params", "weights", "model", "module", "net", "network",
)  # fmt: skip
# What torch.compile, DataParallel, DeepSpeed, FSDP and activation checkpointing add to names, also inside of them.
PARTS = ("_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
BESIDE = ("optim", "opt_", "sched", "lr_", "scaler", "loss", "metric")  # how names begin of what is no network's
DEEPEST = 8  # wrappers one in another; a pickle may hold itself
AVERAGE_COUNTER = "n_averaged"  # which AveragedModel of torch adds
OWNERS = ("model", "network", "net")  # attributes that hold a whole network, as in Lightning's modules
BACKBONE = "resnet."  # where the whole networks have theirs
CLASSIFIER = ("fc.weight", "fc.bias")  # of the backbone; nothing here uses it
COUNTER = "num_batches_tracked"
MOST_NAMED = 3  # weights in one line


def import_weights(source: Path, network: Source) -> dict[str, Tensor]:
    """Weights of MSNet, M2SNet or of their backbone, by the names of :class:`.models.subtraction.SubtractionNet`.

    Args:
        source: the authors' .pth, plain or as a training script wraps it, or a .safetensors file.
        network: ``res2net`` is the backbone alone, trained on ImageNet; its weights get the names they have in the
            whole networks.

    Returns:
        every weight of the network on the CPU, floating-point ones as float32.

    Raises:
        UsageError: the file cannot be read, holds more than tensors, or is not of that network.
    """
    import torch

    from ..models.res2net import Res2Net
    from ..models.subtraction import M2SNet, MSNet

    with torch.device("meta"):  # names and shapes alone are wanted
        model = {"msnet": MSNet, "m2snet": M2SNet, "res2net": Res2Net}[network]()
    expected = model.state_dict()
    prefix = "" if network == "res2net" else BACKBONE
    found = read_weights(source)
    for name in CLASSIFIER:
        found.pop(prefix + name, None)
    for name, wanted in expected.items():
        # PyTorch before 0.4.1 counted no batches, and nothing depends on the count where momentum is fixed.
        if name.endswith(COUNTER):
            found.setdefault(name, torch.zeros_like(wanted, device="cpu"))
    check_weights(found, expected, source, network)
    added = BACKBONE if network == "res2net" else ""
    return {
        # A copy: in a file two tensors may share their memory, which safetensors refuses to write.
        added + name: found[name].detach().to(wanted.dtype, copy=True).contiguous()
        for name, wanted in expected.items()
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of safetensors or torch, whatever its suffix is; no code in it is run.

    Wrappers around it (:data:`AVERAGES`, :data:`WRAPPERS`, else any name but those of :data:`BESIDE`) and what training
    adds to names (:data:`PARTS`, :data:`OWNERS`) are taken off, nested in any order.

    Raises:
        UsageError: there is no such file, it is of another kind or damaged, it holds something else than tensors by
            name, or several state dicts.
    """
    import torch
    from safetensors.torch import load_file

    name = printable(path)
    content: Any
    try:
        if weights_format(path) == "safetensors":
            content = load_file(path)
        else:
            # Opened here, because torch.load would go by the suffix.
            with path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the pickle protocol, on its way to refusing the file
                content = torch.load(file, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{name}: refused, because it holds more than tensors, or is in a pickle protocol other than 2; nothing in"
            " it was run; save the state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # damage shows as whatever the readers meet first; safetensors has a class of its own
        raise UsageError(f"{name}: damaged or cut short; download or copy it again") from error
    found = _unwrapped(content, name)
    if found is None:
        raise UsageError(f"{name}: holds no tensors by name; save a model's state_dict() in it")
    return _renamed(found, name)


def _unwrapped(content: Any, file: str, deepest: int = DEEPEST) -> dict[str, Tensor] | None:
    """The state dict in what a file holds; None if there is none.

    Raises:
        UsageError: there are several.
    """
    if not isinstance(content, dict) or not deepest:
        return None
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and _is_dense(value)}
    if len(tensors) < len(content):
        known = (*AVERAGES, *WRAPPERS)
        others = [key for key in content if isinstance(key, str) and not key.lower().startswith(BESIDE)]
        for keys in (AVERAGES, WRAPPERS, [key for key in others if key not in known]):
            inside = {key: _unwrapped(content.get(key), file, deepest - 1) for key in keys}
            found = {key: state for key, state in inside.items() if state is not None}
            if len(found) > 1:
                names = ", ".join(map(printable, found))
                raise UsageError(f"{file}: holds several sets of weights ({names}); save only the set that you want")
            if found:
                return next(iter(found.values()))
    # Numbers such as that of the epoch may lie among the weights; numbers alone are none.
    return tensors if any(tensor.ndim for tensor in tensors.values()) else None


def _renamed(state: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """With the names that the network itself has.

    Raises:
        UsageError: two weights would have one name.
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
            raise UsageError(f"{file}: holds {printable(name)} twice, under several names; save only one network")
        found[name] = state[key]
    return found


def _is_dense(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, network: str) -> None:
    """See that weights are those of a network by name, shape and kind of number.

    Args:
        found: of the file.
        expected: state dict of the network.
        path: of the file, for the message.
        network: its name, for the message.

    Raises:
        UsageError: with the first names that are missing, unknown or of another shape.
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
    told = [f"{what}: {_first(names)}" for what, names in problems.items() if names]
    if told:
        raise UsageError(f"{printable(path)}: does not fit {network}; {'; '.join(told)}; give weights of that network")


def _first(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file, whole or not at all.

    Args:
        path: where to; what is there is replaced.
        weights: by name.
        metadata: ``system``, and whatever else is to be known of the weights.

    Raises:
        DeployError: the file cannot be written.
    """
    from safetensors.torch import save

    content = save(dict(weights), dict(metadata))  # not save_file: its files are for their owner's eyes alone
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise DeployError(
            f"{printable(path)}: cannot be written ({error.strerror or error}); make room or choose another place"
        ) from error
