"""What a step of mode ``full`` computes, and how: forward pass, losses and update, in a precision, compiled or eager.

In half precision only the encoder's products are half, by torch's autocast. Its norms and softmaxes, the head, whose
scores decide a pixel's cluster, the losses, the weights and their updates stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from os import environ
from shutil import which
from sys import platform
from typing import TYPE_CHECKING

import torch

from ..errors import BackendUnavailable, DeployError
from ..losses.self_guided import Losses, S3Losses, repaired_s3_losses, s3_losses, self_guided_losses
from ..models.s3net import S3Net
from ..registry import Precision, RefineSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.msformer import MSFormer

HALVES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Of the loss in fp16. At 257 x 257 gradients of tokens reach 1e-3 and those of weights 0.4, far from the largest half;
# without it up to 99 % of the gradients of a product are 0 there, with it less than 1 %.
SCALE = 2.0**12
_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that torch takes where CXX names none; elsewhere g++


class Passes:
    """Forward passes and updates. Networks of one size may share one, and then what is compiled.

    Args:
        precision: of the encoder's products: ``fp32``, ``fp16`` or ``bf16``.
        compiled: by ``torch.compile``, forward with the losses and backward; the first pass of each takes long.
    """

    def __init__(self, precision: Precision = "fp32", compiled: bool = False) -> None:
        self.precision, self.compiled = precision, compiled
        # One graph, for one shape: a break would be a slow pass that nobody notices, and no image has another size.
        self._forward = torch.compile(_forward, fullgraph=True, dynamic=False) if compiled else _forward

    def forward(
        self, model: MSFormer | S3Net, image: Tensor, *, repaired: bool = False
    ) -> tuple[Tensor, Losses | S3Losses]:
        """Labels (1, S, S), int64, of an image (1, 3, S, S), and its losses, float32 scalars to differentiate.

        Args:
            model: of either system that learns on its image.
            image: of its side.
            repaired: take S3-Net's losses as they are meant.

        Raises:
            BackendUnavailable: it cannot be compiled.
        """
        with _told_if_not_compiled():
            return self._forward(model, image, HALVES.get(self.precision), repaired)

    def learner(self, model: MSFormer | S3Net, settings: RefineSettings) -> Learner:
        """What updates a network that these passes are of."""
        return Learner(model, settings, self.precision)


class Learner:
    """SGD on one network, with the gradients of its passes.

    Args:
        model: trained in place.
        settings: lr and momentum are used.
        precision: of the passes.
    """

    def __init__(self, model: MSFormer | S3Net, settings: RefineSettings, precision: Precision) -> None:
        device = next(model.parameters()).device.type
        self._optimiser = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
        self._scaler = torch.amp.GradScaler(device, init_scale=SCALE, enabled=precision == "fp16")

    def clear(self) -> None:
        """Forget the gradients; before a pass, which then need not keep its memory from the last."""
        self._optimiser.zero_grad()

    def update(self, loss: Tensor) -> bool:
        """Make one update, or none where a gradient is beyond fp16: the pass is then to be made again.

        Raises:
            BackendUnavailable: the backward pass cannot be compiled.
            DeployError: gradients are no numbers however small the loss is made.
        """
        with _told_if_not_compiled():
            torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.step(self._optimiser)
        scale = self._scaler.get_scale()
        self._scaler.update()
        if self._scaler.get_scale() >= scale:
            return True
        if scale <= 1:
            raise DeployError(
                "the gradients became NaN or infinite in fp16; pass --precision bf16, or drop --precision"
            )
        return False


def require_compiler(device: str) -> None:
    """See that there is what ``torch.compile`` hands its code to on a ``cpu`` or ``cuda`` device.

    Raises:
        BackendUnavailable: there is not.
    """
    if device == "cuda":
        if find_spec("triton") is None:
            raise BackendUnavailable("--compile needs Triton on a GPU; install triton, or drop --compile")
        return
    compiler = environ.get("CXX") or _COMPILERS.get(platform, "g++")
    if which(compiler) is None:
        raise BackendUnavailable(
            f"--compile needs a C++ compiler, and {compiler} is not found; install it, name another one in CXX, or"
            " drop --compile"
        )


def _forward(
    model: MSFormer | S3Net, image: Tensor, half: torch.dtype | None, repaired: bool
) -> tuple[Tensor, Losses | S3Losses]:
    if isinstance(model, S3Net):
        return _forward_s3(model, image, half, repaired)
    with torch.autocast(image.device.type, half, enabled=half is not None):
        encoded = model.encode(image)
    output = model.finish(encoded)
    labels = output.logits.detach().argmax(dim=1)
    return labels, self_guided_losses(output.logits, labels, output.attention, output.consistency)


def _forward_s3(model: S3Net, image: Tensor, half: torch.dtype | None, repaired: bool) -> tuple[Tensor, S3Losses]:
    with torch.autocast(image.device.type, half, enabled=half is not None):
        attended = model.attend(image)
        turned = model.attend(torch.rot90(image, 1, (2, 3))) if repaired else None
        sampled = model.sample(attended)
    logits, auxiliary = model.scores_of(sampled), model.auxiliary(attended if turned is None else turned)
    labels = logits.detach().argmax(dim=1)
    losses = s3_losses if turned is None else repaired_s3_losses
    return labels, losses(logits, labels, auxiliary)


@contextmanager
def _told_if_not_compiled() -> Iterator[None]:
    """Tell in one line that something cannot be compiled."""
    try:
        yield
    except RuntimeError as error:
        # Of a private module, and imported by nothing that does not compile.
        if not any(each.__module__.startswith(("torch._dynamo", "torch._inductor")) for each in type(error).__mro__):
            raise
        reason = " ".join(str(error).split("\n", 1)[0].split())
        raise BackendUnavailable(f"torch.compile failed ({reason}); check its compiler, or drop --compile") from error
