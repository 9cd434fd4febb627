"""What people give in place of weights: each is called what it is in one line, and nothing in it is run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save
from torch import nn

from msformer_deploy.errors import UsageError
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.weights.checkpoint_import import read_weights
from msformer_deploy.weights.file_format import weights_format
from msformer_deploy.weights.trained import read_trained

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s8--4d7a.pth\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def archive(**members: bytes) -> bytes:
    """A zip file."""

    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)

    return written(write)


def tar(mode: str = "w:", **members: bytes) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode=mode) as file:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))

    return written(write)


def keras(user_block: int = 0) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with h5py.File(stream, "w", userblock_size=user_block) as file:
            file["conv/kernel"] = np.zeros(3)

    return written(write)


def script() -> bytes:
    return written(lambda stream: torch.jit.save(torch.jit.trace(nn.Linear(2, 1), torch.zeros(1, 2)), stream))


def graph() -> bytes:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    return bytes(helper.make_model(made).SerializeToString())


TORCH_0_1 = {"sys_info": {"protocol_version": 1000, "little_endian": True}, "pickle": {}, "tensors": 0, "storages": 0}

OTHERS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "torch 0.1": (
        lambda: tar(**{name: pickle.dumps(content) for name, content in TORCH_0_1.items()}),
        "a tar file of torch 0.1, which torch reads only by running code in it; no code in it was run",
        "save the state_dict()",
    ),
    "another tar": (lambda: tar(**{"a.pth": b"1"}), "is a tar archive;", "unpack it"),
    "tar.gz": (lambda: tar("w:gz", **{"a.pth": b"1"}), "compressed with gzip", "unpack it"),
    "gzip": (lambda: gzip.compress(save({"a": torch.zeros(1)})), "compressed with gzip", "unpack it"),
    "bzip2": (lambda: bz2.compress(b"1" * 99), "compressed with bzip2", "unpack it"),
    "xz": (lambda: lzma.compress(b"1" * 99), "compressed with xz", "unpack it"),
    "zip": (lambda: archive(**{"weights/a.pth": b"1"}), "a zip archive that torch did not write", "unpack it"),
    "empty zip": (lambda: archive(), "a zip archive that torch did not write", "unpack it"),
    "npz": (lambda: written(lambda stream: np.savez(stream, a=np.zeros(2))), "archive of NumPy arrays", "convert it"),
    "npy": (lambda: written(lambda stream: np.save(stream, np.zeros(2))), "one NumPy array", "convert it"),
    "keras": (lambda: archive(**{"config.json": b"{}", "model.weights.h5": b""}), "a Keras archive", "convert it"),
    "hdf5": (keras, "an HDF5 file, as Keras writes", "convert it"),
    "hdf5 behind a user block": (lambda: keras(512), "an HDF5 file, as Keras writes", "convert it"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(50), "a TensorFlow Lite model", "convert it"),
    "gguf": (lambda: b"GGUF\x03" + bytes(50), "a GGUF file", "convert it"),
    "matlab": (lambda: b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file", "convert it"),
    "torchscript": (script, "a TorchScript archive, that is, a program with weights, and was not run", "state_dict()"),
    "onnx": (graph, "an ONNX model", "give the checkpoint that it was exported from"),
    "pickle": (lambda: pickle.dumps({"a": 1}), "a plain Python pickle that torch.save did not write", "state_dict()"),
    "pickle 2": (lambda: pickle.dumps({"a": 1}, 2), "a plain Python pickle that torch.save did not", "state_dict()"),
    "git lfs": (lambda: LFS, "a Git LFS pointer, not the file itself", "'git lfs pull'"),
    "git annex": (lambda: ANNEX, "a git-annex pointer, not the file itself", "'git annex get'"),
    "html": (lambda: PAGE.encode(), "a web page (HTML)", "download the file itself"),
    "html after spaces": (lambda: b"\r\n  " + PAGE.upper().encode(), "a web page", "download the file"),
    "html with a mark": (lambda: b"\xef\xbb\xbf" + PAGE.encode(), "a web page", "download the file"),
    "html in utf-16": (lambda: PAGE.encode("utf-16"), "a web page", "download the file itself"),
    "long html": (lambda: (PAGE + "\u00e9" * 9999).encode(), "a web page", "download the file itself"),
    "xml": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page", "download the"),
    "json": (lambda: b'{"error": "Invalid username or password."}', "is text (JSON), not weights", "give the file"),
    "text": (lambda: b"Quota exceeded, try again later", "is text, not weights", "download or copy"),
    "noise": (
        lambda: bytes(range(128, 256)) * 4,
        "not a file of weights, or is damaged or cut short",
        "download or copy",
    ),
    "zeros": (lambda: bytes(4096), "not a file of weights, or is damaged or cut short", "download or copy"),
    "like onnx": (lambda: b"\x08\x0a" + bytes(range(256)), "not a file of weights, or is damaged", "download or copy"),
    "few bytes": (lambda: b"PyTorch", "not a file of weights, or is damaged or cut short", "download or copy"),
    "empty": (lambda: b"", "is empty", "download or copy it again"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_weights_file_is_called_what_it_is(kind, suffix, tmp_path):
    make, what, remedy = OTHERS[kind]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(make())
    with pytest.raises(UsageError) as raised:
        read_weights(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert what in message
    assert remedy in message.partition("; ")[2]


def test_a_page_is_told_by_the_command_with_exit_code_2(invoke, tmp_path):
    (tmp_path / "m2snet.pth").write_text(PAGE)
    told = invoke(
        "import-weights", tmp_path / "m2snet.pth", "--system", "m2snet", "--output", tmp_path / "out.safetensors"
    )
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert "is a web page (HTML), saved instead of the file; download the file itself" in told.err
    assert not (tmp_path / "out.safetensors").exists()


class Malice:
    """Makes a folder when a pickle of it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("members", [("pickle", "tensors", "storages"), ("pickle", "tensors", "storages", "sys_info")])
def test_code_in_a_file_of_torch_0_1_is_never_run(members, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    evil = pickle.dumps(Malice(trace))
    path.write_bytes(tar(**dict.fromkeys(members, evil)))
    with pytest.raises(UsageError, match=r"torch 0\.1"):
        read_weights(path)
    assert not trace.exists()
    pickle.loads(evil)
    assert trace.exists()  # it would have


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_formats_that_are_read(kind, tmp_path):
    state = {"a": torch.zeros(3)}
    content = save(state) if kind == "safetensors" else written(lambda stream: torch.save(state, stream))
    (tmp_path / "a.bin").write_bytes(content)
    assert weights_format(tmp_path / "a.bin") == kind
    assert read_weights(tmp_path / "a.bin").keys() == {"a"}


@pytest.mark.parametrize(("system", "remedy"), [("m2snet", "import-weights'"), ("mcsc", "train' wrote")])
def test_export_takes_no_file_of_torch_under_another_name(system, remedy, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=rf"a\.safetensors: is not a \.safetensors file; .*{remedy}$"):
        read_trained(SYSTEMS[system], [tmp_path / "a.safetensors"])
