"""Finding TensorRT, reports of its failures, and a check of the recorded surface against the real one."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from types import ModuleType

import pytest
import trt_surface

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.machine import trt_flavour


@pytest.fixture
def packages(monkeypatch):
    """Installs packages by name: with an API, or with the error that importing them raises."""

    def install(**found: ModuleType | Exception) -> None:
        def load(name: str) -> ModuleType:
            if isinstance(package := found.get(name, ModuleNotFoundError(f"No module named {name!r}")), Exception):
                raise package
            return package

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in found else None)
        monkeypatch.setattr(importlib, "import_module", load)

    return install


FULL, RTX = trt_surface.make("tensorrt", "10.13.3.9"), trt_surface.make("tensorrt_rtx", "1.7.1.116")


@pytest.mark.parametrize(
    ("found", "choice", "expected"),
    [
        ({"tensorrt": FULL, "tensorrt_rtx": RTX}, "auto", "TensorRT 10.13.3.9"),
        ({"tensorrt": FULL, "tensorrt_rtx": RTX}, "rtx", "TensorRT-RTX 1.7.1.116"),
        ({"tensorrt_rtx": RTX}, "auto", "TensorRT-RTX 1.7.1.116"),
        ({"tensorrt": OSError("libnvinfer.so.10: cannot open"), "tensorrt_rtx": RTX}, "auto", "TensorRT-RTX 1.7.1.116"),
    ],
)
def test_the_flavour_found(packages, found, choice, expected):
    packages(**found)
    assert str(trt_flavour.find(choice)) == expected


def test_auto_does_not_load_the_second_flavour(packages):
    packages(tensorrt=FULL, tensorrt_rtx=AssertionError("loaded"))
    assert trt_flavour.find("auto").name == "tensorrt"
    assert [each.name for each in trt_flavour.find_all()] == ["tensorrt"]


def test_all_flavours_that_load(packages):
    packages(tensorrt=FULL, tensorrt_rtx=RTX)
    assert [each.name for each in trt_flavour.find_all()] == ["tensorrt", "rtx"]


@pytest.mark.parametrize(
    ("found", "choice", "message"),
    [
        ({}, "auto", r"TensorRT is not installed; install msformer-deploy\[tensorrt-rtx\] or .*\[tensorrt\]$"),
        ({"tensorrt_rtx": RTX}, "tensorrt", r"^tensorrt is not installed .*; install msformer-deploy\[tensorrt\]$"),
        (
            {"tensorrt_rtx": OSError("libtensorrt_rtx.so:\n  too short")},
            "auto",
            r"^tensorrt_rtx cannot be loaded \(libtensorrt_rtx.so: too short\); install .*\[tensorrt-rtx\] again$",
        ),
    ],
)
def test_none_found(packages, found, choice, message):
    packages(**found)
    with pytest.raises(BackendUnavailable, match=message) as error:
        trt_flavour.find(choice)
    assert "\n" not in str(error.value)


def test_every_failure_is_told(packages):
    packages(tensorrt=OSError("one"), tensorrt_rtx=RuntimeError("two"))
    with pytest.raises(BackendUnavailable, match=r"\(one\).*; tensorrt_rtx .*\(two\)"):
        trt_flavour.find_all()


@pytest.fixture(params=["stand-in", pytest.param("tensorrt_rtx", marks=pytest.mark.trt)])
def flavour(request):
    api = FULL if request.param == "stand-in" else pytest.importorskip("tensorrt_rtx")
    return trt_flavour.Flavour("tensorrt", api)


def test_the_first_error_is_the_reason(flavour):
    log = trt_flavour.message_log(flavour)
    severity = flavour.api.ILogger.Severity
    assert log.reason() == "it gives no reason"
    for level, text in [("WARNING", "slow"), ("ERROR", "the\n  cause"), ("INTERNAL_ERROR", "its consequence")]:
        log.log(getattr(severity, level), text)
    assert log.reason() == "the cause"
    assert log.reason() == "it gives no reason"


def test_what_tensorrt_says_of_an_engine_reaches_the_log(flavour):
    log = trt_flavour.message_log(flavour)
    assert trt_flavour.start(flavour, "Runtime", log).deserialize_cuda_engine(b"no engine" * 99) is None
    assert "magicTag" in log.reason()


def test_a_builder_that_does_not_start(monkeypatch):
    monkeypatch.setattr(FULL, "starts", False)
    flavour = trt_flavour.Flavour("tensorrt", FULL)
    with pytest.raises(BackendUnavailable, match=r"^TensorRT 10.13.3.9 does not start: CUDA initialization failure"):
        trt_flavour.start(flavour, "Builder", trt_flavour.message_log(flavour))


@pytest.mark.trt
@pytest.mark.parametrize("name", trt_surface.ENUMERATIONS)
def test_the_recorded_enumerations(name):
    real = pytest.importorskip("tensorrt_rtx")
    assert set(trt_surface.ENUMERATIONS[name].split()) <= getattr(real, name).__members__.keys()


@pytest.mark.trt
@pytest.mark.parametrize("recorded", trt_surface.RECORDED, ids=lambda each: each.__name__)
def test_the_recorded_surface(recorded):
    real = getattr(pytest.importorskip("tensorrt_rtx"), recorded.__name__)
    for name, member in vars(recorded).items():
        if name.startswith("_"):
            continue
        assert hasattr(real, name), name
        if inspect.isfunction(member):
            ours = list(inspect.signature(member).parameters)[1:]
            assert ours in overloads(getattr(real, name)), name


def overloads(method: object) -> list[list[str]]:
    """Names of the parameters of a method of the bindings, from the signatures in its docstring."""
    signatures = re.findall(rf"{method.__name__}\(self: [\w.]+(?:, )?(.*)\) ->", method.__doc__)
    return [re.findall(r"(?:^|, )(\w+): ", each) for each in signatures]


def test_the_stand_in_refuses_what_the_bindings_refuse():
    builder = FULL.Builder(trt_flavour.message_log(trt_flavour.Flavour("tensorrt", FULL)))
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        config.precision = 1
    with pytest.raises(TypeError, match="incompatible function arguments"):
        config.set_flag(3)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        config.profiling_verbosity = 2
    with pytest.raises(TypeError):
        config.set_flag(FULL.BuilderFlag.TF32, FULL.BuilderFlag.TF32)
    with pytest.raises(AttributeError):
        _ = trt_surface.make("tensorrt", "11.4.1").BuilderFlag.FP16
    assert FULL.BuilderFlag.FP16
