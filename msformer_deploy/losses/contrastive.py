"""The balanced supervised contrastive loss of MCSC on pixels, computed within groups of blocks.

Liu et al., BMVC 2023, arXiv 2306.14293; balanced denominators as in Zhu et al., CVPR 2022. With unit vectors f, a
temperature t, similarities s_ij = f_i . f_j / t, n_c pixels of class c, and positives P_i, the other pixels of the
class of i:

    Z_i = sum over j != i of exp(s_ij) / (n_c(j) - [j in P_i])
    l_i = -mean over j in P_i of (s_ij - log(Z_i + 1e-6)),  0 without positives

and the loss is the mean over all pixels. Three facts save work. Pixels are sorted by class, so all anchors of a strip
have the same weights. The matrix of similarities is symmetric, so a strip begins at the diagonal. The mean over
positives is a product with the sum of a class. The gradient needs the same exponentials and is computed together with
the loss, so only the exponentials of one group, or of one strip of a large group, exist at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TEMPERATURE = 0.1
# Anchors in a strip. On a CPU, a strip of a group of the usual size then fits the cache of a core.
STRIP_CPU, STRIP_GPU = 256, 2048
# Maximum number of exponentials that a group keeps for the gradient; a larger group computes them again.
KEPT = 4096**2

_EPS = 1e-6


class Groups(NamedTuple):
    """Groups of pixels that are contrasted with one another: each group holds one block of each of N maps.

    Attributes:
        places: int64 (N, groups * block^2), indices of pixels in a flattened map, row by row.
        labels: int64 (groups, N, block, block).
        foreground: whether any pixel is foreground. Without foreground there is one group, so that the loss still has
            a gradient, of zeros.
    """

    places: Tensor
    labels: Tensor
    foreground: bool

    def pick(self, maps: Tensor, first: int = 0) -> Tensor:
        """The pixels of all groups (n, C, groups * block^2, 1), for layers that work pixel by pixel.

        Args:
            maps: (n, C, H, W), n of the N maps, from index ``first`` on.
            first: index of the first map.
        """
        places = self.places[first : first + len(maps), None].expand(-1, maps.shape[1], -1)
        return maps.flatten(2).gather(2, places)[..., None]


def draw_groups(
    labels: Tensor,
    block: int,
    *,
    generator: torch.Generator | None = None,
    max_groups: int | None = None,
    published_tiling: bool = False,
) -> Groups:
    """Cut maps into blocks, and join one random block of each map into a group, until no block is left.

    Each map has its own random order of blocks. Groups without foreground are dropped before their features are
    computed.

    Args:
        labels: int64 (N, H, W), 0 is background. Two views of one image are two of the N maps.
        block: side of a block, pixels.
        generator: draws the orders, on the CPU. Default: torch's own.
        max_groups: maximum number of groups with foreground, the first ones in the random order; None for all.
        published_tiling: tile as the published code does, with one row and one column of blocks fewer than would fit.
            Default: the last blocks end at the border, so that every pixel is in a block.

    Raises:
        ValueError: a map is smaller than the blocks need.
    """
    tiles = _tiles(labels.shape[1], labels.shape[2], block, published_tiling)
    orders = torch.stack([torch.randperm(len(tiles), generator=generator) for _ in labels])  # (N, groups)
    places = tiles[orders].to(labels.device)  # (N, groups, block^2)
    found = labels.flatten(1).gather(1, places.flatten(1)).view_as(places)
    wanted = found.any(dim=2).any(dim=0).nonzero().flatten()[:max_groups]
    foreground = wanted.numel() > 0
    if not foreground:
        wanted = wanted.new_zeros(1)
    kept = found[:, wanted].transpose(0, 1).unflatten(2, (block, block))
    return Groups(places[:, wanted].flatten(1), kept, foreground)


def contrastive_loss(
    features: Tensor, groups: Groups, temperature: float = TEMPERATURE, published_order: bool = False
) -> Tensor:
    """Mean of :func:`group_loss` over groups; 0 where there is no foreground.

    Args:
        features: unit vectors (N, D, groups * block^2, 1) of the pixels that :meth:`Groups.pick` returns.
        groups: the groups of these pixels.
        temperature: divides the similarities.
        published_order: as in :func:`group_loss`.

    Returns:
        float32 scalar.
    """
    if not groups.foreground:
        return features.float().sum() * 0.0
    blocks = features[..., 0].unflatten(2, (len(groups.labels), -1))  # (N, D, groups, block^2)
    labels = groups.labels.transpose(1, 2) if published_order else groups.labels
    return balanced_loss(blocks.permute(2, 0, 3, 1).flatten(1, 2), labels.flatten(1), temperature)


def group_loss(
    features: Tensor, labels: Tensor, temperature: float = TEMPERATURE, published_order: bool = False
) -> Tensor:
    """The loss of one group of blocks.

    Args:
        features: unit vectors (N, D, h, w) of N blocks.
        labels: int64 (N, h, w).
        temperature: divides the similarities.
        published_order: read the labels as the published code does: row by row, a row of every block in turn. Features
            are read block by block, so most pixels get the label of another pixel. Default: each pixel has its own.

    Returns:
        float32 scalar.
    """
    pixels = features.permute(0, 2, 3, 1).flatten(0, 2)
    labels = labels.transpose(0, 1) if published_order else labels
    return balanced_loss(pixels[None], labels.flatten()[None], temperature)


def balanced_loss(features: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Mean of the losses of groups of pixels, computed in float32 for any dtype of the features and under autocast.

    Args:
        features: unit vectors (groups, M, D).
        labels: int64 (groups, M).
        temperature: divides the similarities.

    Returns:
        float32 scalar.
    """
    with torch.autocast(features.device.type, enabled=False):
        by_class, orders = labels.sort(dim=1)
        counts = [each.unique_consecutive(return_counts=True)[1].tolist() for each in by_class.cpu()]
        return cast("Tensor", _BalancedLoss.apply(features.float(), orders, counts, temperature))


def _tiles(height: int, width: int, block: int, published: bool) -> Tensor:
    """Indices of the pixels of each block in a flattened map, int64 (blocks, block^2)."""
    rows, columns = _starts(height, block, published), _starts(width, block, published)
    within = torch.arange(block)
    corners = (rows[:, None] * width + columns).flatten()
    return corners[:, None] + (within[:, None] * width + within).flatten()


def _starts(side: int, block: int, published: bool) -> Tensor:
    count = 0
    if 0 < block <= side:
        count = side // block - 1 if published else math.ceil(side / block)
    if count < 1:
        raise ValueError(f"blocks of {block} pixels do not fit a map with a side of {side}")
    return (torch.arange(count) * block).clamp(max=side - block)


class _Strip(NamedTuple):
    """Anchors of one class, ``first`` to ``end`` - 1, which are compared with every pixel from ``first`` on."""

    first: int
    end: int
    before: int  # number of matrix elements in the strips before it
    weights: Tensor  # (M,), weight of each pixel in the sum of one of these anchors
    returned: Tensor  # (M,), weight of one of these anchors in the sum of each pixel


class _BalancedLoss(torch.autograd.Function):
    """The mean over groups (groups, M, D); ``orders`` sorts each group by class. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, orders: Tensor, counts: Sequence[Sequence[int]], temperature: float
    ) -> Tensor:
        room = _Room(features)
        slopes = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        total = features.new_zeros(())
        for index, (pixels, order, each) in enumerate(zip(features, orders, counts, strict=True)):
            group = _Group(pixels.index_select(0, order), each, temperature, room)
            total += group.loss()
            if slopes is not None:
                slopes[index].index_copy_(0, order, group.slopes() / len(features))
        ctx.save_for_backward(slopes)
        return total / len(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient * ctx.saved_tensors[0], None, None, None


class _Room:
    """Memory for the matrices of a group; all groups share it, one after another.

    Args:
        features: (groups, M, D).
    """

    def __init__(self, features: Tensor) -> None:
        pixels = features.shape[1]
        self.strip = min(STRIP_CPU if features.device.type == "cpu" else STRIP_GPU, pixels)
        self.keeps = pixels**2 <= KEPT
        self._factors = features.new_empty(self.strip * pixels)
        # The maximum size of all strips of a group, stored one after another; each is a rectangle from the diagonal on.
        self._exponentials = features.new_empty(
            (pixels + self.strip) * pixels // 2 if self.keeps else len(self._factors)
        )

    def exponentials(self, strip: _Strip) -> Tensor:
        """(anchors, M - first)."""
        return self._part(self._exponentials, strip, strip.before if self.keeps else 0)

    def factors(self, strip: _Strip) -> Tensor:
        """(anchors, M - first)."""
        return self._part(self._factors, strip, 0)

    @staticmethod
    def _part(memory: Tensor, strip: _Strip, first: int) -> Tensor:
        shape = (strip.end - strip.first, len(strip.weights) - strip.first)
        return memory[first : first + math.prod(shape)].view(shape)


class _Group:
    """Loss and gradient of pixels (M, D), sorted by class, with ``counts`` pixels in each class."""

    def __init__(self, features: Tensor, counts: Sequence[int], temperature: float, room: _Room) -> None:
        self._features, self._counts, self._temperature, self._room = features, counts, temperature, room
        self._scaled = (features / temperature).T
        self._strips = list(_strips(features, counts, room.strip))
        self._sums = torch.full_like(features[:, 0], _EPS)
        for strip in self._strips:
            exponentials, beside = self._exponentials(strip), strip.end - strip.first
            self._sums[strip.first : strip.end].addmv_(exponentials, strip.weights[strip.first :])
            self._sums[strip.end :] += exponentials[:, beside:].sum(dim=0) * strip.returned[strip.end :]

    def loss(self) -> Tensor:
        """The loss, a scalar."""
        total = self._features.new_zeros(())
        for part, sums in zip(self._features.split(self._counts), self._sums.split(self._counts), strict=True):
            if len(part) > 1:
                together = part.sum(dim=0).square().sum() - part.square().sum()  # over all ordered pairs of positives
                total += sums.log().sum() - together / (self._temperature * (len(part) - 1))
        return total / len(self._features)

    def slopes(self) -> Tensor:
        """The gradient (M, D). Call it once only: it overwrites the exponentials."""
        features = self._features
        share = 1 / (self._temperature * len(features))
        anchors, out = share / self._sums, torch.empty_like(features)
        for part, into, each in zip(*(x.split(self._counts) for x in (features, out, anchors)), strict=True):
            if len(part) > 1:
                torch.mul(part.sum(dim=0) - part, -2 * share / (len(part) - 1), out=into)
            else:  # without positives
                into.zero_()
                each.zero_()
        for strip in self._strips:
            here, beside = slice(strip.first, strip.end), strip.end - strip.first
            slopes = self._room.exponentials(strip) if self._room.keeps else self._exponentials(strip)
            returned = (strip.returned * anchors)[strip.first :]
            slopes *= torch.addr(returned, anchors[here], strip.weights[strip.first :], out=self._room.factors(strip))
            out[here].addmm_(slopes, features[strip.first :])
            out[strip.end :].addmm_(slopes[:, beside:].T, features[here])
        return out

    def _exponentials(self, strip: _Strip) -> Tensor:
        """Exponentials of the similarities (anchors, M - first); 0 between an anchor and itself."""
        found = self._room.exponentials(strip)
        torch.mm(self._features[strip.first : strip.end], self._scaled[:, strip.first :], out=found).exp_()
        found.diagonal().zero_()
        return found


def _strips(features: Tensor, counts: Sequence[int], longest: int) -> Iterator[_Strip]:
    sizes = features.new_tensor(counts)
    repeats = torch.tensor(counts, device=features.device)
    end = before = 0
    for index, count in enumerate(counts):
        weights, returned = sizes.reciprocal(), torch.full_like(sizes, 1 / count)
        # A class of one pixel has no pair, so this weight is never used.
        weights[index] = returned[index] = 1 / max(count - 1, 1)
        weights, returned = weights.repeat_interleave(repeats), returned.repeat_interleave(repeats)
        last = end + count
        while end < last:
            first, end = end, min(end + longest, last)
            yield _Strip(first, end, before, weights, returned)
            before += (end - first) * (len(features) - first)
