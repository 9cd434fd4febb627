"""MS-Former arranged as the public code has it: the yardstick of what mode ``full`` saves, not a part of the package.

After xmindflow/MS-Former, in our words: channels-first maps between the blocks, tokens inside them, every projection of
the attention a 1x1 convolution, fc1 evaluated twice, BatchNorm modules in train mode, the identity of the intra-scale
loss made anew at every step. State-dict names are the same, so that both arrangements can start from the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msformer_deploy.registry import RefineSettings


class PatchEmbed(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 3, stride, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image))


class EfficientAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys, self.queries, self.values, self.reprojection = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        keys, queries, values = (layer(image).flatten(2) for layer in (self.keys, self.queries, self.values))
        context = keys.softmax(dim=2) @ values.transpose(1, 2)
        attended = context.transpose(1, 2) @ queries.softmax(dim=1)
        return self.reprojection(attended.view_as(image)), context


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        image = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
        return self.dwconv(image).flatten(2).transpose(1, 2)


class MixFeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.dwconv = DepthwiseConv(4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.norm1 = nn.LayerNorm(4 * width)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        return self.fc2(F.gelu(self.norm1(self.dwconv(self.fc1(tokens), side) + self.fc1(tokens))))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = EfficientAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixFeedForward(width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = image.flatten(2).transpose(1, 2)
        attended, context = self.attn(self.norm1(tokens).transpose(1, 2).view_as(image))
        tokens = tokens + attended.flatten(2).transpose(1, 2)
        tokens = tokens + self.mlp(self.norm2(tokens), image.shape[2])
        return tokens.transpose(1, 2).reshape(image.shape), context


class PublishedMSFormer(nn.Module):
    """The network of :class:`msformer_deploy.models.msformer.MSFormer`, for a batch of one, in train mode."""

    def __init__(self, side: int = 257, width: int = 100, clusters: int = 100, blocks: int = 2) -> None:
        super().__init__()
        self.side, self.width, self.clusters = side, width, clusters
        self.patch_embed_s, self.patch_embed_l = PatchEmbed(width, 1), PatchEmbed(width, 2)
        self.block_s, self.block_l = (nn.ModuleList(Block(width) for _ in range(blocks)) for _ in range(2))
        self.bn2_s, self.bn2_l = (nn.ModuleList(nn.BatchNorm2d(width) for _ in range(blocks)) for _ in range(2))
        self.linear_up = nn.Linear(width, 4 * width, bias=False)
        self.linear_down = nn.Linear(2 * width, clusters, bias=False)
        self.to_patch_embedding = nn.ModuleDict({"1": nn.Linear(32 * 32 * clusters, clusters)})
        self.bn3 = nn.BatchNorm2d(clusters)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (1, K, S, S), patch attention (1, P, P), both contexts (1, D, D)."""
        small, context_small = self._branch(self.patch_embed_s(image), self.block_s, self.bn2_s)
        large, context_large = self._branch(self.patch_embed_l(image), self.block_l, self.bn2_l)
        up = self.linear_up(large.permute(0, 2, 3, 1)).unflatten(3, (2, 2, self.width))
        up = up.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)[:, : self.side, : self.side]
        features = torch.cat([up, small.permute(0, 2, 3, 1)], dim=3)
        logits = self.linear_down(features).permute(0, 3, 1, 2)
        normalised = self.bn3(logits)
        query, key = self._patches(normalised[:, :, 1:, 1:]), self._patches(normalised[:, :, :-1, :-1])
        return logits, (query @ key.transpose(1, 2) * 64**-0.5).softmax(dim=2), context_small, context_large

    @staticmethod
    def _branch(image: Tensor, blocks: nn.ModuleList, norms: nn.ModuleList) -> tuple[Tensor, Tensor]:
        for block, norm in zip(blocks, norms, strict=True):
            image, context = block(image)
            image = norm(image)
        return image, context

    def _patches(self, image: Tensor) -> Tensor:
        patches = image.unflatten(3, (-1, 32)).unflatten(2, (-1, 32)).permute(0, 2, 4, 3, 5, 1)
        return self.to_patch_embedding["1"](patches.flatten(3).flatten(1, 2))


class PublishedLoop:
    """One update after another, as the public notebook makes them.

    Args:
        network: in train mode; it is changed in place.
        lr, momentum, inter_weight, intra_weight: as in ``RefineSettings``.
    """

    def __init__(
        self, network: PublishedMSFormer, lr: float, momentum: float, inter_weight: float, intra_weight: float
    ) -> None:
        self.network = network
        self._weights = inter_weight, intra_weight
        self._optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
        self._inter, self._intra, self._entropy = nn.CosineEmbeddingLoss(), nn.L1Loss(), nn.CrossEntropyLoss()

    def step(self, image: Tensor) -> tuple[float, float, float, int]:
        """Cross-entropy, inter-scale and intra-scale loss, and the label count, before the update."""
        self._optimiser.zero_grad()
        logits, attention, context_small, context_large = self.network(image)
        target = logits.argmax(dim=1)
        label_count = len(target.unique())
        entropy = self._entropy(logits, target)
        inter = self._inter(context_small[0], context_large[0], torch.ones(1, device=image.device))
        intra = self._intra(attention[0], torch.eye(attention.shape[1], device=image.device))
        (entropy + self._weights[0] * inter + self._weights[1] * intra).backward()
        self._optimiser.step()
        return entropy.item(), inter.item(), intra.item(), label_count


def refine_as_published(network: PublishedMSFormer, image: Tensor, settings: RefineSettings) -> tuple[Tensor, int]:
    """Labels (S, S) of the whole published loop on one image, and the steps it took."""
    loop = PublishedLoop(network, settings.lr, settings.momentum, settings.inter_weight, settings.intra_weight)
    steps, label_count = 0, network.clusters
    while steps < settings.steps and label_count > settings.stop_labels:
        *_, label_count = loop.step(image)
        steps += 1
    with torch.no_grad():
        return network(image)[0].argmax(dim=1)[0], steps
