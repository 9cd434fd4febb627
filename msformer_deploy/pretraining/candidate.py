"""A network as a bundle of weights alone, so that it is judged by the same path as what ``run`` executes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.folder import Bundle, ModelSizes
from ..registry import RefineSettings
from ..weights.network import write_network

if TYPE_CHECKING:
    from ..models.msformer import MSFormer


def candidate(network: MSFormer, folder: Path, system: str, seed: int, refinement: RefineSettings) -> Bundle:
    """A bundle in an empty folder; only backend torch can open it, for it has no graphs.

    Args:
        network: of the bundle's side.
        folder: for its weights; it must outlast the bundle.
        system, seed, refinement: as in a manifest.
    """
    write_network(network, folder)
    sizes = ModelSizes(network.side, network.width, network.clusters, len(network.block_s))
    return Bundle(folder, {"system": system, "seed": seed, "files": {}}, sizes, refinement)
