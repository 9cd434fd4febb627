"""The default bundles of the package: ``python -m msformer_deploy.export.shipped`` makes them again, from their seed.

A bundle in the package is a smaller form of the one that ``export`` makes. It has the whole-method graph only. The
weights of the prior, which would be most of it, are left to their own file in the package. Where the graph runs whole,
the functions in it are replaced by their bodies, so that every runtime opens it as it is.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from msformer_deploy.backends.graph_content import PRIOR, strips_pay
from msformer_deploy.backends.rewrites.grid_samples import without_deform_conv
from msformer_deploy.backends.rewrites.transposes import cancel_transposes
from msformer_deploy.bundle.draft import Draft
from msformer_deploy.bundle.folder import PRIOR_TENSORS, SEGMENTER, Bundle
from msformer_deploy.bundle.graph_info import describe
from msformer_deploy.bundle.shipped import SHIPPED, folder_of
from msformer_deploy.registry import find_system
from msformer_deploy.weights.prior import read_prior

from .build import build_bundle

LARGE = 1024  # numbers, from which a tensor is worth leaving out


def make(system: str, preset: str, folder: Path) -> None:
    """Export a bundle of seed 0 and write its smaller form.

    Args:
        system: its name.
        preset: whose sizes and refinement it has.
        folder: to write; what is there is replaced.
    """
    sized = find_system(system).sized(preset)
    with tempfile.TemporaryDirectory() as temporary:
        made = build_bundle(sized, Path(temporary) / "bundle", refinement=sized.preset(preset).refinement)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shrink(made, folder)


def shrink(bundle: Bundle, folder: Path) -> None:
    """Write the smaller form of a complete bundle into an empty folder."""
    graph, left_out = without_prior(onnx.load(bundle.file(SEGMENTER)))
    if not strips_pay(bundle, "segmenter"):  # strips are made from the functions
        graph = standard(graph)
    onnx.save(graph, folder / SEGMENTER)
    facts = bundle.facts
    facts["onnx"]["graphs"] = {SEGMENTER: describe(graph)}
    facts["validation"] = {name: entry for name, entry in facts["validation"].items() if name != "encoder.onnx"}
    draft = Draft(folder, {**facts, PRIOR_TENSORS: left_out})
    draft.add(SEGMENTER)
    draft.finish()


def without_prior(segmenter: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The whole method without the prior's weights, and their names in the prior's file."""
    weights = {PRIOR + name: values for name, values in read_prior().items()}
    left_out = [
        each.name
        for each in segmenter.graph.initializer
        if each.name in weights
        and weights[each.name].size >= LARGE
        and np.array_equal(numpy_helper.to_array(each), weights[each.name].astype(np.float32))
    ]
    model = onnx.ModelProto()
    model.CopyFrom(segmenter)
    del model.graph.initializer[:]
    model.graph.initializer.extend(each for each in segmenter.graph.initializer if each.name not in left_out)
    return model, [name.removeprefix(PRIOR) for name in left_out]


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph in operators that every runtime knows; it is changed."""
    without_deform_conv(model.graph)
    plain = onnx.inliner.inline_local_functions(model)
    cancel_transposes(plain.graph)
    return plain


if __name__ == "__main__":
    for each in SHIPPED:
        make(*each, folder_of(find_system(each[0]).sized(each[1])))
