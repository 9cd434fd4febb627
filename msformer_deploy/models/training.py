"""Hand-written backward passes for eager training, where those of autograd are limited by memory.

The first and the last are for a CPU. Each is equal to the plain operators next to its call in ``msformer.py``; a GPU,
the exporter and ``torch.compile`` use the plain operators.

- ``add_in_strips``: the hidden tokens of a block at 257 x 257 are 106 MB, and autograd keeps several such tensors of
  every block until backward needs them. Here forward keeps nothing, and backward computes each strip of rows again. A
  strip stays in the cache from its first operation to its last, which saves more time than the repetition costs.
- ``image_norm``: BatchNorm in closed form, with two passes over the image; autograd makes about twelve.
- ``key_projection``: the products give the keys and the gradient of the tokens directly in the layout that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PIXELS = 8192  # approximate size of a strip: its hidden tokens are 13 MB at 400 channels of float32


# From rows of an image (B, rows, W, D) and a slice of these rows to the residual of the slice (B, rows of it, W, D).
OnRows = Callable[[Tensor, slice], Tensor]


class _Strip(NamedTuple):
    rows: slice  # rows of the image
    seen: slice  # these rows and their neighbours, which a 3x3 convolution reads
    asked: slice  # the position of ``rows`` in ``seen``


def _strips(image: Tensor) -> Iterator[_Strip]:
    """Strips that cover an image (B, H, W, D)."""
    height, width = image.shape[1:3]
    step = max(1, PIXELS // width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        low, high = max(start - 1, 0), min(stop + 1, height)
        yield _Strip(slice(start, stop), slice(low, high), slice(start - low, stop - low))


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, on_rows: OnRows, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.on_rows = on_rows
        ctx.save_for_backward(x, *parameters)
        out = torch.empty_like(x)
        for strip in _strips(x):
            torch.add(x[:, strip.rows], on_rows(x[:, strip.seen], strip.asked), out=out[:, strip.rows])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        grad_x, sums = grad.clone(), [torch.zeros_like(each) for each in parameters]
        for strip in _strips(x):
            with torch.enable_grad():
                seen = x[:, strip.seen].detach().requires_grad_()
                added = ctx.on_rows(seen, strip.asked)
            of_seen, *of_parameters = torch.autograd.grad(added, [seen, *parameters], grad[:, strip.rows])
            grad_x[:, strip.seen] += of_seen
            for total, each in zip(sums, of_parameters, strict=True):
                total += each
        return None, grad_x, *sums


def add_in_strips(on_rows: OnRows, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Add the residual ``on_rows`` of x (B, H, W, D) to x; differentiable in x and in the ``parameters`` it uses."""
    out: Tensor = _Residual.apply(on_rows, x, *parameters)
    return out


class _ImageNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normal = x - _mean(x)
        inverse = (_mean(normal.square()) + eps).rsqrt()
        normal *= inverse
        ctx.save_for_backward(normal, weight * inverse)
        return torch.addcmul(bias, normal, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, scale = ctx.saved_tensors
        pixels = normal.shape[1] * normal.shape[2]
        along, mean = _mean(grad * normal), _mean(grad)
        grad_x = torch.addcmul(-scale * mean, grad, scale).addcmul_(normal, -scale * along)
        return grad_x, pixels * along.sum(dim=(0, 1, 2)), pixels * mean.sum(dim=(0, 1, 2)), None


def image_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise every channel of every image of x (B, H, W, D) over its own pixels, then scale and shift it."""
    out: Tensor = _ImageNorm.apply(x, weight, bias, eps)
    return out


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(1, 2), keepdim=True)


class _KeyProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return torch.baddbmm(bias[:, None], weight.expand(len(tokens), -1, -1), tokens.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        tokens, weight = ctx.saved_tensors
        return torch.matmul(grad.mT, weight), torch.matmul(grad, tokens).sum(dim=0), grad.sum(dim=(0, 2))


def key_projection(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Keys (B, D, N) of tokens (B, N, D): weight (D, D) times every token, plus bias (D,)."""
    out: Tensor = _KeyProjection.apply(tokens, weight, bias)
    return out
