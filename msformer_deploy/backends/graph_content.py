"""The ONNX that a backend opens for a graph of a bundle: a file as it is, or with what it leaves to the package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, printable
from ..weights.packaged import as_initializers, read_packaged

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, LeftOut
    from ..registry import Precision
    from .base import Part

PRIOR = "prior"  # the value in a whole-method graph that holds the prior's logits
HEAD_IN_GRAPH = "refinement/head"  # the constant in a whole-method graph that holds the initial head
STRIPS_FROM = 128 * 128  # pixels of an image; the whole method on a smaller one fits a cache, and gains nothing


@dataclass(frozen=True)
class GraphContent:
    """A graph of a bundle, not read yet.

    Attributes:
        path: its file.
        key: says what the graph is, by hashes.
        size: of the file, bytes.
        left_out: what is not in the file.
        outputs: values that it gives instead of its own outputs, by name, with their shapes; none means its own.
    """

    path: Path
    key: str
    size: int
    left_out: tuple[LeftOut, ...] = ()
    outputs: Mapping[str, Sequence[int | str | None]] = field(default_factory=dict)

    def read(self) -> Path | bytes:
        """The file, or its content with what it leaves out, and with other outputs where those are asked for.

        Raises:
            DeployError: a file of the package is damaged.
            BundleError: the graph has no such values, because an older version exported it.
        """
        if not self.left_out and not self.outputs:
            return self.path
        parts = (
            as_initializers(read_packaged(each.file, each.sha256), each.tensors, each.prefix) for each in self.left_out
        )
        content = b"".join([self.path.read_bytes(), *parts])
        return self._with_outputs(content) if self.outputs else content

    def _with_outputs(self, content: bytes) -> bytes:
        import onnx

        from .rewrites.outputs import give_instead

        model = onnx.load_from_string(content)
        try:
            give_instead(model.graph, self.outputs)
        except KeyError as error:
            raise BundleError(
                f"{printable(self.path)}: has no {error.args[0]!r} to segment volumes from; export the bundle again"
            ) from error
        return bytes(model.SerializeToString())


def graph_content(bundle: Bundle, graph: Part, precision: Precision) -> GraphContent:
    """What to open for a graph or a part of one.

    Raises:
        UsageError: the bundle has no such graph, or none of that precision.
    """
    path = bundle.graph_file("encoder" if graph == "encoder" else "segmenter", precision)
    entry = bundle.manifest["files"][path.name]
    side = bundle.sizes.side
    outputs: dict[str, Sequence[int | str | None]] = {}
    if graph == "volume":
        outputs = {"features": ("batch", None, side, side), PRIOR: ("batch", 1, None, None)}
    key = " with ".join([entry["sha256"], *(each.sha256 for each in bundle.left_out), *outputs])
    return GraphContent(path, key, entry["bytes"], bundle.left_out, outputs)


def initial_head(bundle: Bundle) -> NDArray[np.float32]:
    """The initial cluster head, float32 (K, C): of a complete bundle its file, else what the whole-method graph has."""
    if bundle.complete:
        return bundle.head()
    import onnx
    from onnx import numpy_helper

    content = graph_content(bundle, "segmenter", bundle.precision).read()
    model = onnx.load_from_string(content if isinstance(content, bytes) else content.read_bytes())
    (head,) = (each for each in model.graph.initializer if each.name == HEAD_IN_GRAPH)
    return np.asarray(numpy_helper.to_array(head))


def strips_pay(bundle: Bundle, graph: Part) -> bool:
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
