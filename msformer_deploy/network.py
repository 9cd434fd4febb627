"""Networks from seeds and from bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from .bundle import HEAD, WEIGHTS, Bundle, ModelSizes
from .errors import BundleError
from .models.msformer import MSFormer

if TYPE_CHECKING:
    from pathlib import Path

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
    return read_network(bundle.file(WEIGHTS), bundle.sizes)


def read_network(weights: Path, sizes: ModelSizes) -> MSFormer:
    """The network whose weights are in a safetensors file.

    Raises:
        BundleError: the weights do not fit the sizes.
    """
    model = MSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks)
    try:
        model.load_state_dict(load_file(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{weights}: does not fit the manifest's sizes ({reason})") from error
    return model


def write_network(model: MSFormer, folder: Path) -> None:
    """Write weights and head of a bundle into its folder."""
    save_file({name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    save_file({"head": model.linear_down.weight.detach().contiguous()}, folder / HEAD)


def at_side(model: MSFormer, side: int) -> MSFormer:
    """A copy of a network for images of another side: no weight depends on it."""
    other = MSFormer(side, model.width, model.clusters, len(model.block_s))
    other.load_state_dict(model.state_dict())
    return other


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
