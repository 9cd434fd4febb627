"""What is on the disk when a function returns: order of the calls that bring it there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from msformer_deploy.dicom_node import durable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of fsync and rename, with the names that they are of."""
    found: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        found.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(path: Path, to: Path) -> None:
        found.append(f"rename {path.name} {to.name}")
        rename(path, to)

    monkeypatch.setattr(durable.os, "fsync", synced)
    monkeypatch.setattr(durable.os, "rename", renamed)
    return found


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")


@linux
def test_a_file_is_written_then_synced(calls: list[str], tmp_path: Path) -> None:
    durable.write(tmp_path / "file", [b"one", b"two"])
    assert (tmp_path / "file").read_bytes() == b"onetwo"
    assert calls == ["sync file"]


@linux
def test_both_folders_of_a_move_are_synced(calls: list[str], tmp_path: Path) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from" / "a").touch()
    assert durable.rename(tmp_path / "from" / "a", tmp_path / "to" / "b") == tmp_path / "to" / "b"
    assert calls == ["rename a b", "sync to", "sync from"]
    durable.rename(tmp_path / "to" / "b", tmp_path / "to" / "c")
    assert calls[3:] == ["rename b c", "sync to"]


@linux
def test_a_file_that_is_there_is_synced(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    durable.sync_file(tmp_path / "file")
    assert (calls, (tmp_path / "file").read_bytes()) == (["sync file"], b"one")


@linux
def test_a_folder_is_for_its_owner_and_synced_once(calls: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        durable.make_folder(tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert calls == [f"sync {tmp_path.name}"]
