"""The states of series, and what a spool has after a node was killed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msformer_deploy.dicom_node import durable, spool
from msformer_deploy.dicom_node.spool import Completed, Limits, OutOfResources, Spool
from msformer_deploy.errors import UsageError

LIMITS = Limits(instances=5, series_bytes=3 << 20, free_bytes=0)
Sent = Callable[..., Completed]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Spool]:
    with spool.opened(tmp_path, LIMITS) as found:
        yield found


def store(kept: Spool, image: str, series: str = "ab", sender: object = None, content: bytes = b"x") -> None:
    kept.keep(kept.write_part([content]), series, image, sender)


def send(kept: Spool, *images: str) -> Completed:
    """A series arrives and is complete."""
    for image in images:
        store(kept, image)
    return kept.complete("ab")


def tree(folder: Path) -> set[str]:
    """All files but the lock, relative to the spool."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in found if path != "lock"}


def answered(kept: Spool, path: Path) -> Path:
    """The series has results."""
    (path / spool.RESULTS).mkdir()
    (path / spool.RESULTS / "1.seg.dcm").write_bytes(b"seg")
    return kept.move(path, "sending")


class TestArriving:
    def test_an_instance_is_synced_before_keep_returns(
        self, kept: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        for name in ("write", "rename", "make_folder"):
            real = getattr(durable, name)
            monkeypatch.setattr(durable, name, lambda *given, _n=name, _r=real: (calls.append(_n), _r(*given))[1])
        store(kept, "1")
        assert calls == ["write", "make_folder", "rename"]
        assert tree(tmp_path) == {"incoming/ab/1.dcm"}

    def test_one_that_is_there_is_kept_once(self, kept: Spool, tmp_path: Path) -> None:
        store(kept, "1", content=b"first")
        store(kept, "1", content=b"second")
        assert tree(tmp_path) == {"incoming/ab/1.dcm"}
        assert (tmp_path / "incoming/ab/1.dcm").read_bytes() == b"first"

    def test_a_series_that_is_too_long(self, kept: Spool, tmp_path: Path) -> None:
        for image in "12345":
            store(kept, image)
        with pytest.raises(OutOfResources, match="its series has more than 5 instances"):
            store(kept, "6")
        store(kept, "5")
        assert kept.complete("ab") == Completed("ab.1", 5, "lacking")
        assert (tmp_path / "failed/ab.1/reason.txt").read_text() == (
            "1 of its images were refused; send the series again\n"
        )

    def test_a_series_that_is_too_large(self, kept: Spool) -> None:
        for image in "123":
            store(kept, image, content=bytes(1 << 20))
        with pytest.raises(OutOfResources, match="its series has more than 3 MiB"):
            store(kept, "4")
        store(kept, "1", "cd", content=bytes(1 << 20))

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
    @pytest.mark.parametrize("step", ["write", "rename", "make_folder"])
    def test_a_disk_that_is_full(
        self, kept: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(durable, step, full)
            with pytest.raises(OutOfResources, match=f"the spool cannot be written \\({os.strerror(code)}\\)"):
                store(kept, "1")
        assert {path for path in tree(tmp_path) if not path.endswith(".refused")} == set()
        store(kept, "1")
        assert {"incoming/ab/1.dcm"} == tree(tmp_path)

    def test_space_is_left_free(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 50, 50))
        with spool.opened(tmp_path, Limits(5, 1 << 20, free_bytes=45)) as kept:
            store(kept, "1", content=bytes(5))
            with pytest.raises(OutOfResources, match="the disk of the spool is full"):
                store(kept, "2", content=bytes(6))
        assert tree(tmp_path) == {"incoming/ab/1.dcm"}

    def test_what_was_refused_and_comes_later_is_lacking_no_more(self, kept: Spool, tmp_path: Path) -> None:
        store(kept, "1")
        kept.refuse("ab", "2")
        assert tree(tmp_path) == {"incoming/ab/1.dcm", "incoming/ab/2.refused"}
        store(kept, "2")
        assert kept.complete("ab") == Completed("ab.1", 2, "new")
        assert tree(tmp_path) == {"complete/ab.1/1.dcm", "complete/ab.1/2.dcm"}

    def test_what_is_there_is_not_refused(self, kept: Spool) -> None:
        store(kept, "1")
        kept.refuse("ab", "1")
        assert kept.complete("ab").kind == "new"


class TestDue:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(spool.time, "monotonic", lambda: now[0])
        return now

    def test_after_a_quiet_time(self, kept: Spool, clock: list[float]) -> None:
        store(kept, "1")
        clock[0] += 4
        store(kept, "2")
        clock[0] += 4
        assert kept.due(5, on_release=False) == []
        clock[0] += 1
        assert kept.due(5, on_release=False) == ["ab"]

    def test_on_release_of_its_last_sender(self, kept: Spool, clock: list[float]) -> None:
        store(kept, "1", sender="one")
        store(kept, "2", sender="two")
        kept.leave("one", released=True)
        assert kept.due(5, on_release=True) == []
        kept.leave("two", released=True)
        assert kept.due(5, on_release=False) == []
        assert kept.due(5, on_release=True) == ["ab"]
        store(kept, "3", sender="three")
        assert kept.due(5, on_release=True) == []

    def test_not_on_abort(self, kept: Spool, clock: list[float]) -> None:
        store(kept, "1", sender="one")
        kept.leave("one", released=False)
        assert kept.due(5, on_release=True) == []
        clock[0] += 5
        assert kept.due(5, on_release=True) == ["ab"]

    def test_not_on_release_of_another(self, kept: Spool, clock: list[float]) -> None:
        store(kept, "1", sender="one")
        kept.leave("other", released=True)
        assert kept.due(5, on_release=True) == []


class TestComplete:
    def test_it_goes_from_state_to_state(self, kept: Spool, tmp_path: Path) -> None:
        assert send(kept, "1", "2") == Completed("ab.1", 2, "new")
        (path,) = kept.waiting("complete")
        assert tree(tmp_path) == {"complete/ab.1/1.dcm", "complete/ab.1/2.dcm"}
        assert kept.due(0, on_release=False) == []
        path = answered(kept, path)
        assert kept.waiting("complete") == []
        assert kept.waiting("sending") == [path]
        kept.move(path, "done")
        assert tree(tmp_path) == {f"done/ab.1/{name}" for name in ("1.dcm", "2.dcm", "results/1.seg.dcm")}
        assert kept.counts() == {"incoming": 0, "complete": 0, "sending": 0, "done": 1, "failed": 0}

    @pytest.mark.parametrize("state", ["sending", "done"])
    def test_late_images_make_a_revision_of_all_images(self, kept: Spool, tmp_path: Path, state: spool.State) -> None:
        send(kept, "1", "2")
        kept.move(answered(kept, kept.waiting("complete")[0]), state)
        assert send(kept, "3") == Completed("ab.2", 3, "revision")
        assert {f"complete/ab.2/{image}.dcm" for image in "123"} <= tree(tmp_path)
        assert {f"{state}/ab.1/{name}" for name in ("1.dcm", "results/1.seg.dcm")} <= tree(tmp_path)
        assert send(kept, "4") == Completed("ab.3", 4, "revision")

    def test_late_images_join_a_series_that_waits(self, kept: Spool, tmp_path: Path) -> None:
        send(kept, "1", "2")
        assert send(kept, "2", "3") == Completed("ab.2", 3, "revision")
        assert [path.name for path in kept.waiting("complete")] == ["ab.2"]
        assert tree(tmp_path) == {f"complete/ab.2/{image}.dcm" for image in "123"}

    def test_late_images_join_one_that_failed(self, kept: Spool, tmp_path: Path) -> None:
        send(kept, "1", "3")
        kept.fail(kept.waiting("complete")[0], "a slice is missing")
        assert (tmp_path / "failed/ab.1/reason.txt").read_text() == "a slice is missing\n"
        assert send(kept, "2") == Completed("ab.2", 3, "revision")
        assert tree(tmp_path) == {f"complete/ab.2/{image}.dcm" for image in "123"}

    def test_images_are_copied_where_there_are_no_links(
        self, kept: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(*_: object) -> None:
            raise OSError(errno.EPERM, "no links")

        monkeypatch.setattr(spool.os, "link", no_links)
        store(kept, "1", content=b"one")
        kept.complete("ab")
        send(kept, "2")
        assert [path.read_bytes() for path in sorted(kept.waiting("complete")[0].glob("*.dcm"))] == [b"one", b"x"]

    @pytest.mark.parametrize(("before", "after"), [("done", "sending"), ("sending", "sending")])
    def test_a_repeat_is_sent_again_and_not_segmented(
        self, kept: Spool, tmp_path: Path, before: spool.State, after: str
    ) -> None:
        send(kept, "1", "2")
        kept.move(answered(kept, kept.waiting("complete")[0]), before)
        assert send(kept, "2") == Completed("ab.1", 2, "repeat")
        assert tree(tmp_path) == {f"{after}/ab.1/{name}" for name in ("1.dcm", "2.dcm", "results/1.seg.dcm")}

    @pytest.mark.parametrize(("with_results", "after"), [(False, "complete"), (True, "sending")])
    def test_a_repeat_tries_again_what_failed(
        self, kept: Spool, tmp_path: Path, with_results: bool, after: str
    ) -> None:
        send(kept, "1")
        (path,) = kept.waiting("complete")
        kept.fail(answered(kept, path) if with_results else path, "refused")
        assert send(kept, "1").kind == "repeat"
        assert f"{after}/ab.1/1.dcm" in tree(tmp_path)
        assert not any("reason" in path for path in tree(tmp_path))

    def test_what_lacks_images_fails_until_they_came(self, kept: Spool, tmp_path: Path) -> None:
        store(kept, "1")
        kept.refuse("ab", "2")
        kept.refuse("ab", "3")
        assert kept.complete("ab") == Completed("ab.1", 1, "lacking")
        assert send(kept, "1", "2") == Completed("ab.2", 2, "lacking")
        assert send(kept, "1") == Completed("ab.3", 2, "lacking"), "the same again does not have them either"
        assert {path for path in tree(tmp_path) if path.endswith(".dcm")} == {"failed/ab.3/1.dcm", "failed/ab.3/2.dcm"}
        assert send(kept, "3") == Completed("ab.4", 3, "revision")

    def test_nothing_but_refused_images_is_lacking_too(self, kept: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(durable, "make_folder", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            kept.refuse("ab", "1")
        assert kept.complete("ab") == Completed("ab.1", 0, "lacking")
        (path,) = kept.waiting("failed")
        assert spool.lack_of(path) == "1 of its images were refused; send the series again", "it is known on the disk"

    def test_the_first_in_is_the_first_out(self, kept: Spool) -> None:
        for series in ("cd", "ab", "ef"):
            store(kept, "1", series)
            kept.complete(series)
            time.sleep(0.01)
        assert [path.name for path in kept.waiting("complete")] == ["cd.1", "ab.1", "ef.1"]

    def test_what_is_done_expires(self, kept: Spool, tmp_path: Path) -> None:
        send(kept, "1")
        path = kept.move(kept.waiting("complete")[0], "done")
        assert kept.expire(60) == 0
        os.utime(path, (time.time() - 61, time.time() - 61))
        assert kept.expire(60) == 1
        assert tree(tmp_path) == set()
        assert send(kept, "2") == Completed("ab.1", 1, "new")

    def test_the_time_counts_from_when_it_was_done(self, kept: Spool) -> None:
        send(kept, "1")
        (path,) = kept.waiting("complete")
        os.utime(path, (0, 0))  # it waited long for its destination
        kept.move(path, "done")
        assert kept.expire(60) == 0

    def test_what_is_removed_only_in_part_is_no_series(
        self, kept: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send(kept, "1", "2")
        kept.move(kept.waiting("complete")[0], "done")
        with monkeypatch.context() as patch:
            patch.setattr(spool, "_remove", lambda path: (path / "1.dcm").unlink())  # killed behind its first file
            kept.expire(0)
        assert {path.partition("/")[0] for path in tree(tmp_path)} == {"trash"}
        assert send(kept, "3") == Completed("ab.1", 1, "new")


class TestStart:
    def test_what_was_arriving_is_there(self, tmp_path: Path) -> None:
        with spool.opened(tmp_path, LIMITS) as kept:
            store(kept, "1", content=bytes(3 << 20))
            kept.refuse("ab", "2")
            left = kept.write_part([b"half"])
        with spool.opened(tmp_path, LIMITS) as kept:
            assert not left.exists()
            assert kept.due(60, on_release=True) == [], "its quiet time begins anew"
            with pytest.raises(OutOfResources):
                store(kept, "3")
            assert kept.due(0, on_release=False) == ["ab"]
            assert kept.complete("ab").kind == "lacking"

    def test_what_was_being_removed_is_gone(self, tmp_path: Path) -> None:
        with spool.opened(tmp_path, LIMITS):
            (tmp_path / "trash" / "0123").mkdir()
            (tmp_path / "trash" / "0123" / "1.dcm").touch()
        with spool.opened(tmp_path, LIMITS):
            assert tree(tmp_path) == set()

    @pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
    def test_it_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        with spool.opened(tmp_path / "more" / "spool", LIMITS):
            assert stat.S_IMODE((tmp_path / "more" / "spool").stat().st_mode) == 0o700

    def test_two_nodes_do_not_share_it(self, kept: Spool, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from msformer_deploy.dicom_node import spool\n"
            "try: spool.opened(Path(sys.argv[1]), spool.Limits(1, 1, 1)).__enter__()\n"
            "except Exception as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
        assert done.stdout == (
            f"{tmp_path}: another node works with this spool; end it, or name another folder with --spool\n"
        )

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(UsageError, match=r"cannot be used as a spool .*; name another folder with --spool"),
            spool.opened(tmp_path / "file", LIMITS),
        ):
            pytest.fail("opened")

    def test_a_series_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreadable(_: Path) -> set[str]:
            raise PermissionError(errno.EACCES, "Permission denied")

        with spool.opened(tmp_path, LIMITS) as kept:
            store(kept, "1")
        monkeypatch.setattr(spool, "_images", unreadable)
        with (
            pytest.raises(UsageError, match=r"cannot be used as a spool \(Permission denied\); name another folder"),
            spool.opened(tmp_path, LIMITS),
        ):
            pytest.fail("opened")


STRAYS = (".DS_Store", "Thumbs.db", "._1.dcm", "ab", "ab.1")  # the last two are named as a series, and are files


class TestStrays:
    """Files that are not the spool's: of a file manager, or of a person."""

    @pytest.mark.parametrize("name", STRAYS)
    def test_in_a_state_they_are_no_series(self, tmp_path: Path, name: str) -> None:
        for state in spool.STATES:
            (tmp_path / state).mkdir()
            (tmp_path / state / name).touch()
            (tmp_path / state / "notes.1").mkdir()
            os.utime(tmp_path / state / name, (0, 0))
        with spool.opened(tmp_path, LIMITS) as kept:
            assert kept.due(0, on_release=False) == []
            assert set(kept.counts().values()) == {0}
            assert [kept.waiting(state) for state in spool.STATES] == [[]] * 5
            assert kept.expire(60) == 0
            store(kept, "1", "cd")
            assert kept.complete("cd") == Completed("cd.1", 1, "new")
            assert kept.counts()["complete"] == 1
        assert all((tmp_path / state / name).is_file() for state in spool.STATES)

    def test_one_that_is_named_as_a_revision_is_none(self, kept: Spool, tmp_path: Path) -> None:
        (tmp_path / "done" / "ab.7").touch()
        assert send(kept, "1") == Completed("ab.1", 1, "new")

    def test_in_a_series_they_are_no_images(self, tmp_path: Path) -> None:
        with spool.opened(tmp_path, LIMITS) as kept:
            store(kept, "1")
        for name in ("._1.dcm", ".DS_Store", "notes.refused"):
            (tmp_path / "incoming/ab" / name).touch()
        with spool.opened(tmp_path, LIMITS) as kept:
            assert kept.complete("ab") == Completed("ab.1", 1, "new")

    def test_in_results_they_are_not_sent(self, kept: Spool) -> None:
        send(kept, "1")
        path = answered(kept, kept.waiting("complete")[0])
        for name in ("._1.seg.dcm", ".DS_Store", "Thumbs.db"):
            (path / spool.RESULTS / name).touch()
        assert [each.name for each in spool.results_of(path)] == ["1.seg.dcm"]


def test_names_say_nothing() -> None:
    assert spool.series_name("1.2", "3.4") == spool.series_name("1.2", "3.4")
    names = {spool.series_name("1.2", "3.4"), spool.series_name("1.2", "3.5"), spool.series_name("1.3", "3.4")}
    assert len(names) == 3
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names)
    assert len(spool.instance_name("../..")) == 32
    assert spool.revision_of(Path("spool/complete/ab.12")) == 12
