"""Trained systems through the commands: weights to a bundle, and that through every backend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trained_weights
from PIL import Image
from safetensors.torch import load_file

from msformer_deploy.bundle import engines
from msformer_deploy.bundle.folder import load_bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.prompts import Point, Prompts
from msformer_deploy.images.read import image_from_array, network_input
from msformer_deploy.registry import RefineSettings
from msformer_deploy.segmenter import Segmenter
from msformer_deploy.weights.checkpoint_import import write_weights

BACKENDS = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return trained_weights.of_each_system(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def bundles(weights: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trained_weights.bundles(weights, tmp_path_factory)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_the_bundle_says_where_its_weights_are_from(bundles, weights):
    for system, path in bundles.items():
        bundle = load_bundle(path)
        assert bundle.system == system
        assert bundle.refinement.mode == "none"
        told = bundle.manifest["training"]["weights"]
        assert told.keys() == {each.name for each in weights[system]}
        assert bundle.manifest["validation"]["encoder.onnx"]["features"]["relative"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_every_backend_gives_the_same_classes_and_probability(system, bundles, images, tmp_path, invoke):
    found = {}
    for backend in BACKENDS:
        output = tmp_path / backend
        outcome = invoke("run", images, "--bundle", bundles[system], "--output", output, "--backend", backend)
        assert outcome.code == 0, outcome.err
        report = json.loads((output / "report.json").read_text())
        (entry, *_), settings = report["images"], report["settings"]
        assert settings["system"] == system
        found[backend] = [read(output / entry[kind]) for kind in ("label_map", "mask")]
        probability = read(output / "a.png.probability.png")
        assert probability.shape == found[backend][1].shape
        found[backend].append(probability)
        record = json.loads((output / "a.png.json").read_text())
        assert (record["probability"], record["collapsed"], record["steps"]) == ("a.png.probability.png", False, 0)
    labels, mask, probability = found["torch"]
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(mask == 255, labels != 0)
    if system == "m2snet":
        np.testing.assert_array_equal((probability > 127.5) == (mask > 0), np.ones(mask.shape, bool))
    for backend in BACKENDS[1:]:
        for got, truth in zip(found[backend], found["torch"], strict=True):
            assert (np.abs(got.astype(int) - truth) <= 1).mean() > 0.999


@pytest.mark.slow
def test_the_whole_graph_gives_the_same_labels_mask_and_probability(bundles, images, tmp_path, invoke):
    output = tmp_path / "out"
    command = ("run", images / "a.png", "--bundle", bundles["m2snet"], "--output", output)
    assert invoke(*command).code == 0
    labels = read(output / "a.png.labels.png")
    mask, probability = (read(output / f"a.png.{name}.png") for name in ("mask", "probability"))
    assert invoke(*command, "--whole-graph", "--force").code == 0
    assert (read(output / "a.png.labels.png") == labels).mean() > 0.9, "resized before and after they are compared"
    assert (read(output / "a.png.mask.png") == mask).mean() > 0.9
    again = read(output / "a.png.probability.png").astype(float)
    assert np.abs(again - probability).mean() < 255 * 0.02


@pytest.mark.slow
def test_a_class_can_be_the_mask(bundles, images, tmp_path, invoke):
    command = ("run", images / "a.png", "--bundle", bundles["mcsc"], "--output", tmp_path / "out")
    assert invoke(*command, "--foreground", "cluster:2").code == 0
    labels, mask = (read(tmp_path / "out" / f"a.png.{name}.png") for name in ("labels", "mask"))
    np.testing.assert_array_equal(mask == 255, labels == 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--refine", "head"], ["m2snet", "does not learn on the image", "--refine"]),
        (["--steps", "3"], ["does not learn on the image", "--steps"]),
        (["--preset", "balanced"], ["m2snet has no preset 'balanced'", "trained"]),
        (["--seed", "1"], ["m2snet", "--seed"]),
        (["--foreground", "largest"], ["largest", "classes", "cluster:ID"]),
        (["--foreground", "cluster:2"], ["cluster:2", "2 clusters"]),
        (["--system", "msnet"], ["m2snet, not msnet"]),
    ],
)
def test_what_it_cannot_do_is_told_in_one_line(options, told, bundles, images, tmp_path, invoke):
    outcome = invoke("run", images, "--bundle", bundles["m2snet"], "--output", tmp_path / "out", *options)
    assert outcome.code == 2
    assert all(each in outcome.err for each in told), outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "evaluate", "benchmark"])
def test_there_is_no_default_bundle_of_a_trained_system(command, images, tmp_path, invoke):
    masks = shutil.copytree(images, tmp_path / "masks")
    for path in masks.rglob("*.*"):
        Image.new("L", (80, 60)).save(path)
    arguments = {
        "run": (images, "--output", tmp_path / "out"),
        "evaluate": ("--images", images, "--masks", masks),
        "benchmark": ("--images", images),
    }
    outcome = invoke(command, *arguments[command], "--system", "mcsc")
    assert outcome.code == 2
    assert "export --system mcsc --weights" in outcome.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--system", "m2snet"], ["needs trained weights", "--weights"]),
        (["--weights", "x.safetensors"], ["msformer", "drop --weights"]),
        (["--system", "m2snet", "--weights", "x.safetensors"], ["x.safetensors", "cannot be read"]),
        (["--side", "64"], ["preset of msformer sets the side", "--preset"]),
        (["--variant", "unet"], ["'unet'", "msformer has no variant", "leave the variant out"]),
        (["--system", "mcsc", "--variant", "plain", "--weights", "x"], ["'plain'", "unet, swin, both"]),
    ],
)
def test_an_export_without_its_weights_leaves_nothing(options, told, tmp_path, invoke):
    outcome = invoke("export", "--output", tmp_path / "bundle", *options)
    assert outcome.code == 2
    assert all(each in outcome.err for each in told), outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_is_evaluated_class_by_class(bundles, tmp_path, invoke):
    """Truths made of its own answers have a perfect score in each class, and only there."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 40), np.uint8)).save(tmp_path / "images" / "a.png")
    assert invoke("run", tmp_path / "images", "--bundle", bundles["mcsc"], "--output", tmp_path / "out").code == 0
    labels = np.array(Image.open(tmp_path / "out" / "a.png.labels.png"))
    ids = [int(each) for each in np.unique(labels) if each]
    assert ids
    Image.fromarray(labels).save(tmp_path / "masks" / "a.png")
    classes = [option for each in ids for option in ("--class", str(each))]
    outcome = invoke(
        *("evaluate", "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--bundle", bundles["mcsc"]),
        *("--protocol", "label-free", "--baseline", "none", "--json", tmp_path / "e.json", *classes),
    )
    assert outcome.code == 0, outcome.err
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert {row["class"] for row in rows} == set(ids)
    assert all(row["dsc"] == 1 for row in rows)


@pytest.mark.slow
def test_it_is_benchmarked(bundles, images, tmp_path, invoke):
    outcome = invoke(
        *("benchmark", bundles["m2snet"], "--images", images, "--backend", "onnxruntime", "--backend", "torch"),
        *("--min-seconds", "0.1", "--min-iterations", "2", "--warmup-seconds", "0", "--json", tmp_path / "b.json"),
    )
    assert outcome.code == 0, outcome.err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["ok", "ok"]


@pytest.mark.slow
def test_torch_draws_nothing_from_the_callers_random_state(bundles, images, tmp_path, invoke):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    invoke("run", images, "--bundle", bundles["mcsc"], "--output", tmp_path / "out", "--backend", "torch")
    assert torch.equal(before, torch.get_rng_state())


def test_inspect_tells_classes_and_weights_and_nothing_of_learning(bundles, invoke):
    outcome = invoke("inspect", bundles["mcsc"])
    assert outcome.code == 0, outcome.err
    assert "4 classes, variant both" in outcome.out
    assert "weights     unet.safetensors, sha256 " in outcome.out
    assert "refinement" not in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_halves_of_it_are_judged_and_run(system, bundles, images, tmp_path, invoke):
    copy = shutil.copytree(bundles[system], tmp_path / "copy")
    outcome = invoke("export", "--output", copy, "--update", "--precision", "fp16", "-q")
    assert outcome.code == 0, outcome.err
    assert load_bundle(copy).manifest["precisions"]["fp16"]["accepted"]
    found = {}
    for precision in ("fp32", "fp16"):
        output = tmp_path / precision
        command = ("run", images / "a.png", "--bundle", copy, "--output", output, "--backend", "onnxruntime")
        assert invoke(*command, "--precision", precision).code == 0
        found[precision] = read(output / "a.png.labels.png")
    assert (found["fp16"] == found["fp32"]).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_bf16_of_it_is_judged_by_its_roundings(system, bundles, tmp_path, invoke):
    """ONNX Runtime has no kernels of that type on a CPU, so a graph in float32 stands in."""
    copy = shutil.copytree(bundles[system], tmp_path / "copy")
    # Random weights answer near their threshold everywhere; what is asked is that they are judged.
    outcome = invoke("export", "--output", copy, "--update", "--precision", "bf16", "--accept-loss", "-q")
    assert outcome.code == 0, outcome.err
    judged = load_bundle(copy).manifest["precisions"]["bf16"]
    assert 0.8 < judged["agreement"]["raw"]["mean"] < 1


def test_int8_is_refused_in_one_line_and_changes_nothing(bundles, tmp_path, invoke):
    copy = shutil.copytree(bundles["m2snet"], tmp_path / "copy")
    before = (copy / "bundle.json").read_bytes()
    outcome = invoke("export", "--output", copy, "--update", "--precision", "int8", "-q")
    assert outcome.code == 2
    assert "int8 quantises the products of MS-Former's MLPs" in outcome.err
    assert (copy / "bundle.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.trt
@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_engines_of_it_are_built(system, bundles, tmp_path, invoke):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not here")
    copy = shutil.copytree(bundles[system], tmp_path / "copy")
    outcome = invoke("export", "--output", copy, "--update", "--tensorrt", "--trt-flavour", "rtx", "-q")
    assert outcome.code == 0, outcome.err
    records = engines.records(load_bundle(copy))
    assert sorted(record.graph for record in records.values()) == ["encoder", "segmenter"]
    for record in records.values():
        assert {entry["name"] for entry in record.outputs} in (
            {"features"},
            {"label_map", "counts", "collapsed", "probability"},
        )


@pytest.mark.slow
def test_nothing_found_is_an_answer_and_no_collapse(picture, tmp_path, invoke):
    state = load_file(trained_weights.objects(tmp_path / "msnet.safetensors", "msnet"))
    state["output1.0.bias"] -= 1e9  # far beyond what random weights give
    write_weights(tmp_path / "none.safetensors", state, {"system": "msnet", "side": "64"})
    made = invoke(
        *("export", "--system", "msnet", "--weights", tmp_path / "none.safetensors", "--output", tmp_path / "b", "-q")
    )
    assert made.code == 0, made.err
    for whole_graph in (False, True):
        result = Segmenter(tmp_path / "b", backend="onnxruntime", whole_graph=whole_graph).segment(picture)
        assert not result.mask.any()
        assert not result.collapsed
        assert result.confidence.doubt is not None


@pytest.mark.parametrize(("system", "resize"), [("m2snet", "bilinear"), ("mcsc", "nearest")])
def test_an_image_is_resized_as_in_training(system, resize, bundles, picture):
    segmenter = Segmenter(bundles[system], backend="onnxruntime")
    image = image_from_array(picture)
    expected = network_input(image, segmenter.bundle.sizes.side, resize)
    np.testing.assert_array_equal(segmenter.prepare(image).pixels, expected)
    other = network_input(image, segmenter.bundle.sizes.side, "bilinear" if resize == "nearest" else "nearest")
    assert not np.array_equal(expected, other)


@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_it_takes_no_prompts(system, bundles, picture):
    with pytest.raises(UsageError, match=f"^system {system} is trained and takes no prompts; drop them$"):
        Segmenter(bundles[system]).segment(picture, prompts=Prompts([Point(40, 30)]))


@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_it_takes_no_corrected_images(system, bundles, picture):
    with pytest.raises(UsageError, match=f"^system {system} is trained and learns nothing from corrected images$"):
        Segmenter(bundles[system]).like([picture], [picture[..., 0] > 99])


@pytest.mark.parametrize("system", ["m2snet", "mcsc"])
def test_nothing_is_learned_on_an_image(system, bundles):
    with pytest.raises(UsageError, match="mode is 'none', not 'head'"):
        Segmenter(bundles[system], settings=RefineSettings())
