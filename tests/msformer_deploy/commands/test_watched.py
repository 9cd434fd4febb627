"""``run --watch``: what comes is segmented, until somebody ends it. Nothing sleeps: each pause is a step of a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_results import SUFFIXES, names_in, report_of, same_maps

from msformer_deploy.commands import watched
from msformer_deploy.errors import UsageError
from msformer_deploy.images import watching
from msformer_deploy.results import report
from msformer_deploy.segmenter import Segmenter

ARGUMENTS = ("--watch", "-q")
Step = Callable[[], None]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: Any) -> None:
    """A file is complete when it is first seen; that it has to settle is tested with the watcher."""
    monkeypatch.setattr(watching, "SETTLE", 0)
    monkeypatch.setattr(watching, "SERIES_SETTLE", 0)
    monkeypatch.setattr(watched, "REPORT_INTERVAL", 0)
    monkeypatch.setattr(watched, "REPORT_REST", 0)


@pytest.fixture
def watch(segment: Any, monkeypatch: Any) -> Callable[..., Any]:
    """Call ``run --watch`` with a step for each pause; after the last one comes Ctrl-C."""

    def call(*arguments: object, steps: list[Step] | None = None, end: int = signal.SIGINT) -> Any:
        remaining: Iterator[Step] = iter([*(steps or []), lambda: signal.raise_signal(end)])
        monkeypatch.setattr(watched, "sleep", lambda _: next(remaining)())
        return segment(*arguments, *ARGUMENTS)

    return call


def save(picture: np.ndarray, path: Path, shift: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.roll(picture, shift, axis=1)).save(path)
    os.utime(path, ns=(10**18, 10**18 + shift * 10**10))


def inputs(out: Path) -> list[str]:
    return [Path(image["input"]).name for image in report_of(out)["images"]]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_what_is_there_and_what_comes(
    watch: Any, segment: Any, seven: Path, picture: np.ndarray, tmp_path: Path, out: Path, end: int
) -> None:
    seen = []

    def come() -> None:
        seen.append(inputs(out))
        save(picture, seven / "sub" / "h.png", 40)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    outcome = watch(seven, steps=[come], end=end)
    assert (outcome.code, outcome.err) == (0, "")
    assert "8 of 8 images segmented" in outcome.out
    assert seen == [[f"{name}.png" for name in "abcdefg"]]  # the report is written while run waits
    assert inputs(out) == [*seen[0], "h.png"]
    assert not report_of(out)["interrupted"]
    assert report_of(out)["summary"]["seconds"] > 0
    assert {each: signal.getsignal(each) for each in before} == before
    assert segment(seven, "--output", tmp_path / "at once").code == 0
    assert same_maps(out, tmp_path / "at once")


def test_an_empty_folder_is_waited_for(watch: Any, picture: np.ndarray, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    outcome = watch(folder, steps=[lambda: None, lambda: save(picture, folder / "a.png")])
    assert outcome.code == 0, outcome.err
    assert inputs(out) == ["a.png"]
    assert names_in(out) == {
        *(f"a.png{suffix}" for suffix in SUFFIXES),
        *("report.json", "measurements.csv"),
        "index.html",
    }


def test_nothing_came(watch: Any, tmp_path: Path, out: Path) -> None:
    (tmp_path / "in").mkdir()
    outcome = watch(tmp_path / "in")
    assert outcome.code == 0, outcome.err
    assert "0 of 0 images segmented" in outcome.out
    assert report_of(out)["images"] == []


def test_results_inside_the_folder_are_not_picked_up(watch: Any, picture: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(picture, folder / "a.png")
    outcome = watch(folder, "--output", folder / "results", steps=[lambda: None] * 3)
    assert outcome.code == 0, outcome.err
    assert inputs(folder / "results") == ["a.png"]


def test_a_replaced_file_has_its_results_replaced(
    watch: Any, segment: Any, good: Path, tmp_path: Path, out: Path
) -> None:
    folder = tmp_path / "in"
    picture = np.asarray(Image.open(good))
    save(picture, folder / "a.png", 0)
    save(picture, folder / "b.png", 0)
    outcome = watch(folder, steps=[lambda: save(picture, folder / "a.png", 25)])
    assert outcome.code == 0, outcome.err
    assert inputs(out) == ["a.png", "b.png"]
    assert segment(folder, "--output", tmp_path / "at once").code == 0
    assert same_maps(out, tmp_path / "at once")


def test_a_file_that_cannot_be_read_is_said_once_and_tried_again_when_it_changes(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    entries = []
    steps = [lambda: None, lambda: None, lambda: entries.append(report_of(out)["images"][0]["error"])]
    outcome = watch(folder, steps=steps)
    assert outcome.code == 5
    assert len(outcome.err.splitlines()) == 1
    assert f"{folder / 'a.png'}: " in entries[0]
    outcome = watch(folder, "--skip-existing", steps=[lambda: save(picture, folder / "a.png")])
    assert outcome.code == 0, outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert report_of(out)["images"][0]["error"] is None


def test_a_file_that_is_only_touched_keeps_its_results(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path
) -> None:
    """Some shares also give a file another number after a while."""
    path, before = tmp_path / "in" / "a.png", dict[str, float]()
    save(picture, path)

    def touch() -> None:
        before["written"] = (out / "a.png.mask.png").stat().st_mtime_ns
        os.utime(path, ns=(10**18, 2 * 10**18))

    assert watch(tmp_path / "in", steps=[touch, lambda: None]).code == 0
    assert (out / "a.png.mask.png").stat().st_mtime_ns == before["written"]
    assert inputs(out) == ["a.png"]


def test_a_file_that_clashes_does_not_take_the_others_results(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path
) -> None:
    """Two folders have a file of one name: the second fails, also when it is saved again."""
    for folder in ("a", "b"):
        save(picture, tmp_path / folder / "x.png", shift=3)
    again = watch(tmp_path / "a", tmp_path / "b", steps=[lambda: save(picture, tmp_path / "b" / "x.png", shift=9)])
    assert again.code == 5
    assert (out / "x.png.mask.png").exists()
    assert [bool(each["error"]) for each in report_of(out)["images"]] == [False, True]


def test_a_disk_that_is_full_when_a_report_is_due_is_one_line(
    watch: Any, picture: np.ndarray, tmp_path: Path, monkeypatch: Any
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    save(picture, tmp_path / "in" / "a.png")
    monkeypatch.setattr(report, "write", full)
    outcome = watch(tmp_path / "in", steps=[lambda: None])
    outcome.error(1, "cannot be written (No space left on device)", "make room")


def test_a_replaced_file_that_cannot_be_read_has_no_results(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path
) -> None:
    """Those of the image before would be taken for its own."""
    folder = tmp_path / "in"
    save(picture, folder / "a.png")
    outcome = watch(folder, steps=[lambda: (folder / "a.png").write_bytes(b"no image")])
    assert outcome.code == 5
    assert names_in(out) == {"report.json", "measurements.csv", "index.html"}


def test_a_deleted_file_keeps_its_results(watch: Any, picture: np.ndarray, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    save(picture, folder / "a.png")
    save(picture, folder / "b.png")
    assert watch(folder, steps=[(folder / "a.png").unlink, lambda: None]).code == 0
    assert inputs(out) == ["a.png", "b.png"]
    assert (out / "a.png.mask.png").is_file()


def test_a_restart_goes_on(watch: Any, picture: np.ndarray, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    save(picture, folder / "a.png")
    assert watch(folder).code == 0
    watch(folder).error(2, "exists already; pass --force to replace results or --skip-existing to keep them")
    written = (out / "a.png.json").stat().st_mtime_ns
    save(picture, folder / "b.png", 20)
    outcome = watch(folder, "--skip-existing")
    assert outcome.code == 0, outcome.err
    assert "1 of 2 images segmented, 1 skipped" in outcome.out
    assert (out / "a.png.json").stat().st_mtime_ns == written
    assert "2 of 2 images segmented" in watch(folder, "--force").out
    assert (out / "a.png.json").stat().st_mtime_ns != written


def test_results_of_what_comes_later_are_kept_as_well(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path
) -> None:
    """At the start nobody knows that they will be in the way."""
    folder = tmp_path / "in"
    save(picture, folder / "a.png")
    assert watch(folder).code == 0
    for name in ("report.json", "measurements.csv", "index.html"):
        (out / name).unlink()
    (folder / "a.png").rename(tmp_path / "a.png")
    written = (out / "a.png.json").stat().st_mtime_ns
    outcome = watch(folder, steps=[lambda: shutil.move(tmp_path / "a.png", folder / "a.png") and None])
    assert outcome.code == 0, outcome.err
    assert "0 of 1 images segmented, 1 skipped" in outcome.out
    assert (out / "a.png.json").stat().st_mtime_ns == written


def test_the_end_comes_after_the_image_in_work(watch: Any, seven: Path, out: Path, monkeypatch: Any) -> None:
    learn, calls = Segmenter.learn, []

    def ending(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return learn(*arguments)

    monkeypatch.setattr(Segmenter, "learn", ending)
    outcome = watch(seven)
    assert outcome.code == 0, outcome.err
    assert inputs(out) == ["a.png", "b.png", "c.png"]
    assert (out / "c.png.mask.png").is_file()
    assert outcome.err.splitlines() == [
        "complete and not segmented: 4; run the same command with --skip-existing to continue"
    ]
    assert report_of(out)["interrupted"]
    outcome = watch(seven, "--skip-existing")
    assert "4 of 7 images segmented, 3 skipped" in outcome.out


def test_the_end_comes_before_what_was_replaced(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path, monkeypatch: Any
) -> None:
    folder, look = tmp_path / "in", watching.Watcher.look
    save(picture, folder / "a.png")

    def ending(watcher: Any) -> Any:
        arrived = look(watcher)
        if arrived.items and (out / "a.png.json").exists():
            signal.raise_signal(signal.SIGINT)
        return arrived

    monkeypatch.setattr(watching.Watcher, "look", ending)
    outcome = watch(folder, steps=[lambda: save(picture, folder / "a.png", 25)])
    assert outcome.code == 0
    assert outcome.err.startswith("complete and not segmented: 1;")
    assert report_of(out)["images"] == []
    assert names_in(out) == {"report.json", "measurements.csv", "index.html"}


def test_options_for_volumes_that_may_come(watch: Any, good: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "in").mkdir()
    good.rename(tmp_path / "in" / "a.png")
    outcome = watch(tmp_path / "in", "--axis", "axial")
    assert outcome.code == 0, outcome.err
    assert inputs(out) == ["a.png"]


def test_a_second_ctrl_c_ends_it_at_once(watch: Any, seven: Path, out: Path, monkeypatch: Any) -> None:
    def ending(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Segmenter, "learn", ending)
    assert watch(seven).code == 130
    assert report_of(out)["interrupted"]


def test_a_segmenter_that_fails_again_and_again_ends_it(watch: Any, seven: Path, out: Path, monkeypatch: Any) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Segmenter, "learn", fail)
    outcome = watch(seven)
    assert outcome.code == 1
    assert "segmenting failed on the first images, so run stopped" in outcome.err.splitlines()[-1]
    assert len(report_of(out)["images"]) == 1


def test_reports_are_not_written_after_each_image(
    watch: Any, picture: np.ndarray, tmp_path: Path, monkeypatch: Any
) -> None:
    """A report has all images of the run, so a report for each would be ever more work."""
    monkeypatch.setattr(watched, "REPORT_INTERVAL", 3600)
    folder, written, write = tmp_path / "in", [], report.write
    folder.mkdir()
    monkeypatch.setattr(report, "write", lambda *arguments: written.append(1) or write(*arguments))
    steps = [lambda number=number: save(picture, folder / f"{number}.png", number) for number in range(3)]
    assert watch(folder, steps=steps).code == 0
    assert written == [1]


def test_what_is_done_is_said(watch: Any, segment: Any, seven: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(watched, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    outcome = segment(seven, "--watch")
    assert outcome.code == 0
    assert "7 of 7 new images done; waiting for more" in outcome.err.splitlines()


def test_a_folder_that_is_away_is_said_once(watch: Any, picture: np.ndarray, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    save(picture, folder / "a.png")
    steps = [
        lambda: folder.rename(tmp_path / "away") and None,
        lambda: None,
        lambda: (tmp_path / "away").rename(folder) and None,
        lambda: save(picture, folder / "b.png", 20),
    ]
    outcome = watch(folder, steps=steps)
    assert outcome.code == 0
    assert outcome.err.splitlines() == [f"error: {folder}: cannot be listed now; run goes on when it can"]
    assert inputs(out) == ["a.png", "b.png"]


def test_a_fault_of_the_folders_is_said_once_and_waited_for(
    watch: Any, picture: np.ndarray, tmp_path: Path, out: Path, monkeypatch: Any
) -> None:
    folder, look, looks = tmp_path / "in", watching.Watcher.look, []
    save(picture, folder / "a.png")

    def failing(watcher: Any) -> Any:
        looks.append(1)
        if len(looks) < 4:
            raise UsageError(f"{folder / 'sub'}: cannot be listed: Permission denied; make it readable")
        return look(watcher)

    monkeypatch.setattr(watching.Watcher, "look", failing)
    outcome = watch(folder, steps=[lambda: None] * 4)
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        f"error: {folder / 'sub'}: cannot be listed: Permission denied; make it readable"
    ]
    assert inputs(out) == ["a.png"]


@pytest.mark.needs("pydicom")
def test_a_series_takes_the_place_of_its_first_slice(watch: Any, tmp_path: Path, out: Path) -> None:
    import dicom_files

    folder = tmp_path / "in"
    folder.mkdir()

    def come(number: int) -> None:
        dicom_files.write(folder / f"{number}.dcm", dicom_files.ct(number, **dicom_files.place(number)))

    first = []
    come(1)
    outcome = watch(folder, steps=[lambda: first.extend(names_in(out)), lambda: come(2), lambda: come(3)])
    assert outcome.code == 0, outcome.err
    assert "1.dcm.mask.png" in first
    (entry,) = report_of(out)["images"]
    assert (entry["kind"], entry["slices"]) == ("volume", 3)
    assert "1 of 1 images segmented" in outcome.out
    assert not [name for name in names_in(out) if name.startswith("1.dcm")]
    assert json.loads((out / "in.json").read_text())["slices"] == 3


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--like", "masks"], ["--like learns from masks of images that are there", "export --update --head FILE"]),
        (["--point", "1,2"], ["--point is for images that are there, so --watch excludes it"]),
        (["--box", "1,2,3,4"], ["--box is for images that are there"]),
        (["--scribbles", "s.png"], ["--scribbles is for images that are there"]),
        (["--prompts", "p.json"], ["--prompts is for images that are there"]),
        (["--force", "--skip-existing"], ["choose one"]),
    ],
    ids=lambda value: value[0],
)
def test_options_that_need_all_images(
    watch: Any, seven: Path, out: Path, arguments: list[str], parts: list[str]
) -> None:
    watch(seven, *arguments).error(2, *parts)
    assert not out.exists()


@pytest.mark.parametrize("name", ["good.png", "nowhere"])
def test_only_folders_are_watched(watch: Any, good: Path, tmp_path: Path, out: Path, name: str) -> None:
    watch(tmp_path / name).error(2, f"{tmp_path / name}: is not a folder, and --watch waits for files in folders")
    assert not out.exists()


def test_the_output_folder_itself_is_refused(watch: Any, seven: Path) -> None:
    watch(seven, "--output", seven).error(2, "is also the output folder")
