"""The table of install sizes; pip itself is not run here, because each row takes minutes."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import scripts
from locations import ROOT

from msformer_deploy.errors import DeployError


@pytest.fixture(scope="module")
def script():
    return scripts.load("install_sizes")


def test_a_row_shows_what_decides_its_size(script):
    versions = {"numpy": "2.4.6", "onnxruntime": "1.31.1", "torch": "2.13.0+cpu"}
    assert script.row("cpu,torch", 1234.5, versions) == (
        f"| {script.ROWS['cpu,torch']} | `[cpu,torch]` | 1,234 MB | onnxruntime 1.31.1, torch 2.13.0+cpu |"
    )


def test_the_table_of_the_page_has_its_rows(script):
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (.+) \| `\[([\w,]+)\]` \| [\d,]+ MB \| .+ \|$", page, re.MULTILINE)
    assert {(extras, wanted) for wanted, extras in shown} <= set(script.ROWS.items())
    assert len(shown) >= len(script.ROWS) - 1, "only the row of the GPU may be missing"


def test_what_cannot_be_installed_is_one_line(script, tmp_path: Path):
    with pytest.raises(DeployError, match=r"^pip cannot install .*none\.whl\[cpu\]: .+$") as raised:
        script.measured(f"{tmp_path / 'none.whl'}[cpu]")
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_the_size_is_that_of_the_files(script, tmp_path: Path):
    wheel = tmp_path / "nothing-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nothing.bin", bytes(3_000_000))
        archive.writestr("nothing-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1\n")
        archive.writestr("nothing-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("nothing-1.dist-info/RECORD", "")
    size, _ = script.measured(str(wheel))
    assert size == pytest.approx(3, abs=0.01)
