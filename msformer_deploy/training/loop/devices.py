"""The devices and the precision of training, by Lightning Fabric."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from ...errors import BackendUnavailable, UsageError
from ...machine.extras import require_extra

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
TrainingPrecision = Literal["fp32", "fp16", "bf16"]  # of the operations that autocast converts; weights stay float32
PRECISIONS: tuple[TrainingPrecision, ...] = ("fp32", "fp16", "bf16")

_FABRIC: dict[TrainingPrecision, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "fp32": "32-true",
    "fp16": "16-mixed",
    "bf16": "bf16-mixed",
}


def require() -> None:
    """Check that training is possible, before any file is read.

    Raises:
        BackendUnavailable: a part of the extra is not installed.
    """
    require_extra("train", "training")


def open_fabric(
    device: Device = "auto",
    precision: TrainingPrecision = "fp32",
    devices: int = 1,
    nodes: int = 1,
    *,
    unused_weights: bool = False,
) -> Fabric:
    """Return a Fabric that is not launched yet.

    Several processes average their gradients (distributed data parallel). On several nodes, start each process with
    Fabric's environment variables, or by torchrun or SLURM.

    Args:
        device: kind of device; ``auto`` takes CUDA if there is a GPU.
        precision: fp16 and bf16 use autocast.
        devices: number of processes on this node; on GPUs, each process has one.
        nodes: number of machines.
        unused_weights: allow batches whose loss does not use every weight; this costs time with several processes.

    Raises:
        BackendUnavailable: lightning-fabric is not installed, or the devices are missing.
        UsageError: the device does not support the precision.
    """
    require()
    import torch
    from lightning_fabric import Fabric

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if found else "cpu"
    if device == "cuda" and not found:
        raise BackendUnavailable("--device cuda needs a CUDA device, but torch finds none; choose --device cpu")
    if device == "cuda" and devices > found:
        raise BackendUnavailable(f"--devices {devices} needs as many CUDA devices, but {found} are here; give fewer")
    if device == "cpu" and precision == "fp16":
        raise UsageError("training in fp16 needs a GPU; choose --precision bf16 or fp32")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the record of the run has its choices
    return Fabric(
        accelerator=device,
        strategy="auto" if devices * nodes == 1 else f"ddp{'_find_unused_parameters_true' * unused_weights}",
        devices=devices,
        num_nodes=nodes,
        precision=_FABRIC[precision],
    )


def is_first_process() -> bool:
    """Whether this process is the one that writes files and prints; known before the processes are launched."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def end_others(fabric: Fabric) -> None:
    """End the processes that this one launched; otherwise they would wait for it for half an hour."""
    for process in getattr(fabric.strategy.launcher, "procs", ()):
        process.kill()
