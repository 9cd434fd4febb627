"""Export-only modules, inputs and outputs in graph order; the models stay free of export concerns."""

from __future__ import annotations

from torch import Tensor, nn

from msformer_deploy.models.msformer import MSFormer


class EncoderGraph(nn.Module):
    """Image (B, 3, S, S) to features (B, 2D, S, S), context_small and context_large (B, D, D)."""

    def __init__(self, model: MSFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.model.encode(image)
        return encoded.features, encoded.context_small, encoded.context_large
