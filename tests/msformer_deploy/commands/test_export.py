"""``export``: a bundle appears whole and proven, or nothing changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from msformer_deploy.bundle import ENCODER, MANIFEST, SEGMENTER, Bundle, load_bundle
from msformer_deploy.errors import ValidationMismatch
from msformer_deploy.registry import SYSTEMS

GRAPHS = "msformer_deploy.export.graphs"


@pytest.fixture
def small_system(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command export the network of the small bundle."""
    sizes = tiny_bundle.sizes
    system = replace(
        SYSTEMS["msformer"],
        side=sizes.side,
        width=sizes.width,
        clusters=sizes.clusters,
        blocks=sizes.blocks,
        presets=SYSTEMS["msformer"].presets | {"fast": tiny_bundle.refinement},
    )
    monkeypatch.setattr("msformer_deploy.commands.export.ready_system", lambda _: system)


@pytest.fixture
def ready_graphs(small_system: None, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the small bundle's encoder instead of seconds to trace it; all else, the validation included, is real."""
    monkeypatch.setattr(f"{GRAPHS}.export_encoder", lambda *_: onnx.load(tiny_bundle.file(ENCODER)))


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def raising(error: BaseException) -> Callable[..., None]:
    def stage(*_: object) -> None:
        raise error

    return stage


def test_the_same_seed_gives_the_same_bundle(
    invoke: Any, small_system: None, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """All stages are real here. The small bundle was exported before in this process, from the same seed."""
    outcome = invoke("export", "--output", tmp_path / "bundle", "--seed", "0")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines() == [
        "exporting the encoder",
        "exporting the whole method",
        "validating against torch",
    ]
    assert outcome.out.startswith(f"{tmp_path / 'bundle'}: MS-Former bundle, fp32; validated on 4 images: features ")
    made = load_bundle(tmp_path / "bundle")
    assert made.manifest == tiny_bundle.manifest
    assert content(made.path) == content(tiny_bundle.path)


def test_quiet(invoke: Any, ready_graphs: None, tmp_path: Path) -> None:
    outcome = invoke("export", "--output", tmp_path / "bundle", "-q")
    assert (outcome.code, outcome.err) == (0, "")


def test_another_seed_is_another_network(invoke: Any, ready_graphs: None, tmp_path: Path) -> None:
    """The graphs are those of seed 0, so the validation against the torch network of seed 1 must refuse them."""
    invoke("export", "--output", tmp_path / "bundle", "-q", "--seed", "1").error(3, "differs from torch")
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "part", ["block_s.0.attn.reprojection.bias", "block_l.1.mlp.fc1.bias", "patch_embed_s.norm.weight"]
)
def test_a_corrupted_encoder_is_caught(
    invoke: Any, ready_graphs: None, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: Any, part: str
) -> None:
    """Parts that the outputs depend on; others fall out in exact arithmetic, as biases before a normalisation do."""

    def corrupted(*_: object) -> onnx.ModelProto:
        model = onnx.load(tiny_bundle.file(ENCODER))
        (weights,) = [entry for entry in model.graph.initializer if entry.name.endswith(part)]
        values = numpy_helper.to_array(weights).copy()
        values.flat[0] += 0.1
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        return model

    monkeypatch.setattr(f"{GRAPHS}.export_encoder", corrupted)
    invoke("export", "--output", tmp_path / "bundle", "-q").error(3, "encoder output", "differs from torch")
    assert content(tmp_path) == {}


def test_a_corrupted_whole_graph_is_caught(
    invoke: Any, ready_graphs: None, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: Any
) -> None:
    def corrupted(*_: object) -> onnx.ModelProto:
        model = onnx.load(tiny_bundle.file(SEGMENTER))
        (head,) = [entry for entry in model.graph.initializer if list(entry.dims)[-2:] == [6, 16]]
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head)[..., ::-1, :].copy(), head.name))
        return model

    monkeypatch.setattr(f"{GRAPHS}.join", corrupted)
    invoke("export", "--output", tmp_path / "bundle", "-q").error(3, "segmenter labels agree")
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    ("error", "code"), [(ValidationMismatch("it differs"), 3), (KeyboardInterrupt(), 130), (OSError(28, "full"), 1)]
)
@pytest.mark.parametrize("stage", [f"{GRAPHS}.join", "msformer_deploy.export.validate.check_segmenter"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_export_leaves_nothing(
    invoke: Any,
    ready_graphs: None,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: Any,
    error: BaseException,
    code: int,
    stage: str,
    existing: bool,
) -> None:
    if existing:
        shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    before = content(tmp_path)
    monkeypatch.setattr(stage, raising(error))
    outcome = invoke("export", "--output", tmp_path / "bundle", "-q", *(["--force"] if existing else []))
    assert outcome.code == code
    assert outcome.err.strip().startswith("error: ")
    assert len(outcome.err.strip().splitlines()) == 1
    assert content(tmp_path) == before
    assert not existing or load_bundle(tmp_path / "bundle").seed == 0


def test_an_existing_bundle_needs_force(invoke: Any, ready_graphs: None, bundle_copy: Path) -> None:
    (bundle_copy / "old").touch()
    before = content(bundle_copy)
    invoke("export", "--output", bundle_copy, "-q").error(2, bundle_copy, "--force")
    assert content(bundle_copy) == before
    assert invoke("export", "--output", bundle_copy, "-q", "--force").code == 0
    assert before.keys() - content(bundle_copy).keys() == {"old"}
    assert content(bundle_copy.parent).keys() == {"bundle", *(f"bundle/{name}" for name in before if name != "old")}


def test_force_does_not_touch_what_is_not_a_bundle(invoke: Any, small_system: None, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("mine")
    before = content(tmp_path)
    invoke("export", "--output", tmp_path / "bundle", "-q", "--force").error(2, tmp_path / "bundle", "not a bundle")
    assert content(tmp_path) == before


def test_a_parent_that_cannot_be_written(invoke: Any, small_system: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    target = tmp_path / "file" / "bundle"
    invoke("export", "--output", target, "-q").error(2, target, "cannot be written")
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "slow"], ["'slow'", "fast"]),
        (["--preset", "evaluation"], ["'evaluation'", "mode head or none"]),
        (["--preset", "initial", "--steps", "3"], ["'initial'", "--steps"]),
        (["--steps", "-1"], ["--steps"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**64)], ["--seed"]),
        (["--precision", "fp7"], ["'fp7'", "fp32"]),
        (["--system", "unet"], ["'unet'", "msformer"]),
        (["--system", "m2snet"], ["'m2snet'"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_slip_is_told_before_anything_is_made(
    invoke: Any, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    invoke("export", "--output", tmp_path / "bundle", *arguments).error(2, *parts)
    assert content(tmp_path) == {}


def test_the_manifest_comes_last(invoke: Any, ready_graphs: None, tmp_path: Path) -> None:
    """What it vouches for is what was validated: nothing is written after it."""
    assert invoke("export", "--output", tmp_path / "bundle", "-q").code == 0
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bundle").iterdir()}
    assert max(times, key=lambda name: times[name]) == MANIFEST
