"""What chooses and runs the encoder, as plain data. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from ..backends.base import parse_device
from ..errors import UsageError
from ..registry import KERNELS, Kernels, Precision


@dataclass(frozen=True)
class EncoderOptions:
    """What chooses and runs the encoder. It changes speed and rounding, not the method.

    Attributes:
        backend: ``auto`` or one of :data:`.registry.BACKENDS`; executes the encoder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: threads for one operator; None leaves it to the runtime, or gives it what a CPU quota allows.
        precision: of the encoder, one of those the bundle has; None takes the bundle's own. In mode ``full``, which
            trains the network, ``fp32``, or on a CUDA device ``fp16`` or ``bf16`` by autocast.
        whole_graph: whether encoder, learning and argmax run as the bundle's one graph, without torch. None does that
            where the graph can do what is asked, on a CPU, or where there is no torch; a trained system runs in torch
            where there is one, which resizes scores in place of labels.
        kernels: what runs the hot operations that torch does on a CUDA device: ``auto``, ``cuda`` or ``reference``, see
            :func:`.kernels.using`.
        compile: run the training of mode ``full`` through ``torch.compile``; its first step takes long.
        learning_threads: of torch, for the closed-form learning on a CPU; None takes all that torch has. They wait for
            one another at full speed, and long where other threads, that read and write say, want the same cores.

    Raises:
        UsageError: the device or the kernels are unknown.
    """

    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    precision: Precision | None = None
    whole_graph: bool | None = None
    kernels: Kernels = "auto"
    compile: bool = False
    learning_threads: int | None = None

    def __post_init__(self) -> None:
        parse_device(self.device)
        if self.kernels not in KERNELS:
            raise UsageError(f"kernels {self.kernels!r} are unknown; choose one of {', '.join(KERNELS)}")


class EncoderKeywords(TypedDict, total=False):
    """The fields of :class:`EncoderOptions` for type checkers, where they are passed as keyword arguments."""

    backend: str
    device: str
    threads: int | None
    precision: Precision | None
    whole_graph: bool | None
    kernels: Kernels
    compile: bool
    learning_threads: int | None
