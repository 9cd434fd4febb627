"""Torch reference of the three hot operations: every other implementation is tested against it.

Plain differentiable torch, for any device and floating dtype; half types are computed in float32 and rounded once, at
the end. Nothing here is registered or dispatched (``ops.py`` does that). Formulas: Karimijafarbigloo et al., MIDL 2023
(MS-Former), with the efficient attention of Shen et al., WACV 2021. ``docs/explanation/method.md`` derives the
closed-form update.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PIXELS_PER_CHUNK = 16384


def label_dtype(clusters: int) -> torch.dtype:
    """Smallest unsigned dtype that holds the ids of ``clusters`` clusters: uint8 up to 256, else uint16."""
    return torch.uint8 if clusters <= 256 else torch.uint16


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums of ``dtype`` values: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def cluster_argmax(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Assign every pixel to the cluster with the highest score.

    Args:
        features: pixel features (B, C, H, W).
        head: cluster head (B, K, C), or (1, K, C) for one head shared by the batch; rounded to the features' dtype.

    Returns:
        labels (B, H, W), uint8 (uint16 if K > 256); counts (B, K) int64, pixels per cluster. A tie gives the lowest id.
        NaN scores count as highest, so a pixel with NaN features gets label 0.
    """
    batch, _, height, width = features.shape
    clusters = head.shape[1]
    pixels = features.flatten(2).transpose(1, 2)
    wide = sum_dtype(features.dtype)
    weights = head.to(features.dtype).to(wide).mT
    # In chunks, so that the N x K scores are never all in memory. With clusters last, argmax is fast on a CPU.
    labels = torch.cat(
        [torch.matmul(chunk.to(wide), weights).argmax(dim=2) for chunk in pixels.split(PIXELS_PER_CHUNK, dim=1)], dim=1
    )
    counts = labels.new_zeros((batch, clusters)).scatter_add_(1, labels, torch.ones_like(labels))
    return labels.view(batch, height, width).to(label_dtype(clusters)), counts


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with linear cost in the number of positions, through a D x D context.

    Args:
        query, value: (B, N, D), N positions.
        key: (B, D, N); its softmax runs over positions, which this layout keeps contiguous.

    Returns:
        attended values (B, N, D); context (B, D, D), rows indexed by key channel, columns by value channel.
    """
    context = torch.matmul(key.softmax(dim=2), value)
    return torch.matmul(query.softmax(dim=2), context), context


def context_consistency(fine: Tensor, coarse: Tensor) -> Tensor:
    """Mean cosine (B,) between corresponding rows of two contexts (B, D, D); 1 if the scales agree.

    One minus this is the paper's inter-scale loss. Torch's CosineEmbeddingLoss has the same 1e-12 under the root.
    """
    dot = (fine * coarse).sum(dim=2)
    norm = ((fine.square().sum(dim=2) + 1e-12) * (coarse.square().sum(dim=2) + 1e-12)).sqrt()
    return (dot / norm).mean(dim=1)


def cross_scale_attention(
    query_fine: Tensor,
    key_fine: Tensor,
    value_fine: Tensor,
    query_coarse: Tensor,
    key_coarse: Tensor,
    value_coarse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Linear attention at the fine and the coarse scale, and the consistency of their contexts.

    Args:
        query_fine, value_fine: (B, N, D); key_fine: (B, D, N).
        query_coarse, value_coarse: (B, M, D); key_coarse: (B, D, M).

    Returns:
        attended fine (B, N, D), attended coarse (B, M, D), context fine (B, D, D), context coarse (B, D, D) and their
        consistency (B,), see :func:`context_consistency`.
    """
    dtype = query_fine.dtype
    wide = sum_dtype(dtype)
    fine, context_fine = linear_attention(query_fine.to(wide), key_fine.to(wide), value_fine.to(wide))
    coarse, context_coarse = linear_attention(query_coarse.to(wide), key_coarse.to(wide), value_coarse.to(wide))
    consistency = context_consistency(context_fine, context_coarse)
    return (
        fine.to(dtype),
        coarse.to(dtype),
        context_fine.to(dtype),
        context_coarse.to(dtype),
        consistency.to(dtype),
    )


def head_refine_step(
    features: Tensor, head: Tensor, velocity: Tensor, offset: int, stride: int, lr: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make one self-guided update of the cluster head, with the gradient in closed form.

    With X the sampled pixels (n x C), S = X W^T, t = argmax S and P = softmax S, the gradient of the mean
    cross-entropy of S against its own argmax is G = (P - onehot t)^T X / n. Then V <- momentum V + G, W <- W - lr V.

    Args:
        features: (B, C, N); pixels offset, offset + stride, ... are used.
        head: (B, K, C), one head per image; float64 for float64 features, else float32, because a half type is too
            coarse for the updates.
        velocity: (B, K, C), of the head's dtype.
        offset, stride: the sample, 0 <= offset < stride.
        lr, momentum: SGD settings.

    Returns:
        new head (B, K, C); new velocity (B, K, C); loss (B,), the cross-entropy before the update; counts (B, K)
        int64, sampled pixels per cluster before the update.
    """
    samples = features[:, :, offset::stride].transpose(1, 2).to(head.dtype)
    scores = torch.matmul(samples, head.mT)
    target = scores.argmax(dim=2, keepdim=True)
    log_probabilities = scores.log_softmax(dim=2)
    loss = -log_probabilities.gather(2, target).mean(dim=(1, 2))
    ones = torch.ones_like(target)
    counts = torch.zeros_like(head[:, :, 0], dtype=torch.int64).scatter_add_(1, target.squeeze(2), ones.squeeze(2))
    residual = log_probabilities.exp().scatter_add_(2, target, -ones.to(scores.dtype))
    velocity = momentum * velocity + torch.matmul(residual.mT, samples) / samples.shape[1]
    return head - lr * velocity, velocity, loss, counts


class RefinedHeads(NamedTuple):
    """Result of :func:`head_refine_loop`, with the values of every step."""

    head: Tensor  # (B, K, C) float32
    velocity: Tensor  # (B, K, C) float32
    safe: Tensor  # (B, K, C) float32, the last head that gave two labels or more
    active: Tensor  # (steps + 1, B) bool, before each step and after the last
    collapsed: Tensor  # (B,) bool: it had one label left and was reset to ``safe``
    loss: Tensor  # (steps, B) float32, before each step; 0 where inactive
    counts: Tensor  # (steps, B, K) int64, sampled pixels per cluster before each step; 0 where inactive


def head_refine_loop(
    features: Tensor, head: Tensor, *, steps: int, stride: int, lr: float, momentum: float, stop_labels: int
) -> RefinedHeads:
    """Make all updates of the guarded refinement (``docs/explanation/method.md``) without waiting for the device.

    Step i learns on pixels i mod stride, i mod stride + stride, ... An image stops after an update that finds at most
    ``stop_labels`` labels. It also stops if an update finds a single label, and gets back its last head with two.

    Args:
        features: (B, C, N).
        head: initial heads (B, K, C), as of :func:`head_refine_step`.
        steps: number of updates, at least 1.
        stride, lr, momentum, stop_labels: as in ``RefineSettings``.
    """
    batch = head.shape[0]
    head, velocity, safe = head.clone(), torch.zeros_like(head), head.clone()
    active = [torch.ones(batch, dtype=torch.bool, device=head.device)]
    collapsed = torch.zeros_like(active[0])
    losses, counted = [], []
    for step in range(steps):
        new_head, new_velocity, loss, counts = head_refine_step(
            features, head, velocity, step % stride, stride, lr, momentum
        )
        labels = (counts > 0).sum(dim=1)
        learning, single = active[-1] & (labels >= 2), active[-1] & (labels < 2)
        losses.append(torch.where(active[-1], loss, 0))
        counted.append(torch.where(active[-1][:, None], counts, 0))
        learns, falls = learning[:, None, None], single[:, None, None]
        safe = torch.where(learns, head, safe)
        head = torch.where(learns, new_head, torch.where(falls, safe, head))
        velocity = torch.where(learns, new_velocity, velocity)
        collapsed = collapsed | single
        active.append(learning & (labels > stop_labels))
    return RefinedHeads(head, velocity, safe, torch.stack(active), collapsed, torch.stack(losses), torch.stack(counted))
