"""The list of the encoder's matrix products, and the report that compares them with backends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import scripts
from onnx import numpy_helper

from msformer_deploy.bundle.folder import Bundle, ModelSizes
from msformer_deploy.errors import BackendUnavailable


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return scripts.load("encoder_gemm")


def test_the_default_encoder_has_48_gflop_and_the_frozen_one_fewer(script: ModuleType) -> None:
    published, frozen = (
        sum(product.flop for product in script.products(ModelSizes(257, 100, 100, 2), which)) / 1e9
        for which in script.LISTS
    )
    assert published == pytest.approx(48.1, abs=0.1)
    assert frozen == pytest.approx(40.5, abs=0.1)


def test_frozen_products_are_those_of_the_graph_that_runs(script: ModuleType, tiny_bundle: Bundle) -> None:
    """Multiplications counted in the rewritten graph, whose strips share rows that a convolution looks at twice."""
    from msformer_deploy.backends.rewrites.strips import in_strips

    model = onnx.load_from_string(in_strips(tiny_bundle.file("encoder.onnx"), 10**9))
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {each.name: list(numpy_helper.to_array(each).shape) for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    flop = 0
    for node in graph.node:
        size = 1
        for dim in shapes[node.output[0]]:
            size *= dim
        if node.op_type in ("MatMul", "Gemm"):
            flop += 2 * size * shapes[node.input[0]][-1]
        if node.op_type == "Conv" and shapes[node.input[1]][1] > 1:  # no depthwise one
            _, channels, height, across = shapes[node.input[1]]
            flop += 2 * size * channels * height * across
    joining = 2 * 2 * 2 * 8 * 8  # one strip's context joined with no other, in two blocks of two branches
    assert flop - joining == sum(product.flop for product in script.products(tiny_bundle.sizes, "frozen"))


def run(script: ModuleType, monkeypatch: Any, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["encoder_gemm.py", *map(str, arguments)])
    return int(script.main())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_report(
    script: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    real = script.open_backend

    def opened(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "openvino":
            raise BackendUnavailable("openvino is not here")
        return real(name, *arguments, **options)

    monkeypatch.setattr(script, "open_backend", opened)
    path = tmp_path / "new" / "report.json"
    assert run(script, monkeypatch, "--bundle", tiny_bundle.path, "--seconds", 0, "--threads", 1, "--json", path) == 0
    report = json.loads(path.read_text())
    assert report["rounds"] == 3
    assert set(report["encoders"]) == {"onnxruntime", "torch"}
    assert report["failures"] == {"openvino": "openvino is not here"}
    for found in report["encoders"].values():
        for which in script.LISTS:
            assert found["ratio"][which] == pytest.approx(found["p50_ms"] / report["products"][which]["p50_ms"])
        assert 0 < found["min_ms"] <= found["p50_ms"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "published", "frozen", "onnxruntime", "torch", "openvino"]


def test_no_backend_is_no_success(script: ModuleType, tiny_bundle: Bundle, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BackendUnavailable("none")

    monkeypatch.setattr(script, "open_backend", fail)
    assert run(script, monkeypatch, "--bundle", tiny_bundle.path, "--seconds", 0) == 4


def test_a_bundle_that_is_none_is_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, monkeypatch, "--bundle", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
