"""The refinement's update and argmax in torch, on reused buffers, for devices without CUDA kernels.

Up to rounding they return what :mod:`.reference` defines, in less than half the time on a CPU. Scores are stored as
(B, K, m), so that maxima and sums over clusters run along contiguous pixels, and only as many pixels are processed at
once as a cache holds. The winner of a pixel is the cluster whose score equals the largest score. This mark is faster to
find than an index and already is the one-hot target. With ties or NaN, a pixel does not have exactly one mark; then the
indices are searched.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import reference

PIXELS_PER_CHUNK = 8704  # of all images together: 3.5 MB of scores at 100 clusters; every eighth pixel of 263 x 263
FEW_CLUSTERS = 8  # up to this number, a product of tokens is several times faster with pixels as rows


def cluster_argmax(features: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`.reference.cluster_argmax`, but without its transposition for float32 and float64."""
    batch, _, height, width = features.shape
    clusters = head.shape[1]
    # Ids go through a matrix product, which torch may compute in bfloat16: exact up to 256.
    if features.dtype != reference.sum_dtype(features.dtype) or clusters > 256:
        return reference.cluster_argmax(features, head)
    pixels, head = features.detach().flatten(2), head.detach().expand(batch, -1, -1)
    marks_and_ids = torch.stack([pixels.new_ones(clusters), torch.arange(clusters).to(pixels)]).expand(batch, -1, -1)
    found = pixels.new_empty((batch, 2, height * width))  # per pixel: its number of winners, the sum of their ids
    longest = _longest_chunk(height * width, batch)
    scores_buffer, peak_buffer = pixels.new_empty(batch * clusters * longest), pixels.new_empty(batch * longest)
    for chunk in _chunks(height * width, batch):
        samples = pixels[:, :, chunk]
        scores, peak = _shaped(scores_buffer, batch, clusters, samples), _shaped(peak_buffer, batch, 1, samples)
        if clusters <= FEW_CLUSTERS and samples.stride(1) == 1:
            scores.copy_(torch.bmm(samples.mT, head.mT).mT)
        else:
            torch.bmm(head, samples, out=scores)
        torch.amax(scores, 1, keepdim=True, out=peak)
        torch.bmm(marks_and_ids, scores.eq_(peak), out=found[:, :, chunk])
    if not bool((found[:, 0] == 1).all()):  # a tie or a NaN somewhere
        return reference.cluster_argmax(features, head)
    labels = found[:, 1].to(torch.int64)
    counts = labels.new_zeros((batch, clusters)).scatter_add_(1, labels, torch.ones_like(labels))
    return labels.view(batch, height, width).to(reference.label_dtype(clusters)), counts


def gather(features: Tensor, stride: int, phases: int, dtype: torch.dtype) -> list[Tensor]:
    """Return the samples of the first ``phases`` phases: pixels phase, phase + stride, ... of features (B, C, H, W).

    Returns:
        (B, C, n) each, of ``dtype``, contiguous along pixels or along channels: views if the features allow it, else
        parts of one copy.
    """
    pixels = features.detach().flatten(2)
    batch, channels, count = pixels.shape
    if stride == 1 or pixels.stride(1) == 1:
        pixels = pixels.to(dtype)
        return [pixels[:, :, phase::stride] for phase in range(phases)]
    whole, rest = divmod(count, stride)
    # Channel by channel, so that a row is read from memory once, and from the cache for the other phases.
    gathered = _empty((batch, channels, phases, whole + 1), dtype, features.device)
    rows = pixels[:, :, : whole * stride].unflatten(2, (whole, stride))
    gathered[..., :whole].copy_(rows[..., :phases].transpose(2, 3))
    last = pixels[:, :, whole * stride :][:, :, :phases]
    gathered[:, :, : last.shape[2], whole].copy_(last)
    return [gathered[:, :, phase, : whole + (phase < rest)] for phase in range(phases)]


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new tensor; on a CPU by NumPy, which requests huge pages: the first access takes half the time."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype={torch.float32: np.float32, torch.float64: np.float64}[dtype]))


class HeadLearner:
    """:func:`.reference.head_refine_step` on any number of samples, in place.

    Args:
        like: heads (B, K, C) with the sizes and the dtype of later calls.
        pixels: maximum number n of samples per image in one call.
    """

    def __init__(self, like: Tensor, pixels: int) -> None:
        batch, clusters, _ = like.shape
        longest = _longest_chunk(pixels, batch)
        self._scores, self._winners = like.new_empty((2, batch * clusters * longest)).unbind()
        self._peak, self._total = like.new_empty(batch * longest), like.new_empty(batch * pixels)
        self._counted, self._counts = like.new_empty((2, batch, clusters)).unbind()
        self._marks, self._highest, self._loss = like.new_empty((3, batch)).unbind()

    def accumulate(
        self, samples: Tensor, head: Tensor, velocity: Tensor, momentum: float
    ) -> tuple[list[float], list[int]]:
        """Set ``velocity`` to momentum * velocity + gradient, in place; the new head is then head - lr * velocity.

        Args:
            samples: (B, C, n), contiguous along pixels or along channels; other layouts are copied at every call.
            head: (B, K, C), one head per image.
            velocity: (B, K, C), changed in place.

        Returns:
            loss and number of labels on the samples of each image, before the update.
        """
        batch, clusters, _ = head.shape
        pixels = samples.shape[2]
        totals = self._total[: batch * pixels].view(batch, 1, pixels)
        self._counts.zero_()
        for chunk in _chunks(pixels, batch):
            part, total = samples[:, :, chunk], totals[:, :, chunk]
            scores, winners = (_shaped(each, batch, clusters, part) for each in (self._scores, self._winners))
            peak = _shaped(self._peak, batch, 1, part)
            torch.bmm(head, part, out=scores)
            self._mark(scores, peak, winners)
            self._counts.add_(self._counted)
            # The winner's score minus the peak is 0, so the cross-entropy is the log of the sum of the exponentials.
            torch.sum(scores.sub_(peak).exp_(), 1, keepdim=True, out=total)
            torch.reciprocal(total, out=peak)
            torch.addcmul(winners, scores, peak, value=-1.0, out=scores)
            velocity.baddbmm_(scores, part.mT, beta=momentum if chunk.start == 0 else 1.0, alpha=-1.0 / pixels)
        torch.sum(totals.log_(), (1, 2), out=self._loss)
        losses = [total / pixels for total in self._loss.tolist()]
        return losses, [sum(count > 0 for count in counts) for counts in self._counts.tolist()]

    def _mark(self, scores: Tensor, peak: Tensor, winners: Tensor) -> None:
        """Set ``winners`` to the one-hot argmax of ``scores`` and ``peak`` to the largest score; count winners."""
        torch.amax(scores, 1, keepdim=True, out=peak)
        torch.eq(scores, peak, out=winners)
        torch.sum(winners, 2, out=self._counted)
        torch.sum(self._counted, 1, out=self._marks)
        torch.amax(peak, (1, 2), out=self._highest)  # NaN if a peak is NaN: a tie could hide its missing mark
        pixels = scores.shape[2]
        if any(mark != pixels for mark in self._marks.tolist()) or any(each != each for each in self._highest.tolist()):
            winners.zero_().scatter_(1, scores.argmax(dim=1, keepdim=True), 1.0)
            torch.sum(winners, 2, out=self._counted)


def _chunks(pixels: int, batch: int) -> Iterator[slice]:
    """Split the pixels into as few parts of similar size as the cache allows."""
    parts = -(-pixels * batch // PIXELS_PER_CHUNK)
    size = -(-pixels // parts)
    return (slice(start, min(start + size, pixels)) for start in range(0, pixels, size))


def _longest_chunk(pixels: int, batch: int) -> int:
    """The maximum length of a chunk of up to ``pixels`` pixels."""
    return min(pixels, -(-PIXELS_PER_CHUNK // batch))


def _shaped(buffer: Tensor, batch: int, rows: int, samples: Tensor) -> Tensor:
    """The beginning of a flat buffer as (B, rows, m) for the m pixels of ``samples``."""
    pixels = samples.shape[2]
    return buffer[: batch * rows * pixels].view(batch, rows, pixels)
