"""Files that commands write at their end: what is seen to before, and a disk that is full after."""

from __future__ import annotations

import pytest

from msformer_deploy.commands.reports import check_files, write_files
from msformer_deploy.errors import DeployError, UsageError


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.json", "a.json"], r"a\.json: two options name this file"),
        (["nowhere/a.json"], "its folder does not exist"),
        (["folder"], "folder: is a folder"),
        (["here.json"], r"here\.json: exists already; pass --force"),
    ],
)
def test_what_cannot_be_written_is_told_before(tmp_path, names, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "here.json").touch()
    with pytest.raises(UsageError, match=told):
        check_files([tmp_path / name for name in names], force=False)


def test_force_replaces(tmp_path):
    (tmp_path / "here.json").touch()
    check_files([tmp_path / "here.json", tmp_path / "new.json"], force=True)


def test_a_full_disk_is_one_line(tmp_path):
    def full(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(DeployError, match=r"a\.json: cannot be written \(No space left on device\)"):
        write_files({tmp_path / "a.json": full})
