"""Out of memory: which errors say so, and what becomes of the image, the report and the command."""

from __future__ import annotations

import builtins
import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy import DeployError, cli
from msformer_deploy.backends import onnxruntime, openvino
from msformer_deploy.backends.base import Device
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.machine.memory import OutOfMemory, is_out_of_memory, require_memory
from msformer_deploy.results import report, stages
from msformer_deploy.segmenter import Segmenter

LACKS = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("libopenblas.so: cannot allocate memory in static TLS block"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("bad allocation"),
    RuntimeError("Could not allocate 5 bytes"),
    RuntimeError("can't alloc"),
]
SMALL_ENOUGH = [OSError(errno.ENOSPC, "No space left on device"), ImportError("no module"), ValueError("memory")]


@pytest.mark.parametrize("error", LACKS, ids=repr)
def test_a_lack_of_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    outer = DeployError("it failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)
    with pytest.raises(OutOfMemory, match=r"^it cannot start: there is not enough memory; ") as raised:
        require_memory(error, "it cannot start")
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("error", SMALL_ENOUGH, ids=repr)
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)
    require_memory(error, "it cannot start")


@pytest.mark.parametrize("error", LACKS, ids=repr)
def test_a_command_says_so_in_one_line(error: Exception, invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli.commands["list"], "callback", fail)
    invoke("list").error(1, "there is not enough memory", "end other programs")


def test_a_runtime_that_does_not_fit_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def import_(name: str, *arguments: Any, **more: Any) -> Any:
        if name in ("onnxruntime", "openvino"):
            raise ImportError(f"lib{name}.so: failed to map segment from shared object")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", import_)
    monkeypatch.setattr(importlib, "import_module", import_)
    with pytest.raises(OutOfMemory, match="onnxruntime cannot be imported: there is not enough memory"):
        onnxruntime.open_session(b"", Device("cpu"))
    with pytest.raises(OutOfMemory, match="openvino cannot be imported: there is not enough memory"):
        openvino.import_openvino()


def test_a_session_that_does_not_fit_is_no_broken_backend(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> None:
    import onnxruntime as runtime

    def exhaust(*_: object, **__: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(runtime, "InferenceSession", exhaust)
    with pytest.raises(OutOfMemory, match="cannot open a session"):
        Segmenter(tiny_bundle, backend="onnxruntime", device="cpu")


@pytest.mark.parametrize(
    ("name", "owner", "call"),
    [
        ("onnxruntime", "onnxruntime.InferenceSession", "run_with_iobinding"),
        ("openvino", "openvino.CompiledModel", "create_infer_request"),
    ],
)
def test_a_call_that_does_not_fit_is_no_broken_backend(
    name: str, owner: str, call: str, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle
) -> None:
    pytest.importorskip(name)

    def exhaust(*_: object, **__: object) -> None:
        raise RuntimeError("Non-zero status code returned: std::bad_alloc")

    monkeypatch.setattr(f"{owner}.{call}", exhaust)
    with pytest.raises(OutOfMemory, match=rf"^{name} fails on CPU\w*: there is not enough memory"):
        Segmenter(tiny_bundle, backend=name, device="cpu")


def test_a_bundle_that_does_not_fit_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> None:
    import onnx

    def exhaust(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(onnx, "load", exhaust)
    with pytest.raises(OutOfMemory, match=r"encoder\.onnx cannot be read"):
        load_bundle(tiny_bundle.path)


class TestAnImageThatDoesNotFit:
    """Memory runs out at any place: the error is reported, and the first failure does not end the run."""

    @pytest.fixture(params=LACKS[:2] + LACKS[4:6], ids=repr)
    def error(self, request: Any) -> Exception:
        return request.param

    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (stages, "read_image"),
            (Segmenter, "prepare"),
            (Segmenter, "finish"),
            (report, "write_results"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_the_others_are_done(
        self, owner: Any, name: str, error: Exception, segment: Any, images: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        real, calls = getattr(owner, name), []

        def exhaust(*arguments: Any, **more: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 1:
                raise error
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, exhaust)
        monkeypatch.setattr(
            "msformer_deploy.commands.here.writing_threads", lambda: 1
        )  # the first call is the first image
        segment(images, "-q").error(5, images / "a.png", "not enough memory", "make the image smaller")
        told = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
        assert [bool(entry["error"]) for entry in told["images"]] == [True, False, False]
        assert told["interrupted"] is False


def test_out_of_memory_beside_the_images_leaves_a_report(
    segment: Any, images: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("msformer_deploy.results.batch.BatchRun._written", exhaust)
    segment(images, "-q").error(1, "there is not enough memory to go on", "--skip-existing")
    assert (tmp_path / "out" / "report.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
def test_a_real_limit(tiny_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    rows = np.arange(9800, dtype=np.uint32)
    Image.fromarray(((rows[:, None] + rows) % 251).astype(np.uint8)).save(images / "b.png", compress_level=1)
    script = (
        "import resource, sys\n"
        "from msformer_deploy.cli import call\n"
        "small, folder, bundle, out = sys.argv[1:]\n"
        "run = ['run', '-q', '--backend', 'onnxruntime', '--threads', '1', '--bundle', bundle]\n"
        "assert call([*run, small, '--output', out + '/first']) == 0\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 350 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "sys.exit(call([*run, folder, '--output', out + '/second']))\n"
    )
    command = [sys.executable, "-c", script, *map(str, (images / "a.png", images, tiny_bundle.path, tmp_path))]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}  # each arena reserves address space
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {images / 'b.png'}: not enough memory to ")
    told = json.loads((tmp_path / "second" / "report.json").read_text(encoding="utf-8"))
    assert [bool(entry["error"]) for entry in told["images"]] == ["b.png" in entry["input"] for entry in told["images"]]
