"""The default bundles of the package are what export makes from their seed, in a smaller form."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from msformer_deploy.backends.base import Device
from msformer_deploy.backends.choose import open_backend
from msformer_deploy.backends.graph_content import PRIOR, graph_content, strips_pay
from msformer_deploy.bundle.folder import SEGMENTER, Bundle
from msformer_deploy.bundle.shipped import FOLDER, SHIPPED, folder_of, shipped_bundle
from msformer_deploy.export import shipped
from msformer_deploy.export.build import build_bundle
from msformer_deploy.registry import find_system
from msformer_deploy.weights.prior import as_initializers, read_prior

CPU = Device("cpu")


def of_package(system: str, preset: str) -> Bundle:
    found = shipped_bundle(find_system(system).sized(preset))
    assert found is not None
    return found


def without_values(model: onnx.ModelProto) -> list[object]:
    """Its nodes and the names, types and shapes of its constants."""
    constants = [(each.name, each.data_type, tuple(each.dims)) for each in model.graph.initializer]
    nodes = [(each.op_type, each.domain, tuple(each.input), tuple(each.output)) for each in model.graph.node]
    return [nodes, constants, list(model.functions), list(model.graph.output)]


@pytest.mark.slow
@pytest.mark.parametrize(("system", "preset"), SHIPPED)
def test_export_makes_it_again(system: str, preset: str, tmp_path: Path) -> None:
    sized = find_system(system).sized(preset)
    complete = build_bundle(sized, tmp_path / "complete", refinement=sized.preset(preset).refinement)
    (tmp_path / "small").mkdir()
    shipped.shrink(complete, tmp_path / "small")
    ours = of_package(system, preset)
    again = onnx.load(tmp_path / "small" / SEGMENTER)
    assert without_values(onnx.load(ours.file(SEGMENTER))) == without_values(again)
    image = np.random.default_rng(1).random((1, 3, sized.side, sized.side), np.float32)
    with (
        open_backend("onnxruntime", complete, CPU, graph="segmenter") as whole,
        open_backend("onnxruntime", ours, CPU, graph="segmenter") as small,
    ):
        expected, got = whole.segment(image), small.segment(image)
    np.testing.assert_allclose(got.probability, expected.probability, atol=1e-5)
    assert (got.label_map == expected.label_map).mean() >= 0.999
    assert got.collapsed == expected.collapsed


@pytest.mark.parametrize(("system", "preset"), SHIPPED)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_runtime_opens_it_and_computes_what_the_export_did(system: str, preset: str, backend: str) -> None:
    """Opening compares the labels with the fingerprint."""
    with open_backend(backend, of_package(system, preset), CPU, graph="segmenter") as opened:
        assert opened.provider


@pytest.mark.parametrize(("system", "preset"), SHIPPED)
def test_it_is_small_and_has_the_presets_refinement(system: str, preset: str) -> None:
    found, expected = of_package(system, preset), find_system(system).preset(preset)
    assert (found.system, found.seed, found.refinement) == (system, 0, expected.refinement)
    assert found.manifest["files"].keys() == {SEGMENTER}
    assert found.file(SEGMENTER).stat().st_size < 2_500_000
    assert not found.complete


@pytest.mark.parametrize(("system", "preset"), SHIPPED)
def test_with_the_priors_weights_it_is_a_valid_graph(system: str, preset: str) -> None:
    found = of_package(system, preset)
    content = graph_content(found, "segmenter", "fp32")
    assert isinstance(content, bytes)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = read_prior()
    assert len(found.prior_tensors) > 20
    for name in found.prior_tensors:
        assert np.array_equal(values[PRIOR + name], weights[name].astype(np.float32))
    functions = [node for node in model.graph.node if node.domain]
    assert bool(functions) == strips_pay(found, "segmenter")


def test_nothing_else_lies_there() -> None:
    expected = {folder_of(find_system(system).sized(preset)) for system, preset in SHIPPED}
    assert {path for path in FOLDER.iterdir() if path.is_dir()} == expected


def test_initializers_are_what_onnx_writes() -> None:
    names = ["down.0.halve.0.weight", "whole.bias"]
    (first, second) = onnx.load_from_string(as_initializers(names, "a/")).graph.initializer
    weights = read_prior()
    for tensor, name in ((first, names[0]), (second, names[1])):
        assert (tensor.name, tensor.data_type) == (f"a/{name}", TensorProto.FLOAT)
        assert np.array_equal(numpy_helper.to_array(tensor), weights[name].astype(np.float32))


def test_make_replaces_what_is_there(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(system: object, path: Path, **_: object) -> Bundle:
        shutil.copytree(tiny_bundle.path, path)
        return tiny_bundle

    monkeypatch.setattr(shipped, "build_bundle", build)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "old").write_text("")
    shipped.make("msformer", "fast", tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["bundle.json", SEGMENTER]
