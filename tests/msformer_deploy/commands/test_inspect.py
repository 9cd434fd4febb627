from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.bundle import ENCODER, MANIFEST, REQUIRED, SEGMENTER, Bundle


def test_a_bundle_as_text(invoke: Any, tiny_bundle: Bundle) -> None:
    outcome = invoke("inspect", tiny_bundle.path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{tiny_bundle.path}: msformer bundle, schema 1, verified\n")
    shown = ["33 x 33 BGR", "width 8, 6 clusters, 2 blocks", "mode head, steps 5", *REQUIRED]
    shown += [f"{ENCODER} features: max_abs ", f"{SEGMENTER} label_map: agreement "]
    shown += [entry["sha256"][:16] for entry in tiny_bundle.manifest["files"].values()]
    assert [part for part in shown if part not in outcome.out] == []


def test_a_bundle_as_json(invoke: Any, tiny_bundle: Bundle) -> None:
    found = json.loads(invoke("inspect", tiny_bundle.path, "--json").out)
    assert found == {"kind": "bundle", "path": str(tiny_bundle.path), **tiny_bundle.manifest, "sidecars": {}}


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
    outputs = {ENCODER: ["features", "context_small", "context_large"], SEGMENTER: ["label_map", "counts", "collapsed"]}
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


def test_a_folder_that_is_no_bundle(invoke: Any, tmp_path: Path) -> None:
    invoke("inspect", tmp_path).error(1, tmp_path, "not a bundle", MANIFEST)


def test_nothing_there(invoke: Any, tmp_path: Path) -> None:
    invoke("inspect", tmp_path / "none").error(2, tmp_path / "none", "no such file or folder")
