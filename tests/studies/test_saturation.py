"""The script that measures what 8-bit arithmetic makes of the int8 encoder, on a small bundle."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scripts
from arithmetic import ARITHMETIC, SATURATES
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import BackendUnavailable


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("saturation")


def ran(script: ModuleType, bundle: Bundle, folder: Path, picture: np.ndarray) -> dict[str, Any]:
    """What the script writes for one image."""
    Image.fromarray(picture).save(folder / "a.png")
    script.main(
        Namespace(
            images=[folder / "a.png"], bundle=bundle.path, threads=1, json=folder / "a.json", markdown=folder / "a.md"
        )
    )
    return dict(json.loads((folder / "a.json").read_text()))


def test_weights_of_7_bits_are_right_on_this_cpu_and_those_of_8_where_nothing_saturates(
    script: ModuleType, tiny_bundle: Bundle, picture: np.ndarray, tmp_path: Path
) -> None:
    facts = ran(script, tiny_bundle, tmp_path, picture)
    assert facts["images"] == ["noise", "a.png"]
    for rows in facts["errors"].values():
        assert list(rows) == ["exact", "onnxruntime", "x64quantprecision", "openvino"]
        assert all(0 < error < 5 for error in rows["exact"]), "the quantisation itself"
    for name, row in facts["errors"]["7"].items():
        assert row == pytest.approx(facts["errors"]["7"]["exact"], abs=0.2), f"{name} on {ARITHMETIC}"
    if SATURATES is not None:
        assert facts["sums"] == ("are cut off" if SATURATES else "are exact")
        eight = facts["errors"]["8"]
        assert (eight["onnxruntime"][0] > 2 * eight["exact"][0]) == SATURATES, ARITHMETIC
    table = (tmp_path / "a.md").read_text().splitlines()
    assert table[0].endswith(f"sums of two 8-bit products {facts['sums']}.")
    assert table[2] == "| weights | run by | noise | a.png |"
    assert len(table) == 4 + 8


def test_without_openvino_its_rows_are_left_out_and_a_line_says_so(
    script: ModuleType,
    tiny_bundle: Bundle,
    picture: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing() -> None:
        raise BackendUnavailable("openvino is not here")

    monkeypatch.setattr(script, "open_core", missing)
    facts = ran(script, tiny_bundle, tmp_path, picture)
    assert [list(rows) for rows in facts["errors"].values()] == [["exact", "onnxruntime", "x64quantprecision"]] * 2
    assert capsys.readouterr().err.splitlines() == ["openvino is not here"] * 2


def test_errors_are_per_cent_of_the_largest_feature(script: ModuleType) -> None:
    right = np.array([[[[-4.0, 2.0]]]], np.float32)
    assert script.errors(lambda image: right + image, [np.float32(0.1), np.float32(-1)], [right, right]) == [
        pytest.approx(2.5),
        pytest.approx(25),
    ]
