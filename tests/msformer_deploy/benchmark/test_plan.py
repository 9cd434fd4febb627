"""Which rows there are: what is asked for by name fails with its reason, what is a default is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from msformer_deploy.benchmark import plan
from msformer_deploy.benchmark.plan import Request
from msformer_deploy.bundle import engines
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import shipped_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.registry import BACKENDS, RefineSettings, find_system

INSTALLED = ("onnxruntime", "torch")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with torch and ONNX Runtime for CPUs, whatever is there."""
    modules = {plan._MODULES[name] for name in INSTALLED}
    monkeypatch.setattr(plan, "installed_versions", lambda: {"onnxruntime": "1"})
    monkeypatch.setattr(plan, "is_installed", lambda module: module in modules)


@pytest.fixture
def bundle(tiny_bundle: Bundle) -> Bundle:
    """With fp16 graphs beside fp32, as far as its manifest knows."""
    files = dict(tiny_bundle.manifest["files"])
    for graph in ("encoder", "segmenter"):
        files[f"{graph}.fp16.onnx"] = {"sha256": "", "bytes": 7}
    return replace(tiny_bundle, manifest={**tiny_bundle.manifest, "files": files})


@pytest.fixture
def with_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """With an fp16 engine of the encoder."""
    record: Any = SimpleNamespace(graph="encoder", precision="fp16", bytes=1234)
    monkeypatch.setattr(engines, "records", lambda _: {"engines/encoder-fp16": record})
    return bundle


def names(rows: list[plan.Row]) -> list[str]:
    """Names of the rows without the side, and a mark on those that cannot exist."""
    return [row.name.replace(" side 33", "") + (" (failed)" if row.failure else "") for row in rows]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(), ["onnxruntime fp32", "torch fp32"]),
        (Request(backends=("torch", "onnxruntime")), ["torch fp32", "onnxruntime fp32"]),
        (Request(backends=("torch", "torch")), ["torch fp32"]),
        (Request(precisions=("fp16", "fp32")), ["onnxruntime fp16", "onnxruntime fp32", "torch fp32"]),
        (Request(backends=("torch",), precisions=("fp16", "fp32")), ["torch fp16 (failed)", "torch fp32"]),
        (Request(precisions=("int8",)), ["onnxruntime int8 (failed)"]),
        (
            Request(batches=(1, 4)),
            ["onnxruntime fp32", "onnxruntime fp32 batch 4", "torch fp32", "torch fp32 batch 4"],
        ),
        (Request(modes=("full",)), ["torch fp32 refine full"]),
        (
            Request(modes=("full", "head"), backends=("torch",), compile=True),
            ["torch fp32 refine full", "torch fp32 refine full compiled", "torch fp32"],
        ),
        (
            Request(modes=("full",), precisions=("fp16", "bf16"), backends=("torch",)),
            ["torch fp16 refine full", "torch bf16 refine full"],
        ),
        (
            Request(modes=("full",), precisions=("int8", "fp32")),
            ["torch fp32 refine full"],
        ),
        (
            Request(modes=("full",), precisions=("int8",), backends=("torch",)),
            ["torch int8 refine full (failed)"],
        ),
        (
            Request(modes=("head", "none"), backends=("torch",)),
            ["torch fp32", "torch fp32 refine none"],
        ),
        (Request(modes=("full",), backends=("onnxruntime",)), ["onnxruntime fp32 refine full (failed)"]),
        (Request(presets=("initial",), backends=("torch",)), ["torch fp32 initial"]),
        (Request(whole_graph=True), ["onnxruntime fp32", "onnxruntime fp32 whole graph", "torch fp32"]),
        (
            Request(whole_graph=True, modes=("head", "none"), backends=("onnxruntime",)),
            ["onnxruntime fp32", "onnxruntime fp32 whole graph", "onnxruntime fp32 refine none"],
        ),
        (Request(backends=("tensorrt", "torch")), ["tensorrt fp32 (failed)", "torch fp32"]),
    ],
)
def test_rows(bundle, request_, expected):
    rows = plan.rows([bundle], request_)
    assert names(rows) == expected
    assert all(row.name.count("side 33") == 1 for row in rows)


def test_what_a_row_runs(bundle):
    asked = Request(("onnxruntime",), modes=("head", "none"), whole_graph=True, batches=(2,))
    head, whole, none = plan.rows([bundle], asked)
    assert (head.graph, head.refine, head.settings) == ("encoder", "head", bundle.refinement)
    assert (whole.graph, whole.refine, whole.settings) == ("segmenter", "in graph", bundle.refinement)
    assert (none.refine, none.settings.steps, none.batch) == ("none", 0, 2)
    assert [row.asked for row in plan.rows([bundle], Request())] == [False, False]
    assert head.asked


def test_the_bundles_own_precision_and_refinement_are_the_default(bundle):
    own = replace(bundle, manifest={**bundle.manifest, "precision": "fp16"}, refinement=RefineSettings(steps=3))
    rows = plan.rows([own], Request())
    assert names(rows) == ["onnxruntime fp16", "torch fp32"]
    assert {row.settings.steps for row in rows} == {3}


def test_bundles_that_do_not_differ_in_what_a_name_says_are_told_apart(bundle, tmp_path):
    others = [replace(bundle, path=tmp_path / folder / "other") for folder in ("a", "b")]
    rows = plan.rows([bundle, bundle, *others], Request(("torch",)))
    assert [row.name for row in rows] == [
        f"torch fp32 side 33 {bundle.path.name}",
        "torch fp32 side 33 other",
        "torch fp32 side 33 other #2",
    ]


def test_reasons_are_those_of_what_would_fail(bundle):
    rows = plan.rows([bundle], Request(backends=("tensorrt", "torch", "onnxruntime"), precisions=("int8",)))
    reasons = {row.backend: row.failure for row in rows}
    assert reasons["onnxruntime"].exit_code == 2
    assert "has no int8 graphs, only fp32, fp16; add them with" in reasons["onnxruntime"].reason
    assert reasons["torch"].exit_code == 4
    assert "torch computes in fp32, not int8" in reasons["torch"].reason
    (row,) = plan.rows([bundle], Request(backends=("tensorrt",)))
    assert row.failure.exit_code == 4
    assert f"has no TensorRT engine of the fp32 encoder; build it: msformer-deploy export --output {bundle.path}" in (
        row.failure.reason
    )


def test_engines_of_a_bundle_are_rows_unasked(with_engine):
    rows = plan.rows([with_engine], Request(precisions=("fp16",)))
    assert names(rows) == ["onnxruntime fp16", "tensorrt fp16"]
    assert [row.has_engine for row in rows] == [False, True]
    assert rows[1].artefact_bytes == 1234
    assert names(plan.rows([with_engine], Request())) == ["onnxruntime fp32", "torch fp32"]


def test_the_artefact_is_what_the_backend_opens(tiny_bundle):
    rows = plan.rows([tiny_bundle], Request(whole_graph=True))
    files = ["encoder.onnx", "segmenter.onnx", "weights.safetensors"]
    assert [row.artefact_bytes for row in rows] == [tiny_bundle.file(name).stat().st_size for name in files]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(backends=("torch", "tensorflow")), "backend 'tensorflow' is unknown; choose one of"),
        (Request(baseline="tensorflow:fp32"), "baseline 'tensorflow:fp32': backend 'tensorflow' is unknown"),
        (Request(baseline="torch:fp64"), "baseline 'torch:fp64': 'fp64' is not a precision"),
        (Request(backends=("torch",), whole_graph=True), "torch has no whole-method graph"),
        (Request(presets=("best",)), "msformer has no preset 'best'"),
        (Request(presets=("initial", "fast")), "preset 'fast' needs a bundle of side 97 and blocks 1"),
        (Request(modes=("full",), precisions=("int8",)), "trains the network in fp32, fp16 or bf16, not in int8"),
        (Request(compile=True), "--compile only affects backend torch in mode 'full'; add --refine full"),
    ],
)
def test_what_cannot_be_is_refused(bundle, request_, said):
    with pytest.raises(UsageError, match=said):
        plan.rows([bundle], request_)


@pytest.mark.parametrize("complete", [True, False])
def test_without_torch_the_whole_graph_is_measured_and_nothing_in_place_of_what_was_asked(
    bundle, monkeypatch, complete
):
    monkeypatch.setattr(plan, "is_installed", lambda module: module == "onnxruntime")
    if not complete:
        bundle = shipped_bundle(find_system("msformer").sized())
    (row,) = plan.rows([bundle], Request())
    assert (row.graph, row.failure) == ("segmenter", None)
    (failed,) = plan.rows([bundle], Request(backends=("onnxruntime",), modes=("full",)))
    assert "needs --backend torch" in failed.failure.reason
    initial = Request(backends=("onnxruntime",), modes=("none",))
    if complete:  # the worker says that this needs torch
        assert [each.graph for each in plan.rows([bundle], initial)] == ["encoder"]
    else:
        with pytest.raises(UsageError, match="has the whole method only; make a complete one"):
            plan.rows([bundle], initial)


def test_nothing_installed_is_told(bundle, monkeypatch):
    monkeypatch.setattr(plan, "_is_default", lambda *_: False)
    with pytest.raises(UsageError, match="no backend is installed"):
        plan.rows([bundle], Request())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("torch", "torch fp32"),
        ("torch:fp32", "torch fp32"),
        ("torch fp32", "torch fp32"),
        ("onnxruntime:fp16", "onnxruntime fp16"),
        ("onnxruntime", "onnxruntime fp32"),
        ("onnxruntime fp16 batch 2 side 33", "onnxruntime fp16 batch 2"),
    ],
)
def test_the_baseline_is_one_of_the_rows(bundle, text, expected):
    asked = Request(precisions=("fp32", "fp16"), batches=(1, 2), baseline=text)
    rows = plan.rows([bundle], asked)
    same, baseline = plan.with_baseline(rows, asked)
    assert same == rows
    assert baseline is None if expected is None else names([baseline]) == [expected]


def test_a_baseline_that_is_no_row_is_added(bundle):
    asked = Request(("onnxruntime",), ("fp16",), (2,), ("none",), baseline="torch")
    rows, baseline = plan.with_baseline(plan.rows([bundle], asked), asked)
    assert names(rows) == ["torch fp32 batch 2 refine none", "onnxruntime fp16 batch 2 refine none"]
    assert baseline is rows[0]
    assert baseline.asked


def test_every_backend_is_known_to_the_plan(bundle, monkeypatch):
    monkeypatch.undo()
    for backend in BACKENDS:
        plan._is_default(backend, bundle)


def test_the_path_of_a_missing_bundle_is_not_opened(bundle):
    """Planning reads manifests only, so that a slip is told before anything runs."""
    elsewhere = replace(bundle, path=Path("nowhere"))
    assert names(plan.rows([elsewhere], Request())) == ["onnxruntime fp32", "torch fp32"]


def test_another_system_is_told_by_name_and_skips_presets_that_it_has_not(tiny_bundle, tiny_deformable_bundle):
    rows = plan.rows([tiny_bundle, tiny_deformable_bundle], Request(backends=("torch",), presets=("initial",)))
    first, second = names(rows)
    assert "s3net" not in first
    assert "s3net deformable" in second
    assert not plan._fits("quick", tiny_deformable_bundle)
