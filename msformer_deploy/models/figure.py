"""The probability that a pixel is figure: what the prior says, what is learned from that on the image, and its edges.

1. **Prior.** :class:`.prior.Prior` sees the image at two sizes, as it is and mirrored; the mean of the four logits
   counts.
2. **Learning.** A linear function of the encoder's features is fitted to what the prior says, by weighted least squares
   with a ridge penalty (Hoerl & Kennard 1970), where the prior is sure. It is added as far as it explains the prior
   (its coefficient of determination R²): where all figures look alike it finds those that the prior missed, and where
   the figure has no look of its own it is left out.
3. **Edges.** The probability follows the grey image by a guided filter (He et al., ECCV 2010).

Every operator is a plain one of ONNX: images are resized and means over windows taken by matrix products, and the
normal equations are solved by a fixed number of steps of conjugate gradients (Hestenes & Stiefel 1952).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..registry import FigureSettings
from .prior import SIDE, Prior

SIDES = (64, SIDE)  # pixels, at which the prior sees the image
_SETTINGS = FigureSettings()
GRID, RIDGE, STEPS, GAIN, CLIP = _SETTINGS.grid, _SETTINGS.ridge, _SETTINGS.steps, _SETTINGS.gain, _SETTINGS.clip
RADIUS, CONTRAST = _SETTINGS.radius, _SETTINGS.contrast
SURE = 4.0  # logit of a pixel that a prompt says is inside
_NO_WEIGHT, _NO_SPREAD, _NO_ENERGY = _SETTINGS.no_weight, _SETTINGS.no_spread, _SETTINGS.no_energy


class Figure(nn.Module):
    """The probability of figure from an image and the features that an encoder has of it.

    Args:
        prior: with its weights, in evaluation mode; faster in torch if it is :func:`.prior.fused`.
        side: S, pixels of the images' sides.
    """

    averaging: Tensor
    to_image: Tensor
    to_grid: Tensor

    def __init__(self, prior: Prior, side: int) -> None:
        super().__init__()
        self.prior = convert_conv2d_weight_memory_format(prior, torch.channels_last)  # a third faster on a CPU
        self.register_buffer("averaging", averaging(side, max(1, round(RADIUS * side))), persistent=False)
        for size in SIDES:
            self.register_buffer(f"to_{size}", resizing(side, size), persistent=False)
            self.register_buffer(f"prompts_to_{size}", resizing(SIDE, size), persistent=False)
            self.register_buffer(f"from_{size}", resizing(size, SIDE), persistent=False)
        self.stride = max(1, side // GRID)
        self.register_buffer("to_image", resizing(SIDE, side), persistent=False)
        self.register_buffer("to_grid", resizing(SIDE, side)[:: self.stride].contiguous(), persistent=False)

    def forward(self, images: Tensor, features: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Probability (B, S, S), float32 in 0..1.

        Args:
            images: float32 (B, 3, S, S), BGR in 0..1.
            features: float32 (B, C, S, S), of an encoder.
            prompts: float32 (B, 3, 96, 96), or (1, 3, 96, 96) for all images, see :class:`.prior.Prior`; None means no
                prompts.
        """
        return self.from_known(self.known(images, prompts), images, features, prompts)

    def from_known(self, logits: Tensor, images: Tensor, features: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Probability (B, S, S) from the logits of :meth:`known`; other arguments as for :meth:`forward`."""
        if prompts is not None:
            logits = labelled(logits, prompts)
        learned = learn(features.permute(0, 2, 3, 1), resized(logits, self.to_grid).sigmoid(), self.stride)
        probability = (resized(logits, self.to_image) + learned).sigmoid()
        followed = self._on_edges(probability, images.mean(dim=1, keepdim=True))
        return followed.clamp(0, 1).squeeze(1)

    def known(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Logits (B, 1, 96, 96) of the prior; arguments as for :meth:`forward`."""
        rgb = torch.stack([images[:, 2], images[:, 1], images[:, 0]], dim=1)
        found = []
        for size in SIDES:
            small = self._both_ways(rgb, getattr(self, f"to_{size}"))
            given = None if prompts is None else self._both_ways(prompts, getattr(self, f"prompts_to_{size}"))
            straight, mirrored = self.prior(small, given).chunk(2)
            back = getattr(self, f"from_{size}")
            found += [back @ straight @ back.T, back @ mirrored @ back.flip(0).T]
        return torch.cat(found, dim=1).mean(dim=1, keepdim=True)

    @staticmethod
    def _both_ways(images: Tensor, matrix: Tensor) -> Tensor:
        """Images resized, then the same mirrored: (2B, C, N, N)."""
        rows = matrix @ images
        return torch.cat([rows @ matrix.T, rows @ matrix.flip(0).T])

    def _on_edges(self, values: Tensor, guide: Tensor) -> Tensor:
        means = self._mean(torch.cat([values, guide, guide * guide, guide * values], dim=1))
        mean, guided, squared, product = means.split(1, dim=1)
        slope = (product - guided * mean) / (squared - guided * guided + CONTRAST)
        slope, offset = self._mean(torch.cat([slope, mean - slope * guided], dim=1)).split(1, dim=1)
        return slope * guide + offset

    def _mean(self, values: Tensor) -> Tensor:
        return self.averaging @ values @ self.averaging.T


def labelled(logits: Tensor, prompts: Tensor) -> Tensor:
    """Logits that are sure where prompts say what a pixel is: inside at points on the object, outside at others.

    Args:
        logits: (B, 1, N, N).
        prompts: (B, 3, N, N) or (1, 3, N, N), see :class:`.prior.Prior`.
    """
    inside, off, box = prompts.split(1, dim=1)
    outside = torch.maximum(off, box.amax(dim=(2, 3), keepdim=True) - box)
    raised = logits + inside * (SURE - logits).clamp(min=0)
    return raised - outside * (raised + SURE).clamp(min=0)


def learn(rows: Tensor, probability: Tensor, stride: int) -> Tensor:
    """What a linear function of the features adds to the prior's logits: (B, 1, S, S).

    With y = 2p - 1 of the prior's probability p, weights |y| that give figure and ground the same sum, and standardised
    features z, it minimises the weighted mean of (y - z c)² plus :data:`RIDGE` |c|².

    Args:
        rows: (B, S, S, C), the features, where they are applied; they are fitted at every ``stride``-th pixel.
        probability: (B, 1, N, N), of the prior at the pixels of the fit.
        stride: between those, in rows and columns.
    """
    z = rows[:, ::stride, ::stride].flatten(1, 2)
    p = probability.flatten(2).transpose(1, 2)
    target = 2 * p - 1
    weight = target.abs() + _NO_WEIGHT
    weight = weight * (p / (weight * p).sum(1, keepdim=True) + (1 - p) / (weight * (1 - p)).sum(1, keepdim=True)) / 2
    centre = (weight * z).sum(1, keepdim=True)
    z = z - centre
    spread = (weight * z * z).sum(1, keepdim=True).sqrt() + _NO_SPREAD
    z = z / spread
    level = (weight * target).sum(1, keepdim=True)
    weighted = (z * weight).transpose(1, 2)
    coefficients = _solve(weighted @ z, weighted @ (target - level))
    missed = target - level - z @ coefficients
    unexplained = (weight * missed * missed).sum(1, keepdim=True)
    total = (weight * (target - level) ** 2).sum(1, keepdim=True)
    explained = (1 - unexplained / total).clamp(min=0)
    direction = coefficients / spread.transpose(1, 2)
    score = rows.flatten(1, 2) @ direction + level - centre @ direction
    logits = GAIN * explained**2 * score.clamp(-CLIP, CLIP)
    return logits.transpose(1, 2).unflatten(2, rows.shape[1:3])


def _solve(covariance: Tensor, right: Tensor) -> Tensor:
    """Solve (A + RIDGE I) c = b by conjugate gradients; A is (B, C, C), b and c are (B, C, 1).

    Residuals are kept orthogonal to all before them, which rounding would undo from the sixth step on: without this,
    float32 differs from float64 by almost 1 in the logits, and one machine from another.
    """
    solution, residual, direction = 0 * right, right, right
    energy = (residual * residual).sum(1, keepdim=True)
    known = _unit(residual, energy)
    for _ in range(min(STEPS, right.shape[1])):
        ahead = covariance @ direction + RIDGE * direction
        length = energy / (direction * ahead).sum(1, keepdim=True).clamp(min=_NO_ENERGY)
        solution = solution + length * direction
        residual = residual - length * ahead
        residual = residual - known @ (known.transpose(1, 2) @ residual)
        before, energy = energy, (residual * residual).sum(1, keepdim=True)
        known = torch.cat([known, _unit(residual, energy)], dim=2)
        direction = residual + energy / before.clamp(min=_NO_ENERGY) * direction
    return solution


def _unit(vector: Tensor, energy: Tensor) -> Tensor:
    # Not by a sum with something tiny, which the optimiser of exported graphs takes for a sum with 0.
    return vector / energy.clamp(min=_NO_ENERGY).sqrt()


def resizing(size: int, wanted: int) -> Tensor:
    """The matrix (wanted, size) that resizes a line as Pillow does: linear, and antialiased where it shrinks."""
    scale = size / wanted
    reach = max(scale, 1.0)
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(size, dtype=torch.float64) + 0.5
    weights = (1 - (places - centres[:, None]).abs() / reach).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def averaging(side: int, radius: int) -> Tensor:
    """The matrix (side, side) that takes the mean over a window, which the image's border cuts off."""
    places = torch.arange(side)
    near = ((places[:, None] - places).abs() <= radius).float()
    return near / near.sum(dim=1, keepdim=True)


def resized(values: Tensor, matrix: Tensor) -> Tensor:
    """Maps (..., N, N) resized to (..., M, M) by a matrix (M, N) of :func:`resizing`."""
    return matrix @ values @ matrix.T
