"""One pass over many images: read ahead, segmented, written behind; and when it is given up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import DeployError, ImageError, caused_by_interruption, printable
from ..foreground.prompts import Prompts
from ..foreground.volume_prompts import VolumePrompts
from ..images.contents import content_sha256, stamps
from ..images.inputs import collisions
from ..images.items import volume_of
from ..machine.memory import is_out_of_memory
from ..segmenter import Learned, Prepared, Segmenter
from ..volume_segmenter import VolumeSegmenter
from . import report
from .formats import Wanted
from .pipeline import overlap
from .processes import Processes, processes_for
from .stages import Found, Stages, content_of
from .stages import unwritable as unwritable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..images.inputs import Item

MOST_FAILURES_IN_A_ROW = 3  # of calls of the segmenter; after that the rest is not tried


class GivenUp(DeployError):
    """Segmenting fails on image after image; what was done is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[GivenUp], tuple[str, int]]:
        """So that it can come from another process."""
        return GivenUp, (str(self), self.exit_code)


class _Patience:
    """With one step of the work on image after image: at an end where the first try fails, or several in a row."""

    def __init__(self) -> None:
        self._failures_in_a_row, self._any_success = 0, False

    def success(self) -> None:
        self._failures_in_a_row, self._any_success = 0, True

    def failure(self, error: Exception) -> None:
        """Raise GivenUp, from the error, or let the work go on."""
        self._failures_in_a_row += 1
        if not self._any_success or self._failures_in_a_row == MOST_FAILURES_IN_A_ROW:
            times = f"{self._failures_in_a_row} times in a row" if self._any_success else "on the first images"
            raise GivenUp(
                f"segmenting failed {times}, so run stopped; fix the cause, then continue with --skip-existing",
                error.exit_code if isinstance(error, DeployError) else GivenUp.exit_code,
            ) from error


class BatchRun:
    """One pass over the images: failures are kept beside results, finished outputs are always whole.

    ``writers`` threads write, or ``processes`` read and write: 0 for threads, None for as many as pay. ``clashes`` are
    those of :func:`..images.inputs.collisions` where the items are a part of all that go into the folder; None finds
    them among the items. ``before`` is an earlier pass by the same segmenter: failures that began in it are counted on.

    Raises:
        UsageError, BackendUnavailable, BundleError: there are volumes or prompts, and the segmenter cannot do them.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        items: Sequence[Item],
        output: Path,
        batch: int,
        skip_existing: bool,
        quiet: bool,
        writers: int,
        complain: Callable[[str], None],
        wanted: Wanted,
        prompts: Mapping[Path, Prompts | VolumePrompts] = MappingProxyType({}),
        corrected: Mapping[Path, NDArray[np.bool_]] = MappingProxyType({}),
        volumes: VolumeSegmenter | None = None,
        clashes: Mapping[Item, Item] | None = None,
        before: BatchRun | None = None,
        processes: int | None = None,
    ) -> None:
        self._segmenter, self._output, self._writers = segmenter, output, writers
        self._items = {item.path: item for item in items}
        self._due = list(items)
        self._volumes = volumes or VolumeSegmenter(segmenter, batch)  # which those with many passes open once
        if any(item.kind == "volume" for item in items):
            self._volumes.open()  # what cannot be is said before anything is made
        self._prompts, self._corrected = prompts, corrected
        # Kinds of what is shown, which are those of the items that it is shown on.
        if any(isinstance(each, VolumePrompts) for each in prompts.values()):
            self._volumes.open_for_prompts()
        if any(isinstance(each, Prompts) for each in prompts.values()):
            segmenter.open_for_prompts()
        self._complain, self._wanted = complain, wanted
        self._batch, self._skip_existing, self._quiet = batch, skip_existing, quiet
        self._asked_processes = processes
        self._here = Stages(segmenter, output, batch, wanted, prompts)
        self._stages: Stages | Processes = self._here
        self._clashes = collisions(items) if clashes is None else clashes
        self._records: dict[Item, dict[str, Any]] = {}
        self._learning: _Patience = _Patience() if before is None else before._learning
        self._finishing: _Patience = _Patience() if before is None else before._finishing
        self.seconds = 0.0

    def records(self) -> list[dict[str, Any]]:
        """What is known so far, in input order."""
        return [self._records[item] for item in self.items if item in self._records]

    @property
    def items(self) -> list[Item]:
        """All that was to be segmented so far."""
        return list(self._items.values())

    def finished(self, items: Sequence[Item]) -> int:
        """How many of these have a result or a failure."""
        return sum(item in self._records for item in items)

    def take(self, items: Sequence[Item]) -> None:
        """Take more items for the next :meth:`run`. Known ones with another content lose the results they had."""
        self._due = []
        for item in items:
            former = self._items.get(item.path)
            record = None if former is None else self._records.get(former)
            if former == item and record is not None and self._is_of(record, item):
                continue  # its time was set anew, or a share has given its file another number
            if former is not None:
                self._records.pop(former, None)
                if record is not None and record["error"] is None:  # what failed may have the place of another's
                    report.remove_results(former, self._output)
            self._items[item.path] = item
            self._due.append(item)
        self._clashes = collisions(self.items)

    def forget(self, items: Sequence[Item]) -> None:
        """Drop items, and remove those of their results that this run has made."""
        for item in items:
            record = self._records.pop(item, None)
            self._items.pop(item.path, None)
            if record is not None and not record["skipped"] and record["error"] is None:
                report.remove_results(item, self._output)

    def run(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Segment everything that is due and not done or excluded; reading and writing overlap with segmenting.

        Args:
            ended: asked before each call of the segmenter; when it says yes, what was not begun is left.

        Raises:
            DeployError: the output folder cannot be written any more.
            GivenUp: the segmenter failed on the first images, or too many times in a row.
            KeyboardInterrupt: passed on, between two files.
        """
        from tqdm import tqdm

        start = time.perf_counter()
        pending = list(self._pending())
        images = sum(each.kind == "image" for each in pending)
        count = processes_for(images, self._here) if self._asked_processes is None else self._asked_processes
        calls = 2 * count  # of either kind: while a process works on one, the next one waits for it
        # disable=None: off when stderr is not a terminal.
        with (
            tqdm(total=len(pending), unit="image", disable=True if self._quiet else None) as self._bar,
            Processes(self._here, count) if count else nullcontext(self._here) as self._stages,
        ):
            try:
                overlap(
                    pending,
                    self._batch,
                    self._stages.read,
                    self._segment,
                    self._write,
                    self._written,
                    calls or self._writers,
                    ended,
                    calls or 1,
                )
            finally:
                self.seconds += time.perf_counter() - start

    def _pending(self) -> Iterator[Item]:
        for item in self._due:
            if item in self._clashes:
                owner = printable(self._clashes[item].path)
                self._fail(
                    item,
                    f"{printable(item.path)}: its results would overwrite those of {owner}; rename one or run them into"
                    " separate folders",
                )
            elif self._skip_existing and (record := report.existing(item, self._output, self._segmenter, self._wanted)):
                if report.of_another_image(record, item):
                    self._fail(
                        item,
                        f"{printable(item.path)}: the output folder already has the results of"
                        f" {printable(record['input'])} in its place; choose another --output, or replace them"
                        " with --force",
                    )
                elif self._is_of(record, item) is False:
                    self._fail(
                        item,
                        f"{printable(item.path)}: has changed since its results were made, and nothing that exists is"
                        " replaced; choose another --output, or replace them with --force",
                    )
                elif missing := report.lacking(
                    record, item, self._wanted, self._prompts.get(item.path), self._segmenter
                ):
                    self._fail(
                        item,
                        f"{printable(item.path)}: its results have no {missing}, and nothing that exists is replaced;"
                        " choose another --output, or replace them with --force",
                    )
                else:
                    if not self._wanted.identifiers:  # they stay in the old record, where they were asked for
                        record.pop("identifiers", None)
                    self._records[item] = record
            else:
                yield item

    @staticmethod
    def _is_of(record: Mapping[str, Any], item: Item) -> bool | None:
        """Whether a record is of the content that an item has now; None if one of them does not say."""
        known = record.get("input_sha256")
        try:
            return None if known is None else content_sha256(item) == known
        except ImageError:  # the file is gone, say
            return None

    def _segment(self, group: list[tuple[Item, tuple[Prepared | Exception | None, float]]]) -> list[tuple[Item, Found]]:
        """What was found in those images and volumes that could be read and segmented; the others fail."""
        images: dict[Item, Prepared | Exception] = {}
        decode = {}
        for item, (image, seconds) in group:
            if isinstance(image, ImageError):
                self._fail(item, str(image))
            elif image is None:
                self._do_volume(item)
            else:
                images[item], decode[item] = image, seconds
        learned = self._segment_readable(images) if images else {}
        for item, each in learned.items():
            each.seconds.update(decode=decode[item])
        self._bar.update(sum(image is not None for _, (image, _) in group) - len(learned))
        return list(learned.items())

    def _do_volume(self, item: Item) -> None:
        """Read, segment and write a volume, one after the other: a second one would need the memory twice.

        Raises:
            DeployError: the output folder cannot be written any more.
            GivenUp: the segmenter has failed too often.
        """
        start, before = time.perf_counter(), stamps(item)
        try:
            volume = volume_of(item, self._wanted.reading)
            self._wanted.check(item, volume)
            prompts = self._prompts.get(item.path)
            assert not isinstance(prompts, Prompts)  # of a volume
            if prompts is not None:
                prompts.require_fit(volume)
            self._here.contents[item] = content_of(item, before)
        except Exception as error:
            if not isinstance(error, DeployError) and not is_out_of_memory(error):
                raise
            self._written(item, ImageError(self._here.named(item, error)))
            return
        decode = time.perf_counter() - start
        try:
            found = self._volumes.segment(
                volume, lambda done, most: self._bar.set_postfix_str(f"{done}/{most}"), prompts=prompts
            )
        except Exception as error:
            if caused_by_interruption(error):
                raise KeyboardInterrupt from error
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            of_image = isinstance(error, ImageError) or is_out_of_memory(error)
            self._written(item, ImageError(self._here.named(item, error)) if of_image else error)
            return
        found.seconds.update(decode=decode)
        self._written(item, self._write(item, found))

    def _segment_readable(self, images: dict[Item, Prepared | Exception]) -> dict[Item, Learned]:
        """What was learned on all images, or on none when the segmenter fails.

        Raises:
            GivenUp: it has failed too often.
        """
        try:
            results = self._segmenter.learn(
                [_unless_failed(image) for image in images.values()],
                lambda step, most: self._bar.set_postfix_str(f"step {step}/{most}"),
            )
        except Exception as error:
            if caused_by_interruption(error):
                raise KeyboardInterrupt from error
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            for item in images:
                self._stages.drop(item)
                self._fail(item, f"{printable(item.path)}: {self._here.reason(error)}")
            self._learning.failure(error)
            return {}
        self._learning.success()
        return dict(zip(images, results, strict=True))

    def _write(self, item: Item, found: Found) -> Exception | str | None:
        """Write what was found in an image and keep its record; or say why it has none, with the failure.

        Raises:
            DeployError: the output folder cannot be written any more.
        """
        # What a person has said is the result.
        corrected = self._corrected.get(item.path) if isinstance(found, Learned) else None
        outcome = self._stages.write(item, found, corrected)
        if not isinstance(outcome, dict):
            return outcome
        self._records[item] = outcome
        return None

    def _written(self, item: Item, failure: Exception | str | None) -> None:
        """Take note of what became of an image.

        Raises:
            GivenUp: the segmenter has failed too often.
        """
        if isinstance(failure, ImageError):  # it names its image, and is no failure of the segmenter
            self._fail(item, str(failure))
            failure = None
        elif failure is not None:
            of_name = f"{printable(item.path)}: {failure}"
            self._fail(item, self._here.named(item, failure) if isinstance(failure, Exception) else of_name)
        self._bar.update()
        if isinstance(failure, Exception):
            self._finishing.failure(failure)
        else:
            self._finishing.success()

    def _fail(self, item: Item, reason: str) -> None:
        self._complain(reason)
        self._records[item] = report.failed(item, reason)


def _unless_failed(image: Prepared | Exception) -> Prepared:
    if isinstance(image, Exception):
        raise image
    return image
