"""Networks from seeds, files and bundles, and the two parts of each that are deployed: encoder and head."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..bundle.folder import HEAD, WEIGHTS, Bundle, ModelSizes
from ..errors import BundleError
from ..models.deployed import ObjectNetwork, SliceNetwork
from ..models.frozen import FrozenEncoder
from ..models.msformer import MSFormer
from ..models.s3net import S3Encoder, S3Net

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from ..models.mcsc import Answer

SIZES = "sizes"  # of a trained network, in the metadata of its weights


@dataclass(frozen=True)
class Family:
    """How the networks of a system are made, and what of one is deployed.

    Attributes:
        build: of such sizes, with weights of torch's random state; and of what else a trained one says of itself.
        encode: its features and what else ``encoder.onnx`` gives, computed as it trains: the yardstick of ``freeze``.
        freeze: the encoder as a module of its own, its weights copied, for the exporter and for torch.
        head: (K, C), the scores of K clusters on C features.
        settle: a last change of untrained weights before the encoder is frozen, in place.
    """

    build: Callable[[ModelSizes, Mapping[str, Any]], nn.Module]
    encode: Callable[[Any, ModelSizes, Tensor], tuple[Tensor, ...]]
    freeze: Callable[[Any, ModelSizes], nn.Module]
    head: Callable[[Any], Tensor]
    settle: Callable[[Any], object] = lambda _: None


def tie_upsampling(model: MSFormer) -> MSFormer:
    """Give the four sub-pixels of the coarse branch's upsampling one kernel, in place; for a frozen, untrained encoder.

    With four independent random kernels the upsampled features, and so the clusters, alternate from pixel to pixel in
    flat areas; training learns that away, a frozen encoder cannot. This is the ICNR initialisation of Aitken et al.,
    arXiv 1707.02937. Mode ``full`` starts from the untied weights, as published.
    """
    with torch.no_grad():
        model.linear_up.weight.copy_(model.linear_up.weight[: model.width].repeat(4, 1))
    return model


def _trained(build: Callable[[ModelSizes, Mapping[str, Any]], nn.Module]) -> Family:
    """The family of a trained system, whose networks are deployed as they are."""
    return Family(
        build=build,
        encode=lambda model, _, images: tuple(model(images)),
        freeze=lambda model, _: deepcopy(model).requires_grad_(False),
        head=lambda model: model.head(),
    )


FAMILIES: dict[str, Family] = {
    "msformer": Family(
        build=lambda sizes, _: MSFormer(sizes.side, sizes.width, sizes.clusters, sizes.blocks),
        encode=lambda model, _, images: model.encode(images)[:3],
        freeze=lambda model, _: FrozenEncoder(model),
        head=lambda model: model.linear_down.weight,
        settle=tie_upsampling,
    ),
    "s3net": Family(
        build=lambda sizes, _: S3Net(sizes.side, sizes.width, sizes.blocks),
        encode=lambda model, sizes, images: (model.encode(images, deformable=sizes.variant == "deformable"),),
        freeze=lambda model, sizes: S3Encoder(model, deformable=sizes.variant == "deformable"),
        head=lambda model: model.conv3.weight.flatten(1),
    ),
    "msnet": _trained(lambda sizes, _: ObjectNetwork("msnet", sizes.width, sizes.blocks)),
    "m2snet": _trained(lambda sizes, _: ObjectNetwork("m2snet", sizes.width, sizes.blocks)),
    "mcsc": _trained(
        lambda sizes, said: SliceNetwork(cast("Answer", sizes.variant), sizes.side, sizes.clusters, **said)
    ),
}


def new_network(sizes: ModelSizes, seed: int, system: str = "msformer") -> nn.Module:
    """A network as published: torch's default initialisation under ``seed``; the caller's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[system].build(sizes, {})


def load_network(bundle: Bundle) -> nn.Module:
    """The network a bundle was exported from.

    Raises:
        BundleError: the weights do not fit the sizes in the manifest.
    """
    return read_network(bundle.file(WEIGHTS), bundle.sizes, bundle.system)


def read_network(weights: Path, sizes: ModelSizes, system: str = "msformer") -> nn.Module:
    """The network whose weights are in a safetensors file.

    Raises:
        BundleError: the weights do not fit the sizes.
    """
    try:
        with safe_open(weights, "pt") as file:
            said = json.loads((file.metadata() or {}).get(SIZES, "{}"))
        with torch.random.fork_rng(devices=[]):
            model = FAMILIES[system].build(sizes, said)
        model.load_state_dict(load_file(weights))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{weights}: does not fit the manifest's sizes ({reason})") from error
    return model


def write_network(model: nn.Module, folder: Path, system: str = "msformer") -> None:
    """Write weights and head of a bundle into its folder."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, {SIZES: json.dumps(model.sizes)} if isinstance(model, SliceNetwork) else None)
    save_file({"head": FAMILIES[system].head(model).detach().contiguous()}, folder / HEAD)


def initial_head(sizes: ModelSizes, seed: int, system: str = "msformer") -> Tensor:
    """The head (K, C) of the network that ``seed`` gives."""
    return FAMILIES[system].head(new_network(sizes, seed, system)).detach()
