"""``export``: a bundle appears whole and proven, or nothing changes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from msformer_deploy.bundle import folder as bundles
from msformer_deploy.bundle.engines import rebuild_command, records
from msformer_deploy.bundle.folder import ENCODER, HEAD, MANIFEST, SEGMENTER, WEIGHTS, Bundle, graph_name, load_bundle
from msformer_deploy.errors import BackendUnavailable, ValidationMismatch
from msformer_deploy.export import graphs
from msformer_deploy.registry import SYSTEMS, Preset

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
        presets=SYSTEMS["msformer"].presets | {"fast": Preset(tiny_bundle.refinement)},
    )
    monkeypatch.setattr("msformer_deploy.commands.export.find_system", lambda _: system)


@pytest.fixture
def ready_graphs(
    small_system: None, tiny_bundle: Bundle, reference_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take the small bundle's encoder instead of seconds to trace it; all else, the validation included, is real."""
    monkeypatch.setattr(f"{GRAPHS}.export_encoder", lambda *_, **__: onnx.load(tiny_bundle.file(ENCODER)))


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def raising(error: BaseException) -> Callable[..., None]:
    def stage(*_: object, **__: object) -> None:
        raise error

    return stage


def test_the_same_seed_gives_the_same_bundle(
    invoke: Any, small_system: None, tiny_bundle: Bundle, traced_once: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """All stages are real here. The small bundle was exported before, from the same seed."""
    monkeypatch.setattr(graphs, "_export", traced_once)
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


@pytest.mark.parametrize("part", ["block_s.0.out_bias", "block_l.1.fc1.bias", "patch_embed_s.norm.weight"])
def test_a_corrupted_encoder_is_caught(
    invoke: Any, ready_graphs: None, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: Any, part: str
) -> None:
    """Parts that the outputs depend on; others fall out in exact arithmetic, as biases before a normalisation do."""

    def corrupted(*_: object, **__: object) -> onnx.ModelProto:
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
@pytest.mark.parametrize(
    "stage",
    [f"{GRAPHS}.join", "msformer_deploy.export.validate.check_segmenter", "msformer_deploy.bundle.draft.load_bundle"],
)
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
        (["--preset", "paper"], ["mode full", "mode head"]),
        (["--preset", "initial", "--steps", "3"], ["mode none", "--steps"]),
        (["--steps", "-1"], ["--steps"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**64)], ["--seed"]),
        (["--precision", "fp7"], ["'fp7'", "fp32"]),
        (["--masks", "masks"], ["--masks", "--images"]),
        (["--images", "nowhere", "--precision", "fp16"], ["nowhere", "no such file or folder"]),
        (["--images", "."], ["--images", "--precision", "--tensorrt"]),
        (["--accept-loss", "--precision", "fp32"], ["--accept-loss", "--precision", "--tensorrt"]),
        (["--tensorrt", "--trt-workspace", str(10**20)], ["--trt-workspace"]),
        (["--trt-batch", "1", "2", "4"], ["--trt-batch", "--tensorrt"]),
        (["--trt-refit"], ["--trt-refit", "--tensorrt"]),
        (["--tensorrt", "--trt-batch", "4", "2", "1"], ["minimum <= most likely <= maximum", "(4, 2, 1)"]),
        (["--update", "--seed", "1"], ["--seed", "--update"]),
        (["--update", "--preset", "fast"], ["--preset", "--update"]),
        (["--update", "--variant", "plain"], ["--variant", "--update"]),
        (["--variant", "deformable"], ["msformer has no variant 'deformable'", "leave the variant out"]),
        (["--system", "s3net", "--variant", "deformed"], ["--variant", "'deformed'", "plain", "deformable"]),
        (["--system", "s3net", "--preset", "paper"], ["mode full", "mode head"]),
        (["--system", "s3net", "--preset", "trained"], ["s3net has no preset 'trained'", "balanced"]),
        (["--system", "unet"], ["'unet'", "msformer", "s3net"]),
        (["--system", "m2snet"], ["m2snet needs trained weights", "--weights"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_slip_is_told_before_anything_is_made(
    invoke: Any, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    invoke("export", "--output", tmp_path / "bundle", *arguments).error(2, *parts)
    assert content(tmp_path) == {}


@pytest.mark.parametrize("variant", [[], ["--variant", "plain"], ["--variant", "deformable"]], ids=" ".join)
def test_s3net_and_its_variants(
    invoke: Any,
    tiny_s3_bundle: Bundle,
    tiny_deformable_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: Any,
    variant: list[str],
) -> None:
    """All stages are real, on a network as small as that of the fixtures, which it must equal."""
    sizes = tiny_s3_bundle.sizes
    known = SYSTEMS["s3net"]
    small = replace(
        known,
        side=sizes.side,
        width=sizes.width,
        clusters=sizes.clusters,
        blocks=sizes.blocks,
        presets=known.presets | {"fast": Preset(tiny_s3_bundle.refinement)},
    )
    monkeypatch.setattr("msformer_deploy.commands.export.find_system", lambda name: {"s3net": small}[name])
    outcome = invoke("export", "--system", "s3net", "--output", tmp_path / "bundle", *variant, "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{tmp_path / 'bundle'}: S3-Net bundle, fp32; validated on 4 images: features ")
    expected = tiny_deformable_bundle if "deformable" in variant else tiny_s3_bundle
    assert load_bundle(tmp_path / "bundle").manifest == expected.manifest
    assert content(tmp_path / "bundle") == content(expected.path)


@pytest.mark.skipif(os.name != "posix", reason="other systems have other permissions")
def test_a_bundle_can_be_read_by_everyone(tiny_bundle: Bundle) -> None:
    """The service that runs it is seldom the user who made it."""
    for path in (tiny_bundle.path, *tiny_bundle.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_the_manifest_comes_last(invoke: Any, ready_graphs: None, tmp_path: Path) -> None:
    """What it vouches for is what was validated: nothing is written after it."""
    assert invoke("export", "--output", tmp_path / "bundle", "-q").code == 0
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bundle").iterdir()}
    assert max(times, key=lambda name: times[name]) == MANIFEST


# Other precisions and engines. The small network learns on 33 x 33 pixels, where rounding weighs more than in a real
# one, so most of these tests keep what they make whatever it loses.


def test_precisions_go_beside_fp32_and_the_first_is_what_runs(
    invoke: Any, ready_graphs: None, tiny_bundle: Bundle, tmp_path: Path, images: Path
) -> None:
    outcome = invoke(
        "export", "--output", tmp_path / "bundle", "--precision", "fp16", "--precision", "int8", "--accept-loss"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-2:] == ["making and judging fp16", "making and judging int8"]
    first, *lines = outcome.out.splitlines()
    assert "bundle, fp16;" in first
    assert [line.split()[0] for line in lines] == ["fp16", "int8"]
    made = load_bundle(tmp_path / "bundle")
    assert made.precision == "fp16"
    assert made.precisions == ("fp32", "fp16", "int8")
    assert made.file(ENCODER).read_bytes() == tiny_bundle.file(ENCODER).read_bytes()
    judged = made.manifest["precisions"]
    assert judged["fp16"]["images"] == 3
    assert judged["fp16"]["truth"] == "fp32"
    assert judged["fp16"]["features"] < 0.01
    assert judged["int8"]["features"] > judged["fp16"]["features"]
    assert judged["int8"]["calibration"] == ["retina.jpg", "ihc.png", "microaneurysms.png"]
    assert "on 3 images, which also calibrated it" in lines[1]
    for arguments, precision in (((), "fp16"), (("--precision", "fp32"), "fp32"), (("--whole-graph",), "fp16")):
        outcome = invoke("run", images, "--bundle", made.path, "--output", tmp_path / "out", "--force", *arguments)
        assert outcome.code == 0, outcome.err
        settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
        assert settings["precision"] == precision
        assert settings["graph_sha256"] == made.manifest["files"][graph_name("segmenter", precision)]["sha256"]
    shown = invoke("inspect", made.path).out
    assert "fp16 by default, of fp32, fp16, int8" in shown
    assert "int8 beside fp32: features within" in shown


def test_a_precision_that_the_bundle_lacks(segment: Any, images: Path) -> None:
    segment(images, "--precision", "bf16").error(2, "no bf16 graphs, only fp32", "--update --precision bf16")


def refusing(*_: object) -> dict[str, Any]:
    low = {"mean": 0.5, "least": 0.1}
    return {
        "images": 3,
        "truth": "masks",
        **dict.fromkeys(("features", "context_small", "context_large", "probability"), 0.5),
        "not_finite": 0,
        "agreement": {"raw": low, "matched": low},
        "adjusted_rand_index": low,
        "mask_dsc": low,
        "dsc": {"fp32": 0.9, "candidate": 0.8, "loss": 0.1, "left_out": 0},
        "mask": {"fp32": 0.9, "candidate": 0.9, "loss": 0.0},
        "accepted": False,
    }


@pytest.mark.parametrize("update", [False, True])
def test_a_precision_that_loses_too_much_is_refused_unless_accepted(
    invoke: Any, ready_graphs: None, bundle_copy: Path, tmp_path: Path, monkeypatch: Any, update: bool
) -> None:
    monkeypatch.setattr("msformer_deploy.export.variants.judge", refusing)
    target = bundle_copy if update else tmp_path / "new"
    arguments = ["export", "--output", target, "-q", "--precision", "fp16", *(["--update"] if update else [])]
    before = content(tmp_path)
    invoke(*arguments).error(3, "fp16 is refused", "from 0.9000 to 0.8000", "--accept-loss")
    assert content(tmp_path) == before
    outcome = invoke(*arguments, "--accept-loss")
    assert outcome.code == 0
    assert "DSC -0.1000 on 3 images; kept by --accept-loss" in outcome.out
    assert load_bundle(target).manifest["precisions"]["fp16"]["accepted"] is False


def test_update_adds_and_keeps_the_rest(invoke: Any, bundle_copy: Path, tiny_bundle: Bundle) -> None:
    outcome = invoke("export", "--output", bundle_copy, "--update", "--precision", "bf16", "--accept-loss")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines() == ["making and judging bf16"]
    made = load_bundle(bundle_copy)
    assert made.precision == "fp32", "an update changes no default"
    assert made.precisions == ("fp32", "bf16")
    assert made.manifest["precisions"]["bf16"]["judged_by"].startswith("onnxruntime, rounding to bf16")
    former = tiny_bundle.manifest
    assert {name: made.manifest["files"][name] for name in former["files"]} == former["files"]
    assert [key for key in former if key != "files" and made.manifest[key] != former[key]] == []
    again = invoke("export", "--output", bundle_copy, "--update", "--precision", "bf16", "--accept-loss")
    assert again.err.splitlines() == ["keeping the existing bf16; --force makes it again"]
    anew = invoke("export", "--output", bundle_copy, "--update", "--precision", "bf16", "--accept-loss", "--force")
    assert anew.err.splitlines() == ["making and judging bf16"]


@pytest.mark.parametrize("update", [False, True], ids=["new", "update"])
@pytest.mark.parametrize("precisions", [[], ["fp16"], ["fp16", "int8"]], ids=" ".join)
def test_the_manifest_is_written_once_and_the_folder_verified_once(
    invoke: Any, ready_graphs: None, bundle_copy: Path, tmp_path: Path, monkeypatch: Any, update: bool, precisions: Any
) -> None:
    """At the end; of an update the bundle before it is verified as well, once."""
    written, opened, verified = [], [], Counter[str]()
    write, read, verify = Path.write_text, bundles._read_manifest, bundles._verify_file

    def write_text(path: Path, *arguments: Any, **options: Any) -> int:
        written.append(path.name)
        return write(path, *arguments, **options)

    def read_manifest(path: Path) -> dict[str, Any]:
        opened.append(path)
        return read(path)

    def verify_file(path: Path, name: str, entry: Any) -> None:
        verified[name] += path != bundle_copy
        verify(path, name, entry)

    monkeypatch.setattr(Path, "write_text", write_text)
    monkeypatch.setattr(bundles, "_read_manifest", read_manifest)
    monkeypatch.setattr(bundles, "_verify_file", verify_file)
    target = bundle_copy if update else tmp_path / "new"
    asked = [option for each in precisions for option in ("--precision", each)]
    asked += ["--accept-loss"] * bool(asked) + ["--update"] * update
    outcome = invoke("export", "--output", target, "-q", *asked)
    assert outcome.code == 0, outcome.err
    assert written.count(MANIFEST) == 1
    before, (made,) = (opened[:-1], opened[-1:])
    assert before == ([bundle_copy] if update else [])
    assert made not in (bundle_copy, target), "a folder that nobody sees yet"
    names = {graph_name(graph, each) for graph in ("encoder", "segmenter") for each in ("fp32", *precisions)}
    assert verified == dict.fromkeys({*names, HEAD, WEIGHTS}, 1)


def test_update_needs_a_bundle(invoke: Any, tmp_path: Path) -> None:
    invoke("export", "--output", tmp_path / "bundle", "--update").error(1, "there is no bundle here")


def test_the_users_images_and_masks_judge(
    invoke: Any, bundle_copy: Path, images: Path, picture: np.ndarray, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    disc = (picture[..., 0] < 120).astype(np.uint8) * 255
    Image.fromarray(disc).save(masks / "a.png")
    Image.fromarray(disc[::-1]).save(masks / "b.png")
    arguments = ["--update", "--precision", "fp16", "--accept-loss", "--images", images]
    assert invoke("export", "--output", bundle_copy, "-q", *arguments, "--masks", masks).code == 0
    record = load_bundle(bundle_copy).manifest["precisions"]["fp16"]
    assert (record["images"], record["truth"]) == (2, "masks")
    assert record["judged_on"] == ["a.png", "b.jpg"]
    before = load_bundle(bundle_copy).manifest["files"]
    outcome = invoke("export", "--output", bundle_copy, *arguments)
    assert outcome.err.splitlines() == ["judging the existing fp16; --force makes it again"]
    again = load_bundle(bundle_copy).manifest
    assert again["files"] == before
    assert again["precisions"]["fp16"]["truth"] == "fp32", "judged again, now without masks"
    assert record["dsc"]["fp32"] is not None
    (images / "aa.png").write_bytes(b"no picture")
    before = content(bundle_copy)
    invoke("export", "--output", bundle_copy, "-q", "--force", *arguments).error(1, "aa.png")
    assert content(bundle_copy) == before


@pytest.mark.parametrize(
    ("flavour", "parts"),
    [
        ("auto", ["TensorRT is not installed", "tensorrt-rtx]", "tensorrt]"]),
        ("tensorrt", ["tensorrt is not installed", "msformer-deploy[tensorrt]"]),
        ("rtx", ["tensorrt_rtx is not installed", "msformer-deploy[tensorrt-rtx]"]),
    ],
)
def test_tensorrt_that_is_not_installed(
    invoke: Any, tmp_path: Path, monkeypatch: Any, flavour: str, parts: list[str]
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("msformer_deploy.machine.trt_flavour.installed", lambda: ())
    arguments = ["--tensorrt", "--trt-flavour", flavour]
    invoke("export", "--output", tmp_path / "bundle", *arguments).error(4, *parts)
    assert content(tmp_path) == {}


@pytest.mark.trt
def test_engines_go_into_the_bundle_and_say_what_they_are(
    invoke: Any, bundle_copy: Path, images: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Built for real by TensorRT-RTX; the command that the bundle gives to rebuild them gives the same ones."""
    no_gpu(monkeypatch)
    arguments = ["--tensorrt", "--trt-flavour", "rtx", "--trt-batch", "1", "2", "4", "--trt-compute-capability", "8.9"]
    outcome = invoke("export", "--output", bundle_copy, "--update", *arguments, "--precision", "fp16", "--accept-loss")
    assert outcome.code == 0, outcome.err
    assert "building the fp16 engines with TensorRT-RTX" in outcome.err
    made = load_bundle(bundle_copy)
    found = records(made)
    assert {(record.graph, record.precision) for record in found.values()} == {
        ("encoder", "fp16"),
        ("segmenter", "fp16"),
    }
    for folder, record in found.items():
        assert record.options.batch == (1, 2, 4)
        assert record.compute_capabilities == ("8.9",)
        assert record.onnx_sha256 == made.manifest["files"][graph_name(record.graph, "fp16")]["sha256"]
        assert made.manifest["engines"][folder] == {"accepted": None, "not_run": "there was no GPU"}
        assert f"{folder}: " in outcome.out
        shown = invoke("inspect", made.file(folder)).out
        assert "compute capability 8.9" in shown
        assert "HALF" in shown
    assert "built, not run: there was no GPU" in invoke("inspect", made.path).out
    before = {folder: record.options for folder, record in found.items()}
    command = rebuild_command(made.path, "fp16", "rtx", found[folder].options)
    assert invoke(*shlex.split(command)[1:], "-q").code == 0
    assert {folder: record.options for folder, record in records(load_bundle(bundle_copy)).items()} == before


@pytest.mark.trt
def test_engines_of_a_graph_that_is_made_anew_are_left_out(invoke: Any, bundle_copy: Path, monkeypatch: Any) -> None:
    no_gpu(monkeypatch)
    arguments = ["export", "--output", bundle_copy, "--update", "--accept-loss", "--precision", "fp16"]
    assert invoke(*arguments, "--tensorrt", "--trt-flavour", "rtx").code == 0
    monkeypatch.setattr("msformer_deploy.export.variants.lower", another_fp16(load_bundle(bundle_copy)))
    outcome = invoke(*arguments, "--force")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("left out: engines/") == 2
    made = load_bundle(bundle_copy)
    assert records(made) == {}
    assert made.manifest["engines"] == {}
    assert not list((bundle_copy / "engines").rglob("*.engine"))


@pytest.mark.trt
def test_damaged_engines_are_left_out_of_an_update(invoke: Any, bundle_copy: Path, monkeypatch: Any) -> None:
    no_gpu(monkeypatch)
    arguments = ["export", "--output", bundle_copy, "--update"]
    assert invoke(*arguments, "--tensorrt", "--trt-flavour", "rtx").code == 0
    folder = next(iter(records(load_bundle(bundle_copy))))
    engine = bundle_copy / folder / "model.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    assert f"{folder}: damaged, rebuild it" in invoke("inspect", bundle_copy).out
    outcome = invoke(*arguments, "--precision", "fp16", "--accept-loss", "-q")
    assert outcome.code == 0, outcome.err
    assert f"left out: {engine}: damaged" in outcome.err
    assert folder not in records(load_bundle(bundle_copy))
    (left,) = records(load_bundle(bundle_copy))
    (bundle_copy / left / "engine.json").unlink()
    outcome = invoke(*arguments, "--precision", "fp16", "--accept-loss", "-q")
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith(f"left out: {bundle_copy / left}: engine.json")
    assert not list(bundle_copy.rglob("model.engine"))


@pytest.mark.trt
def test_an_engine_build_that_fails_leaves_the_bundle_as_it_was(
    invoke: Any, bundle_copy: Path, monkeypatch: Any
) -> None:
    no_gpu(monkeypatch)
    before = content(bundle_copy.parent)
    monkeypatch.setattr("msformer_deploy.export.tensorrt.write_record", raising(KeyboardInterrupt()))
    outcome = invoke("export", "--output", bundle_copy, "--update", "--tensorrt", "--trt-flavour", "rtx", "-q")
    assert outcome.code == 130
    assert content(bundle_copy.parent) == before


def no_gpu(monkeypatch: Any) -> None:
    monkeypatch.setattr("msformer_deploy.machine.driver.find_driver", raising(BackendUnavailable("no NVIDIA driver")))


def another_fp16(made: Bundle) -> Callable[..., onnx.ModelProto]:
    def lowered(*_: object) -> onnx.ModelProto:
        model = onnx.load(made.graph_file("encoder", "fp16"))
        weight = next(entry for entry in model.graph.initializer if entry.data_type == onnx.TensorProto.FLOAT16)
        weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
        return model

    return lowered


@pytest.mark.parametrize("update", [(), ("--update",)], ids=["new", "update"])
def test_torch_without_the_rest_of_the_extra_is_one_line(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: tuple[str, ...]
) -> None:
    monkeypatch.setattr(
        "msformer_deploy.machine.extras.is_installed", lambda module: module in {"torch", "threadpoolctl"}
    )
    assert invoke("export", "--output", tmp_path / "b", *update).error(4) == (
        "error: export needs onnxscript and scikit-image, which are not installed;"
        ' pip install "msformer-deploy[export]"'
    )
    assert not (tmp_path / "b").exists()
