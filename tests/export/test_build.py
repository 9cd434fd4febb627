"""A bundle from end to end: what the graphs promise, and what happens when a graph is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from msformer_deploy.backends import Encoded, Segmented, open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.bundle.fingerprint import Fingerprint
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.errors import DeployError, ValidationMismatch
from msformer_deploy.export import build, graphs, reference, validate
from msformer_deploy.models.deployed import Inside
from msformer_deploy.models.figure import Figure
from msformer_deploy.refinement.head import refine_head
from msformer_deploy.registry import SYSTEMS, RefineSettings
from msformer_deploy.weights.network import load_network, tie_upsampling
from msformer_deploy.weights.prior import load_prior

CPU = Device("cpu")


def images(batch: int, side: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, 3, side, side), dtype=np.float32)


@pytest.mark.parametrize("name", ["encoder.onnx", "segmenter.onnx"])
def test_graphs_are_valid_small_opset_20_and_call_our_functions(tiny_bundle, name):
    model = onnx.load(tiny_bundle.file(name))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "msformer": 1}
    functions = {function.name for function in model.functions}
    assert functions >= {"CrossScaleAttention"} | (
        {"ClusterArgmax", "HeadRefineStep"} if name == "segmenter.onnx" else set()
    )
    calls = [node for body in (model.graph, *model.functions) for node in body.node if node.domain == "msformer"]
    assert {node.op_type for node in calls} == functions, "no call without a body, no body without a call"
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node), "no notes on source paths"


@pytest.mark.parametrize("batch", [1, 3])
def test_graphs_agree_with_torch_on_images_they_were_not_validated_on(tiny_bundle, batch):
    model, side = tie_upsampling(load_network(tiny_bundle)), tiny_bundle.sizes.side
    inputs = images(batch, side)
    with torch.no_grad():
        encoded = model.encode(torch.from_numpy(inputs))
    with open_backend("onnxruntime", tiny_bundle, CPU) as backend:
        got = backend.encode(inputs)
    for name in SYSTEMS["msformer"].encoder_outputs:
        truth = getattr(encoded, name).numpy()
        np.testing.assert_allclose(getattr(got, name) / np.abs(truth).max(), truth / np.abs(truth).max(), atol=1e-5)
    outcomes = refine_head(encoded.features, torch.from_numpy(tiny_bundle.head()), tiny_bundle.refinement)
    with open_backend("onnxruntime", tiny_bundle, CPU, graph="segmenter") as backend:
        segmented = backend.segment(inputs)
    for index, outcome in enumerate(outcomes):
        assert (segmented.label_map[index] == outcome.labels.numpy()).mean() >= validate.MIN_LABEL_AGREEMENT
        assert segmented.counts[index].sum() == side * side
        assert bool(segmented.collapsed[index]) == outcome.collapsed


@pytest.mark.parametrize("regions", [0, 2, 3, 4])
def test_the_guard_the_stop_and_the_sharing_act_in_the_graph_as_in_torch(regions):
    """Features on which some images fall to one label and some stop early; no early exit exists in a graph."""
    generator = torch.Generator().manual_seed(1)
    features = 0.3 * torch.randn(8, 3, 8, 8, generator=generator)
    features[:4, 0] += 1
    head = torch.randn(4, 3, generator=generator)
    settings = RefineSettings(steps=6, stride=2, lr=2.0, stop_labels=2, head_scale=1.0, regions=regions)
    outcomes = refine_head(features, head, settings)
    assert len({outcome.collapsed for outcome in outcomes}) == 2, "some must collapse and some must not"
    assert len({len(outcome.trace) for outcome in outcomes}) > 1, "some must stop before the others"
    graph = graphs.refinement_graph(head, settings, side=8)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    label_map, counts, collapsed = session.run(None, {"encoded": features.numpy()})
    for index, outcome in enumerate(outcomes):
        assert np.array_equal(label_map[index], outcome.labels.numpy())
        assert np.array_equal(counts[index], outcome.counts.numpy())
        assert bool(collapsed[index]) == outcome.collapsed


def test_the_proof_is_in_the_manifest(tiny_bundle):
    proof = tiny_bundle.manifest["validation"]
    assert len(proof["images"]) == 4
    assert set(proof["encoder.onnx"]) == set(SYSTEMS["msformer"].encoder_outputs)
    for output in SYSTEMS["msformer"].encoder_outputs:
        assert 0 < proof["encoder.onnx"][output]["relative"] <= validate.MAX_FEATURE_ERROR
    assert proof["segmenter.onnx"]["label_map"]["agreement"] >= validate.MIN_LABEL_AGREEMENT
    assert 0 < proof["segmenter.onnx"]["probability"]["max_abs"] <= validate.MAX_PROBABILITY_ERROR


def change_an_initializer(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """Scale a depthwise kernel. A kernel that an instance norm follows could be scaled without effect."""
    target = next(entry for entry in model.graph.initializer if len(entry.dims) == 4 and entry.dims[1] == 1)
    weights = numpy_helper.to_array(target)
    target.CopyFrom(numpy_helper.from_array((weights * (1 + by)).astype(np.float32), target.name))
    return model


def export_changed(bundle: Bundle, by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export give the encoder of a bundle that it gave before, with a weight changed by this share."""
    changed = change_an_initializer(onnx.load(bundle.file("encoder.onnx")), by)
    monkeypatch.setattr(graphs, "export_encoder", lambda *_, **__: changed)


@pytest.mark.parametrize(("by", "caught"), [(1e-2, True), (0.0, False)])
def test_a_wrong_encoder_is_refused_and_leaves_nothing(tiny_bundle, reference_here, tmp_path, monkeypatch, by, caught):
    """The shift is far below what an eye would see in the features; with none, the same path succeeds."""
    export_changed(tiny_bundle, by, monkeypatch)
    settings = {"sizes": tiny_bundle.sizes, "refinement": tiny_bundle.refinement}
    if caught:
        with pytest.raises(ValidationMismatch, match="differs from torch"):
            build.build_bundle(SYSTEMS["msformer"], tmp_path / "bundle", **settings)
        assert list(tmp_path.iterdir()) == []
    else:
        build.build_bundle(SYSTEMS["msformer"], tmp_path / "bundle", **settings)


@pytest.fixture(scope="module")
def expected(tiny_bundle):
    return reference.compute("msformer", tiny_bundle.sizes, tiny_bundle.seed, tiny_bundle.refinement)


def per_image(kind: type, arrays: dict[str, np.ndarray]) -> dict:
    """The outputs of each validation image, as a backend gives them."""
    names = reference.validation_images(33)
    return {
        name: kind(**{key: value[index : index + 1] for key, value in arrays.items()})
        for index, name in enumerate(names)
    }


def encoded(expected, **changes):
    return per_image(Encoded, expected.encoded | changes)


def segmented(expected, **changes):
    counts = np.stack([np.bincount(each.ravel(), minlength=6) for each in expected.labels])
    good = {
        "label_map": expected.labels,
        "counts": counts,
        "collapsed": expected.collapsed,
        "probability": expected.probability,
    }
    return per_image(Segmented, good | {name: change(good[name]) for name, change in changes.items()})


def test_what_torch_gives_passes(expected):
    assert validate.check_encoder(encoded(expected), expected)["features"] == {"max_abs": 0, "relative": 0}
    assert validate.check_segmenter(segmented(expected), expected)["label_map"] == {"agreement": 1}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda features: features * np.float32(np.nan), "differs from torch"),
        (lambda features: features + np.abs(features).max() * np.float32(2e-4), "differs from torch"),
        (lambda features: features[:, :, 1:], "has shape"),
    ],
)
def test_spoiled_features_are_refused(expected, spoil, message):
    with pytest.raises(ValidationMismatch, match=message):
        validate.check_encoder(encoded(expected, features=spoil(expected.encoded["features"])), expected)


def spoil_last(array: np.ndarray, change) -> np.ndarray:
    """Only the last image is wrong, so that every image must be looked at."""
    return np.concatenate([array[:-1], change(array[-1:])])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": lambda p: spoil_last(p, lambda last: last + np.float32(2e-3))}, "probability.*uniform noise"),
        ({"probability": lambda p: spoil_last(p, lambda last: last * np.float32(np.nan))}, "probability.*by nan"),
        ({"probability": lambda p: p[:, 1:]}, "probability has shape"),
        ({"label_map": lambda labels: spoil_last(labels, lambda last: (last + 1) % 6)}, "uniform noise"),
        ({"counts": lambda counts: spoil_last(counts, lambda last: last + 1)}, "counts on uniform noise"),
        ({"collapsed": lambda flags: spoil_last(flags, lambda last: ~last)}, "uniform noise collapsed"),
        ({"label_map": lambda labels: labels[:, 1:]}, "have shape"),
    ],
)
def test_spoiled_segmentations_are_refused(expected, changes, message):
    with pytest.raises(ValidationMismatch, match=message):
        validate.check_segmenter(segmented(expected, **changes), expected)


@pytest.mark.parametrize("trained", [False, True])
def test_a_probability_of_large_scores_may_differ_as_the_scores_may(expected, trained):
    """Scores up to 100 may be off by 0.01, and so their probability by 0.005."""
    features = expected.encoded["features"]
    large = replace(
        expected,
        encoded={"features": features * np.float32(100) / np.abs(features).max((1, 2, 3))[:, None, None, None]},
    )
    off = segmented(expected, probability=lambda p: p + np.float32(4e-3))
    if trained:
        validate.check_segmenter(off, large, trained=True)
    else:
        with pytest.raises(ValidationMismatch, match=r"probability differs from torch by 0\.004"):
            validate.check_segmenter(off, large)


def test_the_fingerprint_is_of_the_noise_and_of_torch(tiny_bundle, expected):
    assert tiny_bundle.fingerprint == Fingerprint.of(expected.encoded["features"][-1], expected.labels[-1])


def test_a_reference_computed_beside_equals_one_computed_here(tiny_bundle, expected):
    with reference.start("msformer", tiny_bundle.sizes, tiny_bundle.seed, tiny_bundle.refinement) as computation:
        beside = computation.wait()
    assert beside.encoded.keys() == expected.encoded.keys()
    for name, truth in expected.encoded.items():
        np.testing.assert_allclose(beside.encoded[name], truth, atol=1e-5)
    assert np.array_equal(beside.labels, expected.labels)
    np.testing.assert_allclose(beside.probability, expected.probability, atol=1e-4)


def test_a_failing_reference_says_why(tiny_bundle):
    impossible = replace(tiny_bundle.sizes, side=34)
    with (
        reference.start("msformer", impossible, 0, tiny_bundle.refinement) as computation,
        pytest.raises(DeployError, match="multiple of 32 plus 1"),
    ):
        computation.wait()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("system", ["msformer", "s3net"])
def test_the_probability_is_torchs_and_images_do_not_influence_one_another(
    tiny_bundle, tiny_s3_bundle, system, backend
):
    made = {"msformer": tiny_bundle, "s3net": tiny_s3_bundle}[system]
    inputs = images(3, made.sizes.side)
    with open_backend(backend, made, CPU) as encoder:
        features = torch.tensor(encoder.encode(inputs).features)
    with torch.inference_mode():
        truth = Figure(load_prior(), made.sizes.side)(torch.from_numpy(inputs), features).numpy()
    with open_backend(backend, made, CPU, graph="segmenter") as segmenter:
        together = segmenter.segment(inputs).probability
        alone = np.concatenate([segmenter.segment(each[None]).probability for each in inputs])
    assert together.dtype == np.float32
    assert np.abs(truth[0] - truth[1]).max() > 0.01, "another image, another probability"
    np.testing.assert_allclose(together, truth, atol=1e-4)
    np.testing.assert_array_equal(together, alone)


def test_a_batch_in_one_call_of_the_graph_equals_its_images_alone(tiny_bundle):
    """The CPU's backends run one image at a time; other runtimes do not."""
    session = onnxruntime.InferenceSession(tiny_bundle.file("segmenter.onnx"), providers=["CPUExecutionProvider"])
    inputs = images(2, tiny_bundle.sizes.side)
    (together,) = session.run(["probability"], {"image": inputs})
    alone = [session.run(["probability"], {"image": each[None]})[0] for each in inputs]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_figure_of_a_trained_system_is_what_is_not_background(channels):
    scores = torch.randn(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = graphs.figure_graph(channels, 8, trained=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"encoded": scores.numpy()})
    np.testing.assert_allclose(got, Inside()(scores).numpy(), atol=1e-6)


def test_the_figure_is_of_standard_operators_and_has_the_priors_weights_once(tiny_bundle):
    model = onnx.load(tiny_bundle.file("segmenter.onnx"))
    nodes = [node for node in model.graph.node if node.name.startswith(graphs.FIGURE)]
    assert {node.domain for node in nodes} == {""}
    used = {node.op_type for node in nodes}
    assert used >= {"Conv", "BatchNormalization", "Resize", "DepthToSpace", "MatMul"}
    assert not used & {"AveragePool", "MaxPool", "Loop", "Scan", "If", "SequenceAt", "SplitToSequence", "ScatterND"}
    kernels = [each for each in model.graph.initializer if each.name.startswith(graphs.FIGURE) and len(each.dims) == 4]
    values = {numpy_helper.to_array(each).tobytes() for each in kernels}
    convolutions = [each for each in load_prior().modules() if isinstance(each, torch.nn.Conv2d)]
    assert len(values) == len(convolutions) + 1, "the first is in two parts, for images and prompts"
    assert sum(each.ByteSize() for each in kernels) < 4.1 * sum(each.weight.numel() for each in convolutions)


def test_another_encoder_takes_the_place_of_the_first(tiny_bundle):
    """Put back, it gives the graph that there was."""
    encoder, segmenter = (onnx.load(tiny_bundle.file(f"{name}.onnx")) for name in ("encoder", "segmenter"))
    assert graphs.exchange_encoder(segmenter, encoder, encoder) == segmenter


class TestS3Net:
    @pytest.fixture(params=["plain", "deformable"])
    def made(self, request, tiny_s3_bundle, tiny_deformable_bundle):
        return {"plain": tiny_s3_bundle, "deformable": tiny_deformable_bundle}[request.param]

    def test_what_the_bundle_says_of_itself(self, made):
        manifest = made.manifest
        assert made.system == "s3net"
        assert manifest["model"] == {"side": 24, "width": 8, "clusters": 8, "blocks": 1, "variant": made.sizes.variant}
        assert made.head().shape == (8, 8)
        assert np.array_equal(made.head(), load_network(made).conv3.weight.detach().flatten(1))
        assert set(manifest["validation"]["encoder.onnx"]) == {"features"}
        assert len(made.fingerprint.features) == 8
        (encoder, segmenter) = (onnx.load(made.file(f"{name}.onnx")).graph for name in ("encoder", "segmenter"))
        assert [output.name for output in encoder.output] == ["features"]
        assert [output.name for output in segmenter.output] == list(Segmented._fields)

    @pytest.mark.parametrize("name", ["encoder.onnx", "segmenter.onnx"])
    def test_graphs_are_valid_opset_20_and_call_our_functions(self, made, name):
        model = onnx.load(made.file(name))
        onnx.checker.check_model(model, full_check=True)
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "msformer": 1}
        functions = {function.name for function in model.functions}
        assert ("DeformConv" in functions) == (made.sizes.variant == "deformable")
        assert ("ClusterArgmax" in functions) == (name == "segmenter.onnx")
        calls = [node for body in (model.graph, *model.functions) for node in body.node if node.domain == "msformer"]
        assert {node.op_type for node in calls} == functions, "no call without a body, no body without a call"
        own = [node for node in model.graph.node if not node.name.startswith(graphs.FIGURE)]
        assert not any(node.op_type == "BatchNormalization" for node in own), "no running statistics"

    @pytest.mark.parametrize("batch", [1, 3])
    def test_graphs_agree_with_torch_on_images_they_were_not_validated_on(self, made, batch):
        model, inputs = load_network(made), images(batch, 24)
        with torch.no_grad():
            features = model.encode(torch.from_numpy(inputs), deformable=made.sizes.variant == "deformable")
        with open_backend("onnxruntime", made, CPU) as backend:
            got = backend.encode(inputs)
        assert got.context_small is got.context_large is None
        scale = features.abs().max().item()
        np.testing.assert_allclose(got.features / scale, features.numpy() / scale, atol=1e-5)
        outcomes = refine_head(features, torch.from_numpy(made.head()), made.refinement)
        with open_backend("onnxruntime", made, CPU, graph="segmenter") as backend:
            segmented = backend.segment(inputs)
        for index, outcome in enumerate(outcomes):
            assert (segmented.label_map[index] == outcome.labels.numpy()).mean() >= validate.MIN_LABEL_AGREEMENT
            assert segmented.counts[index].sum() == 24 * 24
            assert bool(segmented.collapsed[index]) == outcome.collapsed

    def test_the_variants_are_two_encoders_of_one_network(self, tiny_s3_bundle, tiny_deformable_bundle):
        networks = [load_network(each).state_dict() for each in (tiny_s3_bundle, tiny_deformable_bundle)]
        assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())
        assert tiny_s3_bundle.fingerprint.features != tiny_deformable_bundle.fingerprint.features

    def test_a_wrong_encoder_is_refused(self, made, reference_here, tmp_path, monkeypatch):
        export_changed(made, 1e-2, monkeypatch)
        with pytest.raises(ValidationMismatch, match="differs from torch"):
            build.build_bundle(SYSTEMS["s3net"], tmp_path / "bundle", sizes=made.sizes, refinement=made.refinement)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.trt
    @pytest.mark.parametrize("graph", ["encoder", "segmenter"])
    def test_an_engine_of_it_is_built(self, made, tmp_path, graph):
        """TensorRT reads no DeformConv: its place is taken before."""
        pytest.importorskip("tensorrt_rtx")
        from msformer_deploy.export.tensorrt import build_engine
        from msformer_deploy.machine.trt_flavour import find

        folder = Path(shutil.copytree(made.path, tmp_path / "bundle"))
        record = build_engine(folder, graph, "fp32", find("rtx"), EngineOptions((1, 2, 4)))
        assert record.inputs == [{"name": "image", "dtype": "FLOAT", "shape": [-1, 3, 24, 24]}]
        features = [("features", "FLOAT", [-1, 8, 24, 24])]
        segmented = [
            ("label_map", "INT32", [-1, 24, 24]),
            ("counts", "INT64", [-1, 8]),
            ("collapsed", "BOOL", [-1]),
            ("probability", "FLOAT", [-1, 24, 24]),
        ]
        outputs = [(each["name"], each["dtype"], each["shape"]) for each in record.outputs]
        assert outputs == (features if graph == "encoder" else segmented)
        assert (folder / record.folder / "model.engine").stat().st_size == record.bytes > 0
