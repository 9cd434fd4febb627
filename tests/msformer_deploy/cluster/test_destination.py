"""Places for results: a folder is written where it is, an address through fsspec, and each failure is one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.cluster.destination import Destination
from msformer_deploy.errors import BackendUnavailable, DeployError, UsageError
from msformer_deploy.images.inputs import Item

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
ITEM = Item(Path("in", "a.png"), Path("sub", "a.png"))


@pytest.fixture
def memory() -> Iterator[Any]:
    """The files of ``memory://``, which are of this process and empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_folder_is_written_where_it_is(tmp_path: Path) -> None:
    place = Destination(tmp_path)
    with place.folder() as folder:
        assert folder == tmp_path
        fill(folder, "a")
        place.send(folder, replaced=["a"])
    assert (tmp_path / "a").is_file()
    assert place.names() == set()


@pytest.mark.parametrize("address", ["memory://bucket/results", "memory://bucket/results/", "file"])
def test_an_address_gets_what_was_made(tmp_path: Path, memory: Any, address: str) -> None:
    place = Destination(tmp_path.as_uri() + "/there" if address == "file" else address)
    with place.folder() as folder:
        fill(folder, "report.json", "sub/deep/a.png.mask.png")
        place.send(folder)
    assert not folder.exists()
    assert place.names() == {"report.json", "sub/deep/a.png.mask.png"}
    assert place.has("report.json")
    assert not place.has("sub/b")


def test_records_come_last_and_what_they_replace_goes_first(tmp_path: Path, memory: Any, monkeypatch: Any) -> None:
    done: list[tuple[str, str]] = []
    place = Destination("memory://r")
    fill(tmp_path, "z.mask.png", "a.json")
    for name in ("a.json", "a.candidate-2.png"):
        memory.pipe_file(f"/r/{name}", b"old")
    put, remove = type(memory).put_file, type(memory).rm_file
    monkeypatch.setattr(type(memory), "put_file", lambda self, *a: (done.append(("put", a[1])), put(self, *a))[1])
    monkeypatch.setattr(type(memory), "rm_file", lambda self, *a: (done.append(("rm", a[0])), remove(self, *a))[1])
    place.send(tmp_path, last=["a.json"], replaced=["a.candidate-2.png", "gone"])
    assert [each for each in done if each[0] == "put"] == [("put", "/r/z.mask.png"), ("put", "/r/a.json")]
    assert [each[1] for each in done[:2]] == ["/r/a.json", "/r/a.candidate-2.png"]
    assert place.names() == {"a.json", "z.mask.png"}


def test_stand_ins_are_the_record_and_the_names_of_its_files(tmp_path: Path, memory: Any) -> None:
    for name in ("sub/a.png.json", "sub/a.png.mask.png", "sub/b.png.mask.png", "a.png.mask.png"):
        memory.pipe_file(f"/r/{name}", name.encode())
    Destination("memory://r").stand_in([ITEM, Item(Path("c"), Path("c"))], tmp_path)
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.*")}
    assert found == {"sub/a.png.json": "sub/a.png.json", "sub/a.png.mask.png": ""}


def test_a_folder_is_listed_once_for_all_items_in_it(tmp_path: Path, memory: Any, monkeypatch: Any) -> None:
    items = [Item(Path(name), Path(name)) for name in ("a.png", "b.png", "sub/c.png")]
    for item in items:
        memory.pipe_file(f"/r/{item.relative.as_posix()}.json", b"{}")
        memory.pipe_file(f"/r/{item.relative.as_posix()}.mask.png", b"")
    listed, find = [], type(memory).find
    monkeypatch.setattr(type(memory), "find", lambda self, *a, **k: (listed.append(a[0]), find(self, *a, **k))[1])
    Destination("memory://r").stand_in(items, tmp_path)
    assert listed == ["/r", "/r/sub"]
    assert all((tmp_path / f"{item.relative}.mask.png").is_file() for item in items)


@pytest.mark.parametrize("address", ["memory://r", "file"])
def test_pictures_of_slices_are_replaced_as_a_whole(tmp_path: Path, memory: Any, address: str) -> None:
    place = Destination((tmp_path / "there").as_uri() if address == "file" else address)
    for slices, kept in ((3, 3), (2, 2), (0, 0)):
        new = tmp_path / str(slices)
        fill(new, "w[1].slices.json", *(f"v[1].slices/000{number}.png" for number in range(slices)))
        place.send(new, replaced=["v[1].slices", "v1.slices"])
        assert len(place.names()) == kept + 1
    assert place.names(depth=1) == {"w[1].slices.json"}


@pytest.mark.parametrize("address", [True, False], ids=["address", "folder"])
def test_a_mark_is_seen_and_taken_away(tmp_path: Path, memory: Any, address: bool) -> None:
    place = Destination("memory://new/place" if address else tmp_path / "new" / "place")
    name = place.mark()
    assert place.has(name)
    place.remove(name)
    assert not place.has(name)
    place.remove(name)


def test_an_address_of_no_kind() -> None:
    with pytest.raises(UsageError, match=r"nowhere://x: cannot be used \(ValueError: "):
        Destination("nowhere://x")


def test_an_address_whose_package_is_missing(monkeypatch: Any) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(BackendUnavailable, match=r"s3://b/r: addresses that begin with s3:// need .*Install s3fs"):
        Destination("s3://b/r")


@pytest.mark.parametrize("step", ["mark", "names", "has", "send", "stand_in"])
def test_a_place_that_fails_is_one_line(tmp_path: Path, memory: Any, monkeypatch: Any, step: str) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError("denied\nmore")

    for name in ("pipe_file", "find", "exists", "put_file"):
        monkeypatch.setattr(type(memory), name, refuse)
    place = Destination("memory://r")
    fill(tmp_path, "a")
    steps = {
        "mark": place.mark,
        "names": place.names,
        "has": lambda: place.has("a"),
        "send": lambda: place.send(tmp_path),
        "stand_in": lambda: place.stand_in([ITEM], tmp_path),
    }
    with pytest.raises(DeployError, match=r"^memory://r: cannot be read or written \(PermissionError: denied\)"):
        steps[step]()
