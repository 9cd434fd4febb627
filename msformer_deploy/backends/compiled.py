"""What a runtime made of a graph, kept in the user's cache folder: the next process opens that in a third of the time.

The files can be deleted at any time. A folder that cannot be read or written costs time and nothing else. A file's name
is the hash of all that decides what is in it: the graph, the runtime and its version, the settings, and the CPU with
its instruction sets. Behind that stands the hash of the content. As always, a backend that has opened one must compute
what the bundle's fingerprint says.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..machine.homes import user_cache
from .graph_content import GraphContent

LARGEST = 64 * 2**20  # bytes of a graph; opening a larger one takes long in any case, and the copy much room
KEPT = 16  # files; the oldest beyond are deleted
# A tensor in a file of its own, as protobuf writes that: such a graph is not all that decides what is made of it.
_OUTSIDE = b"\x0a\x08location\x12"

_Opened = TypeVar("_Opened")


class Kept:
    """The place for what one runtime makes of one graph on this CPU.

    Args:
        runtime: its name and version.
        settings: whatever else decides what it makes.
        graph: of what it makes it.
    """

    def __init__(self, runtime: str, settings: str, graph: GraphContent) -> None:
        folder = user_cache() if graph.size <= LARGEST else None
        self._folder = None if folder is None else folder / "compiled"
        decisive = [runtime, settings, graph.key, _cpu()]
        self._name = hashlib.sha256("\n".join(decisive).encode()).hexdigest()

    def open(self, open_kept: Callable[[bytes], _Opened]) -> _Opened | None:
        """Open what is kept; None where there is nothing, or nothing that can be opened."""
        data = self._read()
        if data is None:
            return None
        try:
            return open_kept(data)
        except Exception:  # each runtime raises its own classes; the graph itself is opened then, and its errors count
            return None

    @contextmanager
    def writing(self, content: bytes) -> Iterator[Path | None]:
        """Yield a temporary file to write what the runtime made, which is then kept; None where nothing can be kept.

        Args:
            content: that it made it of.
        """
        temporary = None
        if self._folder is not None and _OUTSIDE not in content:
            with suppress(OSError):  # read-only, full, or in the way of something else
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=self._folder)
                os.close(handle)
                temporary = Path(name)
        try:
            yield temporary
            if temporary is not None:
                with suppress(OSError):
                    self._keep(temporary)
        finally:
            if temporary is not None:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def _keep(self, temporary: Path) -> None:
        data = temporary.read_bytes()
        if not data:
            return
        os.replace(temporary, temporary.with_name(f"{self._name}.{hashlib.sha256(data).hexdigest()}"))
        newest_first = sorted(temporary.parent.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for path in newest_first[KEPT:]:
            path.unlink(missing_ok=True)

    def _read(self) -> bytes | None:
        if self._folder is None:
            return None
        try:
            for path in self._folder.glob(f"{self._name}.*"):
                # Another user could have made it anything.
                if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
                    continue
                data = path.read_bytes()
                if path.suffix == f".{hashlib.sha256(data).hexdigest()}":
                    return data
        except OSError:
            pass
        return None


@cache
def _cpu() -> str:
    """The kind of CPU and its instruction sets: compiled graphs are laid out for them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join([platform.machine(), *dict.fromkeys(each for each in lines if each.startswith(_OF_CPU))])


_OF_CPU = ("model name", "flags", "Features", "CPU part")  # on x86, and on ARM
