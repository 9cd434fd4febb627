from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import relisted
from sidecars import DATA, record

from msformer_deploy.bundle.folder import ENCODER, MANIFEST, REQUIRED, SEGMENTER, Bundle, load_bundle
from msformer_deploy.bundle.sidecar import read_record, write_record


def test_a_bundle_as_text(invoke: Any, tiny_bundle: Bundle) -> None:
    outcome = invoke("inspect", tiny_bundle.path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{tiny_bundle.path}: msformer bundle, schema 2, verified\n")
    shown = ["33 x 33 BGR", "width 8, 6 clusters, 2 blocks", "mode head, steps 5", *REQUIRED]
    shown += [f"{ENCODER} features: max_abs ", f"{SEGMENTER} label_map: agreement "]
    shown += [f"{SEGMENTER} probability: max_abs "]
    shown += [entry["sha256"][:16] for entry in tiny_bundle.manifest["files"].values()]
    assert [part for part in shown if part not in outcome.out] == []


def test_a_bundle_as_json(invoke: Any, tiny_bundle: Bundle) -> None:
    found = json.loads(invoke("inspect", tiny_bundle.path, "--json").out)
    assert found == {
        "kind": "bundle",
        "path": str(tiny_bundle.path),
        **tiny_bundle.manifest,
        "sidecars": {},
        "faults": {},
        "like": None,
    }


def test_a_bundle_without_the_facts_that_only_people_read(invoke: Any, bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / MANIFEST).read_text(encoding="utf-8"))
    for key in ("validation", "preprocessing", "onnx", "versions"):
        del manifest[key]
    (bundle_copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert invoke("inspect", bundle_copy).code == 0


@pytest.mark.parametrize("name", [ENCODER, SEGMENTER])
def test_a_graph(invoke: Any, tiny_bundle: Bundle, name: str) -> None:
    text = invoke("inspect", tiny_bundle.file(name))
    assert (text.code, text.err) == (0, "")
    assert f"{tiny_bundle.file(name)}: ONNX graph, " in text.out
    assert "image: float (batch, 3, 33, 33)" in text.out
    found = json.loads(invoke("inspect", tiny_bundle.file(name), "--json").out)
    assert found["kind"] == "onnx"
    outputs = {
        ENCODER: ["features", "context_small", "context_large"],
        SEGMENTER: ["label_map", "counts", "collapsed", "probability"],
    }
    assert [output["name"] for output in found["outputs"]] == outputs[name]
    assert found["nodes"] == sum(found["operators"].values()) > 10
    assert f"{found['nodes']} nodes" in text.out
    assert all(function in text.out for function in found["functions"])


def test_a_name_with_a_line_break(invoke: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    odd = tmp_path / "a\nb.onnx"
    shutil.copy(tiny_bundle.file(ENCODER), odd)
    assert invoke("inspect", odd).out.splitlines()[0].endswith(" initializers")
    odd.write_bytes(b"no graph")
    invoke("inspect", odd).error(1)


@pytest.mark.parametrize("content", [b"", b"not a graph\n", b"\x08\x0a" * 9], ids=["empty", "text", "noise"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_what_is_no_graph(invoke: Any, tmp_path: Path, content: bytes, options: list[str]) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    outcome = invoke("inspect", tmp_path / "x.onnx", *options)
    outcome.error(1, tmp_path / "x.onnx", "not a valid ONNX file")
    assert outcome.out == ""


def test_a_cut_graph(invoke: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    content = tiny_bundle.file(ENCODER).read_bytes()
    (tmp_path / "x.onnx").write_bytes(content[: len(content) // 2])
    invoke("inspect", tmp_path / "x.onnx").error(1, tmp_path / "x.onnx", "not a valid ONNX file")


def test_a_damaged_bundle(invoke: Any, bundle_copy: Path) -> None:
    (bundle_copy / ENCODER).write_bytes(b"damaged")
    invoke("inspect", bundle_copy).error(1, bundle_copy / ENCODER)


@pytest.fixture
def engine(bundle_copy: Path) -> Path:
    """The folder of an engine in a bundle; TensorRT is not asked."""
    bundle = load_bundle(bundle_copy)
    made = record(
        flavour="rtx",
        flavour_version="1.7.1.116",
        platform="linux_x86_64",
        onnx_sha256=bundle.manifest["files"][ENCODER]["sha256"],
        precisions_of="network",
    )
    folder = bundle_copy / made.folder
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(DATA)
    write_record(folder, made)
    relisted(bundle_copy, bundle.facts | {"engines": {made.folder: {"accepted": None, "not_run": "no GPU"}}})
    return folder


def test_an_engine(invoke: Any, engine: Path) -> None:
    for path in (engine, engine / "engine.json"):
        outcome = invoke("inspect", path)
        assert (outcome.code, outcome.err) == (0, "")
        assert "fp32 encoder of rtx 1.7.1.116" in outcome.out
        assert "model.engine is what was built" in outcome.out
        found = json.loads(invoke("inspect", path, "--json").out)
        assert (found["kind"], found["fault"], found["graph"]) == ("engine", None, "encoder")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (Path.unlink, "model.engine is missing or cannot be read (No such file or directory), rebuild it"),
        (lambda path: path.write_bytes(DATA[:-1]), "model.engine is damaged, rebuild it: it is not what was built"),
    ],
)
def test_an_engine_that_is_not_what_was_built(
    invoke: Any, engine: Path, damage: Callable[[Path], object], fault: str
) -> None:
    damage(engine / "model.engine")
    assert f"  engine    {fault}\n" in invoke("inspect", engine).out
    assert json.loads(invoke("inspect", engine, "--json").out)["fault"] == fault
    path, folder = engine.parents[1], f"engines/{engine.name}"
    fault = "damaged, rebuild it: it is missing or not what was built"
    assert f"  {folder}: {fault}\n" in invoke("inspect", path).out
    assert json.loads(invoke("inspect", path, "--json").out)["faults"] == {folder: fault}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(b"{}"), "its SHA-256 is not the manifest's"),
    ],
)
def test_a_lost_sidecar(invoke: Any, engine: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(engine / "engine.json")
    path, folder = engine.parents[1], f"engines/{engine.name}"
    outcome = invoke("inspect", path)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"  {folder}: damaged, rebuild it: engine.json: {reason}\n" in outcome.out
    found = json.loads(invoke("inspect", path, "--json").out)
    assert (found["sidecars"], list(found["faults"])) == ({}, [folder])


def test_a_whole_engine_of_a_bundle(invoke: Any, engine: Path) -> None:
    assert f"engines/{engine.name}: 0.00 MB, built, not run" in invoke("inspect", engine.parents[1]).out
    assert json.loads(invoke("inspect", engine.parents[1], "--json").out)["faults"] == {}


def test_terminal_codes_in_a_sidecar(invoke: Any, engine: Path) -> None:
    odd = "\x1b[2J\nforged"
    record = read_record(engine / "engine.json")
    changes = dict.fromkeys(("flavour_version", "platform", "gpu", "cuda", "onnx_sha256", "kernels", "sha256"), odd)
    tensors = [{"name": odd, "dtype": odd, "shape": [1]}]
    lines = len(invoke("inspect", engine).out.splitlines())
    write_record(engine, replace(record, **changes, inputs=tensors, outputs=tensors, precisions={odd: {odd: 1}}))
    outcome = invoke("inspect", engine)
    assert outcome.code == 0
    assert "\x1b" not in outcome.out
    assert len(outcome.out.splitlines()) == lines


def test_a_folder_that_is_no_bundle(invoke: Any, tmp_path: Path) -> None:
    invoke("inspect", tmp_path).error(1, tmp_path, "not a bundle", MANIFEST)


def test_nothing_there(invoke: Any, tmp_path: Path) -> None:
    invoke("inspect", tmp_path / "none").error(2, tmp_path / "none", "no such file or folder")
