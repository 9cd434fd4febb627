"""Bundles: what is refused, and that it is refused before anything is opened."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from safetensors.numpy import save_file

from msformer_deploy.bundle import folder as bundle
from msformer_deploy.bundle.folder import ENCODER, HEAD, MANIFEST, Bundle, load_bundle
from msformer_deploy.errors import BundleError


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def vouch(folder: Path, name: str) -> None:
    """Make the manifest vouch for a file as it is now: such damage is met behind the hashes."""
    facts = {"sha256": bundle.sha256(folder / name), "bytes": (folder / name).stat().st_size}
    edit(folder, lambda manifest: manifest["files"].update({name: facts}))


def list_as(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda manifest: manifest["files"].update({name: manifest["files"][ENCODER]}))


def set_in(*keys_and_value: Any) -> Callable[[Path], None]:
    *keys, last, value = keys_and_value

    def change(manifest: dict[str, Any]) -> None:
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return lambda folder: edit(folder, change)


def own_fingerprint(entry: object) -> Callable[[Path], None]:
    """A precision's own; fp32 stands in for those that the small bundle has not."""
    return set_in("precisions", {"fp32": {"fingerprint": entry}})


def without(key: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda manifest: manifest.pop(key))


def write_manifest(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / MANIFEST).write_text(text)


def flip_byte(folder: Path) -> None:
    content = bytearray((folder / ENCODER).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / ENCODER).write_bytes(content)


def link_outside(folder: Path) -> None:
    (folder / HEAD).rename(folder.parent / "head")
    (folder / HEAD).symlink_to(folder.parent / "head")


def link_in_a_loop(folder: Path) -> None:
    (folder / HEAD).unlink()
    (folder / HEAD).symlink_to(HEAD)


def external_data(folder: Path, location: str = "weights.bin") -> None:
    model = onnx.load(folder / ENCODER)
    onnx.save(model, folder / ENCODER, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        model = onnx.load(folder / ENCODER, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        (folder / ENCODER).write_bytes(model.SerializeToString())
    vouch(folder, ENCODER)


def wrong_head(folder: Path) -> None:
    save_file({"head": np.zeros((6, 15), np.float32)}, folder / HEAD)
    vouch(folder, HEAD)


def no_head(folder: Path) -> None:
    save_file({"tail": np.zeros((6, 16), np.float32)}, folder / HEAD)
    vouch(folder, HEAD)


def not_a_head(folder: Path) -> None:
    (folder / HEAD).write_bytes(b"not safetensors")
    vouch(folder, HEAD)


def not_a_graph(folder: Path) -> None:
    (folder / ENCODER).write_bytes(b"\xff" * 64)
    vouch(folder, ENCODER)


OWN = {"features": [0] * 16, "largest": 1, "labels": [0] * 16}

DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "flipped byte": (flip_byte, [ENCODER, "SHA-256"]),
    "cut file": (lambda folder: os.truncate(folder / HEAD, 10), [HEAD, "10 bytes"]),
    "missing file": (lambda folder: (folder / HEAD).unlink(), [HEAD, "missing"]),
    "unlisted file": (lambda folder: edit(folder, lambda m: m["files"].pop(HEAD)), [HEAD, "not listed"]),
    "newer schema": (set_in("schema_version", 3), ["schema version 3 is newer", "upgrade"]),
    "older schema": (
        set_in("schema_version", 1),
        ["schema version 1 is older", "'msformer-deploy export --system msformer --output ", " --force'"],
    ),
    "no schema": (without("schema_version"), ["schema_version"]),
    "parent path": (list_as("../outside"), ["'../outside' leaves the bundle"]),
    "hidden parent path": (list_as("a/../../outside"), ["leaves the bundle"]),
    "absolute path": (list_as("/etc/hostname"), ["'/etc/hostname' leaves the bundle"]),
    "drive": (list_as("C:\\outside"), ["leaves the bundle"]),
    "impossible path": (list_as("a\0b"), ["copy the bundle again"]),
    "long path": (list_as("n" * 300), ["copy the bundle again"]),
    "link outside": (link_outside, [HEAD, "this link leaves the bundle"]),
    "link in a loop": (link_in_a_loop, [HEAD, "copy the bundle again"]),
    "external data": (external_data, ["outside the bundle", "weights.bin"]),
    "external data above": (lambda folder: external_data(folder, "../w"), ["outside the bundle", "'../w'"]),
    "damaged manifest": (write_manifest('{"schema_version": 1, '), [MANIFEST, "export the bundle again"]),
    "nested manifest": (write_manifest("[" * 100_000), [MANIFEST, "export the bundle again"]),
    "binary manifest": (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\xff"), [MANIFEST]),
    "list for manifest": (write_manifest("[1]"), [MANIFEST, "schema_version"]),
    "files as list": (set_in("files", []), [MANIFEST, "files: Expected `object`, got `array`"]),
    "file without a hash": (lambda folder: edit(folder, lambda m: m["files"][HEAD].pop("sha256")), ["`sha256`"]),
    "file of words": (set_in("files", HEAD, "bytes", "many"), [MANIFEST, "Expected `int`, got `str`"]),
    "no model": (without("model"), [MANIFEST, "`model`"]),
    "no refinement": (without("refinement"), [MANIFEST, "`refinement`"]),
    "no seed": (without("seed"), [MANIFEST, "`seed`"]),
    "no system": (without("system"), [MANIFEST, "`system`"]),
    "no files": (without("files"), [MANIFEST, "`files`"]),
    "seed of words": (set_in("seed", "zero"), [MANIFEST, "seed: Expected `int`, got `str`"]),
    "unknown system": (set_in("system", "unet"), [MANIFEST, "system 'unet' is none of msformer", "upgrade"]),
    "unknown variant": (set_in("model", "variant", "deformable"), [MANIFEST, "is none of msformer", "upgrade"]),
    "size zero": (set_in("model", "blocks", 0), [MANIFEST, "blocks: 0 is not a size"]),
    "size infinite": (set_in("model", "width", float("inf")), [MANIFEST, "model.width: Expected `int`, got `float`"]),
    "size of truth": (set_in("model", "width", True), [MANIFEST, "model.width: Expected `int`, got `bool`"]),
    "size unknown": (set_in("model", "depth", 3), [MANIFEST, "model.depth: unknown"]),
    "model as list": (set_in("model", []), [MANIFEST, "model: Expected `object`, got `array`"]),
    "other side": (set_in("model", "side", 35), ["[3, 33, 33]", "[3, 35, 35]"]),
    "refinement of no mode": (set_in("refinement", "mode", "half"), [MANIFEST, "refinement.mode: ", "half"]),
    "refinement of words": (set_in("refinement", "lr", "0.1"), [MANIFEST, "refinement.lr: Expected `float`"]),
    "refinement out of range": (set_in("refinement", "steps", -1), [MANIFEST, "steps >= 0"]),
    "refinement unknown": (set_in("refinement", "warmth", 1), [MANIFEST, "refinement.warmth: unknown"]),
    "precision without graphs": (set_in("precision", "int8"), [MANIFEST, "'int8' is the default, but its graphs"]),
    "precisions as list": (set_in("precisions", []), [MANIFEST, "precisions: Expected `object`"]),
    "engine as list": (set_in("engines", {"engines/a": []}), [MANIFEST, "engines[...]: Expected `object`"]),
    "fingerprint as list": (set_in("fingerprint", []), [MANIFEST, "damaged"]),
    "fingerprint too short": (set_in("fingerprint", "labels", [1]), [MANIFEST, "16 features and 1 labels"]),
    "fingerprint of words": (
        set_in("fingerprint", "largest", "big"),
        [MANIFEST, "fingerprint.largest: Expected `float`"],
    ),
    "fingerprint without a precision": (set_in("fingerprint", "tolerance", {}), [MANIFEST, "`fp32`"]),
    "own fingerprint as list": (own_fingerprint([]), [MANIFEST, "damaged"]),
    "own fingerprint too short": (own_fingerprint(OWN | {"labels": [1]}), [MANIFEST, "16 features and 1 labels"]),
    "own fingerprint in part": (own_fingerprint({"labels": [1]}), [MANIFEST, "precisions.fp32.fingerprint: "]),
    "own fingerprint unknown": (own_fingerprint(OWN | {"more": 1}), [MANIFEST, "precisions.fp32.fingerprint.more"]),
    "own fingerprint of fewer channels": (
        own_fingerprint(OWN | {"features": [0], "labels": [1]}),
        ["fingerprint is damaged"],
    ),
    "wrong head": (wrong_head, [HEAD, "(6, 15)", "(6, 16)"]),
    "no head": (no_head, [HEAD, "no readable head"]),
    "not a head": (not_a_head, [HEAD, "no readable head"]),
    "not a graph": (not_a_graph, [ENCODER, "not a readable ONNX file"]),
    "not a bundle": (lambda folder: (folder / MANIFEST).unlink(), ["not a bundle", MANIFEST]),
    "no folder": (lambda folder: folder.rename(folder.with_name("elsewhere")), ["there is no bundle here", "export"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_before_anything_is_opened(
    invoke: Any, bundle_copy: Path, picture: np.ndarray, tmp_path: Path, monkeypatch: Any, damage: str
) -> None:
    make, parts = DAMAGES[damage]
    make(bundle_copy)
    Image.fromarray(picture).save(tmp_path / "a.png")

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a graph was opened")

    monkeypatch.setattr("onnxruntime.InferenceSession", opened)
    with pytest.raises(BundleError):
        load_bundle(bundle_copy)
    outcome = invoke("run", tmp_path / "a.png", "--bundle", bundle_copy, "--output", tmp_path / "out")
    outcome.error(1, bundle_copy, *parts)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", [MANIFEST, HEAD])
def test_a_file_that_may_not_be_read(bundle_copy: Path, monkeypatch: Any, name: str) -> None:
    real = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match=f"{name}.*Permission denied"):
        load_bundle(bundle_copy)


def test_a_whole_bundle(tiny_bundle: Bundle) -> None:
    loaded = load_bundle(str(tiny_bundle.path))
    assert loaded == tiny_bundle
    assert (loaded.system, loaded.seed) == ("msformer", 0)
    assert loaded.head().shape == (6, 16)
    assert loaded.file(ENCODER).is_file()
    assert set(bundle.REQUIRED) == loaded.manifest["files"].keys()


def test_an_older_bundle_may_say_how_its_encoder_was_adapted(
    invoke: Any, bundle_copy: Path, picture: np.ndarray, tmp_path: Path
) -> None:
    set_in("pretraining", {"images": 3, "settings": {"side": 97}})(bundle_copy)
    Image.fromarray(picture).save(tmp_path / "a.png")
    output = ("--output", tmp_path / "out", "-q")
    assert invoke("run", tmp_path / "a.png", "--bundle", bundle_copy, *output).code == 0
    shown = json.loads(invoke("inspect", bundle_copy, "--json").out)
    assert shown["pretraining"]["images"] == 3


def test_an_older_bundle_has_no_fingerprint(bundle_copy: Path) -> None:
    without("fingerprint")(bundle_copy)
    assert load_bundle(bundle_copy).fingerprint is None


def test_further_files_are_left_alone(bundle_copy: Path) -> None:
    (bundle_copy / "notes.txt").write_text("mine")
    (bundle_copy / "engines").mkdir()
    assert load_bundle(bundle_copy).path == bundle_copy


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_text("other"), None], ids=["missing", "changed", "whole"]
)
@pytest.mark.parametrize("name", ["engine.json", "model.engine"])
def test_engines_do_not_stop_the_rest(bundle_copy: Path, name: str, damage: Any) -> None:
    file = bundle_copy / bundle.ENGINES / "one" / name
    file.parent.mkdir(parents=True)
    file.write_text("an engine")
    vouch(bundle_copy, f"{bundle.ENGINES}/one/{name}")
    if damage is not None:
        damage(file)
    assert load_bundle(bundle_copy).head().shape == (6, 16)


def test_engines_elsewhere_are_files_like_any_other(bundle_copy: Path) -> None:
    (bundle_copy / "model.engine").write_text("an engine")
    vouch(bundle_copy, "model.engine")
    (bundle_copy / "model.engine").write_text("another!!")
    with pytest.raises(BundleError, match="SHA-256"):
        load_bundle(bundle_copy)


def test_a_link_to_a_bundle_and_links_inside_it_are_fine(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / HEAD).rename(bundle_copy / "real")
    (bundle_copy / HEAD).symlink_to("real")
    (tmp_path / "link").symlink_to(bundle_copy)
    assert load_bundle(tmp_path / "link").head().shape == (6, 16)


def test_features_of_unknown_shape_are_refused(bundle_copy):
    model = onnx.load(bundle_copy / ENCODER)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, bundle_copy / ENCODER)
    vouch(bundle_copy, ENCODER)
    with pytest.raises(BundleError, match="head has shape"):
        load_bundle(bundle_copy)
