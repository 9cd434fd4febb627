"""Every backend on a real GPU beside ONNX Runtime on the CPU; ``make gpu-check`` does it on real sizes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from msformer_deploy import Segmenter
from msformer_deploy.backends import Backend, open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.onnxruntime import CUDA, TENSORRT
from msformer_deploy.bundle.engines import rtx_supports
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.export.build import Additions, update_bundle
from msformer_deploy.export.variants import EnginePlan
from msformer_deploy.machine import trt_flavour
from msformer_deploy.machine.driver import find_driver
from msformer_deploy.measures.overlap import agreement, match_labels

pytestmark = pytest.mark.gpu
GPU, CPU = Device("cuda"), Device("cpu")

# Largest error of an output, relative to its largest value. Products of ONNX Runtime's TensorRT provider may be TF32,
# with 11 significant bits; the others are float32.
TOLERANCES = {"torch": 1e-3, "onnxruntime": 1e-3, "onnxruntime-tensorrt": 1e-2, "tensorrt": 1e-3}


@pytest.fixture(scope="module")
def engines(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with engines for this GPU, for one image or two; skips where there is no TensorRT that fits."""
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("engines") / "bundle"))
    driver = find_driver()
    try:
        flavour = trt_flavour.find()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    if flavour.name == "rtx" and not rtx_supports(driver.devices[0]):
        pytest.skip(f"TensorRT-RTX does not run on {driver.devices[0].name}, and the full TensorRT is not here")
    plan = EnginePlan(flavour, EngineOptions((1, 1, 2)), driver.devices[0], driver.version)
    # For weights and sizes like these masks are no criterion: the tests below are.
    return update_bundle(load_bundle(folder), Additions(plan=plan, accept_loss=True))


@pytest.fixture(params=TOLERANCES)
def case(request: pytest.FixtureRequest) -> tuple[str, Bundle]:
    """A backend and a bundle that it can open; skips a runtime that is not installed, never one that fails."""
    providers = onnxruntime.get_available_providers()
    needed = {"onnxruntime": CUDA, "onnxruntime-tensorrt": TENSORRT}.get(request.param)
    if needed is not None and needed not in providers:
        pytest.skip(f"this onnxruntime has no {needed}")
    if needed == TENSORRT:
        try:
            open_backend(request.param, request.getfixturevalue("tiny_bundle"), GPU).close()
        except BackendUnavailable as error:
            if re.search("TensorRT.* not found", str(error)) is None:
                raise
            pytest.skip(str(error))  # absent, or of another major version than the provider takes
    return request.param, request.getfixturevalue("engines" if request.param == "tensorrt" else "tiny_bundle")


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((2, 3, 33, 33), dtype=np.float32)


def opened(case: tuple[str, Bundle]) -> Backend:
    name, bundle = case
    return open_backend(name, bundle, GPU)


def test_features_are_on_the_gpu_and_those_of_the_cpu(case):
    name, bundle = case
    with open_backend("onnxruntime", bundle, CPU) as reference:
        right = reference.encode(images(0))
    with opened(case) as backend:
        assert backend.device == "cuda:0"
        for got, expected in zip(backend.encode(images(0)), right, strict=True):
            assert got.device == torch.device("cuda", 0)
            assert got.dtype == torch.float32
            assert np.abs(got.cpu().numpy() - expected).max() <= TOLERANCES[name] * np.abs(expected).max()


def test_a_later_call_leaves_earlier_features_alone(case):
    with opened(case) as backend:
        first = backend.encode(images(0))
        copies = [output.clone() for output in first]
        for seed in range(1, 6):
            other = backend.encode(images(seed))
        assert not torch.equal(first.features, other.features)
        assert all(map(torch.equal, first, copies))


def test_labels_are_those_of_the_cpu(case, picture):
    name, bundle = case
    right = Segmenter(bundle, backend="onnxruntime", device="cpu").segment(picture).network_labels
    got = Segmenter(bundle, backend=name, device="cuda").segment(picture).network_labels
    # Learning on features that differ by roundings may give a cluster another id.
    assert agreement(match_labels(got, right), right) > 0.97


def test_labels_of_the_whole_method_in_one_graph_are_those_of_the_cpu(case):
    name, bundle = case
    if name == "torch":
        pytest.skip("backend torch has no whole-method graph")
    with open_backend("onnxruntime", bundle, CPU, graph="segmenter") as reference:
        right = reference.segment(images(0))
    with open_backend(name, bundle, GPU, graph="segmenter") as backend:
        got = backend.segment(images(0))
    np.testing.assert_array_equal(got.counts.sum(axis=1), right.counts.sum(axis=1))
    for ours, theirs in zip(got.label_map, right.label_map, strict=True):
        assert agreement(match_labels(ours, theirs), theirs) > 0.97
