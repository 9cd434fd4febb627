"""The ONNX that a backend opens for a graph of a bundle: a file as it is, or with what it leaves to the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ..weights.packaged import as_initializers, read_packaged

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, Graph, LeftOut
    from ..registry import Precision

STRIPS_FROM = 128 * 128  # pixels of an image; the whole method on a smaller one fits a cache, and gains nothing


@dataclass(frozen=True)
class GraphContent:
    """A graph of a bundle, not read yet.

    Attributes:
        path: its file.
        key: says what the graph is, by hashes.
        size: of the file, bytes.
        left_out: what is not in the file.
    """

    path: Path
    key: str
    size: int
    left_out: tuple[LeftOut, ...] = ()

    def read(self) -> Path | bytes:
        """The file, or its content with what it leaves out.

        Raises:
            DeployError: a file of the package is damaged.
        """
        if not self.left_out:
            return self.path
        parts = (
            as_initializers(read_packaged(each.file, each.sha256), each.tensors, each.prefix) for each in self.left_out
        )
        return b"".join([self.path.read_bytes(), *parts])


def graph_content(bundle: Bundle, graph: Graph, precision: Precision) -> GraphContent:
    """What to open for a graph.

    Raises:
        UsageError: the bundle has no such graph, or none of that precision.
    """
    path = bundle.graph_file(graph, precision)
    entry = bundle.manifest["files"][path.name]
    key = " with ".join([entry["sha256"], *(each.sha256 for each in bundle.left_out)])
    return GraphContent(path, key, entry["bytes"], bundle.left_out)


def strips_pay(bundle: Bundle, graph: Graph) -> bool:
    """Whether a graph should run in strips on a CPU.

    An encoder alone always: strips leave its features with their channels last, as the learning in torch wants them.
    """
    return graph == "encoder" or bundle.sizes.side**2 > STRIPS_FROM


@cache
def rewriting() -> str:
    """A hash of the code that prepares graphs, and onnx's version: what was compiled before a change is not opened."""
    here = Path(__file__).parent
    files = [here / "onnxruntime.py", here / "openvino.py", *sorted(here.glob("rewrites/*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return f"{code} with onnx {version('onnx')}"
