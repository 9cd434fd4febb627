"""``export --triton``: what is asked for is checked before an export takes its time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bundles import relisted

from msformer_deploy.bundle.folder import LEARNED_HEAD


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_model_comes_with_the_bundle(invoke, bundle_copy, tmp_path):
    outcome = invoke("export", "--output", bundle_copy, "--update", "--triton", tmp_path / "models")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == (
        f"{tmp_path / 'models' / 'msformer'}: model of Triton for its backend onnxruntime, fp32, up to 8 images in a"
        " call; not run on Triton"
    )
    assert (tmp_path / "models" / "msformer" / "1" / "model.onnx").read_bytes() == (
        bundle_copy / "segmenter.onnx"
    ).read_bytes()


def test_of_the_first_precision(invoke, bundle_copy, tmp_path):
    """An engine that fp16 would need is asked for by name."""
    arguments = ("--triton", tmp_path / "models", "--triton-backend", "tensorrt", "--precision", "fp16")
    error = invoke("export", "--output", bundle_copy, "--update", *arguments).error(4, "has no engine of the fp16")
    assert error.endswith(
        f"msformer-deploy export --output {bundle_copy} --update --tensorrt --trt-flavour tensorrt --precision fp16"
    )
    assert not (bundle_copy / "segmenter.fp16.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--triton-backend", "openvino"], 2, ["--triton-backend only affects a model of Triton; add --triton"]),
        (["--triton", "models", "--triton-backend", "tensorrt"], 2, ["none is built; add --tensorrt"]),
        (["--triton", "models", "--precision", "bf16"], 2, ["Triton's onnxruntime does not run bf16 graphs"]),
        (["--triton", "new/models", "--output", "new"], 2, ["must lie beside each other"]),
        (["--triton", ".", "--output", "new"], 2, ["must lie beside each other"]),
        (["--triton", "taken"], 2, ["exists already; choose another --triton"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_slip_is_said_before_anything_is_made(invoke, tmp_path, monkeypatch, arguments, code, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken" / "msformer").mkdir(parents=True)
    (tmp_path / "taken" / "msformer" / "config.pbtxt").touch()
    output = () if "--output" in arguments else ("--output", "bundle")
    invoke("export", *output, *arguments).error(code, *parts)
    assert sorted(content(tmp_path)) == [str(Path("taken", "msformer", "config.pbtxt"))]


@pytest.mark.trt
def test_engines_of_rtx_are_not_for_triton(invoke, tmp_path, monkeypatch):
    arguments = ("--tensorrt", "--trt-flavour", "rtx", "--triton", tmp_path / "models")
    outcome = invoke("export", "--output", tmp_path / "bundle", *arguments, "--triton-backend", "tensorrt")
    outcome.error(2, "Triton runs no engines of TensorRT for RTX", "--trt-flavour tensorrt")
    assert content(tmp_path) == {}


def test_what_corrected_images_taught_is_not_lost_in_silence(invoke, bundle_copy, tmp_path):
    shutil.copy(bundle_copy / "head.safetensors", bundle_copy / LEARNED_HEAD)
    relisted(bundle_copy)
    before = content(bundle_copy)
    invoke("export", "--output", bundle_copy, "--update", "--triton", tmp_path / "models").error(
        2, "what corrected images taught a bundle is not in its whole-method graph"
    )
    assert content(bundle_copy) == before
    assert not (tmp_path / "models").exists()
