"""Which engine of a bundle is opened, and which never is. The engines here are bytes that TensorRT is never given."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import sidecars
from bundles import relisted
from sidecars import DATA

from msformer_deploy.bundle import engines
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.bundle.sidecar import ENGINE, PORTABLE, EngineOptions, Record, write_record
from msformer_deploy.commands.export import export
from msformer_deploy.errors import BackendUnavailable, BundleError
from msformer_deploy.machine.driver import Gpu

FULL, RTX = {"tensorrt": "10.13.3.9"}, {"rtx": "1.7.1.116"}
BOTH = FULL | RTX
A10, H200, RTX5090, T4 = (
    Gpu("NVIDIA A10", "8.6"),
    Gpu("NVIDIA H200", "9.0"),
    Gpu("NVIDIA GeForce RTX 5090", "12.0"),
    Gpu("Tesla T4", "7.5"),
)


def record(bundle: Path, **changes: Any) -> Record:
    """Of an engine of a bundle's encoder, as in :func:`sidecars.record`."""
    return sidecars.record(
        **{"onnx_sha256": load_bundle(bundle).manifest["files"]["encoder.onnx"]["sha256"], **changes}
    )


def portable(bundle: Path, **changes: Any) -> Record:
    """Of an engine of TensorRT-RTX, built without a GPU for all from 8.0 on."""
    rtx = {"flavour": "rtx", "flavour_version": "1.7.1.116", "gpu": None, "compute_capabilities": (PORTABLE,)}
    return record(bundle, **rtx, **changes) if not rtx.keys() & changes.keys() else record(bundle, **(rtx | changes))


def add(bundle: Path, *records: Record) -> Bundle:
    """The bundle with these engines in it, listed."""
    for each in records:
        folder = bundle / each.folder
        folder.mkdir(parents=True)
        (folder / ENGINE).write_bytes(DATA)
        write_record(folder, each)
    return relisted(bundle)


def test_the_engine_that_fits_comes_with_its_bytes(bundle_copy):
    made = record(bundle_copy)
    path, told, data = engines.select(add(bundle_copy, made), "encoder", "fp32", BOTH, A10)
    assert (path, told, data) == (bundle_copy / made.folder / "model.engine", made, DATA)


MISMATCHES = [
    (record, {"onnx_sha256": "0" * 64}, FULL, A10, "is stale: it was built from another encoder.onnx"),
    (record, {}, RTX, A10, "was built by tensorrt 10.13.3.9, which is not installed here"),
    (portable, {}, FULL, A10, "was built by rtx 1.7.1.116, which is not installed here"),
    (
        record,
        {"flavour_version": "10.13.2.6"},
        FULL,
        A10,
        "was built by tensorrt 10.13.2.6, this machine has 10.13.3.9",
    ),
    (
        record,
        {"flavour_version": "10.13.3.8"},
        FULL,
        A10,
        "was built by tensorrt 10.13.3.8, this machine has 10.13.3.9",
    ),
    (portable, {"flavour_version": "1.7.0.1"}, RTX, A10, "was built by rtx 1.7.0.1, this machine has 1.7.1.116"),
    (record, {"platform": "windows_amd64"}, FULL, A10, "was built for windows_amd64, this machine is "),
    (record, {}, FULL, H200, "was built for compute capability 8.6, this GPU is NVIDIA H200 (9.0)"),
    (record, {}, FULL, Gpu("NVIDIA A40", "8.6"), "was built for NVIDIA A10 alone, this GPU is NVIDIA A40 (8.6)"),
    (portable, {}, RTX, T4, "is for RTX GPUs of compute capability 8.0 and newer, this GPU is Tesla T4 (7.5)"),
    (portable, {}, FULL | RTX, H200, "is for RTX GPUs of compute capability 8.0 and newer, this GPU is NVIDIA H200"),
    (portable, {}, FULL | RTX, Gpu("Orin", "8.7"), "is for RTX GPUs of compute capability 8.0 and newer, this GPU is"),
    (
        portable,
        {"compute_capabilities": ("8.6", "8.9")},
        RTX,
        RTX5090,
        "was built for compute capability 8.6, 8.9, this GPU is NVIDIA GeForce RTX 5090 (12.0)",
    ),
    (
        record,
        {"options": EngineOptions(compatibility="ampere-plus")},
        FULL,
        T4,
        "is for compute capability 8.0 and newer, this GPU is Tesla T4 (7.5)",
    ),
    (
        record,
        {"options": EngineOptions(compatibility="same-compute-capability")},
        FULL,
        H200,
        "was built for compute capability 8.6, this GPU is NVIDIA H200 (9.0)",
    ),
]


@pytest.mark.parametrize(("make", "changes", "versions", "gpu", "reason"), MISMATCHES)
def test_an_engine_that_does_not_fit_is_refused(bundle_copy, make, changes, versions, gpu, reason):
    made = make(bundle_copy, **changes)
    bundle = add(bundle_copy, made)
    assert engines.mismatch(made, bundle, versions, gpu).startswith(reason)
    with pytest.raises(BackendUnavailable) as error:
        engines.select(bundle, "encoder", "fp32", versions, gpu)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{bundle_copy}/{made.folder}: {reason}")
    no_way = (list(versions), gpu) == (["rtx"], T4)
    assert ("; TensorRT-RTX cannot run it on " if no_way else "; build it here: msformer-deploy export ") in line


@pytest.mark.parametrize(
    ("make", "changes", "versions", "gpu"),
    [
        (portable, {}, RTX, A10),
        (portable, {}, RTX, RTX5090),
        (portable, {"compute_capabilities": ("8.6", "8.9")}, RTX, A10),
        (portable, {"gpu": "NVIDIA A10"}, RTX, RTX5090),
        (record, {"options": EngineOptions(compatibility="same-compute-capability")}, FULL, Gpu("NVIDIA A40", "8.6")),
        (record, {"options": EngineOptions(compatibility="ampere-plus")}, FULL, H200),
    ],
)
def test_engines_for_more_than_one_gpu(bundle_copy, make, changes, versions, gpu):
    made = make(bundle_copy, **changes)
    assert engines.select(add(bundle_copy, made), "encoder", "fp32", versions, gpu).record == made


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("10.13.3.9", "10.13.3.9", True),
        ("10.13.3.9", "10.13.3.11", True),
        ("10.9.0.34", "10.13.3.9", True),
        ("10.13.3.9", "10.9.0.34", False),
        ("10.13.3.9", "11.0.0.114", False),
        ("9.3.0", "10.13.3.9", False),
        ("not a version", "10.13.3.9", False),
    ],
)
def test_version_compatible_engines_run_on_later_versions_of_the_same_major(bundle_copy, built, here, fits):
    options = EngineOptions(version_compatible=True)
    bundle = add(bundle_copy, made := record(bundle_copy, flavour_version=built, options=options))
    reason = engines.mismatch(made, bundle, {"tensorrt": here}, A10)
    assert reason == (None if fits else f"was built by tensorrt {built}, this machine has {here}")


def test_the_preferred_flavour_and_the_own_gpu_come_first(bundle_copy):
    full, rtx = record(bundle_copy), portable(bundle_copy)
    own = portable(bundle_copy, compute_capabilities=("8.6",))
    bundle = add(bundle_copy, rtx, full, own)

    def chosen(versions: dict[Any, str], gpu: Gpu) -> Record:
        return engines.select(bundle, "encoder", "fp32", versions, gpu).record

    assert chosen(FULL | RTX, A10) == full
    assert chosen(RTX | FULL, A10) == own
    assert chosen(FULL | RTX, RTX5090) == rtx


@pytest.mark.parametrize(("graph", "precision"), [("segmenter", "fp32"), ("encoder", "fp16")])
def test_another_graph_or_precision_is_not_taken_instead(bundle_copy, graph, precision):
    bundle = add(bundle_copy, record(bundle_copy))
    with pytest.raises(
        BackendUnavailable, match=rf"has no TensorRT engine of the {precision} {graph}; build it here: "
    ):
        engines.select(bundle, graph, precision, FULL, A10)


def test_what_the_manifest_does_not_list_is_no_part_of_the_bundle(bundle_copy):
    made = record(bundle_copy)
    manifest = (bundle_copy / "bundle.json").read_bytes()
    add(bundle_copy, made)
    (bundle_copy / "bundle.json").write_bytes(manifest)
    bundle = load_bundle(bundle_copy)
    assert engines.records(bundle) == {}
    with pytest.raises(BackendUnavailable, match="has no TensorRT engine"):
        engines.select(bundle, "encoder", "fp32", FULL, A10)


def test_sidecars_elsewhere_are_not_engines(bundle_copy):
    made = record(bundle_copy)
    (bundle_copy / "elsewhere").mkdir()
    write_record(bundle_copy / "elsewhere", made)
    assert engines.records(relisted(bundle_copy)) == {}


def damage_engine(path: Path) -> None:
    path.write_bytes(DATA[:-1] + b"?")


def cut_engine(path: Path) -> None:
    path.write_bytes(DATA[:-1])


def replace_engine(path: Path) -> None:
    """With another that the manifest lists and the sidecar does not vouch for."""
    path.write_bytes(b"another")
    relisted(path.parents[2])


def rewrite_record(path: Path) -> None:
    """To vouch for another engine than the manifest lists."""
    sidecar = path.with_name("engine.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(b"x").hexdigest()}))
    relisted(path.parents[2])
    path.write_bytes(b"x")


@pytest.mark.parametrize("damage", [damage_engine, cut_engine, replace_engine, rewrite_record])
def test_other_bytes_are_never_handed_out(bundle_copy, damage):
    add(bundle_copy, made := record(bundle_copy))
    damage(bundle_copy / made.folder / "model.engine")
    bundle = load_bundle(bundle_copy)
    with pytest.raises(
        BundleError, match=r"model.engine: damaged, its SHA-256 .* or: msformer-deploy export "
    ) as error:
        engines.select(bundle, "encoder", "fp32", FULL, A10)
    assert "\n" not in str(error.value)


def test_a_listed_sidecar_that_is_none(bundle_copy):
    add(bundle_copy, made := record(bundle_copy))
    sidecar = bundle_copy / made.folder / "engine.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"graph": "head"}))
    bundle = relisted(bundle_copy)
    assert engines.records(bundle) == {}
    (reason,) = engines.damaged(bundle).values()
    assert reason.startswith("engine.json: not an engine's sidecar (")


def test_a_missing_engine(bundle_copy):
    add(bundle_copy, made := record(bundle_copy))
    (bundle_copy / made.folder / "model.engine").unlink()
    with pytest.raises(
        BundleError, match=r"model.engine: cannot be read \(No such file or directory\); copy the bundle"
    ):
        engines.select(load_bundle(bundle_copy), "encoder", "fp32", FULL, A10)


def other_sidecar(path: Path) -> None:
    """One that could be read."""
    path.write_text(path.read_text().replace("plugins", "inlined"))


def unlisted_sidecar(path: Path) -> None:
    manifest = json.loads((path.parents[2] / "bundle.json").read_text())
    del manifest["files"][path.relative_to(path.parents[2]).as_posix()]
    (path.parents[2] / "bundle.json").write_text(json.dumps(manifest))


LOST = {
    "missing": (Path.unlink, r"engine.json: cannot be read (No such file or directory)"),
    "cut": (lambda path: path.write_bytes(b"{"), "engine.json: its SHA-256 is not the manifest's"),
    "other": (other_sidecar, "engine.json: its SHA-256 is not the manifest's"),
    "unlisted": (unlisted_sidecar, "engine.json: not listed in bundle.json"),
}


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_sidecar_costs_its_engine_alone(bundle_copy, lost):
    full, rtx = record(bundle_copy), portable(bundle_copy)
    add(bundle_copy, full, rtx)
    lose, reason = LOST[lost]
    lose(bundle_copy / full.folder / "engine.json")
    bundle = load_bundle(bundle_copy)
    assert engines.records(bundle) == {rtx.folder: rtx}
    assert engines.damaged(bundle) == {full.folder: reason}
    assert engines.select(bundle, "encoder", "fp32", BOTH, A10).record == rtx
    for versions, folder in ((FULL, None), (BOTH, full.folder)):
        with pytest.raises(BundleError) as error:
            engines.select(bundle, "encoder", "fp32", versions, A10, folder)
        (line,) = str(error.value).splitlines()
        assert line.startswith(
            f"{bundle_copy}/{full.folder}: damaged, {reason}; build it here: msformer-deploy export "
        )
    with pytest.raises(BackendUnavailable, match="has no TensorRT engine of the fp32 segmenter"):
        engines.select(bundle, "segmenter", "fp32", BOTH, A10)
    with pytest.raises(BackendUnavailable, match=rf"{rtx.folder}: .* which is not installed here"):
        engines.select(bundle, "encoder", "fp32", FULL, A10, rtx.folder)


def test_whole_sidecars_are_not_damaged(bundle_copy):
    assert engines.damaged(add(bundle_copy, record(bundle_copy))) == {}


def test_a_named_engine_is_taken_or_none(bundle_copy):
    full, rtx = record(bundle_copy), portable(bundle_copy)
    bundle = add(bundle_copy, full, rtx)
    for each in (full, rtx):
        assert engines.select(bundle, "encoder", "fp32", BOTH, A10, each.folder).record == each
    with pytest.raises(BackendUnavailable, match=rf"{full.folder}: was built for compute capability 8.6, this GPU is"):
        engines.select(bundle, "encoder", "fp32", BOTH, RTX5090, full.folder)
    with pytest.raises(BackendUnavailable, match=r"engines/another: has no TensorRT engine of the fp32 encoder; build"):
        engines.select(bundle, "encoder", "fp32", BOTH, A10, "engines/another")


def test_an_engine_that_only_the_sidecar_vouches_for(bundle_copy):
    add(bundle_copy, made := record(bundle_copy))
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    del manifest["files"][f"{made.folder}/model.engine"]
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="damaged"):
        engines.select(load_bundle(bundle_copy), "encoder", "fp32", FULL, A10)


@pytest.mark.parametrize("name", ["engine.json", "model.engine"])
def test_links_out_of_the_bundle(bundle_copy, name, tmp_path):
    add(bundle_copy, made := record(bundle_copy))
    file = bundle_copy / made.folder / name
    outside = tmp_path / name
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(BundleError, match="leaves the bundle"):
        load_bundle(bundle_copy)


def test_paths_out_of_the_bundle(bundle_copy, tmp_path):
    write_record(tmp_path, record(bundle_copy))
    manifest = json.loads((bundle_copy / "bundle.json").read_text())
    manifest["files"]["engines/../../engine.json"] = {"sha256": "", "bytes": 0}
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="leaves the bundle"):
        load_bundle(bundle_copy)


def parsed(command: str) -> dict[str, Any]:
    """What ``export`` makes of a command."""
    program, subcommand, *arguments = shlex.split(command)
    assert (program, subcommand) == ("msformer-deploy", "export")
    context: click.Context = export.make_context("export", arguments)
    return context.params


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(),
        EngineOptions((1, 2, 8)),
        EngineOptions(workspace_mb=512, refit=True, plugins="never"),
        EngineOptions(compatibility="same-compute-capability", plugins="always"),
        EngineOptions(version_compatible=True),
        EngineOptions(compute_capabilities=("7.5", "12.0")),
    ],
)
def test_the_command_gives_the_same_options(options, tmp_path):
    bundle = tmp_path / "a folder; with 'signs"
    got = parsed(engines.rebuild_command(bundle, "bf16", "rtx", options))
    assert (
        EngineOptions(
            batch=got["trt_batch"],
            workspace_mb=got["trt_workspace"],
            compatibility=got["trt_compatibility"],
            compute_capabilities=got["trt_compute_capability"],
            refit=got["trt_refit"],
            version_compatible=got["trt_version_compatible"],
            plugins=got["trt_plugins"],
        )
        == options
    )
    assert (got["output"], got["update"], got["tensorrt"], got["trt_flavour"]) == (bundle, True, True, "rtx")
    assert got["precisions"] == ("bf16",)


@pytest.mark.parametrize(
    ("options", "flavour", "gpu", "changed"),
    [
        (EngineOptions(), "rtx", A10, EngineOptions()),
        (
            EngineOptions(compute_capabilities=("8.6", "8.9")),
            "rtx",
            A10,
            EngineOptions(compute_capabilities=("8.6", "8.9")),
        ),
        (EngineOptions((1, 1, 4), compute_capabilities=("8.6",)), "rtx", RTX5090, EngineOptions((1, 1, 4))),
        (
            EngineOptions((1, 1, 4), 64, "ampere-plus", (), True, "always"),
            "rtx",
            A10,
            EngineOptions((1, 1, 4), 64, refit=True),
        ),
        (
            EngineOptions(compute_capabilities=("8.6",), plugins="never"),
            "tensorrt",
            A10,
            EngineOptions(plugins="never"),
        ),
        (EngineOptions(compatibility="ampere-plus"), "tensorrt", A10, EngineOptions(compatibility="ampere-plus")),
        (EngineOptions(compatibility="ampere-plus"), "tensorrt", T4, EngineOptions()),
    ],
)
def test_the_command_builds_what_runs_here(options, flavour, gpu, changed):
    assert engines.options_for(options, flavour, gpu) == changed


@pytest.mark.parametrize(
    ("versions", "gpu", "flavour", "compatibility"),
    [(RTX, A10, "rtx", "none"), (BOTH, T4, "tensorrt", "none"), (FULL, A10, "tensorrt", "ampere-plus")],
)
def test_the_command_names_a_flavour_that_can(bundle_copy, versions, gpu, flavour, compatibility):
    options = EngineOptions((1, 1, 4), compatibility="ampere-plus")
    made = portable(bundle_copy, onnx_sha256="0" * 64, options=options)
    if flavour == "tensorrt" and gpu is A10:
        made = replace(made, flavour="tensorrt", flavour_version="10.9.0.34")
    with pytest.raises(BackendUnavailable) as error:
        engines.select(add(bundle_copy, made), "encoder", "fp32", versions, gpu)
    got = parsed(str(error.value).partition("build it here: ")[2])
    assert (got["trt_flavour"], got["trt_compatibility"], got["trt_batch"]) == (flavour, compatibility, (1, 1, 4))


def test_without_any_engine_the_command_is_for_the_preferred_flavour(bundle_copy):
    with pytest.raises(BackendUnavailable) as error:
        engines.select(load_bundle(bundle_copy), "segmenter", "fp32", RTX | FULL, A10)
    got = parsed(str(error.value).partition("build it here: ")[2])
    assert (got["trt_flavour"], got["precisions"]) == ("rtx", ("fp32",))
