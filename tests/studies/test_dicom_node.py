"""The node that is killed while series come in: with few of them, and how the script judges what it finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")
pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
import scripts

from msformer_deploy.bundle.folder import Bundle


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return scripts.load("dicom_node")


def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["dicom_node.py", *map(str, arguments)])
    code: int = script.main()
    return code


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.needs_debian("orthanc")
@pytest.mark.needs_debian("orthanc-dicomweb")
@pytest.mark.parametrize("send_by", ["store", "web"])
def test_a_few_series_and_kills(
    script: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send_by: str
) -> None:
    report = tmp_path / "report.json"
    options = ("--series", 6, "--kills", 2, "--bundle", tiny_bundle.path, "--send-by", send_by, "--json", report)
    assert call(script, monkeypatch, *options) == 0
    facts = json.loads(report.read_text())
    assert (facts["acknowledged"], facts["whole"], facts["segs_of_a_series"]) == (6, 6, {"1": 6})
    assert (facts["kills"], facts["exit_code"], facts["failed"]) == (2, 0, 0)


@pytest.mark.parametrize(
    ("segmentations", "acknowledged", "failed", "code"),
    [
        ({1: [3], 2: [3]}, 2, 0, 0),
        ({1: [3], 2: [3, 3]}, 2, 0, 1),
        ({1: [3], 2: [2]}, 2, 0, 1),
        ({1: [3]}, 2, 0, 1),
        ({1: [3], 2: [3]}, 1, 0, 1),
        ({1: [3], 2: [3]}, 2, 1, 1),
    ],
)
def test_it_fails_unless_each_series_has_one_whole_seg(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    segmentations: dict[int, list[int]],
    acknowledged: int,
    failed: int,
    code: int,
) -> None:
    from contextlib import nullcontext

    found = script.Archive(0, 0)
    found.segmentations = lambda: {script.study_uid(number): each for number, each in segmentations.items()}
    monkeypatch.setattr(script, "archive", lambda _: nullcontext(found))
    facts = {"acknowledged": acknowledged, "exit_code": 0, "failed": failed}
    monkeypatch.setattr(script, "disturbed", lambda *_: dict(facts))
    assert call(script, monkeypatch, "--series", 2, "--slices", 3) == code


@pytest.mark.parametrize("arguments", [("--series", 0), ("--slices", 0), ("--kills", -1)])
def test_numbers_out_of_range(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, int]
) -> None:
    assert call(script, monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith("error: --series and --slices must be 1 or more")


def test_without_an_archive_it_says_what_to_install(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "PLUGIN", tmp_path / "absent")
    assert call(script, monkeypatch, "--series", 1) == 1
    assert "apt-get install orthanc orthanc-dicomweb" in capsys.readouterr().err
