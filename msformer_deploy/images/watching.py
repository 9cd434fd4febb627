"""Folders that fill while a run goes on: which of their images and volumes are complete.

Folders are listed again and again, because shares on a network report no changes. A file is complete when its size, its
time and its number in the file system have stayed the same for a while, by the clock of this process: the clock of a
share may be another one.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .inputs import DICOM_SUFFIXES, Item, PassedOver, has_known_suffix, hidden, walk

SETTLE = 2.0  # seconds without a change, after which a file is complete
SERIES_SETTLE = 10.0  # the same of each file of a DICOM series, between whose slices a sender may pause
_DETACHED = (".nhdr", ".mhd")  # headers, whose voxels are in other files of their folder


class Stamp(NamedTuple):
    """What changes with a file: bytes, nanoseconds, and the number of the file."""

    size: int
    changed: int
    number: int


@dataclass(frozen=True)
class Arrived:
    """What one look at the folders has found.

    Attributes:
        items: that are complete, and that are new or have changed since they were given.
        superseded: that were given and are no images of their own any more, such as the first slice of a series.
    """

    items: list[Item]
    superseded: list[Item]


class Watcher:
    """Looks at folders, and gives each image and volume once, and again when it has changed.

    Args:
        folders: with their subfolders.
        output: a folder that is passed over.
        clock: gives seconds.
    """

    def __init__(self, folders: Sequence[Path], output: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folders, self._output, self._clock = folders, output, clock
        self._seen: dict[Path, tuple[Stamp, float]] = {}  # and since when a file is so
        self._handled: dict[Path, Stamp] = {}  # files that need no look until they change
        self._given: dict[Path, tuple[Item, dict[Path, Stamp]]] = {}  # by the item's path, with its files as they were
        self.passed_over = PassedOver()
        self.unreachable: set[Path] = set()

    def look(self) -> Arrived:
        """What is complete now.

        Files in a folder that cannot be listed now, such as a share that is away, count as unchanged;
        :attr:`unreachable` has these folders.

        Raises:
            UsageError: a subfolder cannot be listed, and there are new files in others.
        """
        now = self._clock()
        self._see(now)
        changed = [path for path, (stamp, _) in self._seen.items() if self._handled.get(path) != stamp]
        gone = [item for item, files in self._given.values() if not files.keys() & self._seen.keys()]
        for item in gone:  # its results stay; if it comes again, it is new
            del self._given[item.path]
        self._handled = {path: stamp for path, stamp in self._handled.items() if path in self._seen}
        if not any(self._quiet(path, now) >= SETTLE for path in changed):
            return Arrived([], [])
        items = self._items()
        complete, waiting = [], set[Path]()
        for item, files in self._with_files(items):
            stamps = {path: self._seen[path][0] for path in files if path in self._seen}
            if self._given.get(item.path) == (item, stamps):
                continue
            settle = SERIES_SETTLE if _is_dicom(item) else SETTLE
            if len(stamps) == len(files) and all(self._quiet(path, now) >= settle for path in files):
                complete.append(item)
                self._given[item.path] = (item, stamps)
                self._handled.update(stamps)
            else:
                waiting.update(files)
        for path in changed:  # what is neither an image nor a part of one
            if path not in waiting and self._quiet(path, now) >= SETTLE:
                self._handled[path] = self._seen[path][0]
        current = {item.path for item in items}
        superseded = [
            item
            for item, files in self._given.values()
            # Not deleted just now, nor on a share that is away.
            if item.path not in current and not self.unreachable and any(os.path.exists(path) for path in files)
        ]
        for item in superseded:
            del self._given[item.path]
        return Arrived(complete, superseded)

    def _quiet(self, path: Path, now: float) -> float:
        """For how many seconds a file has not changed."""
        return now - self._seen[path][1]

    def _see(self, now: float) -> None:
        """Take note of all files as they are now."""
        former, self._seen, self.unreachable = self._seen, {}, set()
        away = None if not self._output.is_dir() else _identity(self._output.stat())
        entered = {away}
        pending = list(self._folders)
        while pending:
            folder = pending.pop()
            try:
                identity = _identity(folder.stat())
                if identity in entered:
                    continue
                entered.add(identity)
                with os.scandir(folder) as entries:
                    visible = [entry for entry in entries if not hidden(entry.name)]
            except OSError:
                self.unreachable.add(folder)
                self._seen |= {path: known for path, known in former.items() if folder in path.parents}
                continue
            for entry in visible:
                try:
                    status = entry.stat()
                except OSError:  # deleted at this moment, or a link to nothing
                    continue
                path = Path(entry.path)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)
                    continue
                stamp = Stamp(status.st_size, status.st_mtime_ns, entry.inode())
                known = former.get(path)
                self._seen[path] = known if known is not None and known[0] == stamp else (stamp, now)

    def _items(self) -> list[Item]:
        """The images and volumes in the folders, each once, as a run would find them."""
        self.passed_over, found = PassedOver(), dict[str, Item]()
        for folder in self._folders:
            if folder in self.unreachable:
                continue
            for item in walk(folder, self._output, self.passed_over, volumes=True):
                found.setdefault(os.path.realpath(item.path), item)
        return list(found.values())

    def _with_files(self, items: Sequence[Item]) -> Iterable[tuple[Item, Sequence[Path]]]:
        """Each item with the files that it is read from, as far as names say it."""
        own = {path for item in items for path in item.files or (item.path,)}
        others: dict[Path, list[Path]] = {}
        for path in self._seen:
            if path not in own:
                others.setdefault(path.parent, []).append(path)
        for item in items:
            detached = item.path.name.lower().endswith(_DETACHED)
            yield item, item.files or (item.path, *(others.get(item.path.parent, ()) if detached else ()))


def _is_dicom(item: Item) -> bool:
    """Whether an item is read from DICOM: its files have DICOM's suffixes, or none that is known."""
    name = item.path.name
    return bool(item.files) or name.lower().endswith(DICOM_SUFFIXES) or not has_known_suffix(name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
