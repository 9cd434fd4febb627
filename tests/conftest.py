"""Fixtures shared by all tests, and closing lines: the CPU's 8-bit arithmetic, and what was skipped and why."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before any library reads it. Tests run in one process per core, and a thread that waits for its turn does so at full
# speed: with a thread per core in each process the tests of the networks take three times the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import programs
import pytest
import shared
from arithmetic import ARITHMETIC
from locations import DATA, GOLDEN

import msformer_deploy
from msformer_deploy.bundle.folder import Bundle, ModelSizes, load_bundle
from msformer_deploy.machine.extras import is_installed
from msformer_deploy.registry import SYSTEMS, RefineSettings

SCRIPTS = Path(__file__).parent / "studies"
TINY = ModelSizes(side=33, width=8, clusters=6, blocks=2)
TINY_SETTINGS = RefineSettings(steps=5, stride=4)
TINY_S3 = ModelSizes(side=24, width=8, clusters=8, blocks=1, variant="plain")
# make test-pythons runs the tests of the runtime where torch is not installed.
HAS_TORCH = is_installed("torch")


# What is exported or compiled for these takes seconds, so tests that use them are not among the fast ones.
EXPORTED = {"tiny_bundle", "tiny_s3_bundle", "tiny_deformable_bundle", "bundles"}
MADE_FIRST = EXPORTED | {"wheel", "emulate"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what waits for an export or a compiler, or runs a script; skip, with the reason, what cannot run here."""
    reasons = {
        "data": None if DATA.is_dir() else "development data (../shared/data) is absent",
        "golden": None if GOLDEN.is_dir() else "golden outputs (../shared/golden) are absent",
        "gpu": None if _sees_a_gpu() else "no CUDA GPU",
        "trt": None
        if any(map(find_spec, ("tensorrt", "tensorrt_rtx")))
        else "neither tensorrt nor tensorrt-rtx is here",
    }
    for item in items:
        if MADE_FIRST.intersection(getattr(item, "fixturenames", ())) or SCRIPTS in item.path.parents:
            item.add_marker("made_first")
        if not HAS_TORCH and EXPORTED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skip(reason="torch is not installed, and a bundle is exported for this test"))
        for module in (module for mark in item.iter_markers("needs") for module in mark.args):
            if not is_installed(module):
                item.add_marker(pytest.mark.skip(reason=f"{module} is not installed"))
        for package in (package for mark in item.iter_markers("needs_debian") for package in mark.args):
            if not programs.is_installed(package):
                item.add_marker(pytest.mark.skip(reason=f"Debian's {package} is not installed"))
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _sees_a_gpu() -> bool:
    if not HAS_TORCH:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_finish() -> None:
    """Collect garbage less often, and never among what is there by now: tracing takes 8 % less time so."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A pass on this machine must not read as a pass everywhere: count the skipped tests by reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.write_line(f"msformer_deploy: {Path(msformer_deploy.__file__).parent}")
    terminalreporter.write_line(f"8-bit arithmetic: {ARITHMETIC}")
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    terminalreporter.write_line(f"skipped tests: {len(skipped)}")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"  {count} x {reason}")


@pytest.fixture(autouse=True, scope="session")
def traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any] | None]:
    """Trace every network once in a run, which takes seconds; every process and every export then has its graph.

    What is yielded traces it anew.
    """
    if not HAS_TORCH:
        yield None
        return
    import onnx
    from torch import nn

    from msformer_deploy.export import graphs

    trace = graphs._export

    def known(network: nn.Module, *what: Any, **more: Any) -> onnx.ModelProto:
        name = f"traced-{_digest(network, what, more)}.onnx"
        path = shared.once(tmp_path_factory, name, lambda path: onnx.save(trace(network, *what, **more), path))
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_export", known)
        yield trace


def _digest(network: Any, *what: object) -> str:
    """Of all that decides how a network is traced: its parts, their numbers and switches, and its weights."""
    digest = hashlib.sha256(repr(what).encode())
    for name, part in network.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, (bool, int, float, str, tuple))}
        digest.update(f"{name} {type(part).__module__}.{type(part).__qualname__} {plain}".encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(autouse=True, scope="session")
def torchlib() -> Iterator[None]:
    """Read the operators that torch can export once in a process: each export reads 500 sources again, in 0.7 s."""
    if not (HAS_TORCH and is_installed("onnxscript")):
        yield
        return
    from functools import cache

    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read, newest = cache(ONNXRegistry.from_torchlib), ONNXRegistry().opset_version

    def known(opset_version: int = newest) -> ONNXRegistry:
        registry, found = ONNXRegistry(), read(opset_version)
        registry._opset_version = found.opset_version
        registry.functions = {target: list(decompositions) for target, decompositions in found.functions.items()}
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(known))
        yield


@pytest.fixture(autouse=True, scope="session")
def opened_once() -> Iterator[None]:
    """Open what OpenVINO has compiled once in a process: hundreds of tests open the same bundle, in 0.3 s each."""
    from collections import OrderedDict
    from functools import cache

    from msformer_deploy.backends import openvino as backend
    from msformer_deploy.machine.forks import Origin

    @cache
    def core() -> tuple[Any, Origin]:
        runtime = backend.import_openvino()
        opened: OrderedDict[object, Any] = OrderedDict()

        class Remembering(runtime.Core):
            def import_model(self, data: bytes, device: str, settings: dict[str, Any]) -> Any:
                key = data, device, tuple(sorted(settings.items()))
                if key not in opened:
                    opened[key] = super().import_model(data, device, settings)
                opened.move_to_end(key)
                while len(opened) > 8:
                    opened.popitem(last=False)
                return opened[key]

        return Remembering(), Origin()

    core.__wrapped__ = backend._core.__wrapped__  # which a test of the start itself takes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_core", core)
        yield


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the run's own: what tests compile is not kept for the user, nor taken from there."""
    folder = shared.folder_of_the_run(tmp_path_factory) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Commands give torch threads for the rest of their process; here the next test has one again, as it began."""
    if not HAS_TORCH:
        yield
        return
    import torch

    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small but real bundle, exported and validated like any other. Read only: copy it to damage it."""
    return _exported(tmp_path_factory, "msformer", TINY)


@pytest.fixture(scope="session")
def tiny_s3_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle of S3-Net. Read only: copy it to damage it."""
    return _exported(tmp_path_factory, "s3net", TINY_S3)


@pytest.fixture(scope="session")
def tiny_deformable_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same whose encoder ends with the deformable convolution."""
    return _exported(tmp_path_factory, "s3net", dataclasses.replace(TINY_S3, variant="deformable"))


def _exported(factory: pytest.TempPathFactory, system: str, sizes: ModelSizes) -> Bundle:
    from msformer_deploy.export.build import build_bundle

    path = shared.once(
        factory,
        f"{system}-{sizes.variant}",
        lambda path: build_bundle(SYSTEMS[system], path, sizes=sizes, refinement=TINY_SETTINGS),
    )
    return load_bundle(path)


@pytest.fixture
def reference_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute what torch gives of an export in this process: another one needs seconds to import torch.

    ``test_a_reference_computed_beside_equals_one_computed_here`` compares the two.
    """
    from contextlib import nullcontext
    from types import SimpleNamespace

    from msformer_deploy.export import reference

    def start(*request: Any) -> Any:
        return nullcontext(SimpleNamespace(wait=lambda: reference.compute(*request)))

    monkeypatch.setattr(reference, "start", start)


@pytest.fixture
def bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle that a test may damage."""
    import shutil

    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def picture() -> np.ndarray:
    """A disc on a gradient with some noise, uint8 (60, 80, 3)."""
    rows, columns = np.mgrid[:60, :80]
    rng = np.random.default_rng(0)
    image = 150 + 40 * columns[..., None] / 80 + rng.integers(-6, 6, (60, 80, 3))
    image[(rows - 30) ** 2 + (columns - 40) ** 2 < 15**2] = (90, 50, 40)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def images(picture: np.ndarray, tmp_path: Path) -> Path:
    """A folder of three small images, one in a subfolder."""
    from PIL import Image

    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(picture).save(folder / "a.png")
    Image.fromarray(picture[::-1]).save(folder / "b.jpg")
    Image.fromarray(picture[:, ::-1]).save(folder / "more" / "c.tif")
    return folder
