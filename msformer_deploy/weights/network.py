"""Networks from seeds, files and bundles, and the two deployed parts of each: encoder and head."""

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

SIZES = "sizes"  # key of a trained network's sizes in the metadata of its weights


@dataclass(frozen=True)
class Family:
    """Functions that build the networks of a system and their deployed parts.

    Attributes:
        build: network of given sizes, with weights from torch's random state; for a trained system also given the
            further sizes in the metadata of its weights.
        encode: the outputs of ``encoder.onnx``, computed by the network itself: the reference for ``freeze``.
        freeze: the encoder as a separate module with copied weights, for the exporter and for torch.
        head: the head (K, C): weights of K clusters on C features.
        settle: changes untrained weights in place before the encoder is frozen.
    """

    build: Callable[[ModelSizes, Mapping[str, Any]], nn.Module]
    encode: Callable[[Any, ModelSizes, Tensor], tuple[Tensor, ...]]
    freeze: Callable[[Any, ModelSizes], nn.Module]
    head: Callable[[Any], Tensor]
    settle: Callable[[Any], object] = lambda _: None


def tie_upsampling(model: MSFormer) -> MSFormer:
    """Give all four sub-pixels of the coarse branch's upsampling the same kernel, in place.

    It is for a frozen, untrained encoder. With four independent random kernels the upsampled features, and so the
    clusters, alternate from pixel to pixel in flat areas. Training removes that pattern, but a frozen encoder is not
    trained. This is the ICNR initialisation of Aitken et al., arXiv 1707.02937. Mode ``full`` starts from the untied
    weights, as published.
    """
    with torch.no_grad():
        model.linear_up.weight.copy_(model.linear_up.weight[: model.width].repeat(4, 1))
    return model


def _trained(build: Callable[[ModelSizes, Mapping[str, Any]], nn.Module]) -> Family:
    """The family of a trained system; its networks are deployed unchanged."""
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
    """A network with torch's default initialisation from ``seed``, as published; keeps the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[system].build(sizes, {})


def load_network(bundle: Bundle) -> nn.Module:
    """The network from which a bundle was exported.

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
    """Write the weights and the head of a bundle into its folder."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, {SIZES: json.dumps(model.sizes)} if isinstance(model, SliceNetwork) else None)
    save_file({"head": FAMILIES[system].head(model).detach().contiguous()}, folder / HEAD)


def initial_head(sizes: ModelSizes, seed: int, system: str = "msformer") -> Tensor:
    """The head (K, C) of the network from ``seed``."""
    return FAMILIES[system].head(new_network(sizes, seed, system)).detach()
