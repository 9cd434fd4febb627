"""``run --watch``: what comes into folders is segmented until somebody ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import UsageError, printable
from .output import complain, say

if TYPE_CHECKING:
    from ..images.watching import Watcher
    from ..results.batch import BatchRun

INTERVAL = 1.0  # seconds between two looks at the folders
REST = 4  # a look is followed by a pause of so many times its length, and a look at many files is long
REPORT_INTERVAL = 5.0  # seconds between two reports
REPORT_REST = 20  # the same in times of its length: a report has all images of the run


def require_watchable(inputs: Sequence[Path], excluded: Sequence[str]) -> None:
    """See that what was asked for can be watched.

    Args:
        inputs: that were named.
        excluded: options that were given and that need all images to be there.

    Raises:
        UsageError: it cannot.
    """
    for path in inputs:
        if not path.is_dir():
            raise UsageError(
                f"{printable(path)}: is not a folder, and --watch waits for files in folders; name a folder"
            )
    if "--like" in excluded:
        raise UsageError(
            "--like learns from masks of images that are there, so --watch excludes it; put what was learned into a"
            " bundle with 'msformer-deploy export --update --head FILE', and pass that with --bundle"
        )
    if excluded:
        raise UsageError(f"{excluded[0]} is for images that are there, so --watch excludes it; drop one of them")


def watch(
    batch_run: BatchRun,
    watcher: Watcher,
    write_report: Callable[[], None],
    quiet: bool,
) -> int:
    """Segment what is complete, and what comes, until Ctrl-C or SIGTERM; images in work are then finished.

    Args:
        batch_run: the run, which has no images yet.
        watcher: of the folders.
        write_report: writes the files of all images; called at most every few seconds.
        quiet: say nothing of what is done.

    Returns:
        how many complete images were left, because the end came first.

    Raises:
        DeployError: as :meth:`.BatchRun.run`, and if a report cannot be written.
        KeyboardInterrupt: a second Ctrl-C.
    """
    reported, pause, is_new = monotonic(), REPORT_INTERVAL, False
    unreachable, said = set[Path](), ""
    left = 0
    with _ending() as ended:
        while not ended():
            start = monotonic()
            try:
                arrived, fault = watcher.look(), ""
            except UsageError as error:
                arrived, fault = None, str(error)
            if fault and fault != said:
                complain(fault)
            said = fault
            for folder in sorted(watcher.unreachable - unreachable):
                complain(f"{printable(folder)}: cannot be listed now; run goes on when it can")
            unreachable = watcher.unreachable
            look = monotonic() - start
            if arrived is not None and (arrived.items or arrived.superseded):
                batch_run.forget(arrived.superseded)
                batch_run.take(arrived.items)
                batch_run.run(ended)
                left = len(arrived.items) - batch_run.finished(arrived.items)
                is_new = True
                if not quiet:
                    say(
                        f"{batch_run.finished(arrived.items)} of {len(arrived.items)} new images done; waiting for more"
                    )
            if is_new and monotonic() - reported >= pause and not ended():
                begun = monotonic()
                write_report()
                reported, is_new = monotonic(), False
                pause = max(REPORT_INTERVAL, REPORT_REST * (reported - begun))
            if not ended():
                sleep(max(INTERVAL, REST * look))
    return left


@contextmanager
def _ending() -> Iterator[Callable[[], bool]]:
    """Yield what says whether somebody has asked for the end; asked a second time, the end is at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True

    if threading.current_thread() is not threading.main_thread():  # which has no signals
        yield lambda: asked
        return
    former = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
