"""Where training runs: Fabric on the devices and in the precision asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from ...errors import BackendUnavailable, UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
TrainingPrecision = Literal["fp32", "fp16", "bf16"]  # of what autocast converts; weights stay float32
PRECISIONS: tuple[TrainingPrecision, ...] = ("fp32", "fp16", "bf16")

_FABRIC: dict[TrainingPrecision, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "fp32": "32-true",
    "fp16": "16-mixed",
    "bf16": "bf16-mixed",
}


def require() -> None:
    """See that training is possible, before anything is read.

    Raises:
        BackendUnavailable: lightning-fabric is not installed.
    """
    try:
        import lightning_fabric  # noqa: F401 - being importable is all that is asked
    except ImportError as error:
        raise BackendUnavailable(
            f"training needs lightning-fabric ({error}); pip install 'msformer-deploy[train]'"
        ) from error


def open_fabric(
    device: Device = "auto",
    precision: TrainingPrecision = "fp32",
    devices: int = 1,
    nodes: int = 1,
    *,
    unused_weights: bool = False,
) -> Fabric:
    """Fabric, not launched yet.

    Several processes average their gradients (distributed data parallel); on several nodes each is started with
    Fabric's own variables of environment, or by torchrun or SLURM.

    Args:
        device: kind of device; ``auto`` is CUDA where there is any.
        precision: fp16 and bf16 by autocast.
        devices: so many processes on this node, with a GPU each where there are GPUs.
        nodes: machines.
        unused_weights: allow batches in whose loss some weight has no part, which costs several processes time.

    Raises:
        BackendUnavailable: lightning-fabric is not installed, or there are no such devices.
        UsageError: the device has no such precision.
    """
    require()
    import torch
    from lightning_fabric import Fabric

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if found else "cpu"
    if device == "cuda" and devices > found:
        raise BackendUnavailable(f"{devices} CUDA devices are asked for and {found} are here; give another --devices")
    if device == "cpu" and precision == "fp16":
        raise UsageError("fp16 is trained on a GPU only; choose --precision bf16 or fp32")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it chose is in the record of the run
    return Fabric(
        accelerator=device,
        strategy="auto" if devices * nodes == 1 else f"ddp{'_find_unused_parameters_true' * unused_weights}",
        devices=devices,
        num_nodes=nodes,
        precision=_FABRIC[precision],
    )


def is_first_process() -> bool:
    """Whether this is the one of all processes that writes and speaks; known before they are launched."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def end_others(fabric: Fabric) -> None:
    """End the processes that this one launched: left alone, they would wait for it for half an hour."""
    for process in getattr(fabric.strategy.launcher, "procs", ()):
        process.kill()
