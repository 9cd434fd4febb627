"""Sidecars of engines: what they keep, and what is refused as none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sidecars import record

from msformer_deploy.bundle.sidecar import SCHEMA_VERSION, SIDECAR, EngineOptions, Record, read_record, write_record
from msformer_deploy.errors import BundleError, UsageError


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A whole sidecar."""
    write_record(tmp_path, record())
    return tmp_path / SIDECAR


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpu": None, "cuda": None, "driver": None, "compute_capabilities": ("portable",), "flavour": "rtx"},
        {"options": EngineOptions((1, 2, 8), 512, "ampere-plus", ("8.6", "12.0"), True, "never", True)},
    ],
    ids=lambda changes: " ".join(changes) or "as it is",
)
def test_sidecars_keep_everything(tmp_path: Path, changes: dict[str, Any]) -> None:
    made: Record = record(**changes)
    write_record(tmp_path, made)
    assert read_record(tmp_path / SIDECAR) == made


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({}, "engines/encoder-fp32-tensorrt-10.13.3.9-sm86"),
        (
            {"graph": "segmenter", "precision": "int8", "flavour": "rtx", "compute_capabilities": ("7.5", "12.0")},
            "engines/segmenter-int8-rtx-10.13.3.9-sm75-sm120",
        ),
        ({"compute_capabilities": ("portable",)}, "engines/encoder-fp32-tensorrt-10.13.3.9-portable"),
    ],
)
def test_one_folder_per_graph_precision_and_target(changes, folder):
    assert record(**changes).folder == folder


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": None},
        {"schema_version": "1"},
        {"graph": "head"},
        {"precision": ["fp32"]},
        {"flavour": "openvino"},
        {"flavour_version": 10},
        {"platform": None},
        {"gpu": 3},
        {"compute_capabilities": "8.6"},
        {"compute_capabilities": [8.6]},
        {"onnx_sha256": None},
        {"options": None},
        {"options": {}},
        {"inputs": {}},
        {"inputs": [{"name": "image"}]},
        {"outputs": ["features"]},
        {"layers": True},
        {"bytes": "many"},
        {"build_seconds": "long"},
    ],
    ids=repr,
)
def test_hand_made_sidecars(written, changes):
    change(written, **changes)
    with pytest.raises(BundleError, match=r"engine.json: not an engine's sidecar .*; build the engine again") as error:
        read_record(written)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": [1, 2]},
        {"batch": [0, 1, 1]},
        {"batch": [1.0, 1, 1]},
        {"batch": None},
        {"workspace_mb": "all; rm -r /"},
        {"compatibility": "every"},
        {"refit": 1},
        {"version_compatible": 1},
        {"compute_capabilities": [8.6]},
        {"plugins": None},
    ],
    ids=repr,
)
def test_hand_made_options(written, changes):
    change(written, options=json.loads(written.read_text())["options"] | changes)
    with pytest.raises(BundleError, match="not an engine's sidecar"):
        read_record(written)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\x00",
        b"\xff\xfe" * 10_000,
        b'{"schema_version": "%s"}' % (b"x" * 10_000),
    ],
    ids=lambda content: content[:8].hex(),
)
def test_no_sidecar_at_all(tmp_path, content):
    (tmp_path / "engine.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"not an engine's sidecar \(\w+Error: ") as error:
        read_record(tmp_path / "engine.json")
    (line,) = str(error.value).splitlines()
    assert len(line) < 200 + len(str(tmp_path))


def test_a_sidecar_that_does_not_fit_in_a_line(written):
    change(written, graph="x" * 10_000)
    with pytest.raises(BundleError, match="graph: Invalid enum value 'xxx") as error:
        read_record(written)
    assert len(str(error.value)) < 200 + len(str(written))


def test_a_sidecar_that_is_not_there(tmp_path):
    with pytest.raises(
        BundleError, match=r"engine.json: cannot be read \(No such file or directory\); build the engine"
    ):
        read_record(tmp_path / "engine.json")


def test_a_newer_sidecar(tmp_path):
    write_record(tmp_path, record(schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(
        BundleError, match=r"schema version 2 is newer than this program's 1 \(upgrade msformer-deploy\)"
    ):
        read_record(tmp_path / SIDECAR)


@pytest.mark.parametrize("batch", [(0, 1, 1), (2, 1, 3), (1, 4, 3)])
def test_batch_sizes_in_order(batch):
    with pytest.raises(UsageError, match="1 <= minimum <= most likely <= maximum"):
        EngineOptions(batch=batch)


@pytest.mark.parametrize("given", [("12.0", "8.6", "12.0"), ("8.6", "12.0"), ("12.0", "8.6")])
def test_compute_capabilities_are_kept_in_order_and_once(given):
    assert EngineOptions(compute_capabilities=given).compute_capabilities == ("8.6", "12.0")
