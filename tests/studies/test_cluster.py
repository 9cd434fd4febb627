"""The study of two nodes: what it compares, and what it finds wrong. The study itself runs on few images."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import load

from msformer_deploy import DeployError

cluster = load("cluster")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_times_are_left_out_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text("times")
    (tmp_path / "sub" / "mask.png").write_bytes(b"pixels")
    found = []
    for seconds, area in ((1, 5), (2, 5), (1, 6)):
        content = {"images": [{"seconds": {"total": seconds}, "area": area}], "images_per_second": seconds}
        (tmp_path / "report.json").write_text(json.dumps(content))
        found.append(cluster.digests(tmp_path))
    assert found[0].keys() == {"report.json", "sub/mask.png"}
    assert found[0] == found[1] != found[2]


@linux_only
def test_a_tree_is_a_process_and_what_it_started() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(0, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = cluster.tree(process.pid)
        process.communicate(b"\n")
    assert found[0] == process.pid
    assert len(found) == 2
    assert cluster.tree(process.pid) == []


@linux_only
@pytest.mark.parametrize(("names", "told"), [(["a", "a"], "2 images, 1 different"), (["a"], "1 images")])
def test_an_image_that_is_missing_or_there_twice_is_a_failure(
    tmp_path: Path, monkeypatch: Any, names: list[str], told: str
) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"images": [{"input": name} for name in names]}))
    monkeypatch.setattr(cluster, "COMMAND", (sys.executable, "-c", ""))
    with pytest.raises(DeployError, match=told):
        cluster.segmented(tmp_path, tmp_path, 2)


@linux_only
def test_a_command_that_fails_is_a_failure(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cluster, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('no')"))
    with pytest.raises(DeployError, match="exit code 1: no"):
        cluster.segmented(tmp_path, tmp_path, 1)


@linux_only
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.needs("ray")
@pytest.mark.timeout(600)
def test_two_nodes_and_one_that_dies_leave_what_one_run_leaves(capsys: Any) -> None:
    import tempfile

    # Paths of sockets are short, and those of a test are not.
    with tempfile.TemporaryDirectory(prefix="cl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        arguments = argparse.Namespace(folder=Path(folder, "new"), images=60, json=Path(folder, "scores.json"))
        cluster.run(arguments)
        rows = json.loads(arguments.json.read_text())["rows"]
    assert [row["run"] for row in rows] == ["plain run", "one node", "two nodes", "two nodes, one killed"]
    assert rows[3]["killed_after"] > 0
    assert "files are the same" in capsys.readouterr().out
