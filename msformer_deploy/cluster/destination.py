"""Where the workers of a cluster write: a folder that all machines share, or an address that fsspec knows."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendUnavailable, DeployError, UsageError, printable
from ..images.inputs import SLICES

if TYPE_CHECKING:
    from ..images.inputs import Item


class Destination:
    """A place for results.

    Args:
        place: a folder, or an address such as ``s3://bucket/results``.

    Raises:
        UsageError: nothing knows addresses of this kind.
        BackendUnavailable: the package for addresses of this kind is missing.
    """

    def __init__(self, place: Path | str) -> None:
        import fsspec

        self.place = place
        self._remote = not isinstance(place, Path)
        try:
            self._files, self._root = fsspec.core.url_to_fs(str(place), auto_mkdir=True)
        except ImportError as error:
            protocol = str(place).partition("://")[0]
            raise BackendUnavailable(
                f"{printable(str(place))}: addresses that begin with {protocol}:// need a package that is not installed"
                f" ({error}); install it on all machines"
            ) from error
        except Exception as error:  # of the package for these addresses, and of any kind
            raise UsageError(f"{printable(str(place))}: cannot be used ({_line(error)}); check the address") from error

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """The folder in which results are made: the place itself, or for an address a temporary one."""
        if isinstance(self.place, Path):
            yield self.place
        else:
            with tempfile.TemporaryDirectory(prefix="msformer-deploy-") as scratch:
                yield Path(scratch)

    def names(self, depth: int | None = None) -> set[str]:
        """All files of an address, relative to it; of a folder none, for its files are seen where they are made.

        Args:
            depth: how many levels of folders are listed; None for all.

        Raises:
            DeployError: it cannot be listed.
        """
        if not self._remote:
            return set()
        with self._failing():
            try:
                found: list[str] = self._files.find(self._root, maxdepth=depth)
            except FileNotFoundError:
                return set()
        start = len(self._root.rstrip("/")) + 1
        return {name[start:] for name in found}

    def stand_in(self, items: Iterable[Item], folder: Path) -> None:
        """Put records of earlier results, and empty files in place of their pictures, into the folder of an address.

        So what looks for results in a folder finds those that are whole at the address.

        Raises:
            DeployError: a record cannot be read.
        """
        if not self._remote:
            return
        start = len(self._root.rstrip("/")) + 1
        listed: dict[str, list[str]] = {}  # of each folder, which may hold the results of many items
        for item in items:
            record = item.outputs(folder).record
            name = record.relative_to(folder).as_posix()
            with self._failing():
                if not self._files.exists(self._at(name)):
                    continue
                content: bytes = self._files.cat_file(self._at(name))
                place = self._at(name).rpartition("/")[0]
                if place not in listed:
                    listed[place] = self._files.find(place, maxdepth=2)
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_bytes(content)
            for each in (path[start:] for path in listed[place]):
                if each.rpartition("/")[2] != record.name and each.startswith(item.relative.as_posix()):
                    (folder / each).parent.mkdir(parents=True, exist_ok=True)
                    (folder / each).touch()

    def send(self, folder: Path, last: Iterable[str] = (), replaced: Sequence[str] = ()) -> None:
        """Write the files of a folder to an address; those of a folder are there already.

        Args:
            folder: of :meth:`folder`.
            last: names of files that say that the others are whole.
            replaced: names of files of earlier results, which are removed, and of folders with pictures of slices.

        Raises:
            DeployError: the address cannot be written.
        """
        if not self._remote:
            return
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        ends = [name for name in last if name in names]
        with self._failing():
            for name in (*ends, *replaced):
                for path in self._files_of(name):
                    with suppress(FileNotFoundError):
                        self._files.rm_file(path)
            for name in (*sorted(names.difference(ends)), *ends):
                self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(folder / name), self._at(name))

    def mark(self) -> str:
        """Write a small file by which others see whether they have the same place; its name.

        Raises:
            DeployError: the place cannot be written.
        """
        name = f".{secrets.token_hex(8)}.tmp"
        with self._failing():
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(self._at(name), b"msformer-deploy")
        return name

    def has(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            DeployError: the place cannot be read.
        """
        with self._failing():
            found: bool = self._files.exists(self._at(name))
        return found

    def remove(self, name: str) -> None:
        """Remove a file that :meth:`mark` wrote."""
        with suppress(Exception):  # a small file that stays is no failure of the run
            self._files.rm_file(self._at(name))

    def _files_of(self, name: str) -> list[str]:
        """The file of a name, or all files in it if it is that of a folder with pictures of slices."""
        if not name.endswith(SLICES):
            return [self._at(name)]
        try:
            found: list[str] = self._files.find(self._at(name))
        except FileNotFoundError:
            return []
        return found

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each package for addresses has errors of its own
            raise DeployError(
                f"{printable(str(self.place))}: cannot be read or written ({_line(error)}); check the place and its"
                " permissions"
            ) from error


def _line(error: Exception) -> str:
    return printable(": ".join([type(error).__name__, *str(error).splitlines()[:1]]))
