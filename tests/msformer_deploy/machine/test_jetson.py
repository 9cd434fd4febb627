"""The two files that identify a Jetson, with the content of real boards."""

from __future__ import annotations

from typing import Any

import pytest

from msformer_deploy.machine import jetson
from msformer_deploy.machine.jetson import Jetson, find_jetson

ORIN = "NVIDIA Jetson AGX Orin Developer Kit\0"
RELEASE = (
    "# R{} (release), REVISION: {}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
)


@pytest.fixture
def board(monkeypatch: Any, tmp_path: Any) -> Any:
    def write(release: str | None, model: str | None) -> None:
        for name, text in (("RELEASE", release), ("MODEL", model)):
            path = tmp_path / name
            if text is not None:
                path.write_text(text, encoding="utf-8")
            monkeypatch.setattr(jetson, name, path)

    return write


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack", "wheels"),
    [
        (("32", "7.1"), "32.7.1", 4, "update to JetPack 6 or newer"),
        (("35", "4.1"), "35.4.1", 5, "CUDA and TensorRT of JetPack 5 are too old"),
        (("36", "4.3"), "36.4.3", 6, "Jetson package index for JetPack 6"),
        (("38", "2.0"), "38.2.0", 7, "CUDA 13"),
        (("39", "2.0"), "39.2.0", 7, "Jetson package index for JetPack 7"),
        (("77", "0.0"), "77.0.0", None, "for this JetPack"),
    ],
)
def test_a_board_says_its_jetpack(board: Any, release: Any, l4t: str, jetpack: int | None, wheels: str) -> None:
    board(RELEASE.format(*release), ORIN)
    found = find_jetson()
    assert found == Jetson("NVIDIA Jetson AGX Orin Developer Kit", l4t)
    assert found.jetpack == jetpack
    assert found.too_old == (jetpack in (4, 5))
    assert wheels in found.wheels
    version = f"JetPack {jetpack}, " if jetpack else ""
    assert str(found) == f"NVIDIA Jetson AGX Orin Developer Kit ({version}L4T {l4t})"


def test_a_container_without_the_release_file(board: Any) -> None:
    board(None, ORIN)
    found = find_jetson()
    assert found is not None
    assert (found.l4t, found.jetpack, found.too_old) == ("", None, False)
    assert str(found) == "NVIDIA Jetson AGX Orin Developer Kit (L4T unknown)"
    assert "Jetson package index" in found.wheels


@pytest.mark.parametrize("model", [None, "Raspberry Pi 5 Model B Rev 1.0\0"])
def test_other_machines_are_none(board: Any, model: str | None) -> None:
    board(None, model)
    assert find_jetson() is None
