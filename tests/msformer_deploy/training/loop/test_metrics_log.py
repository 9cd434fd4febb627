"""Rows of metrics: written whole, read back as they were, cut where a run goes on."""

from __future__ import annotations

import pytest

from msformer_deploy import files
from msformer_deploy.errors import DeployError
from msformer_deploy.training.loop.metrics_log import MetricsLog, read


def test_rows_come_back_and_what_is_missing_is_empty(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv")
    rows = [{"epoch": 1, "loss/total": 1 / 3}, {"epoch": 2, "loss/total": 1e-17, "score/dice": float("inf")}]
    for row in rows:
        log.append(row)
    assert read(tmp_path / "metrics.csv") == rows
    assert (tmp_path / "metrics.csv").read_text().splitlines()[:2] == [
        "epoch,loss/total,score/dice",
        "1,0.3333333333333333,",
    ]


def test_a_run_goes_on_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path)
    for epoch in (1, 2, 3):
        log.append({"epoch": epoch, "loss/total": epoch / 7})
    resumed = MetricsLog(path)
    resumed.resume(2)
    resumed.append({"epoch": 3, "loss/total": 9.0})
    assert [row["loss/total"] for row in read(path)] == [1 / 7, 2 / 7, 9.0]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "epoch,a\n1,2\n", "epoch,a\n1,2\n3,4\n", "epoch,a\n1,2\n2,3\n2,3\n"])
def test_rows_that_are_not_of_every_epoch_are_told(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(DeployError, match="lacks rows for some of the 2 epochs"):
        MetricsLog(tmp_path / "metrics.csv").resume(2)


@pytest.mark.parametrize("content", [b"", b"epoch\nx\n", b"epoch\n1,2\n", b"\xff\xfe\x00", None])
def test_other_files_are_told(tmp_path, content):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeployError, match="cannot be read as the metrics of a run"):
        read(path)


def test_a_write_that_fails_leaves_the_rows_before(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "metrics.csv")
    log.append({"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DeployError, match="No space left"):
        log.append({"epoch": 2})
    assert read(tmp_path / "metrics.csv") == [{"epoch": 1}]
