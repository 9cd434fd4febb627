"""Engines are judged by running them where there is a GPU, and are said not to have been run where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from msformer_deploy.backends import Encoded, Segmented
from msformer_deploy.bundle.folder import ENCODER, SEGMENTER, Bundle
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.errors import BackendUnavailable, ValidationMismatch
from msformer_deploy.export import graphs, variants
from msformer_deploy.export.evidence import built_in
from msformer_deploy.export.validate import Run, run_probe
from msformer_deploy.export.variants import EnginePlan
from msformer_deploy.machine.driver import Gpu
from msformer_deploy.machine.trt_flavour import Flavour

FLAVOUR = Flavour("tensorrt", ModuleType("tensorrt"))
FLAVOUR.api.__dict__["__version__"] = "10.13.3.9"


A10 = Gpu("A10", "8.6")
FOLDERS = ("engines/encoder", "engines/segmenter")


def raising(error: Exception) -> Callable[..., None]:
    def stage(*_: object) -> None:
        raise error

    return stage


def plan(gpu: Gpu | None) -> EnginePlan:
    return EnginePlan(FLAVOUR, EngineOptions(), gpu, "13.0")


def fp32(made: Bundle) -> Run:
    return run_probe(graphs.probe(onnx.load(made.file(SEGMENTER)), onnx.load(made.file(ENCODER))))


def stand_in(monkeypatch: Any, run: Run) -> None:
    @contextmanager
    def runner(*_: object) -> Iterator[Run]:
        yield run

    monkeypatch.setattr(variants, "_engine_runner", runner)


@pytest.fixture
def fits(tiny_bundle: Bundle, monkeypatch: Any) -> None:
    """Engines that fit the machine, and a GPU that torch can use."""
    records = dict.fromkeys(FOLDERS, SimpleNamespace(precision="fp16"))
    monkeypatch.setattr(variants.engines, "records", lambda _: records)
    monkeypatch.setattr(variants.engines, "mismatch", lambda *_: None)
    monkeypatch.setattr("msformer_deploy.backends.tensorrt.Cuda", lambda _: None)


def test_without_a_gpu_engines_are_not_judged(tiny_bundle: Bundle) -> None:
    record = variants.prove_engines(tiny_bundle, FOLDERS, plan(None), built_in(), accept_loss=False)
    assert record == {"accepted": None, "not_run": "there was no GPU"}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("engines.mismatch", lambda *_: "is for RTX GPUs", "it is for RTX GPUs"),
        ("Cuda", raising(BackendUnavailable("torch is a CPU build")), "torch is a CPU build"),
    ],
)
def test_engines_for_another_machine_are_not_judged(
    tiny_bundle: Bundle, fits: None, monkeypatch: Any, name: str, value: Any, reason: str
) -> None:
    """A workstation builds what it cannot run; that is no failure."""
    module = "msformer_deploy.backends.tensorrt" if name == "Cuda" else "msformer_deploy.export.variants"
    monkeypatch.setattr(f"{module}.{name}", value)
    record = variants.prove_engines(tiny_bundle, FOLDERS, plan(A10), built_in(), accept_loss=False)
    assert record == {"accepted": None, "not_run": reason}


def test_engines_that_compute_what_fp32_does(tiny_bundle: Bundle, fits: None, monkeypatch: Any) -> None:
    stand_in(monkeypatch, fp32(tiny_bundle))
    record = variants.prove_engines(tiny_bundle, FOLDERS, plan(A10), built_in(), accept_loss=False)
    assert record["accepted"] is True
    assert record["judged_by"] == "TensorRT 10.13.3.9 on A10"
    assert (record["features"], record["dsc"]["loss"]) == (0, 0)


def test_engines_that_do_not(tiny_bundle: Bundle, fits: None, monkeypatch: Any) -> None:
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
    arguments = (tiny_bundle, FOLDERS, plan(A10), built_in())
    with pytest.raises(ValidationMismatch, match=r"^TensorRT's fp16 is refused.*NaN.*--accept-loss"):
        variants.prove_engines(*arguments, accept_loss=False)
    record = variants.prove_engines(*arguments, accept_loss=True)
    assert record["accepted"] is False
    assert record["not_finite"] == 3
