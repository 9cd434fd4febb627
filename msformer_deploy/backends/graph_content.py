"""The ONNX that a backend opens for a graph of a bundle: a file as it is, or put together with the prior's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..weights.prior import as_initializers

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, Graph
    from ..registry import Precision

PRIOR = "figure/prior."  # before the names of the prior's weights in a whole-method graph
STRIPS_FROM = 128 * 128  # pixels of an image; the whole method on a smaller one fits a cache, and gains nothing


def graph_content(bundle: Bundle, graph: Graph, precision: Precision) -> Path | bytes:
    """The file of a graph, or its content where a bundle leaves the prior's weights to the package.

    Raises:
        UsageError: the bundle has no such graph, or none of that precision.
        DeployError: the prior's file is damaged.
    """
    path = bundle.graph_file(graph, precision)
    if not bundle.prior_tensors:
        return path
    return path.read_bytes() + as_initializers(bundle.prior_tensors, PRIOR)


def strips_pay(bundle: Bundle, graph: Graph) -> bool:
    """Whether a graph should run in strips on a CPU.

    An encoder alone always: strips leave its features with their channels last, as the learning in torch wants them.
    """
    return graph == "encoder" or bundle.sizes.side**2 > STRIPS_FROM
