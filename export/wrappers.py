"""Export-only modules, inputs and outputs in graph order; the models stay free of export concerns."""

from __future__ import annotations

from torch import Tensor, nn

from msformer_deploy import refine
from msformer_deploy.kernels import cluster_argmax
from msformer_deploy.models.msformer import MSFormer
from msformer_deploy.registry import RefineSettings


class EncoderGraph(nn.Module):
    """Image (B, 3, S, S) to features (B, 2D, S, S), context_small and context_large (B, D, D)."""

    def __init__(self, model: MSFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.model.encode(image)
        return encoded.features, encoded.context_small, encoded.context_large


class RefinementGraph(nn.Module):
    """Features (B, 2D, S, S) to label_map (B, S, S), counts (B, K) and collapsed (B,), every update unrolled.

    The same steps as ``refine.refine_head``, except that an image that stopped goes on through updates that change
    nothing, because a graph has no early exit.
    """

    def __init__(self, head: Tensor, settings: RefineSettings) -> None:
        super().__init__()
        self.register_buffer("initial_head", head)
        self.settings = settings

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        samples = refine.strided_samples(features, self.settings)
        state = refine.begin(self.get_buffer("initial_head"), features.shape[0], self.settings)
        for step in range(self.settings.steps):
            state, _, _ = refine.update(state, samples[step % self.settings.stride], self.settings)
        heads, collapsed = refine.settle(state, samples[self.settings.steps % self.settings.stride])
        labels, counts = cluster_argmax(features, heads)
        return labels, counts, collapsed
