"""The folder in which a node keeps what it has taken, so that nothing of it is lost when the node is killed.

A series is a folder of the spool, and the folder that it lies in is its state::

    incoming/SERIES        its images are still arriving
    complete/SERIES.1      waits to be segmented
    sending/SERIES.1       has results, which wait for the destination
    done/SERIES.1          the destination has them
    failed/SERIES.1        needs a person; reason.txt says why

SERIES is a hash of the UIDs of study and series, and 1 is the revision. A step from one state to the next is one rename
of the folder, so a node that starts again finds each series in exactly one state. Images are named by a hash of their
UIDs. Every file and name is brought to the disk before the next step.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from ..errors import UsageError, printable
from ..images.inputs import hidden
from . import durable

State = Literal["incoming", "complete", "sending", "done", "failed"]
STATES: tuple[State, ...] = ("incoming", "complete", "sending", "done", "failed")
RESULTS = "results"  # the folder of a series' results
REASON = "reason.txt"  # why a series failed

_IMAGE, _REFUSED = ".dcm", ".refused"
_TRASH = "trash"  # what is being removed: a folder that is only in part there must not be taken for a series
_LOCK = "lock"
_HASH = re.compile(r"[0-9a-f]+")  # the name of a series that is arriving, and of an image
_REVISION = re.compile(r"[0-9a-f]+\.\d+")  # the name of a series in every other state


class OutOfResources(Exception):
    """An image is not taken; the message is a reason, the end of a line for people."""


@dataclass(frozen=True)
class Limits:
    """What a spool takes at most.

    Attributes:
        instances: of one series.
        series_bytes: of all instances of one series.
        free_bytes: that are kept free on the disk.
    """

    instances: int
    series_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Completed:
    """What became of a series when it was complete.

    Attributes:
        name: of its folder, or of that of the revision which it repeats.
        images: their number.
        kind: ``new``; ``revision``, of a series that came before with fewer images; ``repeat``, of one that came with
            the same; ``lacking``, without images that were refused.
    """

    name: str
    images: int
    kind: Literal["new", "revision", "repeat", "lacking"]


@dataclass
class _Incoming:
    """A series whose images are still arriving."""

    heard: float
    images: set[str] = field(default_factory=set)
    size: int = 0
    refused: set[str] = field(default_factory=set)
    senders: set[object] = field(default_factory=set)
    released: bool = False


def series_name(study: str, series: str) -> str:
    """The name of a series in the spool, which says nothing of the patient."""
    return hashlib.sha256(f"{study}\n{series}".encode()).hexdigest()[:16]


def instance_name(instance: str) -> str:
    """The name of an image in the spool, without its suffix."""
    return hashlib.sha256(instance.encode()).hexdigest()[:32]


@contextmanager
def opened(folder: Path, limits: Limits) -> Iterator[Spool]:
    """Open a spool for one node, and make it if it is not there.

    Raises:
        UsageError: the folder cannot be made or written, or another node has it open.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (*STATES, _TRASH):
            durable.make_folder(folder / name)
        lock = (folder / _LOCK).open("a+b")
    except OSError as error:
        raise _unusable(folder, error) from error
    with lock:
        try:
            _lock(lock)
        except OSError as error:
            raise UsageError(
                f"{printable(folder)}: another node works with this spool; end it, or name another folder with --spool"
            ) from error
        try:
            spool = Spool(folder, limits)
        except OSError as error:
            raise _unusable(folder, error) from error
        yield spool


class Spool:
    """The folders and what is known of them; all methods may be called by several threads.

    What has not the name of a series or an image, such as a file of a file manager, is passed over.

    Use :func:`opened`, which sees that no other node works in the same folder.

    Raises:
        OSError: what is there cannot be read.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits, self._lock = folder, limits, threading.RLock()
        self._incoming: dict[str, _Incoming] = {}
        for left in (*(folder / _TRASH).iterdir(), *(folder / "incoming").glob(".*.part")):
            _remove(left)
        for series in self._series("incoming"):
            images = _images(series)
            size = sum((series / f"{each}{_IMAGE}").stat().st_size for each in images)
            self._incoming[series.name] = _Incoming(time.monotonic(), images, size, _refused(series))

    def write_part(self, parts: Collection[bytes]) -> Path:
        """Write an instance to the disk, of which nothing is known yet; :meth:`keep` or :meth:`drop` it.

        Raises:
            OutOfResources: the disk is full.
        """
        path = self._folder / "incoming" / f".{secrets.token_hex(8)}.part"
        try:
            if shutil.disk_usage(self._folder).free - sum(map(len, parts)) < self._limits.free_bytes:
                raise OutOfResources("the disk of the spool is full")
            durable.write(path, parts)
        except OSError as error:
            self.drop(path)
            raise OutOfResources(f"the spool cannot be written ({error.strerror})") from error
        return path

    def drop(self, part: Path) -> None:
        """Remove an instance that is not kept."""
        with suppress(OSError):
            part.unlink(missing_ok=True)

    def keep(self, part: Path, series: str, instance: str, sender: object) -> None:
        """Put an instance to its series; when this returns, it is on the disk.

        An instance that the series has already is not taken twice.

        Args:
            part: what :meth:`write_part` gave.
            series, instance: names by :func:`series_name` and :func:`instance_name`.
            sender: the association that brought it.

        Raises:
            OutOfResources: the series is too large, or the disk fails. The series is then known to lack it.
        """
        folder = self._folder / "incoming" / series
        with self._lock:
            known = self._incoming.setdefault(series, _Incoming(0.0))
            known.heard, known.released = time.monotonic(), False
            known.senders.add(sender)
            if instance in known.images:
                self.drop(part)
                return
            try:
                size = part.stat().st_size
                over = self._over(known, size)
                if over is None:
                    durable.make_folder(folder)
                    durable.rename(part, folder / f"{instance}{_IMAGE}")
                    (folder / f"{instance}{_REFUSED}").unlink(missing_ok=True)
            except OSError as error:
                over = f"the spool cannot be written ({error.strerror})"
            if over is not None:
                self.drop(part)
                self.refuse(series, instance)
                raise OutOfResources(over)
            known.images.add(instance)
            known.size += size

    def _over(self, known: _Incoming, size: int) -> str | None:
        """Which limit of a series one more instance exceeds; None if none."""
        if len(known.images) >= self._limits.instances:
            return f"its series has more than {self._limits.instances} instances"
        if known.size + size > self._limits.series_bytes:
            return f"its series has more than {self._limits.series_bytes >> 20} MiB"
        return None

    def refuse(self, series: str, instance: str) -> None:
        """Note that a series lacks an image that was not taken: it is not segmented without it."""
        with self._lock:
            known = self._incoming.setdefault(series, _Incoming(0.0))
            known.heard = time.monotonic()
            if instance in known.images:
                return
            known.refused.add(instance)
            folder = self._folder / "incoming" / series
            with suppress(OSError):  # the disk may be full; then this process alone knows
                durable.make_folder(folder)
                durable.write(folder / f"{instance}{_REFUSED}", ())
                durable.sync_folder(folder)

    def leave(self, sender: object, *, released: bool) -> None:
        """An association has ended.

        Args:
            sender: that brought instances.
            released: whether the sender released it, and so has sent all that it wanted.
        """
        with self._lock:
            for known in self._incoming.values():
                if sender in known.senders:
                    known.senders.remove(sender)
                    known.released = released

    def due(self, quiet_seconds: float, on_release: bool) -> list[str]:
        """The series that are complete.

        Args:
            quiet_seconds: for which no instance of a series has come.
            on_release: whether a series is complete too when its last sender has released its association.
        """
        now = time.monotonic()
        with self._lock:
            return [
                series
                for series, known in self._incoming.items()
                if now - known.heard >= quiet_seconds or (on_release and known.released and not known.senders)
            ]

    def complete(self, series: str) -> Completed:
        """Move a series on from ``incoming``.

        Images of an earlier revision join it, so that a late image does not make a series of its own. If it has none
        that the earlier revision has not, it is a repeat: results that were sent are sent again, and a series that
        failed is tried again.

        Raises:
            OSError: the disk fails.
        """
        with self._lock:
            folder = self._folder / "incoming" / series
            durable.make_folder(folder)  # a disk that was full has none for what was refused
            images, refused = _images(folder), _refused(folder) | self._incoming[series].refused
            number, latest = self._latest(series)
            before = set() if latest is None else _images(latest)
            refused |= set() if latest is None else _refused(latest)
            lacking = refused - images - before
            if latest is not None and images <= before and not lacking:
                self._repeat(latest)
                self._discard(folder)
                del self._incoming[series]
                return Completed(latest.name, len(before), "repeat")
            if latest is not None:
                _join(latest, folder, before - images)
            for each in lacking - _refused(folder):
                durable.write(folder / f"{each}{_REFUSED}", ())
            lack, name = lack_of(folder), f"{series}.{number + 1}"
            if lack is not None:
                self._move(folder, "failed", name, lack)
            else:
                self._move(folder, "complete", name)
            del self._incoming[series]
            if latest is not None and latest.parent.name == "failed":
                self._discard(latest)
            kind: Literal["new", "revision", "lacking"] = "lacking" if lack else "revision" if latest else "new"
            return Completed(name, len(images | before), kind)

    def waiting(self, state: State) -> list[Path]:
        """The series in a state, those that came into it first at the beginning.

        One in ``complete`` of which there is a newer revision has all its images in that one, and is removed.
        """
        with self._lock:
            found = self._series(state)
            if state == "complete":
                for path in list(found):
                    if self._latest(path.name.partition(".")[0])[1] != path:
                        self._discard(path)
                        found.remove(path)
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def move(self, path: Path, state: State) -> Path:
        """Bring a series into another state, and return its new path.

        Raises:
            OSError: the disk fails.
        """
        with self._lock:
            return self._move(path, state, path.name)

    def fail(self, path: Path, reason: str) -> Path:
        """Put a series aside, with the reason in one line.

        Raises:
            OSError: the disk fails.
        """
        with self._lock:
            return self._move(path, "failed", path.name, reason)

    def expire(self, seconds: float) -> int:
        """Remove series that were done this long ago or longer; their number."""
        before = time.time() - seconds
        with self._lock:
            old = [path for path in self._series("done") if path.stat().st_mtime <= before]
            for path in old:
                self._discard(path)
        return len(old)

    def counts(self) -> dict[State, int]:
        """The number of series in each state."""
        return {state: len(self._series(state)) for state in STATES}

    def _series(self, state: State) -> list[Path]:
        return [path for path in (self._folder / state).iterdir() if _is_series(path)]

    def _latest(self, series: str) -> tuple[int, Path | None]:
        """The number and the folder of the newest revision of a series; 0 and None if there is none."""
        paths = [path for state in STATES[1:] for path in (self._folder / state).glob(f"{series}.*")]
        found = [(revision_of(path), path) for path in paths if _is_series(path)]
        return max(found, default=(0, None))

    def _repeat(self, latest: Path) -> None:
        """Answer a series that came again as it came before."""
        sent, failed = latest.parent.name == "done", latest.parent.name == "failed"
        if sent or (failed and (latest / RESULTS).is_dir()):
            self._move(latest, "sending", latest.name)
        elif failed:
            self._move(latest, "complete", latest.name)

    def _move(self, path: Path, state: State, name: str, reason: str | None = None) -> Path:
        if reason is None:
            (path / REASON).unlink(missing_ok=True)  # of a series that is tried again
        else:
            durable.write(path / REASON, [reason.encode() + b"\n"])
        os.utime(path)  # since when it is in its state
        durable.sync_folder(path)
        return durable.rename(path, self._folder / state / name)

    def _discard(self, path: Path) -> None:
        trash = durable.rename(path, self._folder / _TRASH / secrets.token_hex(8))
        _remove(trash)


def revision_of(series: Path) -> int:
    """The revision of a series that is complete."""
    return int(series.name.rpartition(".")[2])


def results_of(series: Path) -> list[Path]:
    """The files of a series' results.

    Raises:
        OSError: it has none.
    """
    return sorted(path for path in (series / RESULTS).iterdir() if not hidden(path.name))


def lack_of(series: Path) -> str | None:
    """Why a series must not be segmented: images of it were refused, and have not come since. None if it has all."""
    lacking = len(_refused(series) - _images(series))
    return f"{lacking} of its images were refused; send the series again" if lacking else None


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{printable(folder)}: cannot be used as a spool ({error.strerror}); name another folder with --spool"
    )


def _is_series(path: Path) -> bool:
    name = _HASH if path.parent.name == "incoming" else _REVISION
    return name.fullmatch(path.name) is not None and path.is_dir()


def _images(folder: Path) -> set[str]:
    return _named(folder, _IMAGE)


def _refused(folder: Path) -> set[str]:
    return _named(folder, _REFUSED)


def _named(folder: Path, suffix: str) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix == suffix and _HASH.fullmatch(path.stem)}


def _join(earlier: Path, folder: Path, images: Iterable[str]) -> None:
    """Add images of an earlier revision, without a second copy where the file system can do that."""
    for image in images:
        name = f"{image}{_IMAGE}"
        try:
            os.link(earlier / name, folder / name)
        except OSError:
            durable.write(folder / f".{name}.part", [(earlier / name).read_bytes()])
            os.rename(folder / f".{name}.part", folder / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> None:
    """Take a lock that ends with the process.

    Raises:
        OSError: another process has it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
