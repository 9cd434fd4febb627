"""The bundle a command runs: of the seed asked for, in a place of its own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.bundle import shipped
from msformer_deploy.bundle.folder import MANIFEST
from msformer_deploy.commands.bundles import open_bundle

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cache folder is named otherwise here")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """Places and seeds of the bundles that would have been made."""
    made: list[tuple[Path, int]] = []

    def build(system: object, path: Path, *, seed: int = 0, **_: Any) -> None:
        made.append((path, seed))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("msformer_deploy.export.build.build_bundle", build)
    return made


def test_a_seed_is_a_bundle_of_its_own(built, tmp_path, capsys):
    for seed in (0, 1, 2):
        open_bundle(None, None, False, seed)
    assert [seed for _, seed in built] == [0, 1, 2]
    places = [path.relative_to(tmp_path).name for path, _ in built]
    assert places[1:] == [f"{places[0]}-seed1", f"{places[0]}-seed2"]
    assert [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "making the default bundle",
        "making a bundle of seed 1",
        "making a bundle of seed 2",
    ]


def test_a_default_bundle_of_an_older_schema_is_made_again(built, tiny_bundle, tmp_path, capsys):
    open_bundle(None, None, True)
    ((place, _),) = built
    shutil.copytree(tiny_bundle.path, place)
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 1}))
    open_bundle(None, None, True)
    assert [path for path, _ in built] == [place, place]
    assert not place.exists(), "nothing of it is left to be taken for the new one"
    assert "schema version 1 is older" in capsys.readouterr().err


def test_one_of_an_earlier_state_of_the_same_version_is_not_taken(built, tiny_bundle, tmp_path, monkeypatch):
    """Exports change between releases too: an older one had no part that volumes are learned from."""
    open_bundle(None, None, True)
    ((place, _),) = built
    shutil.copytree(tiny_bundle.path, place)
    assert open_bundle(None, None, True).path == place
    shutil.copytree(shipped.FOLDER, tmp_path / "shipped")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    assert open_bundle(None, None, True).path == place
    (manifest,) = (tmp_path / "shipped").glob(f"{place.name}/{MANIFEST}")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seed": 0}))  # as another export
    open_bundle(None, None, True)
    assert [path.name for path, _ in built] == [place.name] * 2
    assert built[0] != built[1]


def test_a_named_bundle_is_taken_as_it_is(built, tiny_bundle):
    assert open_bundle(tiny_bundle.path, None, True).path == tiny_bundle.path
    assert built == []
