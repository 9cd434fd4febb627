"""``run``: what comes out, what each bad input costs, and what is left after a failure or an interruption."""

from __future__ import annotations

import csv
import errno
import html
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from bundles import relisted
from PIL import Image
from run_results import SUFFIXES, check_pictures, hidden, label_maps, names_in, report_of, same_maps

from msformer_deploy.bundle import folder as bundle
from msformer_deploy.bundle.draft import new_bundle
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import FOLDER
from msformer_deploy.bundle.sidecar import EngineOptions
from msformer_deploy.commands.segmenters import learning_threads, writing_threads
from msformer_deploy.images import draw, png
from msformer_deploy.machine import trt_flavour
from msformer_deploy.machine.driver import Gpu
from msformer_deploy.refinement import head
from msformer_deploy.registry import S3_PUBLISHED

COMMAND = [sys.executable, "-m", "msformer_deploy", "run"]
ENTRY_KEYS = {"input", "label_map", "mask", "overlay", "label_count", "seconds", "skipped", "error"}
DONE_KEYS = ENTRY_KEYS | {
    *(
        "input_sha256",
        "files",
        "width",
        "height",
        "probability",
        "intensity_range",
        "ignored_intensities",
        "labels",
        "foreground",
        "collapsed",
        "notes",
        "steps",
    ),
}
REPORT_KEYS = {
    "images",
    "backend",
    "provider",
    "kernels",
    "formats",
    "settings",
    "versions",
    "summary",
    "interrupted",
    "passed_over",
}

MANY = 24  # images; enough that a signal after the first record comes in mid-batch

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, limits and file names")
pytestmark = pytest.mark.usefixtures("writers")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def forbid(monkeypatch: Any, forbidden: Path) -> None:
    """Deny every access to a path, as far as one asks for it first; real permissions do not stop root."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != forbidden and real(path, *rest))


def words(value: object) -> str:
    """Name a case after its arguments alone."""
    return " ".join(value) if isinstance(value, list) else ""


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def cut(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_float(path: Path, picture: np.ndarray, value: float) -> None:
    grey = picture[..., 0].astype(np.float32)
    grey[3, 4] = value
    Image.fromarray(grey).save(path)


BAD: dict[str, tuple[str, Callable[[Path, np.ndarray], object], str]] = {
    "empty file": ("x.png", lambda path, _: path.touch(), "empty"),
    "truncated JPEG": ("x.jpg", cut, "damaged or cut short"),
    "truncated PNG": ("x.png", cut, "damaged or cut short"),
    "text": ("x.png", lambda path, _: path.write_text("not an image\n"), "not a PNG"),
    "1x1": ("x.png", lambda path, picture: Image.fromarray(picture[:1, :1]).save(path), "1 x 1 pixels is too small"),
    "bomb": ("x.png", lambda path, _: path.write_bytes(png_header(30_000, 30_000)), "30000 x 30000 pixels is over"),
    "constant": ("x.png", lambda path, picture: Image.fromarray(picture * 0).save(path), "same value"),
    "NaN": ("x.tif", lambda path, picture: save_float(path, picture, math.nan), "NaN or infinite"),
    "infinity": ("x.tif", lambda path, picture: save_float(path, picture, math.inf), "NaN or infinite"),
    "folder in disguise": ("x.png", lambda path, _: (path / "deep").mkdir(parents=True), "no images"),
    "missing": ("x.png", lambda path, _: None, "no such file"),
    "link to itself": ("x.png", lambda path, _: path.symlink_to(path), "cannot be read"),
}


def measured(folder: Path) -> list[str]:
    """The images in measurements.csv."""
    with (folder / "measurements.csv").open(encoding="utf-8", newline="") as file:
        return [line["input"] for line in csv.DictReader(file) if line["object"] == "all"]


class TestResults:
    @pytest.mark.parametrize(
        ("arguments", "mode", "stages"),
        [
            ([], "head", {"whole_graph"}),
            (["--refine", "head"], "head", {"whole_graph"}),
            (["--no-whole-graph"], "head", {"encoder", "refine"}),
            (["--steps", "2"], "head", {"encoder", "refine"}),
            (["--refine", "none"], "none", {"encoder", "refine"}),
            (["--refine", "full", "--steps", "2"], "full", {"refine"}),
            (["--preset", "initial"], "none", {"encoder", "refine"}),
            (["--backend", "torch"], "head", {"encoder", "refine"}),
            (["--whole-graph"], "head", {"whole_graph"}),
            (["--threads", "1"], "head", {"whole_graph"}),
        ],
        ids=words,
    )
    def test_every_way_to_refine(
        self, segment: Any, images: Path, out: Path, arguments: list[str], mode: str, stages: set[str]
    ) -> None:
        start = time.perf_counter()
        outcome = segment(images, *arguments)
        whole_command = time.perf_counter() - start
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("3 of 3 images segmented in ")
        assert hidden(out) == []
        report = report_of(out)
        assert 0 < report["summary"]["seconds"] < whole_command
        doubted = sum(entry["foreground"]["doubt"] is not None for entry in report["images"])
        assert report["summary"]["doubted"] == doubted
        assert (f"masks in doubt (expected DSC below 0.7): {doubted};" in outcome.out) == (doubted > 0)
        assert report.keys() == REPORT_KEYS
        assert finite(report)
        assert report["settings"]["refinement"]["mode"] == mode
        torch_runs = mode == "full" or "torch" in arguments
        expected = ("torch", "cpu") if torch_runs else ("openvino", "CPU")
        assert (report["backend"], report["provider"]) == expected
        assert report["kernels"] == "reference"
        release, installed = (each.partition("+")[0] for each in (torch.__version__, report["versions"]["torch"]))
        assert installed == release, "either may name the build as well"
        assert report["interrupted"] is False
        assert {key: report["summary"][key] for key in ("images", "done", "failed", "skipped")} == {
            "images": 3,
            "done": 3,
            "failed": 0,
            "skipped": 0,
        }
        assert [entry["input"] for entry in report["images"]] == [
            str(images / name) for name in ("a.png", "b.jpg", "more/c.tif")
        ]
        for entry in report["images"]:
            assert entry.keys() == DONE_KEYS
            assert entry["error"] is None
            assert entry["label_count"] == len(entry["labels"]) >= 1
            check_pictures(out, entry, clusters=6)
            seconds = dict(entry["seconds"])
            total = seconds.pop("total")
            assert seconds.keys() == {"decode", "preprocess", "foreground", "write"} | stages
            assert sum(seconds.values()) == pytest.approx(total, abs=1e-6 * len(seconds))

    @pytest.mark.parametrize("options", [(), ("--no-whole-graph",)], ids=words)
    def test_outputs_mirror_the_tree_and_the_page_shows_them(
        self, segment: Any, images: Path, out: Path, options: tuple[str, ...]
    ) -> None:
        assert segment(images, *options).code == 0
        names = {f"{name}{suffix}" for name in ("a.png", "b.jpg", "more/c.tif") for suffix in SUFFIXES}
        files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert files == names | {"report.json", "measurements.csv", "index.html"}
        record = json.loads((out / "a.png.json").read_text(encoding="utf-8"))
        if options:
            assert len(record["trace"]) == record["steps"] <= 5
        else:  # the graph does not report its steps
            assert (record["trace"], record["steps"]) == ([], None)
        assert record["settings"] == report_of(out)["settings"]

    def test_the_images_of_a_batch_do_not_influence_one_another(
        self, segment: Any, images: Path, tmp_path: Path
    ) -> None:
        for batch in ("1", "2", "3"):
            assert segment(images, "--batch", batch, "--output", tmp_path / batch).code == 0
        for name in label_maps(tmp_path / "1"):
            one, two, three = ((tmp_path / batch / name).read_bytes() for batch in "123")
            assert one == two == three

    def test_the_whole_graph_gives_the_same_labels(self, segment: Any, images: Path, tmp_path: Path) -> None:
        assert segment(images, "--output", tmp_path / "parts", "--no-whole-graph").code == 0
        assert segment(images, "--output", tmp_path / "whole", "--whole-graph", "--batch", "2").code == 0
        parts, whole = label_maps(tmp_path / "parts"), label_maps(tmp_path / "whole")
        assert all((parts[name] == whole[name]).mean() >= 0.999 for name in parts)
        assert report_of(tmp_path / "whole")["settings"]["whole_graph"] is True

    def test_the_whole_graph_needs_no_torch(self, tiny_bundle: Bundle, good: Path, out: Path) -> None:
        script = "import sys; from msformer_deploy.cli import call; print(call(sys.argv[1:]), 'torch' in sys.modules)"
        options = ["--bundle", tiny_bundle.path, "--whole-graph", "--output", out]
        done = subprocess.run(
            [sys.executable, "-c", script, "run", good, *options], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "0 False"

    def test_seeds(self, segment: Any, images: Path, tmp_path: Path) -> None:
        for name, seed in (("own", []), ("zero", ["--seed", "0"]), ("five", ["--seed", "5"]), ("again", ["--seed", 5])):
            assert segment(images, "--output", tmp_path / name, *seed).code == 0
        assert same_maps(tmp_path / "own", tmp_path / "zero")
        assert same_maps(tmp_path / "five", tmp_path / "again")
        assert not same_maps(tmp_path / "own", tmp_path / "five")
        assert report_of(tmp_path / "five")["settings"]["seed"] == 5

    def test_steps(self, segment: Any, good: Path, out: Path) -> None:
        assert segment(good, "--steps", "1").code == 0
        assert report_of(out)["settings"]["refinement"]["steps"] == 1
        assert report_of(out)["images"][0]["steps"] == 1

    def test_foreground_by_cluster(self, segment: Any, good: Path, tmp_path: Path) -> None:
        assert segment(good, "--output", tmp_path / "first").code == 0
        cluster = max(report_of(tmp_path / "first")["images"][0]["labels"], key=int)
        assert segment(good, "--output", tmp_path / "second", "--foreground", f"cluster:{cluster}").code == 0
        (labels,) = label_maps(tmp_path / "second").values()
        mask = np.asarray(Image.open(tmp_path / "second" / "good.png.mask.png"))
        assert np.array_equal(mask == 255, labels == int(cluster))

    def test_a_moved_bundle_runs_without_a_network(
        self, segment: Any, invoke: Any, bundle_copy: Path, images: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        assert segment(images, "--output", tmp_path / "here").code == 0
        moved = bundle_copy.rename(tmp_path / "else where")

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the network was used")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        assert invoke("run", images, "--bundle", moved, "--output", tmp_path / "there").code == 0
        assert same_maps(tmp_path / "here", tmp_path / "there")

    def test_only_the_first_page_is_used_and_that_is_noted(
        self, segment: Any, picture: np.ndarray, tmp_path: Path, out: Path
    ) -> None:
        pages = [Image.fromarray(picture), Image.fromarray(picture[::-1].copy())]
        pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
        assert segment(tmp_path / "pages.tif").code == 0
        assert report_of(out)["images"][0]["notes"][0] == "only page 1 of 2 is used"


class TestBadInputs:
    @pytest.mark.parametrize("kind", BAD)
    def test_it_fails_alone_and_the_rest_is_done(
        self, segment: Any, good: Path, picture: np.ndarray, tmp_path: Path, out: Path, kind: str
    ) -> None:
        name, make, reason = BAD[kind]
        bad = tmp_path / name
        make(bad, picture)
        outcome = segment(bad, good)
        if kind == "folder in disguise":  # an empty folder is a slip in the request, not a bad image
            outcome.error(2, bad, reason)
            assert not out.exists()
            return
        outcome.error(5, bad, reason)
        assert hidden(out) == []
        first, second = report_of(out)["images"]
        assert first.keys() == ENTRY_KEYS
        assert (first["input"], first["label_map"]) == (str(bad), None)
        assert reason in first["error"]
        assert second["error"] is None
        check_pictures(out, second, clusters=6)
        assert not list(out.glob(f"{name}*"))
        assert reason in html.unescape((out / "index.html").read_text(encoding="utf-8"))

    def test_the_only_input(self, segment: Any, tmp_path: Path, out: Path) -> None:
        (tmp_path / "x.png").touch()
        outcome = segment(tmp_path / "x.png", "--batch", "4")
        outcome.error(5, tmp_path / "x.png")
        assert outcome.out.startswith("0 of 1 images segmented, 1 failed in ")
        assert {path.name for path in out.iterdir()} == {"report.json", "measurements.csv", "index.html"}

    def test_within_a_batch(self, segment: Any, images: Path, out: Path) -> None:
        (images / "ab.png").touch()
        segment(images, "--batch", "3").error(5, images / "ab.png")
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [False, True, False, False]
        assert len(label_maps(out)) == 3

    def test_no_permission_to_read(self, segment: Any, images: Path, out: Path, monkeypatch: Any) -> None:
        real = Path.open

        def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
            if self.name == "b.jpg":
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return real(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", refuse)
        forbid(monkeypatch, images / "b.jpg")
        segment(images / "a.png", images / "b.jpg").error(5, images / "b.jpg", "make the file readable")
        assert len(label_maps(out)) == 1

    def test_a_folder_without_images(self, segment: Any, tmp_path: Path, out: Path) -> None:
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "notes.txt").touch()
        segment(tmp_path / "none").error(2, tmp_path / "none", "no images")
        assert not out.exists()

    def test_a_loop_of_links_ends(self, segment: Any, images: Path, out: Path) -> None:
        (images / "more" / "loop").symlink_to(images, target_is_directory=True)
        assert segment(images).code == 0
        assert len(label_maps(out)) == 3

    def test_equal_places_collide(self, segment: Any, good: Path, picture: np.ndarray, tmp_path: Path) -> None:
        for folder, image in (("d1", picture), ("d2", picture[::-1].copy())):
            (tmp_path / folder).mkdir()
            Image.fromarray(image).save(tmp_path / folder / "a.png")
        both = (tmp_path / "d1" / "a.png", tmp_path / "d2" / "a.png")
        segment(*both, "--output", tmp_path / "both").error(5, *both, "rename one")
        assert segment(both[0], "--output", tmp_path / "one").code == 0
        assert same_maps(tmp_path / "both", tmp_path / "one")

    def test_equal_stems_stay_apart(self, segment: Any, images: Path, out: Path) -> None:
        shutil.copy(images / "b.jpg", images / "a.jpg")
        assert segment(images).code == 0
        assert {"a.jpg.labels.png", "a.png.labels.png"} < label_maps(out).keys()

    @posix
    def test_odd_names(self, segment: Any, picture: np.ndarray, tmp_path: Path, out: Path) -> None:
        folder = tmp_path / "in put"
        folder.mkdir()
        names = ["two words.png", 'it\'s "quoted".png', "läsion_皮膚.png", "new\nline.png", "a#b?c=d&e.png", "-q.png"]
        names += ["100%25.png", "<b>.png", os.fsdecode(b"latin-\xe4.png")]
        for name in names:
            Image.fromarray(picture).save(folder / name, format="PNG")
        (folder / "broken\nname.png").touch()
        place = out / "new\nline"
        outcome = segment(folder, "--output", place)
        outcome.error(5, r"broken\nname.png")
        assert len(outcome.out.splitlines()) == 1
        assert all((place / f"{name}{suffix}").is_file() for name in names for suffix in SUFFIXES)
        page = (place / "index.html").read_text(encoding="utf-8")
        links = re.findall(r'\s(?:href|src|data-overlay|data-mask|data-label_map)="([^"#:]+)"', page)
        files = {os.fsdecode(unquote_to_bytes(html.unescape(link))) for link in links}
        pictures = {f"{name}.{view}.png" for name in names for view in ("labels", "mask", "overlay")}
        assert files == pictures | {"report.json", "measurements.csv"}

    @posix
    def test_a_name_too_long_for_its_results(self, segment: Any, good: Path, tmp_path: Path, out: Path) -> None:
        long = good.rename(tmp_path / f"{'n' * 245}.png")
        Image.open(long).save(good)
        segment(long, good).error(5, "rename it")
        assert hidden(out) == []
        assert list(label_maps(out)) == ["good.png.labels.png"]


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (4, 2), (6, 3), (8, 4), (128, 4)])
def test_threads_that_write_are_half_of_few_cores(monkeypatch: Any, cores: int, threads: int) -> None:
    monkeypatch.setattr("msformer_deploy.commands.segmenters.usable_cores", lambda: cores)
    assert writing_threads() == threads


@pytest.mark.parametrize(
    ("cores", "asked", "threads"),
    [(1, None, 1), (2, None, 1), (8, None, 7), (8, 2, 2), (8, 8, 7), (2, 2, 1), (1, 4, 1)],
)
def test_learning_leaves_a_core_to_reading_and_writing(
    monkeypatch: Any, cores: int, asked: int | None, threads: int
) -> None:
    monkeypatch.setattr("msformer_deploy.commands.segmenters.usable_cores", lambda: cores)
    assert learning_threads(asked) == threads


def test_learning_in_a_run_leaves_a_core(segment: Any, good: Path, monkeypatch: Any) -> None:
    seen, before, real = [], torch.get_num_threads(), head.refine_head

    def learn(*arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return real(*arguments)

    monkeypatch.setattr("msformer_deploy.commands.segmenters.usable_cores", lambda: 4)
    monkeypatch.setattr(head, "refine_head", learn)
    assert segment(good, "--no-whole-graph").code == 0
    assert seen == [3]
    assert torch.get_num_threads() == before


class TestOutputFolder:
    @pytest.mark.parametrize("blocked", ["", "below"])
    def test_a_file_in_its_place(self, segment: Any, good: Path, out: Path, blocked: str) -> None:
        out.write_text("mine")
        segment(good, "--output", out / blocked).error(2, out, "choose another")
        assert out.read_text() == "mine"

    def test_no_permission_to_write(self, segment: Any, good: Path, out: Path, monkeypatch: Any) -> None:
        forbid(monkeypatch, out)
        segment(good).error(2, out, "not writable", "--output")

    def test_a_file_in_the_place_of_a_subfolder(self, segment: Any, images: Path, out: Path) -> None:
        out.mkdir()
        (out / "more").touch()
        segment(images).error(1, out, "cannot be written", "--skip-existing")
        assert len(label_maps(out)) == 2

    def test_the_folder_of_the_images(self, segment: Any, images: Path) -> None:
        before = state(images)
        segment(images, "--output", images).error(2, images, "output folder")
        assert state(images) == before

    def test_a_full_disk(self, segment: Any, images: Path, out: Path, monkeypatch: Any) -> None:
        real = draw.write_mask

        def fill(path: Path, *_: Any) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        def write(path: Path, mask: np.ndarray) -> None:
            if path.name == "b.jpg.mask.png":
                monkeypatch.setattr(png, "write", fill)
            real(path, mask)

        monkeypatch.setattr(draw, "write_mask", write)
        segment(images).error(1, out, "No space left on device", "make room", "--skip-existing")
        assert hidden(out) == []
        assert names_in(out) == {f"a.png{suffix}" for suffix in SUFFIXES} | {"b.jpg.labels.png"}
        monkeypatch.undo()
        assert segment(images, "--skip-existing").code == 0
        entries = report_of(out)["images"]
        assert [entry["skipped"] for entry in entries] == [True, False, False]
        for entry in entries:
            check_pictures(out, entry, clusters=6)

    def test_a_full_disk_at_the_report(self, segment: Any, good: Path, out: Path, monkeypatch: Any) -> None:
        real = Path.write_text

        def fill(self: Path, text: str, **options: Any) -> int:
            if '"interrupted"' in text:
                real(self, text[:10], **options)
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(self, text, **options)

        monkeypatch.setattr(Path, "write_text", fill)
        segment(good).error(1, out, "No space left on device")
        assert names_in(out) == {f"good.png{suffix}" for suffix in SUFFIXES}

    @posix
    def test_a_limit_on_file_size(self, tiny_bundle: Bundle, good: Path, tmp_path: Path, out: Path) -> None:
        import resource

        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "large.png")
        options = ["--bundle", tiny_bundle.path, "--whole-graph", "--output", out]
        done = subprocess.run(
            [*COMMAND, good, tmp_path / "large.png", *options],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {out}: cannot be written (File too large)")
        assert hidden(out) == []
        record = json.loads((out / "good.png.json").read_text(encoding="utf-8"))
        check_pictures(out, record, clusters=6)
        assert not (out / "large.png.json").exists()


class TestExistingResults:
    @pytest.mark.parametrize(
        "name", [*(f"a.png{suffix}" for suffix in SUFFIXES), "report.json", "measurements.csv", "index.html"]
    )
    def test_nothing_is_overwritten_by_default(self, segment: Any, images: Path, out: Path, name: str) -> None:
        out.mkdir()
        (out / name).write_text("mine")
        segment(images).error(2, out / name, "--force", "--skip-existing")
        assert {path.name: path.read_text() for path in out.iterdir()} == {name: "mine"}

    def test_a_whole_earlier_run_stays(self, segment: Any, images: Path, out: Path) -> None:
        assert segment(images).code == 0
        before = state(out)
        segment(images).error(2, "exists already")
        assert state(out) == before

    def test_force(self, segment: Any, images: Path, out: Path) -> None:
        assert segment(images, "--steps", "1").code == 0
        assert segment(images, "--force").code == 0
        report = report_of(out)
        assert report["settings"]["refinement"]["steps"] == 5
        assert report["summary"]["done"] == 3
        assert segment(images, "--output", out.with_name("fresh")).code == 0
        assert same_maps(out, out.with_name("fresh"))

    def test_force_cut_short_leaves_nothing_that_looks_whole(
        self, segment: Any, good: Path, out: Path, monkeypatch: Any
    ) -> None:
        assert segment(good).code == 0

        def fill(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(draw, "write_mask", fill)
        segment(good, "--force", "--seed", "5").error(1, out)
        monkeypatch.undo()
        assert segment(good, "--skip-existing").code == 0
        assert report_of(out)["images"][0]["skipped"] is False

    def test_skip_existing(self, segment: Any, images: Path, out: Path) -> None:
        assert segment(images).code == 0
        sizes = (out / "measurements.csv").read_bytes()
        once = ("report.json", "measurements.csv", "index.html")
        before = {path: value for path, value in state(out).items() if path.name not in once}
        outcome = segment(images, "--skip-existing")
        assert outcome.out.startswith("0 of 3 images segmented, 3 skipped in ")
        after = state(out)
        assert {path: after[path] for path in before} == before
        assert (out / "measurements.csv").read_bytes() == sizes
        assert measured(out) == [str(images / name) for name in ("a.png", "b.jpg", "more/c.tif")]
        report = report_of(out)
        assert report["summary"]["skipped"] == 3
        for entry in report["images"]:
            assert entry["skipped"] is True
            assert entry.keys() == DONE_KEYS
            assert not any("earlier run" in note for note in entry["notes"])

    @pytest.mark.parametrize("damage", [*SUFFIXES, "{", "{}", "[]", '{"error": null}'])
    def test_an_incomplete_result_is_made_again(self, segment: Any, images: Path, out: Path, damage: str) -> None:
        assert segment(images).code == 0
        if damage in SUFFIXES:
            (out / f"a.png{damage}").unlink()
        else:
            (out / "a.png.json").write_text(damage)
        assert segment(images, "--skip-existing").code == 0
        entries = report_of(out)["images"]
        assert [entry["skipped"] for entry in entries] == [False, True, True]
        check_pictures(out, entries[0], clusters=6)

    def test_results_of_other_settings_are_kept_with_a_note(self, segment: Any, good: Path, out: Path) -> None:
        assert segment(good).code == 0
        assert segment(good, "--skip-existing", "--seed", "5").code == 0
        (entry,) = report_of(out)["images"]
        assert entry["notes"][-1] == "kept from an earlier run with other settings"

    def test_results_of_another_image_are_not_taken_for_this_one(
        self, segment: Any, good: Path, picture: np.ndarray, tmp_path: Path, out: Path
    ) -> None:
        assert segment(good).code == 0
        before = (out / "good.png.labels.png").read_bytes()
        other = tmp_path / "other" / good.name
        other.parent.mkdir()
        Image.fromarray(picture[::-1].copy()).save(other)
        segment(other, "--skip-existing").error(5, other, good, "--force")
        assert (out / "good.png.labels.png").read_bytes() == before

    def test_an_image_that_has_changed_does_not_keep_its_results(
        self, segment: Any, good: Path, picture: np.ndarray, out: Path
    ) -> None:
        assert segment(good).code == 0
        before = (out / "good.png.json").read_bytes()
        Image.fromarray(picture[::-1].copy()).save(good)
        segment(good, "--skip-existing").error(5, good, "has changed", "--force")
        assert (out / "good.png.json").read_bytes() == before

    def test_a_source_that_moved_is_the_same_image(self, segment: Any, good: Path, tmp_path: Path, out: Path) -> None:
        assert segment(good).code == 0
        (tmp_path / "moved").mkdir()
        assert segment(good.rename(tmp_path / "moved" / good.name), "--skip-existing").code == 0
        assert report_of(out)["summary"]["skipped"] == 1

    def test_both_ways_at_once(self, segment: Any, good: Path, out: Path) -> None:
        segment(good, "--force", "--skip-existing").error(2, "choose one")
        assert not out.exists()


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["--backend", "tpu"], ["'tpu'", "onnxruntime", "torch"]),
            (["--device", "gpu"], ["'gpu'", "cuda:N"]),
            (["--device", "cpu:1"], ["'cpu:1'"]),
            (["--kernels", "fast"], ["'fast'", "reference"]),
            (["--foreground", "best"], ["'best'", "cluster:ID"]),
            (["--foreground", "cluster:6"], ["cluster:6", "6 clusters"]),
            (["--preset", "slow"], ["'slow'", "fast"]),
            (["--refine", "half"], ["'half'", "head"]),
            (["--preset", "initial", "--refine", "head"], ["'initial'", "'none'"]),
            (["--refine", "none", "--steps", "3"], ["--steps"]),
            (["--refine", "full", "--backend", "onnxruntime"], ["full", "--backend torch"]),
            (["--refine", "full", "--precision", "int8"], ["fp16 or bf16", "int8", "drop --precision"]),
            (["--compile"], ["--compile", "'full'", "'head'"]),
            (["--compile", "--whole-graph"], ["--compile", "'full'"]),
            (["--whole-graph", "--steps", "3"], ["--whole-graph"]),
            (["--whole-graph", "--seed", "5"], ["--whole-graph"]),
            (["--whole-graph", "--refine", "full"], ["--whole-graph"]),
            (["--seed", "-1"], ["--seed"]),
            (["--seed", str(2**63)], ["--seed"]),
            (["--threads", "0"], ["--threads"]),
            (["--threads", str(2**40)], ["--threads"]),
            (["--batch", "0"], ["--batch"]),
            (["--steps", "many"], ["--steps"]),
        ],
        ids=words,
    )
    def test_a_slip_is_told_in_one_line(
        self, segment: Any, good: Path, out: Path, arguments: list[str], parts: list[str]
    ) -> None:
        segment(good, *arguments).error(2, *parts)
        assert not out.exists() or not list(out.iterdir())

    @no_gpu
    @pytest.mark.parametrize(
        ("arguments", "missing"),
        [
            (["--backend", "onnxruntime", "--device", "cuda"], "CUDAExecutionProvider|msformer-deploy\\[gpu\\]"),
            (["--device", "cuda:1"], "cuda:1.*(CUDAExecutionProvider|msformer-deploy\\[gpu\\])"),
            (["--backend", "torch", "--device", "cuda"], "CPU build|0 CUDA devices"),
            (["--refine", "full", "--device", "cuda"], "CPU build|0 CUDA devices"),
            (["--refine", "full", "--precision", "fp16"], "fp16 only on a CUDA device, but this run is on cpu; drop"),
            (["--refine", "full", "--precision", "bf16"], "bf16 only on a CUDA device, but this run is on cpu; drop"),
            (["--whole-graph", "--backend", "torch"], "--backend onnxruntime"),
            (["--whole-graph", "--kernels", "cuda"], "this run learns in the graph"),
            (["--backend", "tensorrt"], "(TensorRT|NVIDIA driver|tensorrt)"),
            (["--backend", "onnxruntime-tensorrt"], "(TensorRT|TensorrtExecutionProvider)"),
            (["--kernels", "cuda"], "need a CUDA device, but this run is on openvino"),
            (["--kernels", "cuda", "--backend", "torch"], r"need a CUDA device, but this run is on torch \(cpu\)"),
        ],
        ids=words,
    )
    def test_what_cannot_run_here_never_falls_back(
        self, segment: Any, good: Path, out: Path, arguments: list[str], missing: str
    ) -> None:
        assert re.search(missing, segment(good, *arguments).error(4))
        assert not list(out.iterdir())

    def test_a_batch_that_the_engine_does_not_take(self, segment: Any, good: Path, out: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("msformer_deploy.backends.openvino.OpenVinoBackend.max_batch", 2)
        segment(good, "--batch", "3").error(2, "--batch 3", "the engine's maximum of 2", "--trt-batch")
        assert not list(out.iterdir())
        assert segment(good, "--batch", "2").code == 0

    def test_a_compiler_that_is_not_installed(self, segment: Any, good: Path, out: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        segment(good, "--refine", "full", "--compile", "--device", "cpu").error(
            4, "no-such-compiler is not found", "drop --compile"
        )
        assert not list(out.iterdir())

    def test_a_compiler_that_fails(self, segment: Any, good: Path, monkeypatch: Any) -> None:
        from torch._dynamo.exc import TorchDynamoException

        def compiled(*_: object, **__: object) -> Callable[..., None]:
            def broken(*_: object) -> None:
                raise TorchDynamoException("CppCompileError: no room\nand a hundred lines")

            return broken

        monkeypatch.setattr(torch, "compile", compiled)
        monkeypatch.setenv("CXX", sys.executable)
        outcome = segment(good, "--refine", "full", "--compile", "--device", "cpu")
        assert outcome.code == 4
        assert "good.png: torch.compile failed (CppCompileError: no room); check its compiler" in outcome.err
        assert "hundred lines" not in outcome.err

    def test_a_runtime_that_is_not_installed(self, segment: Any, good: Path, monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        segment(good, "--backend", "onnxruntime").error(4, "msformer-deploy[cpu]")


@pytest.mark.trt
class TestEngines:
    """A real engine of TensorRT-RTX, on a machine made to look as if it had a GPU; none of these gets as far as it."""

    @pytest.fixture
    def bundle(self, bundle_copy: Path, monkeypatch: Any) -> Path:
        from msformer_deploy.export.tensorrt import build_engine

        build_engine(bundle_copy, "encoder", "fp32", trt_flavour.find("rtx"), EngineOptions())
        relisted(bundle_copy)
        gpu = SimpleNamespace(gpu=Gpu("NVIDIA A10", "8.6"))
        monkeypatch.setattr("msformer_deploy.backends.tensorrt.Cuda", lambda _: gpu)
        return bundle_copy

    def damage(self, bundle: Path, monkeypatch: Any) -> None:
        (engine,) = bundle.rglob("model.engine")
        engine.write_bytes(engine.read_bytes()[:-1])

    def make_stale(self, bundle: Path, monkeypatch: Any) -> None:
        (sidecar,) = bundle.rglob("engine.json")
        told = json.loads(sidecar.read_text())
        sidecar.write_text(json.dumps({**told, "onnx_sha256": "0" * 64}))
        relisted(bundle)

    def be_another_gpu(self, bundle: Path, monkeypatch: Any) -> None:
        gpu = SimpleNamespace(gpu=Gpu("Tesla T4", "7.5"))
        monkeypatch.setattr("msformer_deploy.backends.tensorrt.Cuda", lambda _: gpu)

    def be_another_version(self, bundle: Path, monkeypatch: Any) -> None:
        newer = ModuleType("tensorrt_rtx")
        newer.__dict__["__version__"] = "1.99.0.1"
        found = (trt_flavour.Flavour("rtx", newer),)
        monkeypatch.setattr("msformer_deploy.backends.tensorrt.find_all", lambda: found)

    @pytest.mark.parametrize(
        ("change", "code", "parts"),
        [
            ("damage", 1, ["model.engine: damaged", "SHA-256", "msformer-deploy export --output"]),
            ("make_stale", 4, ["is stale: it was built from another encoder.onnx", "--update --tensorrt"]),
            ("be_another_gpu", 4, ["is for RTX GPUs of compute capability 8.0", "Tesla T4 (7.5)", "[tensorrt]"]),
            ("be_another_version", 4, ["was built by rtx", "this machine has 1.99.0.1", "--update --tensorrt"]),
        ],
    )
    def test_an_engine_that_must_not_be_opened(
        self, invoke: Any, bundle: Path, good: Path, out: Path, monkeypatch: Any, change: str, code: int, parts: Any
    ) -> None:
        getattr(self, change)(bundle, monkeypatch)
        arguments = ["run", good, "--bundle", bundle, "--output", out]
        invoke(*arguments, "--backend", "tensorrt").error(code, *parts)
        assert not list(out.iterdir())
        assert invoke(*arguments, "-q").code == 0, "everything else in the bundle still runs"

    def test_a_bundle_without_engines(self, invoke: Any, bundle: Path, good: Path, out: Path) -> None:
        arguments = ["run", good, "--bundle", bundle, "--output", out, "--backend", "tensorrt", "--whole-graph"]
        invoke(*arguments).error(
            4, "no TensorRT engine of the fp32 segmenter", f"--output {bundle} --update --tensorrt"
        )


class TestS3Net:
    @pytest.fixture(params=["plain", "deformable"])
    def made(self, request: Any, tiny_s3_bundle: Bundle, tiny_deformable_bundle: Bundle) -> Bundle:
        return {"plain": tiny_s3_bundle, "deformable": tiny_deformable_bundle}[request.param]

    @pytest.fixture
    def on(self, invoke: Any, good: Path, tmp_path: Path) -> Any:
        """Call ``run`` with a bundle and one image; the folder of the results comes back."""

        def call(made: Bundle, name: str, *arguments: object) -> Path:
            outcome = invoke("run", good, "--bundle", made.path, "--output", tmp_path / name, "-q", *arguments)
            assert (outcome.code, outcome.err) == (0, "")
            return tmp_path / name

        return call

    def test_every_backend_gives_the_same_labels(self, on: Any, made: Bundle, good: Path) -> None:
        (expected,) = label_maps(on(made, "torch", "--backend", "torch")).values()
        assert len(np.unique(expected)) > 1
        for name in ("onnxruntime", "openvino"):
            folder = on(made, name, "--backend", name)
            (got,) = label_maps(folder).values()
            assert (got == expected).mean() >= 0.999
            (entry,) = report_of(folder)["images"]
            check_pictures(folder, entry, clusters=8)
        for name in ("onnxruntime", "openvino"):
            folder = on(made, f"whole {name}", "--backend", name, "--whole-graph")
            (got,) = label_maps(folder).values()
            assert (got == expected).mean() >= 0.999
            assert report_of(folder)["settings"]["whole_graph"] is True

    def test_its_system_may_be_named(self, on: Any, tiny_s3_bundle: Bundle) -> None:
        assert same_maps(on(tiny_s3_bundle, "named", "--system", "s3net"), on(tiny_s3_bundle, "taken"))

    def test_the_published_loop(self, on: Any, made: Bundle) -> None:
        """Of the whole network, which is the same whatever the encoder ends with."""
        folder = on(made, "full", "--refine", "full", "--steps", "3")
        assert report_of(folder)["settings"]["refinement"] == asdict(replace(S3_PUBLISHED, steps=3))
        record = json.loads((folder / "good.png.json").read_text(encoding="utf-8"))
        assert len(record["trace"]) == 3
        for step in record["trace"]:
            assert step.keys() == {"cross_entropy", "affine", "spatial", "label_count"}
            assert step["spatial"] == 0

    def test_the_encoder_is_nothing_to_the_published_loop(
        self, on: Any, tiny_s3_bundle: Bundle, tiny_deformable_bundle: Bundle
    ) -> None:
        folders = [on(each, each.path.name, "--refine", "full", "--steps", "2") for each in (
            tiny_s3_bundle, tiny_deformable_bundle
        )]  # fmt: skip
        assert same_maps(*folders)

    def test_repaired_losses(self, on: Any, tiny_s3_bundle: Bundle) -> None:
        full = ("--refine", "full", "--steps", "3")
        published = on(tiny_s3_bundle, "published", *full)
        repaired = on(tiny_s3_bundle, "repaired", *full, "--repaired-losses")
        settings = [report_of(folder)["settings"]["refinement"] for folder in (published, repaired)]
        assert settings[1] == settings[0] | {"repaired": True}
        first, second = (
            json.loads((folder / "good.png.json").read_text(encoding="utf-8"))["trace"]
            for folder in (published, repaired)
        )
        assert second[0]["cross_entropy"] == pytest.approx(first[0]["cross_entropy"])
        assert second[0]["spatial"] > 0
        assert second[-1]["cross_entropy"] != pytest.approx(first[-1]["cross_entropy"], rel=1e-3)

    def test_a_seed_draws_another_network(self, on: Any, tiny_s3_bundle: Bundle) -> None:
        full = ("--refine", "full", "--steps", "2")
        own, zero, five = (
            on(tiny_s3_bundle, name, *full, *seed)
            for name, seed in (("own", ()), ("zero", ("--seed", 0)), ("five", ("--seed", 5)))
        )
        assert same_maps(own, zero)
        assert not same_maps(own, five)

    @pytest.mark.parametrize(
        ("of_s3net", "arguments", "parts"),
        [
            (True, ["--repaired-losses"], ["--repaired-losses", "'full'", "s3net's mode 'head'"]),
            (True, ["--repaired-losses", "--refine", "none"], ["--repaired-losses", "s3net's mode 'none'"]),
            (True, ["--repaired-losses", "--whole-graph"], ["--repaired-losses", "'head'"]),
            (False, ["--repaired-losses"], ["--repaired-losses", "msformer's mode 'head'"]),
            (False, ["--repaired-losses", "--refine", "full"], ["--repaired-losses", "S3-Net", "msformer's mode"]),
            (True, ["--system", "msformer"], ["is of system s3net, not msformer", "drop --system"]),
            (False, ["--system", "s3net"], ["is of system msformer, not s3net", "drop --system"]),
            (True, ["--system", "unet"], ["--system", "'unet'"]),
            (True, ["--preset", "trained"], ["s3net has no preset 'trained'", "balanced"]),
            (True, ["--preset", "paper"], ["'paper'", "side 256 and blocks 2", "side 24 and blocks 1"]),
            (True, ["--foreground", "cluster:8"], ["cluster:8", "8 clusters"]),
        ],
        ids=words,
    )
    def test_a_slip_is_told_in_one_line(
        self,
        invoke: Any,
        tiny_s3_bundle: Bundle,
        tiny_bundle: Bundle,
        good: Path,
        out: Path,
        of_s3net: bool,
        arguments: list[str],
        parts: list[str],
    ) -> None:
        made = tiny_s3_bundle if of_s3net else tiny_bundle
        invoke("run", good, "--bundle", made.path, "--output", out, *arguments).error(2, *parts)
        assert not out.exists() or not list(out.iterdir())


MADE = ("--steps", 3)  # other than the presets'


class TestShippedBundle:
    """The default bundles in the package: nothing is made for them, and nothing kept."""

    @pytest.fixture(autouse=True)
    def no_place(self, tmp_path: Path, monkeypatch: Any) -> None:
        (tmp_path / "file").write_text("in the way of a cache")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))

    @pytest.mark.parametrize("options", [(), ("--system", "s3net"), ("--steps", 4), ("--refine", "head", "--seed", 0)])
    def test_it_runs_in_place(self, invoke: Any, good: Path, out: Path, options: tuple[Any, ...]) -> None:
        outcome = invoke("run", good, "--output", out, *options)
        assert (outcome.code, outcome.err) == (0, "")
        assert "the whole method as one graph" in outcome.out
        settings = json.loads((out / "report.json").read_text())["settings"]
        assert settings["whole_graph"]
        assert Path(settings["bundle"]).parent == FOLDER

    @pytest.mark.parametrize("options", [("--steps", 3), ("--seed", 1), ("--refine", "none"), ("--backend", "torch")])
    def test_without_export_what_it_cannot_do_is_refused(
        self, invoke: Any, good: Path, out: Path, monkeypatch: Any, options: tuple[Any, ...]
    ) -> None:
        monkeypatch.setattr("msformer_deploy.machine.extras.is_installed", lambda module: module != "onnxscript")
        monkeypatch.setenv("XDG_CACHE_HOME", str(out.parent / "cache"))
        outcome = invoke("run", good, "--output", out, *options)
        outcome.error(4, "onnxscript", "not installed", 'pip install "msformer-deploy[export]"')

    @pytest.mark.parametrize("options", [(), ("--device", "cpu"), ("--system", "s3net"), ("--whole-graph",)])
    def test_without_a_runtime_it_is_refused(
        self, invoke: Any, good: Path, out: Path, monkeypatch: Any, options: tuple[Any, ...]
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        outcome = invoke("run", good, "--output", out, *options)
        outcome.error(4, "no runtime is installed; pip install", "msformer-deploy[cpu]", "[openvino]", "[gpu]")
        assert not list(out.glob("*.png"))

    def test_a_runtime_that_is_asked_for_and_absent_is_named(
        self, invoke: Any, good: Path, out: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        outcome = invoke("run", good, "--output", out, "--backend", "onnxruntime")
        outcome.error(4, "onnxruntime cannot be imported", "install msformer-deploy[cpu] or msformer-deploy[gpu]")

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [(), ("-q",)], ids=str)
    def test_both_wheels_of_onnxruntime_are_one_line(
        self, good: Path, out: Path, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        """On a CPU they may run, until one of them is uninstalled. Here both are metadata without files."""
        for name in ("onnxruntime", "onnxruntime-gpu"):
            metadata = tmp_path / "packages" / f"{name.replace('-', '_')}-1.31.1.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
        command = [*COMMAND, good, "--output", out, "--backend", "onnxruntime", *options]
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "packages")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (
            0,
            "warning: onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall both, then"
            " install exactly one of msformer-deploy[cpu] and msformer-deploy[gpu]\n",
        )
        assert (out / "good.png.mask.png").is_file()

    def test_a_damaged_one_is_refused(
        self, invoke: Any, good: Path, out: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        copy = tmp_path / "shipped"
        shutil.copytree(FOLDER, copy)
        monkeypatch.setattr("msformer_deploy.bundle.shipped.FOLDER", copy)
        graph = next(copy.glob("msformer-97-*")) / "segmenter.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"?")
        invoke("run", good, "--output", out).error(1, graph, "SHA-256")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cache folder is named otherwise here")
class TestDefaultBundle:
    """Bundles that are made in the cache, for what those in the package cannot do."""

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: Any) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "cache" / "msformer-deploy"

    @pytest.fixture
    def builds(self, tiny_bundle: Bundle, monkeypatch: Any) -> list[Path]:
        """The bundles made, each a copy of the small one."""
        made: list[Path] = []

        def build(system: object, path: Path, *, force: bool = False, **_: object) -> Bundle:
            with new_bundle(path, force) as folder:
                shutil.copytree(tiny_bundle.path, folder, dirs_exist_ok=True)
            made.append(path)
            return bundle.load_bundle(path)

        monkeypatch.setattr("msformer_deploy.export.build.build_bundle", build)
        return made

    def test_it_is_made_once(self, invoke: Any, good: Path, place: Path, builds: list[Path], tmp_path: Path) -> None:
        first = invoke("run", good, "--output", tmp_path / "1", *MADE)
        assert first.code == 0
        assert first.err.startswith("making the default bundle in ")
        assert builds[0].is_relative_to(place)
        second = invoke("run", good, "--output", tmp_path / "2", *MADE)
        assert (second.code, second.err, len(builds)) == (0, "", 1)
        assert same_maps(tmp_path / "1", tmp_path / "2")

    def test_quiet(self, invoke: Any, good: Path, place: Path, builds: list[Path], out: Path) -> None:
        outcome = invoke("run", good, "--output", out, "-q", *MADE)
        assert (outcome.code, outcome.err, len(builds)) == (0, "", 1)

    def test_every_system_and_preset_has_its_own(
        self, invoke: Any, good: Path, place: Path, builds: list[Path], tmp_path: Path
    ) -> None:
        for index, system in enumerate(([], ["--system", "msformer"], ["--system", "s3net"])):
            assert invoke("run", good, "--output", tmp_path / str(index), "-q", *system, *MADE).code == 0
        assert [path.name for path in builds] == ["msformer-97-1", "s3net-96-1"]

    @pytest.mark.parametrize("name", [bundle.MANIFEST, bundle.ENCODER])
    def test_a_damaged_one_is_made_again(
        self, invoke: Any, good: Path, place: Path, builds: list[Path], tmp_path: Path, name: str
    ) -> None:
        assert invoke("run", good, "--output", tmp_path / "1", *MADE).code == 0
        (builds[0] / name).unlink()
        outcome = invoke("run", good, "--output", tmp_path / "2", *MADE)
        assert outcome.code == 0
        assert outcome.err.startswith("the default bundle is unusable and will be made again: ")
        assert name in outcome.err.splitlines()[0]
        assert len(builds) == 2

    def test_a_cache_that_cannot_be_written(self, invoke: Any, good: Path, place: Path, out: Path) -> None:
        place.parent.write_text("in the way")
        outcome = invoke("run", good, "--output", out, "-q", *MADE)
        outcome.error(1, place, "cache folder", "cannot be made or written", "XDG_CACHE_HOME", "--bundle")
        assert "--output" not in outcome.err


@posix
class TestInterruption:
    @staticmethod
    def start(command: list[Any]) -> subprocess.Popen[str]:
        # A test run in the background may have been told to ignore the signal, and children inherit that.
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_in_mid_batch(
        self, segment: Any, tiny_bundle: Bundle, picture: np.ndarray, tmp_path: Path, out: Path, sent: signal.Signals
    ) -> None:
        folder = tmp_path / "many"
        folder.mkdir()
        large = np.tile(picture, (7, 7, 1))
        Image.fromarray(large).save(folder / "000.png")
        for index in range(1, MANY):
            shutil.copy(folder / "000.png", folder / f"{index:03}.png")
        process = self.start([*COMMAND, folder, "--bundle", tiny_bundle.path, "--output", out])
        while not (out / "000.png.json").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (
            130,
            "interrupted; run the same command with --skip-existing to continue\n",
        )
        assert hidden(out) == []
        report = report_of(out)
        assert report["interrupted"] is True
        assert 1 <= len(report["images"]) < MANY
        assert "interrupted" in (out / "index.html").read_text(encoding="utf-8")
        assert len(measured(out)) == len(report["images"])
        for entry in report["images"]:
            check_pictures(out, entry, clusters=6)
        assert segment(folder, "--skip-existing").code == 0
        after = report_of(out)
        assert after["interrupted"] is False
        assert after["summary"]["skipped"] == len(report["images"])
        assert len(after["images"]) == len(label_maps(out)) == MANY

    def test_while_starting(self, tiny_bundle: Bundle, good: Path, out: Path) -> None:
        # The signal comes while torch, the slowest part of the start, is being imported.
        script = (
            "import sys\n"
            "class Announce:\n"
            "    def find_spec(self, name, *_):\n"
            "        if name == 'torch': print(name, flush=True)\n"
            "sys.meta_path.insert(0, Announce())\n"
            "from msformer_deploy.cli import main\n"
            "main()\n"
        )
        process = self.start([sys.executable, "-c", script, "run", good, "--bundle", tiny_bundle.path, "--output", out])
        assert process.stdout is not None
        assert process.stdout.readline() == "torch\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err.strip()) == (130, "error: interrupted")
        assert not list(out.iterdir())
