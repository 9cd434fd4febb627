"""The folders that a run may use, and the record of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from msformer_deploy import files
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.training.loop.devices import open_fabric
from msformer_deploy.training.loop.run_folder import RECORD, begin, check_place

FABRIC = open_fabric("cpu")


def start(path: Path, resume: bool = False) -> None:
    begin(path, {"system": "toy", "settings": {"lr": 0.1}}, FABRIC, "fp32", resume=resume)


def test_the_record_says_what_where_and_with_what(tmp_path):
    start(tmp_path / "deep" / "run")
    record = json.loads((tmp_path / "deep" / "run" / RECORD).read_text())
    assert (record["system"], record["settings"]) == ("toy", {"lr": 0.1})
    (machine,) = record["starts"]
    assert {"python", "torch", "lightning-fabric", "msformer-deploy"} <= set(machine["versions"])
    assert (machine["device"], machine["processes"], machine["precision"]) == ("CPU", 1, "fp32")


def test_going_on_adds_a_start_and_leaves_the_rest(tmp_path):
    start(tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text("epoch\n")
    start(tmp_path / "run", resume=True)
    assert len(json.loads((tmp_path / "run" / RECORD).read_text())["starts"]) == 2
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_a_run_that_is_replaced_is_gone(tmp_path):
    start(tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text("epoch\n")
    check_place(tmp_path / "run", resume=False, force=True)
    start(tmp_path / "run")
    assert [each.name for each in (tmp_path / "run").iterdir()] == [RECORD]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"starts": 3}'])
def test_a_damaged_record_is_told(tmp_path, content):
    start(tmp_path / "run")
    (tmp_path / "run" / RECORD).write_text(content)
    with pytest.raises(DeployError, match="is damaged"):
        start(tmp_path / "run", resume=True)


def test_no_room_is_told(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DeployError, match="No space left on device"):
        start(tmp_path / "run")


class TestPlace:
    def test_new_and_empty_folders_are_free(self, tmp_path):
        check_place(tmp_path / "a" / "b", resume=False, force=False)
        check_place(tmp_path, resume=False, force=False)

    def test_a_run_is_in_the_way_unless_it_goes_on_or_is_replaced(self, tmp_path):
        start(tmp_path / "run")
        with pytest.raises(UsageError, match=r"run: exists already; .* --resume or --force"):
            check_place(tmp_path / "run", resume=False, force=False)
        check_place(tmp_path / "run", resume=True, force=False)
        check_place(tmp_path / "run", resume=False, force=True)

    def test_what_is_no_run_is_never_replaced(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        for path in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
            with pytest.raises(UsageError, match="is not a run, so --force will not replace it"):
                check_place(path, resume=False, force=True)

    def test_without_a_run_there_is_nothing_to_resume(self, tmp_path):
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(UsageError, match="there is no run to resume"):
                check_place(path, resume=True, force=False)

    def test_a_place_below_a_file_is_none(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="file/run: cannot be written"):
            check_place(tmp_path / "file" / "run", resume=False, force=False)
