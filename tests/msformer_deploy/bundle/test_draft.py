"""Bundles that are being made: they appear at once or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.bundle.draft import Draft, new_bundle
from msformer_deploy.bundle.folder import HEAD, MANIFEST, REQUIRED, Bundle, load_bundle
from msformer_deploy.errors import BundleError, DeployError, UsageError


@pytest.fixture
def draft(tiny_bundle: Bundle, tmp_path: Path) -> Draft:
    """Of the small bundle, all of its files listed."""
    for name in REQUIRED:
        shutil.copyfile(tiny_bundle.file(name), tmp_path / name)
    made = Draft(tmp_path, tiny_bundle.facts)
    made.add(*REQUIRED)
    return made


def test_before_it_is_finished_a_draft_is_a_bundle_in_memory(draft: Draft, tiny_bundle: Bundle) -> None:
    made = draft.as_bundle()
    assert made.manifest == tiny_bundle.manifest
    assert (made.path, made.sizes, made.refinement) == (draft.folder, tiny_bundle.sizes, tiny_bundle.refinement)
    assert not (draft.folder / MANIFEST).exists()
    draft.facts["precision"] = "fp16"
    (draft.folder / "encoder.fp16.onnx").touch()
    assert (draft.as_bundle().precision, draft.as_bundle().precisions) == ("fp16", ("fp32",))
    (draft.folder / "segmenter.fp16.onnx").touch()
    draft.add("encoder.fp16.onnx", "segmenter.fp16.onnx")
    assert draft.as_bundle().precisions == ("fp32", "fp16")


def test_finished_it_is_the_same_bundle(draft: Draft, tiny_bundle: Bundle) -> None:
    assert draft.finish() == load_bundle(draft.folder)
    assert (draft.folder / MANIFEST).read_bytes() == tiny_bundle.file(MANIFEST).read_bytes()


def test_what_was_not_listed_is_no_part_of_it(draft: Draft) -> None:
    (draft.folder / "notes.txt").write_text("mine")
    assert "notes.txt" not in draft.finish().manifest["files"]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "cut"])
def test_a_file_that_changed_after_it_was_listed_is_found_at_the_end(draft: Draft, damage: Any) -> None:
    damage(draft.folder / HEAD)
    with pytest.raises(BundleError, match=HEAD):
        draft.finish()


def test_a_folder_is_listed_and_removed_with_all_its_files(draft: Draft) -> None:
    def listed() -> set[str]:
        return draft.as_bundle().manifest["files"].keys() - set(REQUIRED)

    for name in ("engines/a/model.engine", "engines/a/engine.json", "engines/ab/model.engine"):
        (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (draft.folder / name).write_text(name)
    draft.add("engines/a", "engines/ab")
    assert listed() == {"engines/a/model.engine", "engines/a/engine.json", "engines/ab/model.engine"}
    (draft.folder / "engines/a/engine.json").unlink()
    draft.add("engines/a")
    assert listed() == {"engines/a/model.engine", "engines/ab/model.engine"}
    draft.remove("engines/a")
    assert listed() == {"engines/ab/model.engine"}
    assert not (draft.folder / "engines/a").exists()


def test_files_in_the_manifest_are_in_order(draft: Draft) -> None:
    draft.add(*reversed(REQUIRED))
    draft.finish()
    names = list(json.loads((draft.folder / MANIFEST).read_text())["files"])
    assert names == sorted(names)


class TestNewBundle:
    @staticmethod
    def fill(path: Path, text: str = "new", force: bool = False) -> None:
        with new_bundle(path, force) as folder:
            (folder / MANIFEST).write_text(text)

    @staticmethod
    def names(folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

    def test_it_appears_with_its_parents(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "a" / "b")
        assert self.names(tmp_path) == ["a", "a/b", f"a/b/{MANIFEST}"]

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
    def test_others_may_read_it(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "b")
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755

    def test_an_empty_folder_may_be_taken(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        self.fill(tmp_path / "b")
        assert self.names(tmp_path) == ["b", f"b/{MANIFEST}"]

    def test_force_replaces_a_bundle_whole(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "b")
        (tmp_path / "b" / "old").touch()
        self.fill(tmp_path / "b", "newer", force=True)
        assert self.names(tmp_path) == ["b", f"b/{MANIFEST}"]
        assert (tmp_path / "b" / MANIFEST).read_text() == "newer"

    def test_a_link_to_a_bundle_stays_a_link(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "b")
        (tmp_path / "link").symlink_to("b")
        self.fill(tmp_path / "link", "newer", force=True)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "b" / MANIFEST).read_text() == "newer"
        assert self.names(tmp_path) == ["b", f"b/{MANIFEST}", "link"]

    @pytest.mark.parametrize(("name", "force"), [(MANIFEST, False), ("mine.txt", False), ("mine.txt", True)])
    def test_what_may_not_be_replaced_is_untouched(self, tmp_path: Path, name: str, force: bool) -> None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / name).write_text("mine")
        with pytest.raises(UsageError, match="not a bundle" if force else "--force"):
            self.fill(tmp_path / "b", force=force)
        assert self.names(tmp_path) == ["b", f"b/{name}"]
        assert (tmp_path / "b" / name).read_text() == "mine"

    @pytest.mark.parametrize("force", [False, True])
    def test_a_file_is_never_replaced(self, tmp_path: Path, force: bool) -> None:
        (tmp_path / "b").write_text("mine")
        with pytest.raises(UsageError):
            self.fill(tmp_path / "b", force=force)
        with pytest.raises(UsageError, match="cannot be written"):
            self.fill(tmp_path / "b" / "below", force=force)
        assert (tmp_path / "b").read_text() == "mine"

    @pytest.mark.parametrize(
        ("failure", "seen"),
        [
            (KeyboardInterrupt(), KeyboardInterrupt),
            (ValueError("no"), ValueError),
            (OSError(errno.ENOSPC, "No space left on device"), DeployError),
        ],
        ids=["interrupted", "failed", "disk full"],
    )
    @pytest.mark.parametrize("existing", [False, True])
    def test_a_failure_leaves_what_was_there(
        self, tmp_path: Path, failure: BaseException, seen: type[BaseException], existing: bool
    ) -> None:
        if existing:
            self.fill(tmp_path / "b", "old")
        before = self.names(tmp_path)
        with pytest.raises(seen), new_bundle(tmp_path / "b", force=True) as folder:
            (folder / MANIFEST).write_text("half")
            raise failure
        assert self.names(tmp_path) == before
        assert not existing or (tmp_path / "b" / MANIFEST).read_text() == "old"

    @pytest.mark.parametrize("fails", [1, 2])
    def test_an_interruption_at_the_last_moment_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: Any, fails: int
    ) -> None:
        self.fill(tmp_path / "b", "old")
        real, calls = os.replace, []

        def replace(source: Path, target: Path) -> None:
            calls.append(source)
            if len(calls) == fails:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            self.fill(tmp_path / "b", force=True)
        assert self.names(tmp_path) == ["b", f"b/{MANIFEST}"]
        assert (tmp_path / "b" / MANIFEST).read_text() == "old"
