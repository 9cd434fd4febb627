"""When a file in a folder is complete. The clock is the test's own, so nothing waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.images.inputs import Item
from msformer_deploy.images.watching import SERIES_SETTLE, SETTLE, Watcher


class Folder:
    """A folder, its watcher, and its time."""

    def __init__(self, path: Path, *more: Path) -> None:
        self.path, self.now, self._writes = path, 1000.0, 0
        path.mkdir(exist_ok=True)
        self.watcher = Watcher([path, *more], path / "results", lambda: self.now)

    def write(self, name: str, content: bytes = b"image") -> Path:
        """Write a file whose time differs from all before, however coarse the file system's are."""
        self._writes += 1
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.touch(path)
        return path

    def touch(self, path: Path) -> None:
        self._writes += 1
        os.utime(path, ns=(10**18, 10**18 + self._writes * 10**10))

    def after(self, seconds: float) -> list[str]:
        """The names of what is complete after so many seconds."""
        self.now += seconds
        return [item.relative.as_posix() for item in self.watcher.look().items]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "in")


def test_a_file_is_given_once_when_it_has_settled(folder: Folder) -> None:
    folder.write("a.png")
    assert folder.after(0) == []
    assert folder.after(SETTLE - 0.1) == []
    assert folder.after(0.1) == ["a.png"]
    assert folder.after(100) == []


def test_what_grows_is_not_complete(folder: Folder) -> None:
    for size in range(1, 4):
        path = folder.write("a.png", b"x" * size)
        assert folder.after(SETTLE - 0.5) == []
    folder.touch(path)  # the same size, written again
    assert folder.after(SETTLE - 0.5) == []
    assert folder.after(SETTLE) == ["a.png"]


def test_another_file_of_the_same_size_and_time_is_a_change(folder: Folder) -> None:
    """Renamed into place, with its time kept, as copying tools do."""
    path = folder.write("a.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png"]
    status, other = path.stat(), folder.write("hidden/.b.png")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    assert folder.after(1) == []
    assert folder.after(SETTLE) == ["a.png"]


def test_what_was_replaced_is_given_again(folder: Folder) -> None:
    folder.write("a.png")
    folder.write("b.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png", "b.png"]
    folder.write("a.png", b"another image")
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png"]


def test_what_was_deleted_is_new_when_it_comes_again(folder: Folder) -> None:
    path = folder.write("a.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png"]
    content, status = path.read_bytes(), path.stat()
    path.unlink()
    arrived = folder.watcher.look()
    assert (arrived.items, arrived.superseded) == ([], [])
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png"]


def test_a_file_that_goes_while_it_is_looked_at_is_not_superseded(folder: Folder, monkeypatch: Any) -> None:
    """Its results stay: nobody knows that there is a better image."""
    path = folder.write("a.png")
    folder.after(0)
    folder.after(SETTLE)
    folder.write("b.png")
    folder.after(0)
    see = folder.watcher._see

    def then_delete(now: float) -> None:
        see(now)
        path.unlink()

    monkeypatch.setattr(folder.watcher, "_see", then_delete)
    folder.now += SETTLE
    arrived = folder.watcher.look()
    assert [item.path.name for item in arrived.items] == ["b.png"]
    assert arrived.superseded == []


def test_subfolders_count_and_results_do_not(folder: Folder) -> None:
    for name in ("more/deep/a.png", "results/b.png", "more/.hidden.png", ".hidden/c.png", "notes.txt"):
        folder.write(name)
    folder.after(0)
    assert folder.after(SETTLE) == ["more/deep/a.png"]
    assert folder.watcher.passed_over.counts == {".txt": 1}


def test_a_file_in_two_folders_is_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "in", tmp_path / "in" / "more")
    folder.write("more/a.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["more/a.png"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_loop_of_links_ends(folder: Folder) -> None:
    folder.write("more/a.png")
    (folder.path / "more" / "loop").symlink_to(folder.path)
    (folder.path / "dead.png").symlink_to("nowhere")
    folder.after(0)
    assert folder.after(SETTLE) == ["more/a.png"]
    assert len(folder.watcher._seen) == 1


def test_the_folders_are_walked_only_when_something_has_settled(folder: Folder, monkeypatch: Any) -> None:
    """A walk opens files; looking only lists them."""
    walks = []
    items = Watcher._items
    monkeypatch.setattr(Watcher, "_items", lambda watcher: walks.append(1) or items(watcher))
    folder.write("a.png")
    folder.write("notes.txt")
    folder.after(0)
    folder.after(SETTLE / 2)
    assert walks == []
    folder.after(SETTLE)
    assert walks == [1]
    for name in ("results/a.png.mask.png", ".b.png.part", "results/c.png.mask.png"):
        folder.write(name)
        folder.after(0)
        folder.after(SETTLE)
    assert walks == [1]


def test_a_folder_that_is_away_keeps_what_was_done(folder: Folder, tmp_path: Path) -> None:
    """A share that comes back has nothing new."""
    folder.write("a.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png"]
    folder.path.rename(tmp_path / "away")
    assert folder.after(1) == []
    assert folder.watcher.unreachable == {folder.path}
    (tmp_path / "away").rename(folder.path)
    assert folder.after(1) == []
    assert folder.watcher.unreachable == set()
    assert folder.after(SETTLE) == []


def test_a_folder_that_is_away_beside_one_with_news(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "in", tmp_path / "away")
    folder.write("a.png")
    (folder.path / "results").mkdir()
    folder.after(0)
    assert folder.after(SETTLE) == ["a.png"]
    other = folder.write("../away/b.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["b.png"]
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    folder.write("c.png")
    folder.after(0)
    folder.now += SETTLE
    arrived = folder.watcher.look()
    assert ([item.path.name for item in arrived.items], arrived.superseded) == (["c.png"], [])
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    assert other.is_file()
    folder.write("d.png")
    folder.after(0)
    assert folder.after(SETTLE) == ["d.png"]


@pytest.mark.parametrize(("header", "voxels"), [("a.nhdr", "a.raw.gz"), ("a.mhd", "data.zraw")])
def test_a_detached_header_waits_for_the_files_beside_it(folder: Folder, header: str, voxels: str) -> None:
    folder.write(header)
    folder.after(0)
    folder.after(SETTLE / 2)
    folder.write(voxels)
    assert folder.after(SETTLE / 2) == []
    assert folder.after(SETTLE) == [header]
    folder.write(voxels, b"other voxels")
    folder.after(0)
    assert folder.after(SETTLE) == [header]


@pytest.mark.needs("pydicom")
class TestDicom:
    @pytest.fixture
    def add(self, folder: Folder) -> Callable[..., Path]:
        import dicom_files

        def add(number: int, within: str = "study", **more: Any) -> Path:
            (folder.path / within).mkdir(exist_ok=True)
            path = folder.path / within / f"{number}.dcm"
            return dicom_files.write(path, dicom_files.ct(number, **dicom_files.place(number), **more))

        return add

    def test_a_series_is_given_when_it_is_quiet(self, folder: Folder, add: Callable[..., Path]) -> None:
        """Its sender pauses for longer than a file needs to settle."""
        for number in range(1, 4):
            add(number, "study.nii")  # whatever the name of its folder is
            assert folder.after(SERIES_SETTLE - 1) == []
        assert folder.after(SERIES_SETTLE - 1) == []
        folder.now += 1
        (item,) = folder.watcher.look().items
        assert (item.kind, len(item.files), item.relative) == ("volume", 3, Path("study.nii"))
        assert folder.after(100) == []

    def test_other_images_do_not_wait_for_it(self, folder: Folder, add: Callable[..., Path]) -> None:
        add(1)
        add(2)
        folder.write("a.png")
        folder.after(0)
        assert folder.after(SETTLE) == ["a.png"]
        assert folder.after(SERIES_SETTLE - SETTLE) == ["study"]

    def test_a_series_that_goes_on_is_given_again(self, folder: Folder, add: Callable[..., Path]) -> None:
        add(1)
        add(2)
        folder.after(0)
        assert folder.after(SERIES_SETTLE) == ["study"]
        add(3)
        folder.after(0)
        folder.now += SERIES_SETTLE
        (item,) = folder.watcher.look().items
        assert len(item.files) == 3

    def test_a_first_slice_that_was_taken_for_an_image_is_superseded(
        self, folder: Folder, add: Callable[..., Path]
    ) -> None:
        add(1)
        folder.after(0)
        folder.now += SERIES_SETTLE
        (first,) = folder.watcher.look().items
        assert first.kind == "image"
        add(2)
        folder.after(0)
        folder.now += SERIES_SETTLE
        arrived = folder.watcher.look()
        assert arrived.superseded == [first] == [Item(folder.path / "study" / "1.dcm", Path("study/1.dcm"))]
        assert [item.kind for item in arrived.items] == ["volume"]
        folder.write("a.png")
        folder.after(0)
        folder.now += SETTLE
        assert folder.watcher.look().superseded == []
