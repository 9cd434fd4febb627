"""Reading and writing in processes, which do not wait for one another as Python's threads do.

An image stays in the process that read it. Only what the network takes and what it finds travel, some 100 kB each way
at side 97, so no memory is shared. A process that ends takes one image with it: the one that it worked on.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from multiprocessing import current_process, get_context
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DeployError, ImageError, printable
from ..foreground.view import View
from ..machine.cores import usable_cores
from ..registry import find_system
from ..segmenter import Learned, Prepared
from .stages import Entry, Found, Stages

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np
    from numpy.typing import NDArray

    from ..images.inputs import Item
    from ..refinement.strategies import HostRefinement

MIN_CORES = 4  # a guess: on two, processes do 9 to 15 % more than threads; more than two were not measured
MAX_PROCESSES = 16  # each holds some 100 MB
IMAGES_FOR_EACH = 16  # fewer images take less time than the processes need to start

_SIGNALS = [signal.SIGINT, signal.SIGTERM]  # both mean that the caller ends the work


def processes_for(images: int, stages: Stages) -> int:
    """How many processes pay for so many images; 0 means that threads do better, or have to do it.

    Threads do it where an exception must keep its traceback, where prompts need the whole image beside the network, for
    trained systems, whose results need the network's head, and in a process that must not start others.
    """
    if (
        os.environ.get("MSFORMER_DEPLOY_DEBUG")
        or stages.prompts
        or find_system(stages.segmenter.bundle.system).trained
        or current_process().daemon
        or usable_cores() < MIN_CORES
    ):
        return 0
    count = min(usable_cores(), MAX_PROCESSES)
    return count if images >= count * IMAGES_FOR_EACH else 0


class Processes(AbstractContextManager["Processes"]):
    """The same as :class:`.stages.Stages`, done in processes; any thread may call it. Close it, by ``with``.

    Args:
        stages: what is done with each image.
        count: of processes.
    """

    def __init__(self, stages: Stages, count: int) -> None:
        self._stages = replace(stages, segmenter=stages.segmenter.without_network(), prompts={})
        self._lock = Lock()  # of the two below
        self._workers: list[_Worker] = []
        self._holders: dict[Item, _Worker] = {}
        try:
            self._workers.extend(_Worker(self._stages) for _ in range(count))
        except BaseException:
            self.__exit__()
            raise

    def read(self, item: Item) -> tuple[Prepared | Exception | None, float]:
        """As :meth:`.stages.Stages.read`, but the image and its view are without pixels: these stay in the process.

        Raises:
            Exception: what reading raised there.
        """
        if item.kind == "volume":
            return None, 0.0
        try:
            answer: tuple[Prepared | Exception | None, float] = self._take(item).call("read", item)
        except _EndedError as error:
            answer = ImageError(f"{printable(item.path)}: {error}"), 0.0
        if isinstance(answer[0], Exception):
            self._release(item)
        return answer

    def write(self, item: Item, found: Found, corrected: NDArray[np.bool_] | None = None) -> Entry | Exception | str:
        """As :meth:`.stages.Stages.write`.

        Raises:
            DeployError: the output folder cannot be written any more.
            Exception: what writing raised there.
        """
        if not isinstance(found, Learned):  # a volume, which was segmented here
            return self._stages.write(item, found, corrected)
        try:
            worker = self._holders[item]
            if worker.ended:  # at another image: this one is read again
                again, _ = (worker := self._take(item)).call("read", item)
                if isinstance(again, Exception):
                    return again
            answer: Entry | Exception | str = worker.call("write", item, found[1:], corrected)
        except _EndedError as error:
            return DeployError(str(error))
        finally:
            self._release(item)
        return answer

    def drop(self, item: Item) -> None:
        """As :meth:`.stages.Stages.drop`."""
        worker = self._holders.get(item)
        if worker is None:  # it could not be read
            return
        self._release(item)
        with suppress(_EndedError):
            worker.call("drop", item)

    def __exit__(self, *_: object) -> None:
        """End the processes, once they have done what they work on."""
        for worker in self._workers:
            worker.close()

    def _take(self, item: Item) -> _Worker:
        """The process with the fewest images, which gets this one too; a new one in place of one that has ended."""
        with self._lock:
            self._workers = [_Worker(self._stages) if each.ended else each for each in self._workers]
            worker = self._holders[item] = min(self._workers, key=lambda each: each.held)
            worker.held += 1
            return worker

    def _release(self, item: Item) -> None:
        with self._lock:
            self._holders.pop(item).held -= 1


class _EndedError(Exception):
    """A process has ended in the midst of the work."""


class _Raised(NamedTuple):
    """What was raised in another process."""

    error: Exception


class _Worker:
    """One process, and who may speak to it.

    Attributes:
        held: images that it has read or is to read, and that are not written.
        ended: whether it has ended without being asked to.
    """

    def __init__(self, stages: Stages) -> None:
        self.held, self.ended = 0, False
        self._turn = Lock()
        context = get_context("spawn")  # a fork would copy the locks of threads, and CUDA does not work after it
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, stages), name="images")
        with _signals_blocked():  # the process keeps them blocked: Ctrl+C is sent to it as well
            self._process.start()
        there.close()

    def call(self, name: str, *arguments: Any) -> Any:
        """Have one of the stages done, when it is this thread's turn.

        Raises:
            _EndedError: the process has ended.
            Exception: what the stage raised.
        """
        with self._turn:
            try:
                self._connection.send((name, arguments))
                answer = self._connection.recv()
            except (EOFError, OSError):
                self.ended = True
                self._process.join()
                raise _EndedError(
                    f"the process that had the image ended (exit code {self._process.exitcode}); end other programs if"
                    " memory is short, or run it again with MSFORMER_DEPLOY_DEBUG=1"
                ) from None
        if isinstance(answer, _Raised):
            raise answer.error
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, stages: Stages) -> None:
    """Do what is asked for until the other end is closed."""
    for each in _SIGNALS:  # where they cannot be blocked
        signal.signal(each, signal.SIG_IGN)
    kept: dict[Item, Prepared] = {}
    tasks: dict[str, Callable[..., Any]] = {"read": _read, "write": _write, "drop": _drop}
    with suppress(EOFError, OSError):  # the latter where the main process was killed before it took an answer
        while True:
            name, arguments = connection.recv()
            try:
                answer = tasks[name](stages, kept, *arguments)
            except Exception as error:
                answer = _Raised(_portable(error))
            connection.send(answer)


def _read(stages: Stages, kept: dict[Item, Prepared], item: Item) -> tuple[Prepared | Exception | None, float]:
    prepared, seconds = stages.read(item)
    if isinstance(prepared, Exception):
        return _portable(prepared), seconds
    assert prepared is not None  # volumes do not come here
    kept[item] = prepared
    image = replace(prepared.image, pixels=prepared.image.pixels[:0])
    return prepared._replace(image=image, view=View(prepared.view.square[:, :0])), seconds


def _write(
    stages: Stages,
    kept: dict[Item, Prepared],
    item: Item,
    learned: tuple[HostRefinement, dict[str, float], dict[str, float]],
    corrected: NDArray[np.bool_] | None,
) -> Entry | Exception | str:
    written = stages.write(item, Learned(kept.pop(item), *learned), corrected)
    return _portable(written) if isinstance(written, Exception) else written


def _drop(_: Stages, kept: dict[Item, Prepared], item: Item) -> None:
    kept.pop(item, None)


def _portable(error: Exception) -> Exception:
    """The error, if it can travel to another process; else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # the first start of a process does that, and unblocks these signals then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
