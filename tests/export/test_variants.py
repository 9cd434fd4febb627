"""Engines are judged by running them where there is a GPU, and are said not to have been run where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from msformer_deploy.backends import Encoded, Segmented
from msformer_deploy.bundle import ENCODER, SEGMENTER, Bundle
from msformer_deploy.driver import Gpu
from msformer_deploy.engines import EngineOptions
from msformer_deploy.errors import ValidationMismatch
from msformer_deploy.export import graphs, variants
from msformer_deploy.export.evidence import built_in
from msformer_deploy.export.validate import Run, run_probe
from msformer_deploy.export.variants import EnginePlan
from msformer_deploy.trt_flavour import Flavour

FLAVOUR = Flavour("tensorrt", ModuleType("tensorrt"))
FLAVOUR.api.__dict__["__version__"] = "10.13.3.9"


def plan(gpu: Gpu | None) -> EnginePlan:
    return EnginePlan(FLAVOUR, EngineOptions(), gpu, "13.0")


def fp32(made: Bundle) -> Run:
    return run_probe(graphs.probe(onnx.load(made.file(SEGMENTER)), onnx.load(made.file(ENCODER))))


def stand_in(monkeypatch: Any, run: Run) -> None:
    @contextmanager
    def runner(*_: object) -> Iterator[Run]:
        yield run

    monkeypatch.setattr(variants, "_engine_runner", runner)


def test_without_a_gpu_engines_are_not_judged(tiny_bundle: Bundle) -> None:
    record = variants.prove_engines(tiny_bundle, "fp32", plan(None), built_in(), accept_loss=False)
    assert record["accepted"] is None
    assert "built, not run" in record["judged_by"]


def test_engines_that_compute_what_fp32_does(tiny_bundle: Bundle, monkeypatch: Any) -> None:
    stand_in(monkeypatch, fp32(tiny_bundle))
    record = variants.prove_engines(tiny_bundle, "fp32", plan(Gpu("A10", "8.6")), built_in(), accept_loss=False)
    assert record["accepted"] is True
    assert record["judged_by"] == "TensorRT 10.13.3.9 on A10"
    assert (record["features"], record["dsc"]["loss"]) == (0, 0)


def test_engines_that_do_not(tiny_bundle: Bundle, monkeypatch: Any) -> None:
    """Features with a NaN and labels in stripes."""
    run = fp32(tiny_bundle)

    def wrong(image: np.ndarray) -> tuple[Encoded, Segmented]:
        encoded, segmented = run(image)
        features = encoded.features.copy()
        features[0, 0, 0, 0] = np.nan
        labels = segmented.label_map.copy()
        labels[:, ::2] = 0
        labels[:, 1::2] = 1
        return encoded._replace(features=features), segmented._replace(label_map=labels)

    stand_in(monkeypatch, wrong)
    arguments = (tiny_bundle, "fp16", plan(Gpu("A10", "8.6")), built_in())
    with pytest.raises(ValidationMismatch, match=r"^TensorRT's fp16 is refused.*NaN.*--accept-loss"):
        variants.prove_engines(*arguments, accept_loss=False)
    record = variants.prove_engines(*arguments, accept_loss=True)
    assert record["accepted"] is False
    assert record["not_finite"] == 3
