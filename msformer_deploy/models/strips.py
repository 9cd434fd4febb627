"""The frozen encoder on horizontal strips of rows, for a CPU: intermediate results stay in the cache.

The hidden tokens of one block at 257 x 257 are 106 MB, and every operator of the Mix-FFN reads and writes all of them.
Here a strip of a few rows goes through all operators before the next strip. The arithmetic is that of
:class:`.frozen.FrozenEncoder`, except that sums over all pixels are joined from the sums of strips.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from .frozen import Frozen, FrozenBlock, FrozenEncoder
from .msformer import ImageNorm, PatchEmbed

# Approximate size of a strip, pixels. All threads wait for every operator of every strip, so smaller strips are slow
# beside other work. For larger strips, the C library returns the memory of the hidden tokens to the system after each
# use, and the system zeroes it page by page for the next use.
PIXELS = 6144


def encode_in_strips(encoder: FrozenEncoder, images: Tensor, pixels: int = PIXELS) -> Frozen:
    """Return the outputs of ``encoder`` for images (B, 3, S, S), on the CPU, one image after the other.

    Args:
        encoder: on the CPU.
        images: (B, 3, S, S), BGR in 0..1, on the CPU.
        pixels: approximate size of a strip; a strip has at least one row.

    Raises:
        ValueError: the images are of another size.
    """
    encoder.check(images)
    side, width = encoder.side, encoder.width
    features = images.new_empty((len(images), side, side, 2 * width))  # channels-last, like tokens
    contexts = images.new_empty((2, len(images), width, width))
    for image, out, small, large in zip(images, features, *contexts, strict=True):
        fine, coarse = _Branch(encoder.patch_embed_s, image, pixels), _Branch(encoder.patch_embed_l, image, pixels)
        for block_s, norm_s, block_l, norm_l in encoder.layers():
            small_context = fine.run(block_s, norm_s)
            large_context = coarse.run(block_l, norm_l)
        small.copy_(block_s.context(small_context))
        large.copy_(block_l.context(large_context))
        upsampled = encoder.upsample(coarse.normed(slice(None)).unflatten(0, (coarse.height, -1))[None])[0]
        for low, high in fine.strips:
            out[low:high, :, :width] = upsampled[low:high]
            out[low:high, :, width:] = fine.normed(fine.tokens(low, high)).unflatten(0, (high - low, -1))
    return Frozen(features.permute(0, 3, 1, 2), *contexts)


class _Branch:
    """One branch on one image: its tokens before the last norm, and the mean and factor of that norm."""

    def __init__(self, embed: PatchEmbed, image: Tensor, pixels: int) -> None:
        embedded = embed.proj(image[None]).permute(0, 2, 3, 1)[0]  # (H, W, D)
        self.height, self.across, width = embedded.shape
        count = min(self.height, max(1, round(self.height * self.across / pixels)))
        self.strips = list(pairwise(round(index * self.height / count) for index in range(count + 1)))
        self._x = embedded.reshape(-1, width)  # tokens before the norm
        self._other = torch.empty_like(self._x)
        self._y = torch.empty_like(self._x)
        moments = _Moments()
        for low, high in self.strips:
            moments.add(self._x[self.tokens(low, high)])
        self._norm(embed.norm, moments)

    def tokens(self, low: int, high: int) -> slice:
        return slice(low * self.across, high * self.across)

    def normed(self, tokens: slice) -> Tensor:
        """Tokens after the last norm."""
        return torch.addcmul(self._bias, self._x[tokens] - self._mean, self._factor)

    def _norm(self, norm: ImageNorm, moments: _Moments) -> None:
        self._mean, self._bias = moments.mean, norm.bias
        self._factor = norm.weight * (moments.squares / len(self._x) + norm.eps).rsqrt()

    def run(self, block: FrozenBlock, norm: ImageNorm) -> Tensor:
        """Apply a block and the norm after it; return the context (D, D) of normed tokens."""
        context = self._attend(block)
        constant = torch.addmm(block.out_bias, context, block.out.T)
        moments = _Moments()
        done = 0
        for low, high in self.strips:
            # The convolution also reads one row above and one row below.
            ahead = min(high + 1, self.height)
            rows = self.tokens(done, ahead)
            self._x[rows] += torch.mm(self._query(block, rows), constant)
            done = ahead
            result = self._other[self.tokens(low, high)]
            self._feed_forward(block, low, high, result)
            moments.add(result)
        self._x, self._other = self._other, self._x
        self._norm(norm, moments)
        return context

    def _query(self, block: FrozenBlock, rows: slice) -> Tensor:
        return F.linear(self._y[rows], block.query, block.query_bias).softmax(dim=1)

    def _attend(self, block: FrozenBlock) -> Tensor:
        """Norm the tokens in place, and again for the attention; return the context of the attention."""
        largest, sums, products = [], [], []
        for low, high in self.strips:
            rows = self.tokens(low, high)
            self._x[rows] = self.normed(rows)
            y = self._y[rows]
            y.copy_(block.norm1(self._x[rows]))
            key = torch.mm(y, block.key.T)
            largest.append(key.amax(dim=0))
            powers = key.sub_(largest[-1]).exp_()
            sums.append(powers.sum(dim=0))
            products.append(torch.mm(powers.T, y))
        shares = torch.stack(largest)
        shares = (shares - shares.amax(dim=0)).exp()
        total = (shares * torch.stack(sums)).sum(dim=0)
        return torch.einsum("sk,skv->kv", shares / total, torch.stack(products))

    def _feed_forward(self, block: FrozenBlock, low: int, high: int, result: Tensor) -> None:
        first, last = max(low - 1, 0), min(high + 1, self.height)
        hidden = block.fc1(block.norm2(self._x[self.tokens(first, last)]))
        image = hidden.view(1, last - first, self.across, -1).permute(0, 3, 1, 2)
        if first == low or last == high:  # the border of the image; rows beyond it are zeros
            image = F.pad(image, (0, 0, int(first == low), int(last == high)))
        image = F.conv2d(image, block.kernel, block.kernel_bias, padding=(0, 1), groups=len(block.kernel))
        hidden = F.gelu(block.norm3(image.permute(0, 2, 3, 1)[0].flatten(0, 1)))
        torch.addmm(self._x[self.tokens(low, high)], hidden, block.fc2.T, out=result)


class _Moments:
    """Mean and sum of squared deviations of each channel, updated strip by strip (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, tokens: Tensor) -> None:
        mean = tokens.mean(dim=0)
        squares = (tokens - mean).square_().sum(dim=0)  # torch.var_mean takes six times as long along this axis
        count = self.count + len(tokens)
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * len(tokens) / count)
        self.mean = self.mean + step * (len(tokens) / count)
        self.count = count
