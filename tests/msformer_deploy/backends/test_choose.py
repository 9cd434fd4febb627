"""Devices and providers: what is asked for is what runs, or the request is refused."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from msformer_deploy.backends import choose, open_backend
from msformer_deploy.backends.base import Device, parse_device
from msformer_deploy.backends.choose import check
from msformer_deploy.bundle.fingerprint import Fingerprint, noise
from msformer_deploy.errors import BackendUnavailable, UsageError
from msformer_deploy.registry import BACKENDS, PRECISIONS

CPU = Device("cpu")
SIDE, WIDTH = 9, 3
FEATURES = np.random.default_rng(1).standard_normal((2 * WIDTH, SIDE, SIDE)).astype(np.float32)
LABELS = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 7
TAKEN = Fingerprint.of(FEATURES, LABELS)


def runs(features: Any = None, labels: Any = None, precision: str = "fp32") -> Any:
    """A backend that gives these for one image, which must be the noise."""

    def outputs(images: np.ndarray) -> Any:
        np.testing.assert_array_equal(images, noise(SIDE))
        return SimpleNamespace(features=None if features is None else features[None], label_map=[labels])

    return SimpleNamespace(
        name="runtime",
        graph="encoder" if labels is None else "segmenter",
        precision=precision,
        arithmetic=precision,
        encode=outputs,
        segment=outputs,
    )


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_backends_agree_on_the_encoder(tiny_bundle, name):
    images = np.random.default_rng(0).random((2, 3, 33, 33), dtype=np.float32)
    with open_backend("torch", tiny_bundle, CPU) as reference, open_backend(name, tiny_bundle, CPU, 1) as backend:
        assert backend.name == name
        for got, truth in zip(backend.encode(images), reference.encode(images), strict=True):
            np.testing.assert_allclose(np.asarray(got), np.asarray(truth), rtol=1e-3, atol=1e-5)


class TestAuto:
    """What is chosen and refused, by a record of what was tried: backends are stand-ins that compute what torch did."""

    @pytest.fixture
    def machine(self, monkeypatch):
        """Installed modules, what fails to open and why, what computes wrongly, and what was tried, closed and told."""
        installed = {"onnxruntime", "openvino", "torch"}
        machine = SimpleNamespace(installed=installed, gpu=False, broken={}, wrong=set(), tried=[], closed=[], asked=[])

        def open_(name, bundle, device, threads, graph, precision):
            key = f"{name} {device}"
            machine.tried.append((key, threads, graph, precision))
            if key in machine.broken:
                raise BackendUnavailable(machine.broken[key])
            return SimpleNamespace(name=name, key=key, precision=precision, close=lambda: machine.closed.append(key))

        def check(fingerprint, backend, side):
            assert (fingerprint, side) == (machine.fingerprint, 33)
            if backend.key in machine.wrong:
                raise BackendUnavailable(f"{backend.name} computes wrongly")

        monkeypatch.setattr(choose, "_open", open_)
        monkeypatch.setattr(choose, "may_use_gpu", lambda device: device.kind != "cpu" and machine.gpu)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in machine.installed else None)
        monkeypatch.setattr(choose, "check", check)
        machine.fingerprint = "what torch computes"
        return machine

    @pytest.fixture
    def opened(self, machine, monkeypatch):
        def opened(device="auto", name="auto", **options):
            bundle = SimpleNamespace(
                precision="fp32",
                sizes=SimpleNamespace(side=33),
                graph_file=lambda *_: None,
                fingerprint_of=lambda precision: machine.asked.append(precision) or machine.fingerprint,
            )
            return open_backend(name, bundle, parse_device(device), **options).key

        return opened

    @pytest.fixture(autouse=True)
    def told(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught

    @pytest.mark.parametrize("device", ["auto", "cpu"])
    @pytest.mark.parametrize(
        "installed", [("onnxruntime", "openvino"), ("onnxruntime",), ("openvino",), ("torch",)], ids=str
    )
    def test_on_a_cpu_the_fastest_installed_one(self, machine, opened, told, installed, device):
        machine.installed = installed
        fastest = next(name for name in choose.CPU_BACKENDS if name in installed)
        assert opened(device, threads=3, graph="segmenter", precision="int8") == f"{fastest} cpu"
        assert machine.tried == [(f"{fastest} cpu", 3, "segmenter", "int8")]
        assert (machine.closed, told) == ([], [])

    @pytest.mark.parametrize("device", ["auto", "cpu"])
    def test_without_any_runtime_it_is_said_what_to_install(self, machine, opened, device):
        machine.installed = ()
        with pytest.raises(BackendUnavailable, match=r"^no runtime is installed; pip install .*\[cpu\]"):
            opened(device)

    def test_torch_is_the_last_resort(self):
        assert set(choose.CPU_BACKENDS) < set(BACKENDS)
        assert choose.CPU_BACKENDS[-1] == "torch"

    @pytest.mark.parametrize(
        ("installed", "name"), [({"onnxruntime", "openvino"}, "onnxruntime"), ({"openvino", "torch"}, "torch")]
    )
    @pytest.mark.parametrize(("device", "where"), [("auto", "cuda:0"), ("cuda:2", "cuda:2")])
    def test_a_gpu_that_works_comes_first(self, machine, opened, told, installed, name, device, where):
        machine.gpu, machine.installed = True, installed
        assert opened(device) == f"{name} {where}"
        assert (len(machine.tried), told) == (1, [])

    @pytest.mark.parametrize(("device", "lines"), [("auto", 0), ("cuda:0", 1)])
    def test_torch_takes_the_gpu_where_onnx_runtime_cannot(self, machine, opened, told, device, lines):
        """As where ONNX Runtime is the CPU's wheel, and torch is built for CUDA."""
        machine.gpu, machine.broken = True, {"onnxruntime cuda:0": "a CPU build"}
        assert opened(device) == "torch cuda:0"
        assert len(told) == lines, "who asked for a GPU hears what would be faster on it"

    def test_a_gpu_that_does_not_work_is_not_worth_a_word(self, machine, opened, told):
        machine.gpu = True
        machine.broken = {"onnxruntime cuda:0": "a CPU build", "torch cuda:0": "a CPU build"}
        assert opened() == f"{choose.CPU_BACKENDS[0]} cpu"
        assert told == []

    def test_a_gpu_that_computes_wrongly_is(self, machine, opened, told):
        machine.gpu, machine.wrong = True, {"onnxruntime cuda:0", "torch cuda:0"}
        assert opened() == f"{choose.CPU_BACKENDS[0]} cpu"
        assert machine.closed == ["onnxruntime cuda:0", "torch cuda:0"]
        assert [str(warning.message) for warning in told] == [
            f"{choose.CPU_BACKENDS[0]} is used, because a faster backend failed: {name} computes wrongly"
            for name in ("onnxruntime", "torch")
        ]

    @pytest.mark.parametrize("kind", ["broken", "wrong"])
    def test_what_was_asked_for_by_name_never_falls_back(self, machine, opened, kind):
        machine.gpu = True
        if kind == "broken":
            machine.broken = {"onnxruntime cuda:0": "as it said", "torch cuda:0": "as torch said"}
        else:
            machine.wrong = {"onnxruntime cuda:0", "torch cuda:0"}
        with pytest.raises(BackendUnavailable, match="as it said" if kind == "broken" else "computes wrongly"):
            opened("cuda")
        assert [key for key, *_ in machine.tried] == ["onnxruntime cuda:0", "torch cuda:0"]

    def test_the_next_is_taken_with_one_line_for_each_that_was_passed_over(self, machine, opened, told):
        first, second, third = choose.CPU_BACKENDS
        machine.broken, machine.wrong = {f"{first} cpu": "it has no bf16"}, {f"{second} cpu"}
        assert opened() == f"{third} cpu"
        assert machine.closed == [f"{second} cpu"], "what opened is closed"
        assert [str(warning.message) for warning in told] == [
            f"{third} is used, because a faster backend failed: it has no bf16",
            f"{third} is used, because a faster backend failed: {second} computes wrongly",
        ]

    def test_if_none_will_do_it_is_the_fastest_that_says_why(self, machine, opened, told):
        machine.broken = {f"{name} cpu": f"{name} cannot" for name in choose.CPU_BACKENDS}
        with pytest.raises(BackendUnavailable, match=f"^{choose.CPU_BACKENDS[0]} cannot$"):
            opened()
        assert told == []

    @pytest.mark.parametrize("name", ["auto", choose.CPU_BACKENDS[0]])
    def test_a_bundle_without_a_fingerprint_is_only_opened(self, machine, opened, name):
        machine.wrong, machine.fingerprint = {f"{choose.CPU_BACKENDS[0]} cpu"}, None
        assert opened("cpu", name) == f"{choose.CPU_BACKENDS[0]} cpu"

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("name", BACKENDS)
    def test_a_name_is_checked_as_well_closed_and_never_replaced(self, machine, opened, told, name, precision):
        assert opened("cpu", name, precision=precision) == f"{name} cpu"
        assert (machine.asked, machine.closed) == ([precision], [])
        machine.wrong = {f"{name} cpu"}
        with pytest.raises(BackendUnavailable, match=f"^{name} computes wrongly$"):
            opened("cpu", name, precision=precision)
        assert [key for key, *_ in machine.tried] == [f"{name} cpu"] * 2
        assert (machine.closed, told) == ([f"{name} cpu"], [])


@pytest.mark.parametrize(
    ("device", "driver", "expected"),
    [("auto", True, True), ("auto", False, False), ("cpu", True, False), ("cuda", False, True)],
)
def test_a_gpu_may_be_used_where_it_is_asked_for_or_the_driver_is(monkeypatch, device, driver, expected):
    def find_driver():
        if not driver:
            raise BackendUnavailable("there is no NVIDIA driver")

    monkeypatch.setattr(choose, "find_driver", find_driver)
    assert choose.may_use_gpu(parse_device(device)) is expected


@pytest.mark.parametrize("name", ["tensorrt", "torch"])
@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
def test_a_backend_in_torch_needs_torch(tiny_bundle, monkeypatch, name, graph):
    monkeypatch.setattr("msformer_deploy.machine.extras.is_installed", lambda module: module != "torch")
    with pytest.raises(BackendUnavailable, match=rf"^backend {name} needs torch, which is not installed; pip install"):
        open_backend(name, tiny_bundle, Device("cpu"), graph=graph)


def test_every_backend_has_its_class():
    """What the command line offers can be opened, by a class of that name."""
    assert set(choose.CLASSES) == set(BACKENDS)
    for name, (module, kind) in choose.CLASSES.items():
        assert getattr(importlib.import_module(f"msformer_deploy.backends.{module}"), kind).name == name


@pytest.mark.parametrize("name", ["auto", *choose.CPU_BACKENDS])
def test_what_computes_something_else_is_really_refused(tiny_bundle, name):
    spoiled = {**tiny_bundle.manifest["fingerprint"], "largest": 1e-9}
    suspicious = dataclasses.replace(tiny_bundle, manifest={**tiny_bundle.manifest, "fingerprint": spoiled})
    with pytest.raises(
        BackendUnavailable, match=r"differ from those known from the export .* choose another --backend"
    ):
        open_backend(name, suspicious, CPU)
    assert open_backend(name, tiny_bundle, CPU).name == (choose.CPU_BACKENDS[0] if name == "auto" else name)


def test_auto_asks_for_graphs_that_the_bundle_has(tiny_bundle):
    with pytest.raises(UsageError, match="has no int8 graphs"):
        open_backend("auto", tiny_bundle, CPU, precision="int8")


def test_an_unknown_backend_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="tensorflow"):
        open_backend("tensorflow", tiny_bundle, CPU)


def test_torch_has_no_whole_method_graph(tiny_bundle):
    with pytest.raises(BackendUnavailable, match="onnxruntime"):
        open_backend("torch", tiny_bundle, CPU, graph="segmenter")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU, so asking for one succeeds")
@pytest.mark.parametrize("name", ["onnxruntime", "torch", "auto"])
def test_an_explicit_gpu_never_falls_back(tiny_bundle, name):
    with pytest.raises(BackendUnavailable, match="cuda:1"):
        open_backend(name, tiny_bundle, Device("cuda", 1))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_features_within_the_tolerance_of_their_precision_pass(precision, convert):
    noisy = FEATURES + np.float32(0.9 * TAKEN.tolerance[precision] * TAKEN.largest)
    check(TAKEN, runs(convert(noisy), precision=precision), SIDE)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_one_channel_beyond_it_is_refused(precision):
    spoiled = FEATURES.copy()
    spoiled[4] -= np.float32(1.1 * TAKEN.tolerance[precision] * TAKEN.largest)
    with pytest.raises(BackendUnavailable) as raised:
        check(TAKEN, runs(spoiled, precision=precision), SIDE)
    allowed = TAKEN.tolerance[precision]
    assert str(raised.value) == (
        "runtime gives features of the test image that differ from those known from the export by"
        f" {1.1 * allowed:.2g} of the largest, allowed {allowed:g} in {precision};"
        " choose another --backend or --precision, or export the bundle again"
    )


def test_not_a_number_is_refused():
    with pytest.raises(BackendUnavailable, match="by nan of the largest"):
        check(TAKEN, runs(np.full_like(FEATURES, np.nan)), SIDE)


def test_of_the_whole_method_labels_are_compared():
    check(TAKEN, runs(labels=LABELS), SIDE)
    with pytest.raises(BackendUnavailable, match="on 0% of the pixels of the test image, needed 99% in fp32; choose"):
        check(TAKEN, runs(labels=LABELS + 1), SIDE)


@pytest.mark.parametrize(("precision", "passes"), [("fp32", False), ("fp16", False), ("bf16", True), ("int8", False)])
def test_rounding_may_rename_clusters(precision, passes):
    some = np.where(np.isin(LABELS, TAKEN.labels[:2]), LABELS + 50, LABELS)  # two of the six pixels, or a few more
    backend = runs(labels=some, precision=precision)
    if passes:
        check(TAKEN, backend, SIDE)
        return
    with pytest.raises(BackendUnavailable, match="gives the labels known from the export on"):
        check(TAKEN, backend, SIDE)


@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_bundle_has_one_that_its_graphs_pass(tiny_bundle, name, graph):
    assert tiny_bundle.fingerprint is not None
    with open_backend(name, tiny_bundle, Device("cpu"), graph=graph) as backend:
        check(tiny_bundle.fingerprint, backend, tiny_bundle.sizes.side)
        spoiled = dataclasses.replace(
            tiny_bundle.fingerprint,
            features=tiny_bundle.fingerprint.features[::-1],
            labels=[label + 1 for label in tiny_bundle.fingerprint.labels],
        )
        with pytest.raises(BackendUnavailable, match="known from the export"):
            check(spoiled, backend, tiny_bundle.sizes.side)


def test_torch_passes(tiny_bundle):
    with open_backend("torch", tiny_bundle, Device("cpu")) as backend:
        check(tiny_bundle.fingerprint, backend, tiny_bundle.sizes.side)
