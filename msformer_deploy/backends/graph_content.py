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
from ..foreground.prompts import CHANNELS, SIDE
from ..weights.packaged import as_initializers, read_packaged

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, LeftOut
    from ..registry import Precision
    from .base import Part

PRIOR = "prior"  # the value in a whole-method graph that holds the prior's logits
PROMPTS = "prompts"  # the value in a whole-method graph that holds the channels of prompts, zeros
HEAD_IN_GRAPH = "refinement/head"  # the constant in a whole-method graph that holds the initial head
AS_FEATURES = "channels"  # in a shape: as many as the features have
STRIPS_FROM = 128 * 128  # pixels of an image; the whole method on a smaller one fits a cache, and gains nothing


Shape = Sequence[int | str | None]


@dataclass(frozen=True)
class GraphContent:
    """A graph of a bundle, not read yet.

    Attributes:
        path: its file.
        key: says what the graph is, by hashes.
        size: of the file, bytes.
        left_out: what is not in the file.
        outputs: values that it gives instead of its own outputs, by name, with their shapes; none means its own.
        inputs: values inside it that it is given instead of computing them, by name, with their shapes.
        channels_last: whether the input ``features`` is (1, S, S, C) in place of (1, C, S, S).
        purpose: of these values, for an error's message.
    """

    path: Path
    key: str
    size: int
    left_out: tuple[LeftOut, ...] = ()
    outputs: Mapping[str, Shape] = field(default_factory=dict)
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    channels_last: bool = False
    purpose: str = ""

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

        from .rewrites.outputs import cut, take_channels_last

        model = onnx.load_from_string(content)
        channels = next((each.dims[1] for each in model.graph.initializer if each.name == HEAD_IN_GRAPH), None)
        inputs = {
            name: [channels if each == AS_FEATURES else each for each in shape] for name, shape in self.inputs.items()
        }
        try:
            cut(model.graph, inputs, self.outputs)
        except KeyError as error:
            raise BundleError(
                f"{printable(self.path)}: has no {error.args[0]!r} {self.purpose}; export the bundle again"
            ) from error
        if self.channels_last:
            take_channels_last(model.graph, "features")
        return bytes(model.SerializeToString())


def graph_content(bundle: Bundle, graph: Part, precision: Precision, *, channels_last: bool = False) -> GraphContent:
    """What to open for a graph or a part of one.

    Args:
        bundle: that has it.
        graph: or the part.
        precision: of the graph.
        channels_last: let part ``figure`` take features (1, S, S, C), which is how it reads them and they arise.

    Raises:
        UsageError: the bundle has no such graph, or none of that precision.
    """
    path = bundle.graph_file("encoder" if graph == "encoder" else "segmenter", precision)
    entry = bundle.manifest["files"][path.name]
    side = bundle.sizes.side
    features, image = ("batch", None, side, side), ("batch", side, side)
    outputs: dict[str, Shape] = {}
    inputs: dict[str, Shape] = {}
    purpose = "to segment volumes from" if graph == "volume" else "that clicks and boxes need"
    if graph == "volume":
        outputs = {"features": features, PRIOR: ("batch", 1, None, None)}
    elif graph == "prompted":
        outputs = {"label_map": image, "counts": ("batch", None), "collapsed": ("batch",), "probability": image}
        outputs["features"] = features
    elif graph == "figure":
        outputs = {"probability": image}
        inputs = {"features": (1, AS_FEATURES, side, side), PROMPTS: (1, CHANNELS, SIDE, SIDE)}
    key = " with ".join([entry["sha256"], *(each.sha256 for each in bundle.left_out), *outputs, *inputs])
    if inputs and channels_last:
        key += ", channels last"
    return GraphContent(
        path, key, entry["bytes"], bundle.left_out, outputs, inputs, bool(inputs) and channels_last, purpose
    )


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
    The figure alone never: it has no encoder.
    """
    if graph == "figure":
        return False
    return graph == "encoder" or bundle.sizes.side**2 > STRIPS_FROM


@cache
def rewriting() -> str:
    """A hash of the code that prepares graphs, and onnx's version: what was compiled before a change is not opened."""
    here = Path(__file__).parent
    files = [here / "onnxruntime.py", here / "openvino.py", *sorted(here.glob("rewrites/*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return f"{code} with onnx {version('onnx')}"
