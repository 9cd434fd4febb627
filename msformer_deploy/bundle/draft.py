"""A bundle that is being made: it appears whole, or nothing does."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DeployError, UsageError
from ..registry import RefineSettings
from .folder import MANIFEST, SCHEMA_VERSION, Bundle, File, ModelSizes, load_bundle, sha256


class Draft:
    """A bundle whose files lie in a folder and whose manifest is in memory until :meth:`finish`.

    Args:
        folder: of the files.
        facts: what the manifest will say beside its schema and files: at least ``system``, ``seed``, ``model`` (sizes)
            and ``refinement``. It may be added to.
        files: what is known of files that lie there already.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], files: Mapping[str, File] | None = None) -> None:
        self.folder, self.facts = folder, facts
        self._files: dict[str, File] = dict(files or {})

    def add(self, *names: str) -> None:
        """List files, or all files of folders, as they are now. Others of such a folder are listed no more."""
        for name in names:
            self._forget(name)
            path = self.folder / name
            for each in (path, *path.rglob("*")):
                if each.is_file():
                    entry = File(sha256=sha256(each), bytes=each.stat().st_size)
                    self._files[each.relative_to(self.folder).as_posix()] = entry

    def remove(self, name: str) -> None:
        """Delete a folder with all its files."""
        self._forget(name)
        shutil.rmtree(self.folder / name)

    def _forget(self, name: str) -> None:
        self._files = {
            each: entry for each, entry in self._files.items() if each != name and not each.startswith(f"{name}/")
        }

    def as_bundle(self) -> Bundle:
        """The bundle as it is now, not verified: the parts of an export open what they have just made."""
        files = dict(sorted(self._files.items()))
        manifest = {"schema_version": SCHEMA_VERSION, **self.facts, "files": files}
        sizes, refinement = ModelSizes(**self.facts["model"]), RefineSettings(**self.facts["refinement"])
        return Bundle(self.folder, manifest, sizes, refinement)

    def finish(self) -> Bundle:
        """Write the manifest, then open the folder as everybody will, verified.

        Raises:
            BundleError: the folder does not hold what was listed.
        """
        text = json.dumps(self.as_bundle().manifest, indent=1)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return load_bundle(self.folder)


@dataclass(frozen=True)
class Kind:
    """A kind of folder that an export makes.

    Attributes:
        name: with its article, for messages.
        marker: the file that every folder of this kind holds; no other folder is ever replaced.
        option: that names the place.
    """

    name: str
    marker: str
    option: str


BUNDLE = Kind("a bundle", MANIFEST, "--output")


def free_place(path: Path, force: bool, kind: Kind = BUNDLE) -> Path:
    """Where a new folder for ``path`` goes: a link to one stays a link.

    Raises:
        UsageError: ``path`` exists and may not be replaced.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not force:
            raise UsageError(f"{path}: exists already; choose another {kind.option} or pass --force")
        if not (path / kind.marker).is_file():
            raise UsageError(f"{path}: exists and is not {kind.name}, so --force will not replace it")
    return path


def new_bundle(path: Path, force: bool = False) -> AbstractContextManager[Path]:
    """Yield a temporary folder to fill, which becomes the bundle ``path``: :func:`new_folder`."""
    return new_folder(path, force, BUNDLE)


@contextmanager
def new_folder(path: Path, force: bool, kind: Kind) -> Iterator[Path]:
    """Yield a temporary folder to fill; when the block succeeds it becomes ``path``, else nothing is left of it.

    Args:
        path: the folder to make.
        force: replace an existing folder of the kind.
        kind: of the folder.

    Raises:
        UsageError: if ``path`` exists and may not be replaced, or its parent cannot be written.
        DeployError: the disk is full or fails.
    """
    path = free_place(path, force, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another {kind.option}") from error
    try:
        yield temporary
        # Temporary folders and weights are written for their owner alone; a bundle is copied and served.
        for path_inside in (temporary, *temporary.rglob("*")):
            path_inside.chmod(0o755 if path_inside.is_dir() else 0o644)
        _replace(temporary, path)
    except OSError as error:
        raise DeployError(
            f"{path}: cannot be written ({error.strerror or error}); make room, then try again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, path: Path) -> None:
    """Rename ``folder`` to ``path``; what was there is removed only after that."""
    if not path.exists():
        os.replace(folder, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    former = aside / "former"
    try:
        os.replace(path, former)
        os.replace(folder, path)
    except BaseException:
        if former.exists() and not path.exists():
            os.replace(former, path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
