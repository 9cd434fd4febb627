"""The default bundles of the package: ``python -m msformer_deploy.export.shipped`` makes them again, from their seed.

A bundle in the package is a smaller form of the one that ``export`` makes. It has the whole-method graph only. Weights
that several bundles have are left to files of the package: those of the prior, and those of each system, which are the
same at every side. Where the graph runs whole, the functions in it are replaced by their bodies, so that every runtime
opens it as it is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from msformer_deploy.backends.graph_content import strips_pay
from msformer_deploy.backends.rewrites.grid_samples import without_deform_conv
from msformer_deploy.backends.rewrites.transposes import cancel_transposes
from msformer_deploy.bundle.draft import Draft
from msformer_deploy.bundle.folder import LEFT_OUT, SEGMENTER, Bundle, sha256
from msformer_deploy.bundle.graph_info import describe
from msformer_deploy.bundle.shipped import SHIPPED, folder_of
from msformer_deploy.registry import find_system
from msformer_deploy.weights import packaged

from .build import build_bundle
from .graphs import FIGURE

PREFIXES = {"prior.safetensors": f"{FIGURE}prior."}  # of the names in a graph; other files have them in full
LARGE = 16  # numbers, from which a tensor is worth leaving out


def make_all() -> None:
    """Export every default bundle and write its smaller form into the package, and the weights that they share."""
    with tempfile.TemporaryDirectory() as temporary:
        made: dict[str, list[tuple[Bundle, Path]]] = {}
        for system, preset in SHIPPED:
            sized = find_system(system).sized(preset)
            path = Path(temporary) / f"{system}-{preset}"
            bundle = build_bundle(sized, path, refinement=sized.preset(preset).refinement)
            made.setdefault(system, []).append((bundle, folder_of(sized)))
        for system, bundles in made.items():
            weights = packaged.FOLDER / f"{system}.safetensors"
            save_file(common([bundle for bundle, _ in bundles]), weights, {"system": system, "seed": "0"})
            weights.chmod(0o644)  # safetensors writes for the owner alone
            for bundle, folder in bundles:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                shrink(bundle, folder)


def common(bundles: Sequence[Bundle]) -> dict[str, NDArray[np.float32]]:
    """The tensors, by name, that the whole-method graphs of all bundles have, but for those of the prior."""
    first, *others = (onnx.load(bundle.file(SEGMENTER)).graph for bundle in bundles)
    found = {each.name: numpy_helper.to_array(each) for each in first.initializer}
    kept = {
        name: np.ascontiguousarray(values)
        for name, values in found.items()
        if values.dtype == np.float32 and not name.startswith(PREFIXES["prior.safetensors"])
    }
    for graph in others:
        own = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        kept = {name: values for name, values in kept.items() if name in own and np.array_equal(own[name], values)}
    return {name: values for name, values in kept.items() if values.size >= LARGE}


def shrink(bundle: Bundle, folder: Path) -> None:
    """Write the smaller form of a complete bundle into an empty folder."""
    graph, left_out = onnx.load(bundle.file(SEGMENTER)), []
    for name in ("prior.safetensors", f"{bundle.system}.safetensors"):
        path, prefix = packaged.FOLDER / name, PREFIXES.get(name, "")
        if tensors := leave_out(graph.graph, load_file(path), prefix):
            left_out.append({"file": name, "sha256": sha256(path), "prefix": prefix, "tensors": tensors})
    if not strips_pay(bundle, "segmenter"):  # strips are made from the functions
        graph = standard(graph)
    onnx.save(graph, folder / SEGMENTER)
    facts = bundle.facts
    facts["onnx"]["graphs"] = {SEGMENTER: describe(graph)}
    facts["validation"] = {name: entry for name, entry in facts["validation"].items() if name != "encoder.onnx"}
    draft = Draft(folder, {**facts, LEFT_OUT: left_out})
    draft.add(SEGMENTER)
    draft.finish()


def leave_out(graph: onnx.GraphProto, tensors: Mapping[str, NDArray[Any]], prefix: str) -> list[str]:
    """Take initializers out of a graph that equal tensors of a file, value for value; their names in the file."""
    found = []
    for each in list(graph.initializer):
        same = tensors.get(each.name.removeprefix(prefix)) if each.name.startswith(prefix) else None
        if same is not None and same.size >= LARGE and np.array_equal(numpy_helper.to_array(each), np.float32(same)):
            graph.initializer.remove(each)
            found.append(each.name.removeprefix(prefix))
    return found


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph in operators that every runtime knows; it is changed."""
    without_deform_conv(model.graph)
    plain = onnx.inliner.inline_local_functions(model)
    cancel_transposes(plain.graph)
    return plain


if __name__ == "__main__":
    make_all()
