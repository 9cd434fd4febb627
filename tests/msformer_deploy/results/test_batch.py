"""A batch of images: reading and writing beside the segmenting, and what becomes of it when something fails."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_results import SUFFIXES, check_pictures, hidden, label_maps, names_in, report_of

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.foreground.candidates import Candidate
from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.images import draw
from msformer_deploy.images.contents import content_sha256
from msformer_deploy.images.inputs import discover
from msformer_deploy.images.read import read_image
from msformer_deploy.results import batch, report, stages
from msformer_deploy.results.formats import Wanted
from msformer_deploy.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("writers")


class Stumbling:
    """In place of a method of ``Segmenter``: the real one, which fails at the calls named, counted from 1."""

    def __init__(self, monkeypatch: Any, error: BaseException, *calls: int, method: str = "learn") -> None:
        self.error, self.calls, self.made = error, calls, 0
        self.real = getattr(Segmenter, method)
        monkeypatch.setattr(Segmenter, method, lambda *arguments: self(*arguments))

    def __call__(self, *arguments: Any) -> Any:
        self.made += 1
        if self.made in self.calls:
            raise self.error
        return self.real(*arguments)


class TestOverlap:
    """Reading and writing happen beside the segmenting: nothing of it may show in what comes out."""

    @pytest.mark.parametrize("writers", [1, 2, 4], indirect=True)
    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_files_are_those_of_one_after_the_other(
        self, segment: Any, tiny_bundle: Bundle, seven: Path, tmp_path: Path, out: Path, batch: int
    ) -> None:
        (seven / "c.png").write_bytes(b"no image")
        assert segment(seven, "--batch", batch).code == 5
        segmenter, serial = Segmenter(tiny_bundle), tmp_path / "serial"
        items = discover([seven])
        for first in range(0, len(items), batch):
            group = [item for item in items[first : first + batch] if item.path.name != "c.png"]
            images = [read_image(item.path) for item in group]
            for item, result in zip(group, segmenter.segment_batch(images) if images else [], strict=True):
                report.write_results(item, serial, result, segmenter, Wanted(), content_sha256(item))
        ours, theirs = (sorted(path.name for path in folder.glob("*.png*")) for folder in (out, serial))
        assert ours == theirs
        for name in ours:
            if name.endswith(".json"):
                one, other = (json.loads((folder / name).read_text()) for folder in (out, serial))
                del one["seconds"], other["seconds"]
                assert one == other
            else:
                assert (out / name).read_bytes() == (serial / name).read_bytes()
        assert [Path(entry["input"]).stem for entry in report_of(out)["images"]] == list("abcdefg")

    def test_no_memory_for_the_pictures(self, segment: Any, seven: Path, out: Path, monkeypatch: Any) -> None:
        real, calls = draw.overlay, []

        def exhaust(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 2:
                raise MemoryError
            return real(*arguments)

        monkeypatch.setattr(draw, "overlay", exhaust)
        segment(seven).error(5, seven / "b.png", "not enough memory")
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [False, True, *[False] * 5]
        assert hidden(out) == []

    @pytest.mark.parametrize("batch", [1, 3])
    def test_nothing_is_written_once_the_disk_is_full(
        self, segment: Any, seven: Path, out: Path, fail_at_b: Any, batch: int
    ) -> None:
        fail_at_b(OSError(errno.ENOSPC, "No space left on device"))
        segment(seven, "--batch", batch).error(1, out, "No space left on device", "--skip-existing")
        assert names_in(out) == {f"a.png{suffix}" for suffix in SUFFIXES} | {"b.png.labels.png"}
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]


@pytest.mark.parametrize("writers", [2, 4], indirect=True)
class TestSeveralWriters:
    def test_they_write_at_once(self, segment: Any, seven: Path, monkeypatch: Any) -> None:
        real, together = draw.write_mask, threading.Barrier(2)

        def write(path: Path, mask: np.ndarray) -> None:
            if path.name[0] in "ab":
                together.wait(20)
            real(path, mask)

        monkeypatch.setattr(draw, "write_mask", write)
        assert segment(seven).code == 0

    def test_one_that_fails_leaves_the_others(self, segment: Any, seven: Path, out: Path, fail_at_b: Any) -> None:
        fail_at_b(MemoryError())
        segment(seven).error(5, seven / "b.png", "not enough memory")
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [False, True, *[False] * 5]

    def test_a_full_disk_ends_it_and_what_is_recorded_is_whole(
        self, segment: Any, seven: Path, out: Path, fail_at_b: Any
    ) -> None:
        fail_at_b(OSError(errno.ENOSPC, "No space left on device"))
        segment(seven).error(1, out, "No space left on device", "--skip-existing")
        assert not (out / "b.png.json").exists()
        assert not (out / "g.png.labels.png").exists()
        for record in out.glob("*.png.json"):
            assert {Path(f"{record.with_suffix('')}{suffix}").is_file() for suffix in SUFFIXES} == {True}
        assert hidden(out) == []


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), 1, "not enough memory to segment it"),
        (RuntimeError("CUDA out of memory. Tried to\nallocate"), 1, "not enough memory to segment it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory to segment it"),
        (BackendUnavailable("onnxruntime fails on X: bad allocation"), 4, "not enough memory to segment it"),
        (BackendUnavailable("onnxruntime fails on X: lost"), 4, "onnxruntime fails on X: lost"),
        (
            ValueError("a first line\nand a second"),
            1,
            "segmenting failed, ValueError: a first line; MSFORMER_DEPLOY",
        ),
        (ZeroDivisionError(), 1, "segmenting failed, ZeroDivisionError; MSFORMER_DEPLOY"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
class TestASegmenterThatFails:
    def test_once(
        self, segment: Any, seven: Path, out: Path, monkeypatch: Any, error: Exception, code: int, reason: str
    ) -> None:
        stumbling = Stumbling(monkeypatch, error, 3)
        segment(seven).error(5, f"{seven / 'c.png'}: {reason}")
        assert stumbling.made == 7
        summary = report_of(out)["summary"]
        assert (summary["done"], summary["failed"]) == (6, 1)
        assert reason in report_of(out)["images"][2]["error"]
        assert report_of(out)["interrupted"] is False
        assert not list(out.glob("c.png*"))

    def test_at_first(
        self, segment: Any, seven: Path, out: Path, monkeypatch: Any, error: Exception, code: int, reason: str
    ) -> None:
        (seven / "a.png").write_bytes(b"no image")
        stumbling = Stumbling(monkeypatch, error, 1)
        outcome = segment(seven)
        assert (outcome.code, stumbling.made) == (code, 1)
        unreadable, failed, given_up = outcome.err.splitlines()
        assert str(seven / "a.png") in unreadable
        assert failed.startswith(f"error: {seven / 'b.png'}: {reason}")
        assert given_up.startswith("error: segmenting failed on the first images, so run stopped; ")
        assert outcome.out.startswith("0 of 7 images segmented, 2 failed in ")
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [True, True]
        assert report_of(out)["interrupted"] is True
        assert {path.name for path in out.iterdir()} == {"report.json", "measurements.csv", "index.html"}

    def test_three_times_in_a_row(
        self, segment: Any, seven: Path, out: Path, monkeypatch: Any, error: Exception, code: int, reason: str
    ) -> None:
        (seven / "d.png").write_bytes(b"no image")
        stumbling = Stumbling(monkeypatch, error, 2, 3, 4)
        outcome = segment(seven)
        assert (outcome.code, stumbling.made) == (code, 4)
        assert len(outcome.err.splitlines()) == 5
        assert outcome.err.splitlines()[-1].startswith("error: segmenting failed 3 times in a row, so run stopped")
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [False, *[True] * 4]
        assert report_of(out)["interrupted"] is True
        check_pictures(out, report_of(out)["images"][0], clusters=6)
        monkeypatch.undo()
        assert segment(seven, "--skip-existing").code == 5
        entries = report_of(out)["images"]
        assert [entry["skipped"] for entry in entries] == [True, *[False] * 6]
        assert [entry["error"] for entry in entries].count(None) == 6


class TestCandidates:
    """An image that has no candidate of the number asked for fails alone, be it the first or several in a row."""

    @pytest.fixture
    def few(self, monkeypatch: Any) -> None:
        """The first four images have one candidate, the others three."""
        seen: list[object] = []

        def found(small: np.ndarray, at_size: np.ndarray) -> list[Candidate]:
            seen.append(small)
            shares = (0.5,) if len(seen) <= 4 else (0.5, 0.3, 0.7)
            return [Candidate(Confidence(0.5, 0.1, 0.9, None), at_size, share) for share in shares]

        monkeypatch.setattr("msformer_deploy.segmenter.candidates", found)

    @pytest.mark.usefixtures("few")
    def test_images_with_fewer_candidates_fail_alone(self, segment: Any, seven: Path, out: Path) -> None:
        outcome = segment(seven, "--foreground", "candidate:2")
        assert outcome.code == 5
        assert outcome.err.splitlines() == [
            f"error: {seven / name}.png: has only 1 candidate, so candidate:2 does not exist; choose candidate:1"
            for name in "abcd"
        ]
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [True] * 4 + [False] * 3
        for entry in report_of(out)["images"][4:]:
            chosen = entry["foreground"]["candidates"][1]
            assert (entry["foreground"]["name"], chosen["mask"]) == ("candidate:2", entry["mask"])
            assert chosen["confidence"] == entry["foreground"]["confidence"]

    def test_the_first_is_the_mask_of_auto(self, segment: Any, good: Path, tmp_path: Path) -> None:
        for rule in ("auto", "candidate:1"):
            assert segment(good, "--foreground", rule, "--output", tmp_path / rule).code == 0
        one, other = ((tmp_path / rule / "good.png.mask.png").read_bytes() for rule in ("auto", "candidate:1"))
        assert one == other


class TestFailuresOfTheSegmenter:
    def test_failures_with_a_success_between_them(self, segment: Any, seven: Path, out: Path, monkeypatch: Any) -> None:
        Stumbling(monkeypatch, MemoryError(), 2, 3, 5, 6)
        assert segment(seven).code == 5
        failed = [bool(entry["error"]) for entry in report_of(out)["images"]]
        assert failed == [False, True, True, False, True, True, False]

    def test_a_batch_fails_together(self, segment: Any, seven: Path, out: Path, monkeypatch: Any) -> None:
        Stumbling(monkeypatch, MemoryError(), 2)
        outcome = segment(seven, "--batch", "3")
        assert outcome.code == 5
        assert [line.split(": ")[1] for line in outcome.err.splitlines()] == [
            str(seven / f"{name}.png") for name in "def"
        ]
        assert all("pass a smaller --batch" in line for line in outcome.err.splitlines())
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [*[False] * 3, *[True] * 3, False]

    @pytest.mark.parametrize("method", ["prepare", "learn", "finish"])
    def test_in_whatever_thread_they_are_those_of_one_image(
        self, segment: Any, seven: Path, out: Path, monkeypatch: Any, method: str
    ) -> None:
        Stumbling(monkeypatch, MemoryError(), 2, method=method)
        segment(seven).error(5, seven / "b.png", "not enough memory to segment it")
        assert [bool(entry["error"]) for entry in report_of(out)["images"]] == [False, True, *[False] * 5]
        assert hidden(out) == []

    @pytest.mark.parametrize("method", ["prepare", "learn", "finish"])
    @pytest.mark.parametrize(("calls", "times"), [((1, 2, 3), "on the first images"), ((2, 3, 4), "3 times in a row")])
    def test_in_whatever_thread_it_is_given_up_after_some(
        self, segment: Any, seven: Path, out: Path, monkeypatch: Any, method: str, calls: tuple[int, ...], times: str
    ) -> None:
        Stumbling(monkeypatch, ZeroDivisionError(), *calls, method=method)
        outcome = segment(seven)
        assert outcome.code == 1
        assert f"segmenting failed {times}" in outcome.err
        assert len(label_maps(out)) < 7 - len(calls)

    @pytest.mark.parametrize("method", ["prepare", "learn", "finish"])
    def test_the_traceback_on_demand(self, segment: Any, seven: Path, out: Path, monkeypatch: Any, method: str) -> None:
        monkeypatch.setenv("MSFORMER_DEPLOY_DEBUG", "1")
        Stumbling(monkeypatch, ZeroDivisionError("mine"), 2, method=method)
        with pytest.raises(ZeroDivisionError, match="mine"):
            segment(seven)
        assert list(label_maps(out)) == ["a.png.labels.png"]

    def test_an_interruption_that_a_library_took_for_a_failure(
        self, segment: Any, seven: Path, out: Path, monkeypatch: Any
    ) -> None:
        error = RuntimeError("exception in a callback")
        error.__context__ = KeyboardInterrupt()
        Stumbling(monkeypatch, error, 3)
        outcome = segment(seven)
        assert (outcome.code, outcome.err) == (
            130,
            "interrupted; run the same command with --skip-existing to continue\n",
        )
        assert report_of(out)["interrupted"] is True
        assert len(label_maps(out)) == len(report_of(out)["images"]) <= 2


@pytest.mark.parametrize("suffix", ["png", "nii"])
def test_a_file_that_changes_while_it_is_read_fails(
    segment: Any, picture: np.ndarray, tmp_path: Path, out: Path, monkeypatch: Any, suffix: str
) -> None:
    """Its record would have the hash of what was not segmented, and a later run would keep the old mask."""
    path = tmp_path / "in" / f"a.{suffix}"
    path.parent.mkdir()
    if suffix == "png":
        draw.write_overlay(path, picture)
    else:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(picture[..., :2].astype(np.int16), np.eye(4)), path)
    module, name = (stages, "read_image") if suffix == "png" else (batch, "volume_of")
    real = getattr(module, name)

    def read(*arguments: Any) -> Any:
        found = real(*arguments)
        path.write_bytes(path.read_bytes() + b"more")
        return found

    monkeypatch.setattr(module, name, read)
    outcome = segment(path)
    assert outcome.code == 5
    assert f"a.{suffix}: has changed while it was read; segment it again when it is complete" in outcome.err
    assert report_of(out)["images"][0]["mask"] is None
