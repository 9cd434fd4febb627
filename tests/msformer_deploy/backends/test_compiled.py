"""What runtimes made of graphs is kept, found again, and never a reason to fail."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import pytest

from msformer_deploy.backends import compiled
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.choose import open_backend
from msformer_deploy.backends.compiled import Kept
from msformer_deploy.backends.graph_content import GraphContent
from msformer_deploy.bundle.folder import Bundle, Graph


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "msformer-deploy" / "compiled"


GRAPH, OTHER = (GraphContent(Path("graph.onnx"), key, 5) for key in ("hash", "another"))


def keep(kept: Kept, data: bytes) -> None:
    with kept.writing(b"graph") as place:
        if place is not None:
            place.write_bytes(data)


def test_what_is_kept_is_found_again(folder: Path) -> None:
    kept = Kept("runtime 1", "settings", GRAPH)
    assert kept.open(bytes) is None
    keep(kept, b"made of it")
    assert Kept("runtime 1", "settings", GRAPH).open(bytes) == b"made of it"
    assert [path.stat().st_size for path in folder.iterdir()] == [len(b"made of it")]


@pytest.mark.parametrize(
    "other", [("runtime 2", "settings", GRAPH), ("runtime 1", "others", GRAPH), ("runtime 1", "settings", OTHER)]
)
def test_it_is_of_one_runtime_settings_and_graph(folder: Path, other: tuple[str, str, GraphContent]) -> None:
    keep(Kept("runtime 1", "settings", GRAPH), b"made of it")
    assert Kept(*other).open(bytes) is None


def test_it_is_of_one_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(Kept("runtime 1", "settings", GRAPH), b"made of it")
    monkeypatch.setattr(compiled, "_cpu", lambda: "another CPU")
    assert Kept("runtime 1", "settings", GRAPH).open(bytes) is None


@pytest.mark.parametrize("damaged", [b"", b"made of", b"made of iT", b"made of it, and more"])
def test_a_damaged_file_is_not_opened(folder: Path, damaged: bytes) -> None:
    kept = Kept("runtime 1", "settings", GRAPH)
    keep(kept, b"made of it")
    next(folder.iterdir()).write_bytes(damaged)
    assert kept.open(bytes) is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")
def test_a_file_of_another_user_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept("runtime 1", "settings", GRAPH)
    keep(kept, b"made of it")
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert kept.open(bytes) is None


def test_what_cannot_be_opened_counts_as_nothing(folder: Path) -> None:
    kept = Kept("runtime 1", "settings", GRAPH)
    keep(kept, b"made of it")

    def fails(data: bytes) -> bytes:
        raise RuntimeError("made by a version that wrote it otherwise")

    assert kept.open(fails) is None


def test_half_a_file_is_not_kept(folder: Path) -> None:
    kept = Kept("runtime 1", "settings", GRAPH)
    with pytest.raises(OSError, match="full"), kept.writing(b"graph") as place:
        assert place is not None
        place.write_bytes(b"half")
        raise OSError("the disk is full")
    assert list(folder.iterdir()) == []
    with kept.writing(b"graph"):
        pass  # the runtime wrote nothing
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "content"), [(101, b"graph"), (5, b"before\x0a\x08location\x12behind")], ids=["large", "outside"]
)
def test_large_graphs_and_those_with_files_of_their_own_are_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int, content: bytes
) -> None:
    monkeypatch.setattr(compiled, "LARGEST", 100)
    kept = Kept("runtime 1", "settings", replace(GRAPH, size=size))
    with kept.writing(content) as place:
        assert place is None
    assert kept.open(bytes) is None
    assert not folder.exists()


def test_onnx_says_that_a_tensor_is_outside_as_expected() -> None:
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "x")
    onnx.external_data_helper.set_external_data(tensor, "x.bin")
    assert compiled._OUTSIDE in tensor.SerializeToString()


def test_no_more_than_so_many_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "KEPT", 3)
    for number in range(5):
        keep(Kept("runtime 1", str(number), GRAPH), str(number).encode())
        for path in folder.iterdir():  # as if each were a minute old by now
            os.utime(path, (time.time(), path.stat().st_mtime - 60))
    assert sorted(path.read_bytes() for path in folder.iterdir()) == [b"2", b"3", b"4"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
def test_a_backend_computes_the_same_from_what_is_kept(
    folder: Path, tiny_bundle: Bundle, backend: str, graph: Graph
) -> None:
    side = tiny_bundle.sizes.side
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)

    def computed() -> list[np.ndarray]:
        with open_backend(backend, tiny_bundle, Device("cpu"), graph=graph) as opened:
            found = opened.encode(image) if graph == "encoder" else opened.segment(image)
            return [np.array(each) for each in found if each is not None]

    first = computed()
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    for one, other in zip(first, computed(), strict=True):
        np.testing.assert_array_equal(one, other)
    (kept,) = folder.iterdir()
    assert kept.stat().st_mtime_ns == before, "it was opened, not made again"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("blocked", ["a file", "read-only", "no home"])
def test_a_backend_opens_where_nothing_can_be_kept(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, blocked: str
) -> None:
    place = tmp_path / "cache"
    if blocked == "a file":
        place.write_text("in the way")
    elif blocked == "read-only":
        monkeypatch.setattr(compiled.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(PermissionError(13, "no")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    if blocked == "no home":
        monkeypatch.setattr(compiled, "user_cache", lambda: None)
    with open_backend(backend, tiny_bundle, Device("cpu")) as opened:
        assert opened.name == backend


def test_what_openvino_cannot_export_is_not_kept_and_runs(
    folder: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msformer_deploy.backends import openvino as module

    def fails() -> None:
        raise RuntimeError("Exception from src/plugins: not implemented")

    monkeypatch.setattr(module.io, "BytesIO", fails)
    with open_backend("openvino", tiny_bundle, Device("cpu")) as opened:
        assert opened.name == "openvino"
    assert list(folder.iterdir()) == []


def test_a_full_disk_does_not_keep_onnxruntime_from_opening(
    folder: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msformer_deploy.backends import onnxruntime as module

    create, tried = module._create, []

    def full(runtime: Any, model: Any, options: Any, *rest: Any) -> Any:
        tried.append(options.optimized_model_filepath)
        if tried[-1]:
            raise module.BackendUnavailable("onnxruntime cannot open a session on cpu: no space left")
        return create(runtime, model, options, *rest)

    monkeypatch.setattr(module, "_create", full)
    with open_backend("onnxruntime", tiny_bundle, Device("cpu")):
        pass
    assert [bool(each) for each in tried] == [True, False]
    assert list(folder.iterdir()) == []
