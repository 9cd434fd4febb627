"""The encoder of MS-Former with frozen weights: products of constant weights are computed once, before any image.

It returns what :meth:`.msformer.MSFormer.encode` returns, up to rounding, in fewer operations. With y the normed tokens
of an attention:

- Each key channel's softmax over the positions sums to 1. So a bias of the keys changes nothing, and the context
  softmax(K) V, V = y Wv^T + 1 bv^T, is (softmax(K) y) Wv^T + 1 bv^T: the attention works on y itself, and the value
  projection comes after it.
- Each query's softmax sums to 1, too, so the value projection and the reprojection after it are one matrix Wr Wv and
  one bias Wr bv + br. Contexts of values, which the last block returns, cost one D x D product.
- The norm over all pixels removes a constant that was added to a channel: the last bias of a block changes nothing.
- Where the four sub-pixels of the upsampling have the same kernel, one product of a quarter of the size is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import cross_scale_attention
from .msformer import Block, ImageNorm, MSFormer, PatchEmbed, spatial_mean


class Frozen(NamedTuple):
    """Outputs of the frozen encoder."""

    features: Tensor  # (B, 2D, S, S): large branch (upsampled) first, then small
    context_small: Tensor  # (B, D, D), last block of the fine branch
    context_large: Tensor  # (B, D, D), last block of the coarse branch


class FrozenBlock(nn.Module):
    """A block of either branch, with constant weights.

    Attributes:
        query, query_bias: (D, D), (D,).
        key: (D, D); no bias, see the module.
        value, value_bias: (D, D), (D,), for the context that is returned.
        out, out_bias: (D, D), (D,), from attended tokens to the residual of the branch.
        kernel, kernel_bias: (4D, 1, 3, 3), (4D,), the depthwise convolution with its skip in the centre tap.
        fc2: (D, 4D); no bias, see the module.
    """

    query: Tensor
    query_bias: Tensor
    key: Tensor
    value: Tensor
    value_bias: Tensor
    out: Tensor
    out_bias: Tensor
    kernel: Tensor
    kernel_bias: Tensor
    fc2: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        value, value_bias = _exact(attention.values)
        reprojection, reprojection_bias = _exact(attention.reprojection)
        kernel = mlp.dwconv.dwconv
        constants = {
            "query": attention.queries.weight.flatten(1),
            "query_bias": attention.queries.bias,
            "key": attention.keys.weight.flatten(1),
            "value": attention.values.weight.flatten(1),
            "value_bias": attention.values.bias,
            "out": reprojection @ value,
            "out_bias": reprojection @ value_bias + reprojection_bias,
            "kernel": kernel.weight + mlp.dwconv.identity,
            "kernel_bias": kernel.bias,
            "fc2": mlp.fc2.weight,
        }
        for name, constant in constants.items():
            assert constant is not None
            self.register_buffer(name, constant.detach().to(kernel.weight.dtype, copy=True))
        self.norm1, self.norm2, self.norm3 = (deepcopy(norm) for norm in (block.norm1, block.norm2, mlp.norm1))
        self.fc1 = deepcopy(mlp.fc1)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, N, D), key (B, D, N) and normed tokens (B, N, D), in place of values, of x (B, N, D)."""
        tokens = self.norm1(x)
        return F.linear(tokens, self.query, self.query_bias), torch.matmul(self.key, tokens.mT), tokens

    def context(self, attended: Tensor) -> Tensor:
        """Context of values (B, D, D) from the context of normed tokens (B, D, D)."""
        return F.linear(attended, self.value, self.value_bias)

    def finish(self, x: Tensor, attended: Tensor, height: int) -> Tensor:
        """Result of the block (B, N, D), up to a constant per channel.

        Args:
            x: input of the block (B, N, D).
            attended: result of the attention (B, N, D).
            height: rows of the image of N tokens.
        """
        x = x + F.linear(attended, self.out, self.out_bias)
        hidden = self.fc1(self.norm2(x)).unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        hidden = F.conv2d(hidden, self.kernel, self.kernel_bias, padding=1, groups=len(self.kernel))
        return x + F.linear(F.gelu(self.norm3(hidden.permute(0, 2, 3, 1).flatten(1, 2))), self.fc2)


class FrozenEncoder(nn.Module):
    """Images (B, 3, S, S), BGR in 0..1, to :class:`Frozen`; later changes of ``model`` have no effect."""

    up: Tensor

    def __init__(self, model: MSFormer) -> None:
        super().__init__()
        self.side, self.width = model.side, model.width
        self.patch_embed_s, self.patch_embed_l = deepcopy(model.patch_embed_s), deepcopy(model.patch_embed_l)
        self.block_s, self.block_l = (
            nn.ModuleList(FrozenBlock(block) for block in cast("Iterable[Block]", blocks))
            for blocks in (model.block_s, model.block_l)
        )
        self.norm_s, self.norm_l = deepcopy(model.bn2_s), deepcopy(model.bn2_l)
        up = model.linear_up.weight.detach()
        quarter = up[: self.width]
        self.tied = torch.equal(up, quarter.repeat(4, 1))
        self.register_buffer("up", (quarter if self.tied else up).clone())
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Frozen:
        self.check(images)
        # With separate axes for rows and columns, OpenVINO changes the layout around every operator.
        (small, fine), (large, coarse) = (_embed(embed, images) for embed in (self.patch_embed_s, self.patch_embed_l))
        for block_s, norm_s, block_l, norm_l in self.layers():
            attended_s, attended_l, context_s, context_l, _ = cross_scale_attention(
                *block_s.project(small), *block_l.project(large)
            )
            small = _normed(norm_s, block_s.finish(small, attended_s, fine), fine)
            large = _normed(norm_l, block_l.finish(large, attended_l, coarse), coarse)
        halves = self.upsample(large.unflatten(1, (coarse, -1))), small.unflatten(1, (fine, -1))
        # Concatenated channels-last, so that a runtime can omit the transposition.
        features = torch.cat(halves, dim=3).permute(0, 3, 1, 2).contiguous()
        return Frozen(features, block_s.context(context_s), block_l.context(context_l))

    def check(self, images: Tensor) -> None:
        """Raise ValueError for images of another size."""
        if images.shape[1:] != (3, self.side, self.side):
            raise ValueError(f"images must have shape (B, 3, {self.side}, {self.side}), got {tuple(images.shape)}")

    def layers(self) -> Iterable[tuple[FrozenBlock, ImageNorm, FrozenBlock, ImageNorm]]:
        """Block and norm of the fine branch, then of the coarse branch, layer by layer."""
        layers = zip(self.block_s, self.norm_s, self.block_l, self.norm_l, strict=True)
        return cast("Iterable[tuple[FrozenBlock, ImageNorm, FrozenBlock, ImageNorm]]", layers)

    def upsample(self, x: Tensor) -> Tensor:
        """Coarse tokens (B, H, W, D) to (B, S, S, D): a matrix product, then a pixel shuffle of its four sub-pixels."""
        batch, height, width, depth = x.shape
        x = F.linear(x, self.up)
        if self.tied:
            x = torch.cat([x, x], dim=3).reshape(batch, height, 2 * width, depth)[:, :, : self.side]
            # Rows as single vectors, so that a copied row is contiguous in memory.
            rows = x.reshape(batch, height, self.side * depth)
            return torch.cat([rows, rows], dim=2).reshape(batch, 2 * height, self.side, depth)[:, : self.side]
        shuffled = x.unflatten(3, (2, 2, depth)).permute(0, 1, 3, 2, 4, 5)
        return shuffled.flatten(3, 4).flatten(1, 2)[:, : self.side, : self.side]


def _embed(embed: PatchEmbed, images: Tensor) -> tuple[Tensor, int]:
    """Tokens (B, N, D) of images, and the number of rows of each."""
    tokens = embed.proj(images).permute(0, 2, 3, 1)
    height = tokens.shape[1]
    # The convolution leaves channels first in memory, and every later sum would keep that layout.
    return _normed(embed.norm, tokens.flatten(1, 2).contiguous(), height), height


def _normed(norm: ImageNorm, tokens: Tensor, height: int) -> Tensor:
    """:class:`.msformer.ImageNorm` of tokens (B, N, D) of images with ``height`` rows."""

    def mean(x: Tensor) -> Tensor:
        return spatial_mean(x.unflatten(1, (height, -1))).flatten(1, 2)

    centred = tokens - mean(tokens)
    return centred * (norm.weight * (mean(centred.square()) + norm.eps).rsqrt()) + norm.bias


def _exact(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Matrix and bias of a 1x1 convolution in float64, so that products of matrices are rounded only once."""
    assert conv.bias is not None
    return conv.weight.flatten(1).double(), conv.bias.double()
