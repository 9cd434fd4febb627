"""Bundles of the package that are damaged, missing, or asked for what they have not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from msformer_deploy.bundle import shipped
from msformer_deploy.bundle.shipped import FOLDER, default_bundle, shipped_bundle
from msformer_deploy.errors import BundleError, UsageError
from msformer_deploy.registry import find_system


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FOLDER, tmp_path / "shipped")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_a_damaged_one_says_to_install_again(copy: Path) -> None:
    graph = copy / "msformer-97-1" / "segmenter.onnx"
    graph.write_bytes(b"?" + graph.read_bytes()[1:])
    with pytest.raises(BundleError, match=r"SHA-256 is not the manifest's; install msformer-deploy again$"):
        default_bundle()


def test_a_missing_one_says_to_install_again(copy: Path) -> None:
    shutil.rmtree(copy)
    assert shipped_bundle(find_system("msformer").sized()) is None
    with pytest.raises(BundleError, match=r"is missing from the package; install msformer-deploy again$"):
        default_bundle()


def test_a_precision_that_it_has_not_is_no_reason_to_change_the_package() -> None:
    with pytest.raises(UsageError, match="has the whole method only; make a complete one") as raised:
        default_bundle().graph_file("segmenter", "fp16")
    assert "--update" not in str(raised.value)


def test_it_cannot_be_updated(copy: Path) -> None:
    from msformer_deploy.export.build import Additions, update_bundle

    with pytest.raises(UsageError, match="has the whole method only; make a complete one"):
        update_bundle(default_bundle(), Additions(("fp16",)))
