"""The transformer of MCSC (Liu et al., BMVC 2023, arXiv 2306.14293), names as in kathyliu579/MCSC.

Swin-UNet (Cao et al., arXiv 2105.05537) of Swin blocks (Liu et al., ICCV 2021). Its resolution is fixed, so windows,
shifts and masks are constants in the graph. Maps inside are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224
WIDTH = 96
DEPTHS = (2, 2, 2, 2)
HEADS = (3, 6, 12, 24)
WINDOW = 7
DROP_PATH = 0.2
PATCH = 4  # side of the patches that become tokens, pixels
EXPANSION = 4  # hidden width of a block's MLP divided by its width

_APART = -100.0  # separates tokens that are neighbours only after a shift: their attention is e^-100
_UNUSED = ("output.weight",)  # a classifier that the published module has but never calls
_CONSTANTS = ("attn_mask", "relative_position_index")


class Tokens(NamedTuple):
    """Outputs of the decoder, coarse to fine; sizes as published, for side 224."""

    sixteenth: Tensor  # (B, 14 * 14, 384)
    eighth: Tensor  # (B, 28 * 28, 192)
    quarter: Tensor  # (B, 56 * 56, 96)
    full: Tensor  # (B, 96, 224, 224)


class PatchEmbed(nn.Module):
    """Images (B, 3, S, S) to tokens (B, S / 4, S / 4, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each relative position of two tokens.

    Args:
        width: channels of a token.
        heads: number of heads that share the channels.
        window: side of a window, tokens.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_positions(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            windows: (B, n, window^2, C), n windows of each image.
            mask: (n, window^2, window^2), added to the scores; None for no mask.
        """
        query, key, value = self.qkv(windows).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        scores = torch.matmul(query * self.scale, key.mT) + bias  # (B, n, heads, window^2, window^2)
        if mask is not None:
            scores = scores + mask[:, None]
        return self.proj(torch.matmul(scores.softmax(dim=4), value).transpose(2, 3).flatten(3))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each after a LayerNorm and with a skip; stochastic depth may drop the residual.

    Args:
        width: channels of a token.
        side: side of the map, tokens.
        heads: number of attention heads.
        window: side of a window, tokens. A map that is not larger is one window and is never shifted.
        shifted: shift the windows by half a window; the map wraps around at its edges.
        drop_path: share of images for which training drops a residual.
    """

    attn_mask: Tensor | None

    def __init__(self, width: int, side: int, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted and side > window else 0
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        mask = _shift_mask(side, window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, H, C) to tokens (B, H, H, C)."""
        x = x + self._kept(self._attend(self.norm1(x)))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = _join_windows(self.attn(_windows(x, self.window), self.attn_mask), self.window)
        return x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x

    def _kept(self, residual: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., ECCV 2016), by image; kept residuals are scaled up."""
        if not self.training or self.drop_path == 0:
            return residual
        kept = residual.new_empty(len(residual), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return residual * (kept / (1 - self.drop_path))


class PatchMerging(nn.Module):
    """Halve the side and double the width: (B, H, H, C) to (B, H / 2, H / 2, 2C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # The order of four neighbours: the left column from top to bottom, then the right column.
        pairs = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, H / 2, 2, C)
        return self.reduction(self.norm(pairs.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class PatchExpand(nn.Module):
    """Enlarge the side ``factor`` times: (B, H, H, C) to (B, fH, fH, D), by a Linear layer and a pixel shuffle.

    Args:
        width: input channels C.
        factor: f.
        outputs: output channels D.
    """

    def __init__(self, width: int, factor: int, outputs: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(width, factor * factor * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor
        parts = self.expand(x).unflatten(3, (factor, factor, -1))  # row, column, channel
        return self.norm(parts.transpose(2, 3).flatten(3, 4).flatten(1, 2))


class Stage(nn.Module):
    """Blocks at one resolution, then the modules ``resize``, each under its published name."""

    def __init__(
        self, width: int, side: int, heads: int, window: int, drop_paths: Sequence[float], **resize: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width, side, heads, window, shifted=index % 2 == 1, drop_path=drop_path)
            for index, drop_path in enumerate(drop_paths)
        )
        self.resize = tuple(resize)
        for name, module in resize.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        for name in self.resize:
            x = self.get_submodule(name)(x)
        return x


class SwinUNet(nn.Module):
    """Swin-UNet: grey images (B, 1, S, S), repeated to three equal channels, to the four maps of the decoder.

    Weights are drawn as in the public code of Swin: Linear layers normal with deviation 0.02, biases zero.

    Loading drops two parts of a published state dict: masks and index tables, which are constants here, and an unused
    classifier, which :func:`classifier` replaces.

    Args:
        side: S, pixels; the tokens of every stage must fill whole windows.
        width: channels of the first stage; each later stage has twice as many.
        depths: blocks of the four stages; the decoder mirrors the first three.
        heads: attention heads of the four stages.
        window: side of an attention window, tokens.
        drop_path: share of residuals that training drops at the last block of the encoder; the share rises linearly
            from 0 at the first block, and the decoder mirrors it.

    Raises:
        ValueError: the sizes do not fit one another.
    """

    def __init__(
        self,
        side: int = SIDE,
        width: int = WIDTH,
        depths: Sequence[int] = DEPTHS,
        heads: Sequence[int] = HEADS,
        window: int = WINDOW,
        drop_path: float = DROP_PATH,
    ) -> None:
        super().__init__()
        _check_sizes(side, width, depths, heads, window)
        self.side, self.width = side, width
        widths = [width << stage for stage in range(4)]
        sides = [side // PATCH >> stage for stage in range(4)]
        rates = _by_stage(torch.linspace(0, drop_path, sum(depths)).tolist(), depths)

        def stage(index: int, **resize: nn.Module) -> Stage:
            return Stage(widths[index], sides[index], heads[index], window, rates[index], **resize)

        self.patch_embed = PatchEmbed(width)
        self.layers = nn.ModuleList(
            [*(stage(index, downsample=PatchMerging(widths[index])) for index in range(3)), stage(3)]
        )
        self.layers_up = nn.ModuleList(
            [
                PatchExpand(widths[3], 2, widths[2]),
                stage(2, upsample=PatchExpand(widths[2], 2, widths[1])),
                stage(1, upsample=PatchExpand(widths[1], 2, widths[0])),
                stage(0),
            ]
        )
        # The published list begins with a module without parameters that is never called, so names begin with "1".
        self.concat_back_dim = nn.ModuleDict(
            {str(index): nn.Linear(2 * widths[3 - index], widths[3 - index]) for index in (1, 2, 3)}
        )
        self.norm = nn.LayerNorm(widths[3])
        self.norm_up = nn.LayerNorm(width)
        self.up = PatchExpand(width, PATCH, width)
        self.apply(_draw)
        self.register_load_state_dict_pre_hook(_without_constants)

    def forward(self, images: Tensor) -> Tokens:
        if images.shape[1:] != (1, self.side, self.side):
            raise ValueError(f"images must have shape (B, 1, {self.side}, {self.side}), got {tuple(images.shape)}")
        x = self.patch_embed(images.expand(-1, 3, -1, -1))
        skips = []
        for layer in self.layers:
            skips.append(x)
            x = layer(x)
        x = self.layers_up[0](self.norm(x))
        handed_out = [x]
        for index, layer in enumerate(cast("Iterable[nn.Module]", self.layers_up[1:]), start=1):
            joined = torch.cat([x, skips[3 - index]], dim=3)
            x = layer(self.concat_back_dim[str(index)](joined))
            handed_out.append(x)
        full = self.up(self.norm_up(x)).permute(0, 3, 1, 2)
        sixteenth, eighth, quarter = (each.flatten(1, 2) for each in handed_out[:3])
        return Tokens(sixteenth, eighth, quarter, full)


def classifier(width: int = WIDTH, classes: int = 4) -> nn.Conv2d:
    """A 3x3 convolution from the full-size map to class logits."""
    return nn.Conv2d(width, classes, kernel_size=3, padding=1)


def _check_sizes(side: int, width: int, depths: Sequence[int], heads: Sequence[int], window: int) -> None:
    if not len(depths) == len(heads) == 4:
        raise ValueError(f"there are 4 stages, got {len(depths)} depths and {len(heads)} numbers of heads")
    if side < 1 or side % (8 * PATCH * window):
        raise ValueError(f"side must be a multiple of {8 * PATCH * window} for windows of {window}, got {side}")
    for index, count in enumerate(heads):
        if count < 1 or (width << index) % count:
            raise ValueError(f"{width << index} channels of stage {index + 1} cannot be shared by {count} heads")


def _by_stage(values: Sequence[float], depths: Sequence[int]) -> list[list[float]]:
    ends = [sum(depths[: index + 1]) for index in range(len(depths))]
    return [list(values[end - depth : end]) for end, depth in zip(ends, depths, strict=True)]


def _windows(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, H, C) into (B, n, window^2, C), windows in row-major order."""
    cut = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, window, columns, window, C)
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _join_windows(windows: Tensor, window: int) -> Tensor:
    """The inverse of :func:`_windows`."""
    count = int(windows.shape[1] ** 0.5)
    cut = windows.unflatten(2, (window, window)).unflatten(1, (count, count))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative_positions(window: int) -> Tensor:
    """Index into the bias table for each pair of tokens, int64 (window^2, window^2): row offset, then column offset."""
    place = torch.arange(window)
    apart = place[:, None] - place + window - 1  # (window, window), 0 to 2 window - 2
    table = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return table.reshape(window * window, window * window)


def _shift_mask(side: int, window: int, shift: int) -> Tensor:
    """Mask (n, window^2, window^2) for the scores of shifted windows: it separates tokens from opposite edges."""
    place = torch.arange(side)
    band = (place >= side - window).long() + (place >= side - shift).long()
    region = (3 * band[:, None] + band)[None, :, :, None]
    windows = _windows(region, window)[0, :, :, 0]
    return torch.where(windows[:, :, None] == windows[:, None, :], 0.0, _APART)


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _without_constants(_: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    unwanted = {prefix + name for name in _UNUSED}
    for name in [each for each in state if each.startswith(prefix)]:
        if name in unwanted or name.endswith(_CONSTANTS):
            del state[name]
