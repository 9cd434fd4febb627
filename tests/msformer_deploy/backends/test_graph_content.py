"""What says which graph it is: its own hash, and those of the weights that it leaves to the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from msformer_deploy.backends import graph_content as module
from msformer_deploy.backends.graph_content import PRIOR, PROMPTS, graph_content, initial_head, rewriting
from msformer_deploy.bundle.folder import LEFT_OUT, Bundle
from msformer_deploy.bundle.shipped import default_bundle
from msformer_deploy.errors import BundleError


def test_the_key_is_of_the_file_and_of_every_file_with_weights() -> None:
    bundle = default_bundle()
    key = graph_content(bundle, "segmenter", "fp32").key
    assert bundle.manifest["files"]["segmenter.onnx"]["sha256"] in key
    assert [part.file for part in bundle.left_out] == ["prior.safetensors", "msformer.safetensors"]
    for index in range(2):
        entries = [dict(entry) for entry in bundle.manifest[LEFT_OUT]]
        entries[index]["sha256"] = "of other weights"
        other = replace(bundle, manifest={**bundle.manifest, LEFT_OUT: entries})
        assert graph_content(other, "segmenter", "fp32").key != key


def test_code_and_onnx_decide_what_is_made_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rewriting()
    rewriting.cache_clear()
    monkeypatch.setattr(module, "version", lambda _: "another")
    try:
        assert rewriting() != before
    finally:
        rewriting.cache_clear()


def test_the_part_for_volumes_has_a_key_and_outputs_of_its_own(tiny_bundle: Bundle) -> None:
    whole, part = (graph_content(tiny_bundle, graph, "fp32") for graph in ("segmenter", "volume"))
    assert part.path == whole.path
    assert part.key != whole.key
    content = part.read()
    assert isinstance(content, bytes)
    graph = onnx.load_from_string(content).graph
    assert [each.name for each in graph.output] == ["features", PRIOR]
    assert len(graph.node) < len(onnx.load(whole.path).graph.node)


def test_the_part_for_prompts_is_given_features_and_prompts(tiny_bundle: Bundle) -> None:
    content = graph_content(tiny_bundle, "figure", "fp32").read()
    assert isinstance(content, bytes)
    graph = onnx.load_from_string(content).graph
    shapes = {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim][1:] for each in graph.input}
    side = tiny_bundle.sizes.side
    channels = tiny_bundle.head().shape[1]
    assert shapes == {"image": [3, side, side], "features": [channels, side, side], PROMPTS: [3, 96, 96]}
    assert [each.name for each in graph.output] == ["probability"]
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_without_prompts_a_graph_has_them_as_zeros_that_take_no_room(tiny_bundle: Bundle) -> None:
    graph = onnx.load(tiny_bundle.file("segmenter.onnx")).graph
    assert [each.name for each in graph.input] == ["image"]
    assert [node.op_type for node in graph.node if PROMPTS in node.output] == ["ConstantOfShape"]


def test_a_graph_of_an_older_version_has_no_such_part(tiny_bundle: Bundle) -> None:
    content = replace(graph_content(tiny_bundle, "volume", "fp32"), outputs={"missing": ("batch",)})
    with pytest.raises(BundleError, match="has no 'missing' to segment volumes from; export the bundle again"):
        content.read()


@pytest.mark.parametrize("complete", [True, False])
def test_the_initial_head_is_that_of_the_bundle(tiny_bundle: Bundle, complete: bool) -> None:
    bundle = tiny_bundle if complete else default_bundle()
    head = initial_head(bundle)
    assert head.dtype == np.float32
    assert head.shape[0] == bundle.sizes.clusters
    if complete:
        model = onnx.load(bundle.file("segmenter.onnx"))
        (inside,) = (each for each in model.graph.initializer if each.name == "refinement/head")
        np.testing.assert_array_equal(head, onnx.numpy_helper.to_array(inside))
