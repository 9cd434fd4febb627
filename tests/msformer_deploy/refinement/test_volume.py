"""One head and one figure for all slices of a volume; of one slice, what the whole-method graph gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from msformer_deploy.backends.base import Backend, Device
from msformer_deploy.backends.choose import open_backend
from msformer_deploy.backends.graph_content import graph_content
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import SHIPPED, shipped_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.refinement import volume
from msformer_deploy.refinement.volume import Learner, learn_head
from msformer_deploy.registry import RefineSettings, find_system

CPU = Device("cpu")


def of_package(system: str, preset: str) -> Bundle:
    found = shipped_bundle(find_system(system).sized(preset))
    assert found is not None
    return found


def head_of(bundle: Bundle) -> np.ndarray:
    content = graph_content(bundle, "segmenter", "fp32").read()
    assert isinstance(content, bytes)
    model = onnx.load_from_string(content)
    (head,) = (each for each in model.graph.initializer if each.name == "refinement/head")
    return np.array(numpy_helper.to_array(head))


def scene(side: int, seed: int = 0) -> np.ndarray:
    """A bright disc with a rim, float32 (3, S, S)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side - rng.uniform(0.35, 0.65, (2, 1, 1))
    disc = 0.3 + 0.5 * (rows**2 + columns**2 < rng.uniform(0.02, 0.06))
    return np.clip(np.stack([disc] * 3) + rng.normal(0, 0.05, (3, side, side)), 0, 1).astype(np.float32)


def learned(backend: Backend, bundle: Bundle, images: list[np.ndarray]) -> tuple[Learner, list[volume.SliceResult]]:
    encoded = [backend.volume_features(image[None]) for image in images]
    learner = Learner(head_of(bundle), bundle.refinement, len(images), bundle.sizes.side)
    for each in encoded:
        learner.see(each.features[0], each.prior[0, 0])
    learner.learn()
    return learner, [
        learner.apply(each.features[0], each.prior[0, 0], image) for each, image in zip(encoded, images, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "preset", "backend"),
    [
        *((*each, "onnxruntime") for each in SHIPPED),
        ("msformer", "fast", "openvino"),
        ("s3net", "balanced", "openvino"),
    ],
)
def test_a_volume_of_one_slice_is_an_image(system: str, preset: str, backend: str) -> None:
    bundle = of_package(system, preset)
    image = scene(bundle.sizes.side)
    with open_backend(backend, bundle, CPU, graph="volume") as opened:
        learner, (found,) = learned(opened, bundle, [image])
    with open_backend(backend, bundle, CPU, graph="segmenter") as opened:
        expected = opened.segment(image[None])
    assert (found.labels == expected.label_map[0]).mean() >= 0.999
    assert found.labels.dtype == expected.label_map.dtype
    np.testing.assert_allclose(found.probability, expected.probability[0], atol=1e-4)
    np.testing.assert_allclose(learner.counts, expected.counts[0], atol=found.labels.size // 1000)
    assert learner.collapsed == bool(expected.collapsed[0])


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return of_package("s3net", "fast")


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Backend:
    return open_backend("onnxruntime", bundle, CPU, graph="volume")


def test_equal_slices_have_equal_results_and_those_of_one(bundle: Bundle, backend: Backend) -> None:
    image = scene(bundle.sizes.side)
    _, (alone,) = learned(backend, bundle, [image])
    learner, slices = learned(backend, bundle, [image] * 3)
    for each in slices:
        np.testing.assert_array_equal(each.labels, slices[0].labels)
        np.testing.assert_allclose(each.probability, alone.probability, atol=1e-4)
    assert (slices[0].labels == alone.labels).mean() > 0.999
    assert learner.counts.sum() == 3 * alone.labels.size


def test_a_cluster_means_the_same_in_every_slice(bundle: Bundle, backend: Backend) -> None:
    images = [scene(bundle.sizes.side, seed) for seed in range(4)]
    _, slices = learned(backend, bundle, images)
    used = {tuple(np.unique(each.labels)) for each in slices}
    assert set().union(*used) == set(max(used, key=len))
    assert len(set().union(*used)) == bundle.refinement.regions
    for image, found in zip(images, slices, strict=True):
        inside = image.mean(axis=0) > 0.6
        assert np.bincount(found.labels[inside]).argmax() == np.bincount(slices[0].labels[images[0][0] > 0.6]).argmax()


def test_of_many_slices_each_gives_fewer_pixels(
    bundle: Bundle, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = scene(bundle.sizes.side)
    _, (whole, *_) = learned(backend, bundle, [image] * 4)
    per_slice = bundle.sizes.side**2 // bundle.refinement.stride
    monkeypatch.setattr(volume, "MAX_SAMPLES", per_slice)
    seen = []

    def noted(samples: list[np.ndarray], *rest: Any) -> object:
        seen.extend(samples)
        return learn_head(samples, *rest)

    monkeypatch.setattr(volume, "learn_head", noted)
    _, (thinned, *_) = learned(backend, bundle, [image] * 4)
    assert max(map(len, seen)) <= per_slice + 4
    assert (thinned.labels == whole.labels).mean() > 0.98


def test_without_steps_the_initial_head_decides() -> None:
    rng = np.random.default_rng(0)
    head, features = rng.random((3, 5), np.float32), rng.random((5, 8, 8), np.float32)
    learner = Learner(head, RefineSettings(mode="none", steps=0), 1, 8)
    learner.see(features, rng.normal(size=(6, 6)).astype(np.float32))
    learner.learn()
    found = learner.apply(features, np.zeros((6, 6), np.float32), np.zeros((3, 8, 8), np.float32))
    np.testing.assert_array_equal(found.labels, np.tensordot(head, features, 1).argmax(axis=0))


def test_a_head_that_falls_to_one_label_is_set_back() -> None:
    rows = np.random.default_rng(0).random((64, 4), np.float32)
    head = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    _, counts, collapsed = learn_head([rows] * 8, head, RefineSettings(steps=50, lr=5.0, stop_labels=0))
    assert collapsed
    assert np.count_nonzero(counts) >= 2


def test_a_feature_that_is_constant_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((2304, 4), np.float32)
    rows[:, 2] = 7
    fit = volume.FigureFit(4)
    fit.add(rows, np.where(np.arange(2304) < 1000, 0.98, 0.02).astype(np.float32))
    fit.solve()
    found = fit.logits(rows @ fit.direction)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 0.1, "random features explain nothing"


def test_a_stride_that_leaves_steps_without_a_sample() -> None:
    with pytest.raises(UsageError, match="stride 65 is too large for 64 pixels"):
        Learner(np.zeros((2, 2), np.float32), replace(RefineSettings(), stride=65, steps=70), 1, 8)
