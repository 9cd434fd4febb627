"""The ONNX that a backend opens for a graph of a bundle: a file as it is, or put together with the prior's weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..weights import prior

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, Graph
    from ..registry import Precision

PRIOR = "figure/prior."  # before the names of the prior's weights in a whole-method graph
STRIPS_FROM = 128 * 128  # pixels of an image; the whole method on a smaller one fits a cache, and gains nothing


@dataclass(frozen=True)
class GraphContent:
    """A graph of a bundle, not read yet.

    Attributes:
        path: its file.
        key: says what the graph is, by hashes.
        size: of the file, bytes.
        prior_tensors: names of the prior's weights that are not in the file.
    """

    path: Path
    key: str
    size: int
    prior_tensors: tuple[str, ...] = ()

    def read(self) -> Path | bytes:
        """The file, or its content with the prior's weights.

        Raises:
            DeployError: the prior's file is damaged.
        """
        if not self.prior_tensors:
            return self.path
        return self.path.read_bytes() + prior.as_initializers(self.prior_tensors, PRIOR)


def graph_content(bundle: Bundle, graph: Graph, precision: Precision) -> GraphContent:
    """What to open for a graph.

    Raises:
        UsageError: the bundle has no such graph, or none of that precision.
    """
    path = bundle.graph_file(graph, precision)
    entry = bundle.manifest["files"][path.name]
    key: str = entry["sha256"]
    if bundle.prior_tensors:
        key += f" with the prior {prior.SHA256}"
    return GraphContent(path, key, entry["bytes"], bundle.prior_tensors)


def strips_pay(bundle: Bundle, graph: Graph) -> bool:
    """Whether a graph should run in strips on a CPU.

    An encoder alone always: strips leave its features with their channels last, as the learning in torch wants them.
    """
    return graph == "encoder" or bundle.sizes.side**2 > STRIPS_FROM


@cache
def rewriting() -> str:
    """What the code is that rewrites graphs, by a hash: what was compiled of its results is no longer theirs then."""
    files = sorted(Path(__file__).with_name("rewrites").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
