"""MS-Former: Karimijafarbigloo et al., MIDL 2023, PMLR 227:680-694; state-dict names as in xmindflow/MS-Former.

Inside the branches an image is channels-last, (B, H, W, D): every projection is then one matrix product, and LayerNorm
normalises the last axis. Only the depthwise convolution needs it channels-first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import cross_scale_attention
from .training import add_in_strips, image_norm, key_projection

PATCH = 32  # side of the patches that the intra-scale attention compares, pixels
EXPANSION = 4  # hidden width of the Mix-FFN divided by the embedding width


class Encoded(NamedTuple):
    """Outputs of the encoder for a batch of images."""

    features: Tensor  # (B, 2D, S, S), channels last in memory: large branch (upsampled) first, then small
    context_small: Tensor  # (B, D, D), last block of the fine branch
    context_large: Tensor  # (B, D, D), last block of the coarse branch
    consistency: Tensor  # (B,), mean cosine between the rows of the two contexts


class Output(NamedTuple):
    """Outputs of a full forward pass."""

    logits: Tensor  # (B, K, S, S)
    attention: Tensor  # (B, P, P) between the P = ((S - 1) / 32)^2 patches
    context_small: Tensor
    context_large: Tensor
    consistency: Tensor


class ImageNorm(nn.BatchNorm2d):
    """BatchNorm2d as the published code uses it: batch of one, train mode. This is InstanceNorm with affine parameters.

    It is a subclass of BatchNorm2d only so that the published state dict, with its running statistics, loads strictly.
    The statistics are never read or written, and each image of a batch is normalised alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel of every image of ``x`` (B, H, W, D) over its own pixels."""
        x = x.to(self.weight.dtype)  # autocast may give a half type
        if _trains(self):
            return image_norm(x, self.weight, self.bias, self.eps)
        centred = x - spatial_mean(x)
        return centred * (self.weight * (spatial_mean(centred.square()) + self.eps).rsqrt()) + self.bias


class PatchEmbed(nn.Module):
    """Strided 3x3 convolution and norm: (B, 3, S, S) to (B, H, W, D)."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1)
        self.norm = ImageNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class EfficientAttention(nn.Module):
    """The projections around linear attention: the weights of 1x1 convolutions, applied as matrix products."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys = nn.Conv2d(width, width, kernel_size=1)
        self.queries = nn.Conv2d(width, width, kernel_size=1)
        self.values = nn.Conv2d(width, width, kernel_size=1)
        self.reprojection = nn.Conv2d(width, width, kernel_size=1)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, N, D), key (B, D, N) and value (B, N, D) of x (B, H, W, D), N = H x W in row-major order."""
        tokens = x.flatten(1, 2)
        assert self.keys.bias is not None
        weight = self.keys.weight.flatten(1)
        if _trains_on_cpu(self.keys):
            key = key_projection(tokens, weight, self.keys.bias)
        else:
            key = torch.matmul(weight, tokens.mT) + self.keys.bias[:, None]
        return _pointwise(self.queries, tokens), key, _pointwise(self.values, tokens)

    def reproject(self, attended: Tensor) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""
        return _pointwise(self.reprojection, attended)


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution plus its input, in one convolution: adding 1 to the centre tap adds the input."""

    identity: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.register_buffer("identity", F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.dwconv
        out = F.conv2d(x.permute(0, 3, 1, 2), conv.weight + self.identity, conv.bias, padding=1, groups=conv.groups)
        return out.permute(0, 2, 3, 1)


class MixFeedForward(nn.Module):
    """Mix-FFN with a skip around its depthwise convolution. ``fc1`` runs once (the published code runs it twice)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = EXPANSION * width
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Tokens (B, H, W, D) to the tokens (B, rows, W, D) of ``rows``."""
        return self.fc2(F.gelu(self.norm1(self.dwconv(self.fc1(x))[:, rows])))


class Block(nn.Module):
    """Efficient transformer block, in two halves, so that the attention of both branches runs as one operation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = EfficientAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixFeedForward(width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attn.project(self.norm1(x))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attn.reproject(attended).view_as(x)
        if _trains_on_cpu(self.mlp.fc1):
            return add_in_strips(self._feed_forward, x, [*self.norm2.parameters(), *self.mlp.parameters()])
        return x + self.mlp(self.norm2(x))

    def _feed_forward(self, x: Tensor, rows: slice) -> Tensor:
        return self.mlp(self.norm2(x), rows)


class MSFormer(nn.Module):
    """The self-guided network: an encoder, a linear cluster head, and a patch attention that only training uses.

    Args:
        side: image side S; S - 1 must be a multiple of 32.
        width: embedding width D of each branch.
        clusters: number of clusters K.
        blocks: transformer blocks in each branch.

    Raises:
        ValueError: a size is out of range.
    """

    def __init__(self, side: int = 257, width: int = 100, clusters: int = 100, blocks: int = 2) -> None:
        super().__init__()
        if side <= PATCH or (side - 1) % PATCH:
            raise ValueError(f"side must be a multiple of {PATCH} plus 1 (33, 65, ..., 257, ...), got {side}")
        for name, value, minimum in (("width", width, 1), ("clusters", clusters, 2), ("blocks", blocks, 1)):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}")
        self.side, self.width, self.clusters = side, width, clusters
        self.patch_embed_s = PatchEmbed(width, stride=1)
        self.patch_embed_l = PatchEmbed(width, stride=2)
        self.block_s = nn.ModuleList(Block(width) for _ in range(blocks))
        self.bn2_s = nn.ModuleList(ImageNorm(width) for _ in range(blocks))
        self.block_l = nn.ModuleList(Block(width) for _ in range(blocks))
        self.bn2_l = nn.ModuleList(ImageNorm(width) for _ in range(blocks))
        self.linear_up = nn.Linear(width, 4 * width, bias=False)
        self.linear_down = nn.Linear(2 * width, clusters, bias=False)
        # The published module is a Sequential; its first entry has no parameters, so the weights are named "1".
        self.to_patch_embedding = nn.ModuleDict({"1": nn.Linear(PATCH * PATCH * clusters, clusters)})
        self.bn3 = ImageNorm(clusters)

    def encode(self, images: Tensor) -> Encoded:
        """Features and contexts of images (B, 3, S, S), BGR in 0..1."""
        if images.shape[1:] != (3, self.side, self.side):
            raise ValueError(f"images must have shape (B, 3, {self.side}, {self.side}), got {tuple(images.shape)}")
        # The convolution leaves channels first in memory, and every later sum would keep that layout.
        small = self.patch_embed_s(images).contiguous()
        large = self.patch_embed_l(images).contiguous()
        layers = zip(self.block_s, self.bn2_s, self.block_l, self.bn2_l, strict=True)
        for block_s, norm_s, block_l, norm_l in cast("Iterable[tuple[Block, ImageNorm, Block, ImageNorm]]", layers):
            attended_s, attended_l, context_small, context_large, consistency = cross_scale_attention(
                *block_s.project(small), *block_l.project(large)
            )
            small = norm_s(block_s.finish(small, attended_s))
            large = norm_l(block_l.finish(large, attended_l))
        features = torch.cat([self._upsample(large), small], dim=3)
        return Encoded(features.permute(0, 3, 1, 2), context_small, context_large, consistency)

    def _upsample(self, x: Tensor) -> Tensor:
        """Pixel-shuffle (B, H, W, D) by two and crop to (B, S, S, D); channel order (row, column, D)."""
        shuffled = self.linear_up(x).unflatten(3, (2, 2, self.width))
        image = shuffled.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return image[:, : self.side, : self.side]

    def head(self, features: Tensor) -> Tensor:
        """Cluster logits (B, K, S, S), channels-last in memory, of features (B, 2D, S, S)."""
        logits: Tensor = self.linear_down(features.permute(0, 2, 3, 1))
        return logits.permute(0, 3, 1, 2)

    def scores(self, images: Tensor) -> Tensor:
        """Cluster logits (B, K, S, S) of images (B, 3, S, S)."""
        return self.head(self.encode(images).features)

    def patch_attention(self, logits: Tensor) -> Tensor:
        """Attention (B, P, P) between the 32x32 patches of the map and those of the map shifted by one pixel."""
        normalised = self.bn3(logits.permute(0, 2, 3, 1))
        pair = torch.stack([normalised[:, 1:, 1:], normalised[:, :-1, :-1]])
        patches = pair.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # (2, B, rows, 32, columns, 32, K)
        vectors = patches.transpose(3, 4).flatten(4).flatten(2, 3)  # (2, B, P, 32 * 32 * K)
        query, key = self.to_patch_embedding["1"](vectors)  # both at once: its 41 MB of weights are read once
        # The published code has 64 ** -0.5 for every width and number of patches.
        return torch.matmul(query, key.mT).mul(0.125).softmax(dim=2)

    def forward(self, images: Tensor) -> Output:
        return self.finish(self.encode(images))

    def finish(self, encoded: Encoded) -> Output:
        """Apply the head and the patch attention to the outputs of the encoder."""
        logits = self.head(encoded.features)
        return Output(logits, self.patch_attention(logits), *encoded[1:])


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over the pixels of (B, H, W, D), first along rows: a runtime that sums all pixels in one float loses digits.

    On an image with a flat background, ONNX Runtime's features differed from float64 by 6e-5 of the largest feature
    with a mean over both axes at once, and by 1e-6 with a mean in two steps.
    """
    return x.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


def _trains(layer: nn.BatchNorm2d | nn.Conv2d | nn.Linear) -> bool:
    """Whether an eager pass learns. A compiler generates the backward pass itself, from operators that it knows."""
    return torch.is_grad_enabled() and layer.weight.requires_grad and not torch.compiler.is_compiling()


def _trains_on_cpu(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether an eager pass learns on a CPU, where strips fit a cache. A GPU is faster with few large operators."""
    return _trains(layer) and layer.weight.device.type == "cpu"


def _pointwise(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)
