"""The default bundles of the package are what export makes from their seed, in a smaller form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from msformer_deploy.backends.base import Device, Segmented
from msformer_deploy.backends.choose import open_backend
from msformer_deploy.backends.graph_content import graph_content, strips_pay
from msformer_deploy.bundle.folder import SEGMENTER, Bundle, load_files
from msformer_deploy.bundle.shipped import FOLDER, SHIPPED, folder_of, shipped_bundle
from msformer_deploy.errors import DeployError
from msformer_deploy.export import shipped
from msformer_deploy.export.build import build_bundle
from msformer_deploy.registry import find_system
from msformer_deploy.weights.packaged import as_initializers, read_packaged
from msformer_deploy.weights.prior import SHA256, read_prior

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
@pytest.mark.parametrize("system", ["msformer", "s3net"])
def test_export_makes_them_again(system: str, tmp_path: Path) -> None:
    """The smaller one of each system, beside the weights that the package has."""
    ours = of_package(system, "fast")
    sized = find_system(system).sized("fast")
    made = build_bundle(sized, tmp_path / "complete", refinement=sized.preset("fast").refinement)
    (tmp_path / "small").mkdir()
    shipped.shrink(made, tmp_path / "small")
    again = load_files(tmp_path / "small")
    assert sorted(path.name for path in again.path.iterdir()) == ["bundle.json", SEGMENTER]
    assert without_values(onnx.load(ours.file(SEGMENTER))) == without_values(onnx.load(again.file(SEGMENTER)))
    side = ours.sizes.side
    image = np.random.default_rng(1).random((1, 3, side, side), np.float32)

    def segmented(bundle: Bundle) -> Segmented:
        with open_backend("onnxruntime", bundle, CPU, graph="segmenter") as opened:
            return opened.segment(image)

    got, expected = segmented(again), segmented(ours)
    np.testing.assert_allclose(got.probability, expected.probability, atol=1e-5)
    assert (got.label_map == expected.label_map).mean() >= 0.999


def test_what_bundles_have_in_common_is_what_is_equal(tiny_bundle: Bundle, tmp_path: Path) -> None:
    other = replace(tiny_bundle, path=tmp_path)
    graph = onnx.load(tiny_bundle.file(SEGMENTER))
    large = [each for each in graph.graph.initializer if each.data_type == TensorProto.FLOAT]
    changed = max(
        (each for each in large if not each.name.startswith("figure/prior.")),
        key=lambda each: numpy_helper.to_array(each).size,
    )
    changed.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(changed) + 1, changed.name))
    onnx.save(graph, tmp_path / SEGMENTER)
    alone, both = shipped.common([tiny_bundle]), shipped.common([tiny_bundle, other])
    assert set(alone) - set(both) == {changed.name}
    assert all(values.size >= shipped.LARGE and not name.startswith("figure/prior.") for name, values in both.items())


def test_the_small_form_computes_what_the_complete_one_does(tiny_bundle: Bundle, tmp_path: Path) -> None:
    shipped.shrink(tiny_bundle, tmp_path)
    small = load_files(tmp_path)
    assert "prior.safetensors" in [part.file for part in small.left_out]
    side = tiny_bundle.sizes.side
    image = np.random.default_rng(1).random((1, 3, side, side), np.float32)
    with (
        open_backend("onnxruntime", tiny_bundle, CPU, graph="segmenter") as whole,
        open_backend("onnxruntime", small, CPU, graph="segmenter") as opened,
    ):
        for got, expected in zip(opened.segment(image), whole.segment(image), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-6)


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
    content = graph_content(found, "segmenter", "fp32").read()
    assert isinstance(content, bytes)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert {each.file for each in found.left_out} >= {"prior.safetensors"}
    assert found.left_out[0].sha256 == SHA256
    for part in found.left_out:
        tensors = read_packaged(part.file, part.sha256)
        assert len(part.tensors) > 10
        for name in part.tensors:
            assert np.array_equal(values[part.prefix + name], tensors[name].astype(np.float32))
    functions = [node for node in model.graph.node if node.domain]
    assert bool(functions) == strips_pay(found, "segmenter")


def test_nothing_else_lies_there() -> None:
    expected = {folder_of(find_system(system).sized(preset)) for system, preset in SHIPPED}
    assert {path for path in FOLDER.iterdir() if path.is_dir()} == expected


def test_initializers_are_what_onnx_writes() -> None:
    names = ["down.0.halve.0.weight", "whole.bias"]
    (first, second) = onnx.load_from_string(as_initializers(read_prior(), names, "a/")).graph.initializer
    weights = read_prior()
    for tensor, name in ((first, names[0]), (second, names[1])):
        assert (tensor.name, tensor.data_type) == (f"a/{name}", TensorProto.FLOAT)
        assert np.array_equal(numpy_helper.to_array(tensor), weights[name].astype(np.float32))


def test_a_tensor_that_the_package_lacks_is_one_line() -> None:
    with pytest.raises(DeployError, match=r"^the package has no tensor 'odd'; install msformer-deploy again$"):
        as_initializers({}, ["odd"], "")


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("../prior.safetensors", SHA256, "no such file comes with the package"),
        ("prior.safetensors", "0" * 64, "is not the one of this version; install msformer-deploy again"),
        ("msformer.safetensors", SHA256, "is not the one of this version"),
    ],
)
def test_only_known_files_of_the_package_are_read(name: str, sha256: str, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        read_packaged(name, sha256)
