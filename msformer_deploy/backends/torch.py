"""Plain torch: the bundle's weights, frozen. MS-Former on the CPU in strips of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import BackendUnavailable
from ..machine.cores import give_torch
from ..models.frozen import FrozenEncoder
from ..models.strips import encode_in_strips
from ..registry import Precision
from ..weights.network import FAMILIES, load_network
from .base import Backend, Device, Encoded, Part
from .cuda_graphs import EncoderGraphs
from .transfers import uploaded

if TYPE_CHECKING:
    import numpy as np

    from ..bundle.folder import Bundle


def torch_device(device: Device) -> torch.device:
    """The torch device, checked to exist. On a GPU, this process then computes products of float32 in float32.

    Torch's convolutions round them to TF32, which has 11 significant bits, unless they are told otherwise. That is a
    setting of the whole process, because one for each call would change what other threads compute.

    Raises:
        BackendUnavailable: CUDA was asked for and torch cannot use that device.
    """
    if device.kind == "cpu" or (device.kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if device.ordinal >= count:
        why = f"torch sees {count} CUDA devices" if torch.backends.cuda.is_built() else "this torch is a CPU build"
        raise BackendUnavailable(f"device {device} was asked for, but {why}; run 'msformer-deploy doctor'")
    try:
        torch.cuda.init()
    except RuntimeError as error:  # in a process forked from one that uses CUDA, say
        why = " ".join(str(error).split())
        raise BackendUnavailable(f"device {device} was asked for, but torch cannot use CUDA here: {why}") from error
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", device.ordinal)


class TorchBackend(Backend):
    """Runs the bundle's weights in eager torch."""

    name = "torch"

    def __init__(self, bundle: Bundle, device: Device, threads: int | None, graph: Part, precision: Precision) -> None:
        if graph == "segmenter":
            raise BackendUnavailable("backend torch has no whole-method graph; use --backend onnxruntime")
        if precision != "fp32":
            raise BackendUnavailable(
                f"backend torch computes in fp32, not {precision}; pass --precision fp32 or choose another --backend"
            )
        self.graph, self.precision = graph, precision
        give_torch(threads)
        self._device = torch_device(device)
        family, network = FAMILIES[bundle.system], load_network(bundle)
        family.settle(network)
        self._encoder = family.freeze(network, bundle.sizes).to(self._device)
        self._graphs = EncoderGraphs(self._encoder) if self._device.type == "cuda" else None
        self.provider = self.device = str(self._device)

    def encode(self, images: np.ndarray) -> Encoded:
        self.require_origin()
        inputs = uploaded(images, self._device)
        if isinstance(self._encoder, FrozenEncoder) and self._device.type == "cpu":
            return Encoded(*encode_in_strips(self._encoder, inputs))
        with torch.no_grad():
            return Encoded(*(self._graphs or self._encoder)(inputs))

    def close(self) -> None:
        del self._encoder, self._graphs
