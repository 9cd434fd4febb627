"""The public API: what a segmentation holds, which settings a request means, what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import msformer_deploy
from msformer_deploy import RefineSettings, Segmenter, UsageError, load_bundle, read_image, refine, segmenter
from msformer_deploy.imaging import image_from_array
from msformer_deploy.segmenter import resolve_refinement
from msformer_deploy.stopwatch import WallStopwatch


def test_every_public_name_exists():
    assert all(getattr(msformer_deploy, name) is not None for name in msformer_deploy.__all__)


def test_an_image_can_be_a_path_an_array_or_read_before(tiny_bundle, images, picture):
    segmenter = Segmenter(tiny_bundle)
    path = images / "a.png"
    results = [segmenter.segment(source) for source in (path, str(path), picture, read_image(path))]
    for result in results:
        assert result.labels.shape == result.mask.shape == picture.shape[:2]
        assert result.labels.dtype == np.uint8
        assert result.mask.dtype == bool
        assert np.array_equal(result.labels, results[0].labels)
        assert np.array_equal(result.mask, results[0].mask)
        assert result.overlay().shape == picture.shape
    assert {"decode", "preprocess", "encoder", "refine", "foreground"} == set(results[0].seconds)
    assert results[0].label_count == (results[0].counts > 0).sum()
    assert len(results[0].trace) <= tiny_bundle.refinement.steps


def test_the_mask_finds_the_disc(picture, tiny_bundle):
    """Not a quality measure; the whole path must put the object where it is."""
    mask = Segmenter(tiny_bundle).segment(picture).mask
    rows, columns = np.mgrid[:60, :80]
    truth = (rows - 30) ** 2 + (columns - 40) ** 2 < 15**2
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_backends_give_the_same_labels(tiny_bundle, picture, backend):
    reference = Segmenter(tiny_bundle, backend="torch").segment(picture)
    other = Segmenter(tiny_bundle, backend=backend)
    assert (other.segment(picture).labels == reference.labels).mean() >= 0.999
    assert other.backend_name == backend
    assert other.provider == {"onnxruntime": "CPUExecutionProvider", "torch": "cpu"}[backend]


def test_a_batch_gives_what_its_images_give_alone(tiny_bundle, picture):
    segmenter = Segmenter(tiny_bundle)
    sources = [image_from_array(array) for array in (picture, picture[::-1], picture[:, ::-1, ::-1])]
    for source, together in zip(sources, segmenter.segment_batch(sources), strict=True):
        assert np.array_equal(together.labels, segmenter.segment(source).labels)


def test_the_whole_graph_gives_the_labels_of_the_two_parts(tiny_bundle, picture):
    whole = Segmenter(tiny_bundle, whole_graph=True).segment(picture)
    parts = Segmenter(tiny_bundle).segment(picture)
    assert (whole.labels == parts.labels).mean() >= 0.999
    assert whole.trace == []
    assert "whole_graph" in whole.seconds


def test_seeds_draw_what_is_learned(tiny_bundle, picture):
    own, same, other = (Segmenter(tiny_bundle, seed=seed).segment(picture).labels for seed in (None, 0, 5))
    assert np.array_equal(own, same)
    assert not np.array_equal(own, other)
    assert np.array_equal(other, Segmenter(tiny_bundle, seed=5).segment(picture).labels)


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_full_refinement_starts_from_the_same_network_every_time(tiny_bundle, picture, seed):
    settings = RefineSettings(mode="full", steps=2, lr=0.1, stop_labels=0)
    segmenter = Segmenter(tiny_bundle, settings=settings, seed=seed)
    first, second = segmenter.segment(picture), segmenter.segment(picture)
    assert np.array_equal(first.labels, second.labels)
    assert [step.inter_scale for step in first.trace] == [step.inter_scale for step in second.trace]
    assert segmenter.provider == "cpu"


def test_progress_is_reported(tiny_bundle, picture):
    seen: list[tuple[int, int]] = []
    Segmenter(tiny_bundle).segment(picture, lambda *step: seen.append(step))
    assert seen[0] == (1, tiny_bundle.refinement.steps)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, {"mode": "head", "steps": 5, "stride": 4}),
        ({"mode": "head"}, {"mode": "head", "steps": 5}),
        ({"steps": 9}, {"mode": "head", "steps": 9, "stride": 4}),
        ({"mode": "full"}, {"mode": "full", "steps": 50, "lr": 0.1, "inter_weight": 1.5, "intra_weight": 1.3}),
        ({"preset": "initial"}, {"mode": "none", "steps": 0}),
        ({"mode": "none"}, {"mode": "none", "steps": 0}),
    ],
)
def test_what_a_request_means(tiny_bundle, request_, expected):
    settings = resolve_refinement(tiny_bundle, **request_)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"preset": "best"}, "'best' is none of msformer"),
        ({"preset": "fast"}, "'fast' is for bundles of side 97 and blocks 1, and .* has side 33 and blocks 2"),
        ({"preset": "initial", "mode": "head"}, "mode 'none', not 'head'"),
        ({"mode": "none", "steps": 3}, "makes no steps"),
    ],
)
def test_impossible_requests_are_refused(tiny_bundle, request_, said):
    with pytest.raises(UsageError, match=said):
        resolve_refinement(tiny_bundle, **request_)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backend": "tensorflow"}, "backend 'tensorflow'"),
        ({"device": "tpu"}, "tpu"),
        ({"foreground_rule": "best"}, "foreground 'best' is unknown"),
        ({"foreground_rule": "cluster:6"}, "beyond the bundle's 6 clusters"),
        ({"whole_graph": True, "seed": 3}, "drop --whole-graph"),
        ({"whole_graph": True, "settings": RefineSettings(steps=1)}, "drop --whole-graph"),
        ({"backend": "onnxruntime", "settings": RefineSettings(mode="full")}, "onnxruntime"),
        ({"settings": RefineSettings(mode="full", repaired=True)}, "not of msformer's mode 'full'"),
        ({"settings": RefineSettings(repaired=True)}, "not of msformer's mode 'head'"),
    ],
)
def test_impossible_segmenters_are_refused(tiny_bundle, arguments, said):
    with pytest.raises(UsageError, match=said):
        Segmenter(tiny_bundle, **arguments)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({}, ["preprocess", "encoder", "sample"], ["argmax", "foreground"]),
        ({"settings": RefineSettings(mode="full", steps=2, stop_labels=0)}, ["preprocess"], ["argmax", "foreground"]),
        ({"settings": RefineSettings(mode="none", steps=0)}, ["preprocess", "encoder"], ["argmax", "foreground"]),
        ({"whole_graph": True}, ["preprocess", "whole_graph"], ["foreground"]),
    ],
    ids=["head", "full", "none", "whole graph"],
)
def test_the_stages_of_a_call_are_what_its_images_took(tiny_bundle, picture, batch, options, before, after):
    results = Segmenter(tiny_bundle, **options).segment_batch([image_from_array(picture)] * batch)
    steps = [f"step {number + 1}" for number in range(len(results[0].trace))]
    assert list(results[0].stages) == [*before, *steps, *after]
    learned = {"whole_graph"} if "whole_graph" in options else {"refine"}
    for result in results:
        assert result.stages == results[0].stages
        assert set(result.seconds) == {*before, *learned, "foreground"} - {"sample"}
    together = sum(sum(result.seconds.values()) for result in results)
    assert together == pytest.approx(sum(results[0].stages.values()), rel=0.05, abs=0.02)


def test_on_a_gpu_fetching_the_labels_is_a_stage_of_the_learning(tiny_bundle, picture, monkeypatch):
    """The features stay on the CPU, which only poses as a GPU."""
    made = []
    monkeypatch.setattr(segmenter, "CudaStopwatch", lambda device: made.append(device) or WallStopwatch())
    on_cpu, on_gpu = Segmenter(tiny_bundle), Segmenter(tiny_bundle)
    on_gpu._learns_on = "cuda:1"
    assert (on_cpu.on_gpu, on_gpu.on_gpu) == (False, True)
    expected, result = on_cpu.segment(picture), on_gpu.segment(picture)
    assert made == ["cuda:1"]
    assert list(result.stages)[-2:] == ["device_to_host", "foreground"]
    assert result.seconds.keys() == expected.seconds.keys()
    assert sum(result.seconds.values()) - result.seconds["decode"] == pytest.approx(
        sum(result.stages.values()), abs=5e-3
    )


@pytest.mark.parametrize(
    "options",
    [{"backend": "torch"}, {"backend": "onnxruntime"}, {"backend": "openvino"}, {"whole_graph": True}],
    ids=["torch", "onnxruntime", "openvino", "whole graph"],
)
def test_threads_may_share_a_segmenter(tiny_bundle, picture, options):
    segmenter = Segmenter(tiny_bundle, **options)
    pictures = [image_from_array(np.roll(picture, 7 * shift, axis=1)) for shift in range(8)]
    serial = [segmenter.segment(each) for each in pictures]
    assert len({result.network_labels.tobytes() for result in serial}) > 4
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for alone, beside in zip(serial, pool.map(segmenter.segment, pictures), strict=True):
                assert np.array_equal(alone.labels, beside.labels)
                assert np.array_equal(alone.mask, beside.mask)
                assert beside.trace == alone.trace


def test_a_bundle_can_be_a_path(tiny_bundle, picture):
    by_path = Segmenter(str(tiny_bundle.path)).segment(picture)
    loaded = Segmenter(load_bundle(tiny_bundle.path)).segment(picture)
    assert np.array_equal(by_path.labels, loaded.labels)


def test_learning_takes_so_many_threads_and_gives_them_back(tiny_bundle, picture, monkeypatch):
    before, seen, real = torch.get_num_threads(), [], refine.refine_head

    def learn(*arguments):
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise MemoryError
        return real(*arguments)

    expected = Segmenter(tiny_bundle).segment(picture)
    monkeypatch.setattr(refine, "refine_head", learn)
    segmenter = Segmenter(tiny_bundle, learning_threads=before + 1)
    assert (segmenter.segment(picture).labels == expected.labels).all()
    assert torch.get_num_threads() == before
    with pytest.raises(MemoryError):
        segmenter.segment(picture)
    assert torch.get_num_threads() == before
    assert seen == [before + 1] * 2
