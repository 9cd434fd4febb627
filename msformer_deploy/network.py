"""Networks from seeds and from bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from .bundle import WEIGHTS, Bundle, ModelSizes
from .errors import BundleError
from .models.msformer import MSFormer

if TYPE_CHECKING:
    from torch import Tensor


def new_network(sizes: ModelSizes, seed: int) -> MSFormer:
    """A network as published: torch's default initialisation under ``seed``; the caller's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)


def load_network(bundle: Bundle) -> MSFormer:
    """The network a bundle was exported from.

    Raises:
        BundleError: the weights do not fit the sizes in the manifest.
    """
    sizes = bundle.sizes
    model = MSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)
    try:
        model.load_state_dict(load_file(bundle.file(WEIGHTS)))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.file(WEIGHTS)}: does not fit the manifest's sizes ({reason})") from error
    return model


def tie_upsampling(model: MSFormer) -> MSFormer:
    """Give the four sub-pixels of the coarse branch's upsampling one kernel, in place; for a frozen, untrained encoder.

    With four independent random kernels the upsampled features, and so the clusters, alternate from pixel to pixel in
    flat areas; training learns that away, a frozen encoder cannot. This is the ICNR initialisation of Aitken et al.,
    arXiv 1707.02937. Mode ``full`` starts from the untied weights, as published.
    """
    with torch.no_grad():
        model.linear_up.weight.copy_(model.linear_up.weight[: model.width].repeat(4, 1))
    return model


def initial_head(sizes: ModelSizes, seed: int) -> Tensor:
    """The head (K, 2D) of the network that ``seed`` gives."""
    return new_network(sizes, seed).linear_down.weight.detach()
