"""Sums of 8-bit products: which weights cannot saturate on any CPU, and what becomes of those that can on this one."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import numpy as np
import onnx
import pytest
from arithmetic import ARITHMETIC, SATURATES, int8_weights, saturating, widened
from bundles import relisted
from onnx import numpy_helper

from msformer_deploy.backends import open_backend, saturation
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.saturation import LARGEST_SAFE, refuse_saturation, wide_weights
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.export import graphs, precision, variants
from msformer_deploy.export.evidence import built_in

CPU = Device("cpu")
EXTREMES = [np.full((1, 64), value, np.int8) for value in (-128, -127, 0, 127)]


@pytest.fixture(scope="module")
def encoder(tiny_bundle) -> onnx.ModelProto:
    return onnx.load(tiny_bundle.file("encoder.onnx"))


def quantized(encoder: onnx.ModelProto, change: float = 0) -> onnx.ModelProto:
    """In int8; with a change, all weights of another size and one of each matrix far larger than the others."""
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    rng = np.random.default_rng(0)
    for entry in model.graph.initializer:
        if change and len(entry.dims) == 2:
            array = change * rng.standard_normal(tuple(entry.dims), dtype=np.float32)
            array.flat[3] = 50 * change
            entry.CopyFrom(numpy_helper.from_array(array, entry.name))
    return precision.quantize(model, iter(rng.random((1, 1, 3, 33, 33), dtype=np.float32)))


@pytest.mark.parametrize("change", [0, 1e-3, 1, 30])
def test_no_two_products_of_an_exported_graph_exceed_16_bits(encoder, change):
    """Whatever the CPU, the calibration and the pairing: the largest activation times any two weights of a column."""
    found = int8_weights(quantized(encoder, change))
    assert len(found) == 8, "two products of each of the four MLPs"
    for weight in found.values():
        two = np.sort(weight.astype(np.int64), axis=0)
        assert 255 * two[-2:].clip(0).sum(axis=0).max() <= 32767
        assert 255 * two[:2].clip(max=0).sum(axis=0).min() >= -32768
        assert np.abs(two).max() == 64, "no bit is given away"


def test_the_kernels_without_vnni_are_exact_for_these_weights_and_not_for_wider_ones(encoder):
    narrow = quantized(encoder)
    rng = np.random.default_rng(1)
    wrong = 0
    for weights, wide in zip(int8_weights(narrow).values(), int8_weights(widened(narrow)).values(), strict=True):
        random = rng.integers(-128, 128, (200, len(weights)), np.int8)
        for x in (*(each[:, : len(weights)] for each in EXTREMES), random):
            np.testing.assert_array_equal(saturating(x, weights), x.astype(np.int32) @ weights.astype(np.int32))
            wrong += (saturating(x, wide) != x.astype(np.int32) @ wide.astype(np.int32)).sum()
    assert wrong > 0


@pytest.mark.parametrize(("largest", "wide"), [(0, False), (64, False), (-64, False), (65, True), (-128, True)])
def test_weights_beyond_7_bits_are_wide(largest, wide):
    weight = np.zeros((4, 6), np.int8)
    weight[2, 3] = largest
    graph = onnx.helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight, "w")])
    assert wide_weights(onnx.helper.make_model(graph)) == ({(4, 6)} if wide else set())
    assert 2 * 255 * LARGEST_SAFE <= 32767 < 2 * 255 * (LARGEST_SAFE + 1)


def ran(product, model: bytes, x: np.ndarray) -> np.ndarray:
    """The trial, on a CPU that multiplies so."""
    (weights,) = int8_weights(onnx.load_from_string(model)).values()
    return product(x.astype(np.int8), weights).astype(np.float32)


def exact(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return x.astype(np.int32) @ weights.astype(np.int32)


@pytest.mark.parametrize("product", [exact, saturating, lambda x, w: exact(x, w) * np.float32(np.nan)])
def test_the_trial_finds_the_kernels_that_saturate(encoder, tmp_path, product):
    path = tmp_path / "bundle" / "encoder.int8.onnx"
    path.parent.mkdir()
    onnx.save(widened(quantized(encoder)), path)
    if product is exact:
        refuse_saturation("runtime", path, partial(ran, product))
        return
    error = "0.99" if product is saturating else "nan"
    with pytest.raises(BackendUnavailable) as raised:
        refuse_saturation("runtime", path, partial(ran, product))
    assert str(raised.value) == (
        f"runtime on this CPU cuts off sums of 8-bit products, and {path} has weights of 8 bits: a trial product is"
        f" {error} of its value off, allowed 0.001; make the graph again with 'msformer-deploy export --output"
        f" {path.parent} --update --force --precision int8', or pass --precision fp32"
    )


def test_weights_that_cannot_saturate_need_no_trial(encoder, tmp_path):
    onnx.save(quantized(encoder), tmp_path / "encoder.int8.onnx")
    refuse_saturation("runtime", tmp_path / "encoder.int8.onnx", lambda *_: pytest.fail("a trial"))


@pytest.fixture(scope="module")
def older(tiny_bundle, encoder, tmp_path_factory) -> Bundle:
    """The small bundle with int8 of 8-bit weights, as they were before, and no fingerprint of its own for them."""
    folder = shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("older") / "bundle")
    wide = widened(quantized(encoder))
    segmenter = onnx.load(tiny_bundle.file("segmenter.onnx"))
    onnx.save(wide, folder / "encoder.int8.onnx")
    onnx.save(graphs.exchange_encoder(segmenter, encoder, wide), folder / "segmenter.int8.onnx")
    facts = tiny_bundle.facts
    facts["fingerprint"]["tolerance"]["int8"], facts["fingerprint"]["agreement"]["int8"] = 0.1, 0.5
    return relisted(folder, facts)


@pytest.mark.skipif(SATURATES is None, reason="what this CPU does with 8-bit products is not known from its flags")
@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_older_bundle_runs_where_nothing_saturates_and_is_refused_elsewhere(older, name, graph):
    try:
        open_backend(name, older, CPU, graph=graph, precision="int8").close()
    except BackendUnavailable as error:
        assert SATURATES, f"{error}, on {ARITHMETIC}"
        assert "sums of 8-bit products" in str(error)
    else:
        assert not SATURATES, f"opened on {ARITHMETIC}"


@pytest.mark.skipif(SATURATES is None, reason="what this CPU does with 8-bit products is not known from its flags")
@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
def test_run_refuses_it_with_exit_code_4(older, images, invoke, tmp_path, backend):
    told = invoke(
        "run", images, "--output", tmp_path / "out", "--bundle", older.path, "--backend", backend, "--precision", "int8"
    )
    if not SATURATES:
        assert told.code == 0, f"{told.err} on {ARITHMETIC}"
        return
    assert told.code == 4, f"{told.err} on {ARITHMETIC}"
    assert "allowed 0.001; make the graph again with" in told.err.splitlines()[-1]


def test_judging_it_again_does_not_record_what_saturates(older, monkeypatch):
    """A fingerprint taken where products saturate would have the graph refused where it is right."""

    def refuse(name, path, run):
        raise BackendUnavailable(f"{path.name} saturates")

    monkeypatch.setattr("msformer_deploy.backends.onnxruntime.refuse_saturation", refuse)
    with pytest.raises(BackendUnavailable, match=r"encoder\.int8\.onnx saturates"):
        variants.judge_precision(older, "int8", built_in(), accept_loss=True)


@pytest.fixture(scope="module")
def newer(tiny_bundle, tmp_path_factory) -> Bundle:
    """The small bundle with int8 as it is exported now."""
    folder = shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("newer") / "bundle")
    evidence, facts = built_in(), tiny_bundle.facts
    variants.add_precision(load_bundle(folder), "int8", evidence)
    facts["precisions"] = {"int8": variants.judge_precision(relisted(folder, facts), "int8", evidence, True)}
    return relisted(folder, facts)


@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_bundle_of_now_opens_on_every_cpu(newer, name, graph):
    with open_backend(name, newer, CPU, graph=graph, precision="int8") as backend:
        assert backend.precision == "int8", ARITHMETIC


@pytest.mark.skipif(not SATURATES, reason="this CPU does not saturate 8-bit products, or its flags do not say")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_fingerprint_alone_finds_what_saturates(newer, older, name, monkeypatch):
    known = {key: newer.manifest[key] for key in ("precisions", "fingerprint")}
    mixed = dataclasses.replace(older, manifest={**older.manifest, **known})
    monkeypatch.setattr(saturation, "wide_weights", lambda _: set())
    with pytest.raises(BackendUnavailable, match=r"differ from those known .* allowed 0\.01 in int8; choose another"):
        open_backend(name, mixed, CPU, precision="int8")


def test_a_precision_has_a_fingerprint_of_its_own(newer, tiny_bundle):
    own, exact_one = newer.fingerprint_of("int8"), newer.fingerprint_of("fp32")
    assert exact_one == tiny_bundle.fingerprint
    assert own.features != exact_one.features
    np.testing.assert_allclose(own.features, exact_one.features, atol=0.05 * own.largest)
    assert newer.fingerprint_of("fp16") == exact_one, "one that the bundle has not"
