"""The three operations as ``torch.library`` custom ops: one name for eager mode, ``torch.compile`` and the exporter.

``cluster_argmax``, ``cross_scale_attention`` and ``head_refine_step`` dispatch by device: CUDA tensors go to the
kernels (see :func:`using`), the argmax of CPU tensors to ``cpu.py``, everything else to ``reference.py``, which
documents shapes, dtypes and formulas.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msformer_deploy.errors import BackendUnavailable, UsageError
from msformer_deploy.registry import KERNELS, Kernels

from . import cpu, reference

if TYPE_CHECKING:
    from .reference import RefinedHeads

NAMESPACE = "msformer"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class KernelFallback(RuntimeWarning):
    """The reference ran in place of a CUDA kernel; the message says why."""


_choice: ContextVar[Kernels] = ContextVar("kernels", default="auto")
_fallbacks: dict[str, None] = {}  # an ordered set


@contextmanager
def using(choice: Kernels) -> Iterator[None]:
    """Choose the implementation for CUDA tensors inside this context.

    Args:
        choice: ``auto`` runs the kernels, or the reference with one :class:`KernelFallback` warning if they cannot run;
            ``cuda`` runs the kernels or raises :class:`.errors.BackendUnavailable`; ``reference`` runs torch alone.

    Raises:
        UsageError: the choice is unknown.
    """
    if choice not in KERNELS:
        raise UsageError(f"kernels {choice!r} are unknown; choose one of {', '.join(KERNELS)}")
    token = _choice.set(choice)
    try:
        yield
    finally:
        _choice.reset(token)


def fallbacks() -> tuple[str, ...]:
    """The reasons why the reference ran in place of kernels in this process, each reason once."""
    return tuple(_fallbacks)


def by_kernel(name: str, *arguments: Any, **settings: Any) -> Any:
    """The result of ``cuda.<name>``; None if the choice or the machine requires the reference."""
    if _choice.get() == "reference":
        return None
    from . import cuda

    try:
        return getattr(cuda, name)(*arguments, **settings)
    except BackendUnavailable as error:  # no launcher, no compiler, an old driver or GPU, a large size
        if _choice.get() == "cuda":
            raise
        reason = str(error)
    if reason not in _fallbacks:
        _fallbacks[reason] = None
        warnings.warn(f"torch runs in place of CUDA kernels: {reason}", KernelFallback, stacklevel=2)
    return None


# Shapes and dtypes are checked at every entry: a kernel with wrong ones would read beyond its tensors.


def _check_cluster_argmax(features: Tensor, head: Tensor) -> None:
    _require(features.dim() == 4 and features.numel() > 0, "features", "(B, C, H, W), none of them 0", features)
    _require(
        head.dim() == 3
        and head.shape[0] in (1, features.shape[0])
        and head.shape[1] > 0
        and head.shape[2] == features.shape[1],
        "head",
        f"(B or 1, K, {features.shape[1]}), K at least 1",
        head,
    )
    _require_dtype("features", features, FLOATS)
    _require_dtype("head", head, (features.dtype, reference.sum_dtype(features.dtype)))
    _require_device("features", features, head=head)


def _check_cross_scale_attention(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> None:
    _require(query_fine.dim() == 3 and query_fine.numel() > 0, "query_fine", "(B, N, D), none of them 0", query_fine)
    batch, _, width = query_fine.shape
    _require(
        query_coarse.dim() == 3
        and query_coarse.shape[0] == batch
        and query_coarse.shape[1] > 0
        and query_coarse.shape[2] == width,
        "query_coarse",
        f"({batch}, M, {width}), M at least 1",
        query_coarse,
    )
    _require_dtype("query_fine", query_fine, FLOATS)
    others = {
        "key_fine": (key_fine, query_fine.mT),
        "value_fine": (value_fine, query_fine),
        "query_coarse": (query_coarse, query_coarse),
        "key_coarse": (key_coarse, query_coarse.mT),
        "value_coarse": (value_coarse, query_coarse),
    }
    for name, (tensor, like) in others.items():
        _require(tensor.shape == like.shape, name, str(tuple(like.shape)), tensor)
        _require_dtype(name, tensor, (query_fine.dtype,))
        _require_device("query_fine", query_fine, **{name: tensor})


def _check_head_refine_step(
    features: Tensor, head: Tensor, velocity: Tensor, offset: int, stride: int, lr: float, momentum: float
) -> None:
    _check_heads(features, head)
    _require(velocity.shape == head.shape, "velocity", str(tuple(head.shape)), velocity)
    _require_dtype("velocity", velocity, (head.dtype,))
    _require_device("features", features, velocity=velocity)
    if not 0 <= offset < stride:
        raise ValueError(f"offset must lie in 0..stride - 1, got offset {offset} with stride {stride}")
    if offset >= features.shape[2]:
        raise ValueError(f"offset must lie below the number of pixels, {features.shape[2]}, got {offset}")


def _check_heads(features: Tensor, head: Tensor) -> None:
    _require(features.dim() == 3 and features.numel() > 0, "features", "(B, C, N), none of them 0", features)
    batch, channels, _ = features.shape
    _require(
        head.dim() == 3 and head.shape[0] == batch and head.shape[1] > 0 and head.shape[2] == channels,
        "head",
        f"({batch}, K, {channels}), K at least 1",
        head,
    )
    _require_dtype("features", features, FLOATS)
    _require_dtype("head", head, (reference.sum_dtype(features.dtype),))
    _require_device("features", features, head=head)


def _require(condition: bool, name: str, expected: str, got: Tensor) -> None:
    if not condition:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(got.shape)}")


def _require_dtype(name: str, got: Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    if got.dtype not in allowed:
        expected = " or ".join(dict.fromkeys(str(each).removeprefix("torch.") for each in allowed))
        raise ValueError(f"{name} must be of dtype {expected}, got {str(got.dtype).removeprefix('torch.')}")


def _require_device(name: str, like: Tensor, **tensors: Tensor) -> None:
    for other, tensor in tensors.items():
        if tensor.device != like.device:
            raise ValueError(f"{other} must be on {like.device}, as {name} is, got {tensor.device}")


# Not ``torch.library.custom_op``: its first call imports torch's compiler, which takes 1.3 s.


def _define(name: str, signature: str, check: Callable[..., None], on_cpu: Callable[..., Any] | None = None) -> Any:
    """Register op ``name``: the kernels on CUDA, ``on_cpu``, if given, on the CPU, and the reference elsewhere."""
    definition = getattr(reference, name)

    def checked(run: Callable[..., Any]) -> Callable[..., Any]:
        def checked_run(*arguments: Any) -> Any:
            check(*arguments)
            return run(*arguments)

        return checked_run

    def on_cuda(*arguments: Any) -> Any:
        result = by_kernel(name, *arguments)
        return definition(*arguments) if result is None else result

    torch.library.define(f"{NAMESPACE}::{name}", signature)
    torch.library.impl(f"{NAMESPACE}::{name}", "default", checked(definition))
    torch.library.impl(f"{NAMESPACE}::{name}", "cuda", checked(on_cuda))
    if on_cpu is not None:
        torch.library.impl(f"{NAMESPACE}::{name}", "cpu", checked(on_cpu))
    return getattr(getattr(torch.ops, NAMESPACE), name)


_cluster_argmax = _define(
    "cluster_argmax",
    "(Tensor features, Tensor head) -> (Tensor, Tensor)",
    _check_cluster_argmax,
    on_cpu=cpu.cluster_argmax,
)
_cross_scale_attention = _define(
    "cross_scale_attention",
    "(Tensor query_fine, Tensor key_fine, Tensor value_fine,"
    " Tensor query_coarse, Tensor key_coarse, Tensor value_coarse) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _check_cross_scale_attention,
)
_head_refine_step = _define(
    "head_refine_step",
    "(Tensor features, Tensor head, Tensor velocity, int offset, int stride, float lr, float momentum)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _check_head_refine_step,
)


def cluster_argmax(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, H, W) and counts (B, K) of features (B, C, H, W) under head (B or 1, K, C).

    Raises:
        ValueError: a shape, dtype or device is wrong; the message names the tensor.
    """
    return _cluster_argmax(features, head)


def cross_scale_attention(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Attended values at both scales (B, N, D), (B, M, D), both contexts (B, D, D), their consistency (B,).

    Raises:
        ValueError: a shape, dtype or device is wrong; the message names the tensor.
    """
    return _cross_scale_attention(query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse)


def head_refine_step(
    features: Tensor, head: Tensor, velocity: Tensor, *, offset: int = 0, stride: int = 1, lr: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One closed-form update on pixels offset::stride of features (B, C, N): head, velocity, loss, counts.

    Raises:
        ValueError: a shape, dtype, device or the sample is wrong; the message names the argument.
    """
    return _head_refine_step(features, head, velocity, offset, stride, lr, momentum)


def head_refine_loop(
    features: Tensor, head: Tensor, *, steps: int, stride: int, lr: float, momentum: float, stop_labels: int
) -> RefinedHeads | None:
    """Queue all updates on a GPU at once, see :func:`.reference.head_refine_loop`: kernels, or torch without them.

    None for tensors on a CPU, where :class:`.cpu.HeadLearner` is faster.

    Raises:
        ValueError: a shape, dtype or device is wrong; the message names the tensor.
    """
    _check_heads(features, head)
    if not features.is_cuda or steps < 1 or stride > features.shape[2]:
        return None
    settings: dict[str, Any] = {"steps": steps, "stride": stride, "lr": lr, "momentum": momentum}
    settings["stop_labels"] = stop_labels
    result: RefinedHeads | None = by_kernel("head_refine_loop", features, head, **settings)
    return result or reference.head_refine_loop(features, head, **settings)


@torch.library.register_fake(f"{NAMESPACE}::cluster_argmax")
def _(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, height, width = features.shape
    clusters = head.shape[1]
    labels = features.new_empty((batch, height, width), dtype=reference.label_dtype(clusters))
    return labels, features.new_empty((batch, clusters), dtype=torch.int64)


@torch.library.register_fake(f"{NAMESPACE}::cross_scale_attention")
def _(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, _, width = query_fine.shape
    context = query_fine.new_empty((batch, width, width))
    return (
        torch.empty_like(query_fine, memory_format=torch.contiguous_format),
        torch.empty_like(query_coarse, memory_format=torch.contiguous_format),
        context,
        torch.empty_like(context),
        query_fine.new_empty((batch,)),
    )


@torch.library.register_fake(f"{NAMESPACE}::head_refine_step")
def _(
    features: Tensor, head: Tensor, velocity: Tensor, offset: int, stride: int, lr: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, clusters, _ = head.shape
    return (
        torch.empty_like(head, memory_format=torch.contiguous_format),
        torch.empty_like(head, memory_format=torch.contiguous_format),
        head.new_empty((batch,)),
        features.new_empty((batch, clusters), dtype=torch.int64),
    )


# Only the attention has gradients: the other two run inside the closed-form loop, without autograd.


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, _, context_fine, context_coarse, _ = output
    ctx.save_for_backward(*inputs, context_fine, context_coarse)


def _attention_backward(
    ctx: Any,
    grad_fine: Tensor,
    grad_coarse: Tensor,
    grad_context_fine: Tensor,
    grad_context_coarse: Tensor,
    grad_consistency: Tensor,
) -> tuple[Tensor, ...]:
    dtype = grad_fine.dtype
    wide = reference.sum_dtype(dtype)
    query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse, context_fine, context_coarse = (
        each.to(wide) for each in ctx.saved_tensors
    )
    grad_fine, grad_coarse, grad_context_fine, grad_context_coarse, grad_consistency = (
        each.to(wide) for each in (grad_fine, grad_coarse, grad_context_fine, grad_context_coarse, grad_consistency)
    )
    from_fine, from_coarse = _consistency_backward(context_fine, context_coarse, grad_consistency)
    fine = _linear_attention_backward(
        query_fine, key_fine, value_fine, context_fine, grad_fine, grad_context_fine + from_fine
    )
    coarse = _linear_attention_backward(
        query_coarse, key_coarse, value_coarse, context_coarse, grad_coarse, grad_context_coarse + from_coarse
    )
    return tuple(each.to(dtype) for each in (*fine, *coarse))


def _linear_attention_backward(
    query: Tensor, key: Tensor, value: Tensor, context: Tensor, grad_out: Tensor, grad_context: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. The softmaxes are computed again, which is cheaper than keeping them."""
    key_weights, query_weights = key.softmax(dim=2), query.softmax(dim=2)
    grad_context = grad_context + torch.matmul(query_weights.mT, grad_out)
    grad_query_weights = torch.matmul(grad_out, context.mT)
    grad_key_weights = torch.matmul(grad_context, value.mT)
    grad_value = torch.matmul(key_weights.mT, grad_context)
    grad_query = torch._softmax_backward_data(grad_query_weights, query_weights, 2, query.dtype)
    grad_key = torch._softmax_backward_data(grad_key_weights, key_weights, 2, key.dtype)
    return grad_query, grad_key, grad_value


def _consistency_backward(fine: Tensor, coarse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``reference.context_consistency``; matrices are D x D, so autograd costs little."""
    with torch.enable_grad():
        fine, coarse = fine.detach().requires_grad_(), coarse.detach().requires_grad_()
        consistency = reference.context_consistency(fine, coarse)
        grad_fine, grad_coarse = torch.autograd.grad(consistency, (fine, coarse), grad)
    return grad_fine, grad_coarse


torch.library.register_autograd(
    f"{NAMESPACE}::cross_scale_attention", _attention_backward, setup_context=_attention_setup
)

# Under autocast it still computes in float32: each of thousands of positions has a weight near the smallest half value,
# and the consistency of the contexts is a loss. Otherwise autocast would round the sums inside the reference.
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(f"{NAMESPACE}::cross_scale_attention", _device, torch.float32)
