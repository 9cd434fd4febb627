"""The three operations as ``torch.library`` custom ops: one name for eager, ``torch.compile`` and the exporter.

Calling ``cluster_argmax``, ``cross_scale_attention`` or ``head_refine_step`` from this module dispatches by device. The
CPU runs the reference. Shapes, dtypes and formulas are documented there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference

NAMESPACE = "msformer"

# Defined piece by piece rather than with ``torch.library.custom_op``, whose first call imports torch's compiler: 1.3 s.
torch.library.define(f"{NAMESPACE}::cluster_argmax", "(Tensor features, Tensor head) -> (Tensor, Tensor)")
torch.library.define(
    f"{NAMESPACE}::cross_scale_attention",
    "(Tensor query_fine, Tensor key_fine, Tensor value_fine,"
    " Tensor query_coarse, Tensor key_coarse, Tensor value_coarse) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    f"{NAMESPACE}::head_refine_step",
    "(Tensor features, Tensor head, Tensor velocity, int offset, int stride, float lr, float momentum)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
for _name in ("cluster_argmax", "cross_scale_attention", "head_refine_step"):
    torch.library.impl(f"{NAMESPACE}::{_name}", "default", getattr(reference, _name))
_ops = getattr(torch.ops, NAMESPACE)


def cluster_argmax(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, H, W) and counts (B, K) of features (B, C, H, W) under head (B or 1, K, C)."""
    _require(features.dim() == 4, "features", "(B, C, H, W)", features)
    _require(
        head.dim() == 3 and head.shape[0] in (1, features.shape[0]) and head.shape[2] == features.shape[1],
        "head",
        f"(B or 1, K, {features.shape[1]})",
        head,
    )
    return _ops.cluster_argmax(features, head)


def cross_scale_attention(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Attended values at both scales (B, N, D), (B, M, D), both contexts (B, D, D), their consistency (B,)."""
    _require(query_fine.dim() == 3, "query_fine", "(B, N, D)", query_fine)
    _require(query_coarse.dim() == 3, "query_coarse", "(B, M, D)", query_coarse)
    for name, tensor, like in (
        ("key_fine", key_fine, query_fine.mT),
        ("value_fine", value_fine, query_fine),
        ("key_coarse", key_coarse, query_coarse.mT),
        ("value_coarse", value_coarse, query_coarse),
    ):
        _require(tensor.shape == like.shape, name, str(tuple(like.shape)), tensor)
    return _ops.cross_scale_attention(query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse)


def head_refine_step(
    features: Tensor, head: Tensor, velocity: Tensor, *, offset: int = 0, stride: int = 1, lr: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One closed-form update on pixels offset::stride of features (B, C, N): head, velocity, loss, counts."""
    _require(features.dim() == 3, "features", "(B, C, N)", features)
    _require(
        head.dim() == 3 and head.shape[0] == features.shape[0] and head.shape[2] == features.shape[1],
        "head",
        f"({features.shape[0]}, K, {features.shape[1]})",
        head,
    )
    _require(velocity.shape == head.shape, "velocity", str(tuple(head.shape)), velocity)
    if not 0 <= offset < stride:
        raise ValueError(f"offset must lie in 0..stride - 1, got offset {offset} with stride {stride}")
    return _ops.head_refine_step(features, head, velocity, offset, stride, lr, momentum)


def _require(condition: bool, name: str, expected: str, got: Tensor) -> None:
    if not condition:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(got.shape)}")


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
        features.new_empty((batch,)),
        features.new_empty((batch, clusters), dtype=torch.int64),
    )


# Only the attention is differentiated: the other two run inside the closed-form loop, which has no autograd.


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
    query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse, context_fine, context_coarse = (
        ctx.saved_tensors
    )
    from_fine, from_coarse = _consistency_backward(context_fine, context_coarse, grad_consistency)
    fine = _linear_attention_backward(
        query_fine, key_fine, value_fine, context_fine, grad_fine, grad_context_fine + from_fine
    )
    coarse = _linear_attention_backward(
        query_coarse, key_coarse, value_coarse, context_coarse, grad_coarse, grad_context_coarse + from_coarse
    )
    return (*fine, *coarse)


def _linear_attention_backward(
    query: Tensor, key: Tensor, value: Tensor, context: Tensor, grad_out: Tensor, grad_context: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. The softmaxes are recomputed: cheaper than keeping them."""
    key_weights, query_weights = key.softmax(dim=2), query.softmax(dim=2)
    grad_context = grad_context + torch.matmul(query_weights.mT, grad_out)
    grad_query_weights = torch.matmul(grad_out, context.mT)
    grad_key_weights = torch.matmul(grad_context, value.mT)
    grad_value = torch.matmul(key_weights.mT, grad_context)
    grad_query = torch._softmax_backward_data(grad_query_weights, query_weights, 2, query.dtype)
    grad_key = torch._softmax_backward_data(grad_key_weights, key_weights, 2, key.dtype)
    return grad_query, grad_key, grad_value


def _consistency_backward(fine: Tensor, coarse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``reference.context_consistency``; matrices are D x D, so autograd's cost is nothing."""
    with torch.enable_grad():
        fine, coarse = fine.detach().requires_grad_(), coarse.detach().requires_grad_()
        consistency = reference.context_consistency(fine, coarse)
        grad_fine, grad_coarse = torch.autograd.grad(consistency, (fine, coarse), grad)
    return grad_fine, grad_coarse


torch.library.register_autograd(
    f"{NAMESPACE}::cross_scale_attention", _attention_backward, setup_context=_attention_setup
)
