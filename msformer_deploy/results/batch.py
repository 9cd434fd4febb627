"""One pass over many images: read ahead, segmented, written behind; and when it is given up."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import DeployError, ImageError, caused_by_interruption, printable
from ..foreground.prompts import Prompts
from ..foreground.volume_prompts import VolumePrompts
from ..images.contents import content_sha256
from ..images.inputs import collisions
from ..images.items import volume_of
from ..images.read import read_image
from ..machine.memory import is_out_of_memory
from ..segmenter import Learned, Prepared, Segmentation, Segmenter
from ..volume_segmenter import VolumeSegmentation, VolumeSegmenter
from . import report
from .formats import Wanted
from .pipeline import overlap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..images.inputs import Item

Found = Learned | VolumeSegmentation

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

    ``clashes`` are those of :func:`..images.inputs.collisions` where the items are a part of all that go into the
    folder; None finds them among the items. ``before`` is an earlier pass by the same segmenter: failures that began in
    it are counted on.

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
        self._clashes = collisions(items) if clashes is None else clashes
        self._records: dict[Item, dict[str, Any]] = {}
        self._contents: dict[Item, str] = {}  # hashes of what was read
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
        """Take more items for the next :meth:`run`. Known ones have changed, and lose the results they had."""
        for item in items:
            former = self._items.get(item.path)
            if former is not None:
                self._records.pop(former, None)
                report.remove_results(former, self._output)
            self._items[item.path] = item
        self._due, self._clashes = list(items), collisions(self.items)

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
        # disable=None: off when stderr is not a terminal.
        with tqdm(total=len(pending), unit="image", disable=True if self._quiet else None) as self._bar:
            try:
                overlap(
                    pending, self._batch, self._read, self._segment, self._write, self._written, self._writers, ended
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
                elif self._changed(item, record):
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

    def _changed(self, item: Item, record: Mapping[str, Any]) -> bool:
        """Whether an input is not the one of its record; no if one of them does not say, as when the file is gone."""
        known = record.get("input_sha256")
        try:
            return known is not None and content_sha256(item) != known
        except ImageError:
            return False

    def _read(self, item: Item) -> tuple[Prepared | Exception | None, float]:
        """What the network takes of an image, or why it cannot be had, and the seconds it took to read it.

        None for a volume: it is read when its turn comes, for two would need twice the memory.
        """
        if item.kind == "volume":
            return None, 0.0
        start = time.perf_counter()
        try:
            image = read_image(item.path, self._wanted.reading.window)
            self._wanted.check(item, image)
            prompts = self._prompts.get(item.path)
            assert not isinstance(prompts, VolumePrompts)  # of an image
            if prompts is not None:
                prompts.require_fit(image.height, image.width)
            self._contents[item] = content_sha256(item)
        except DeployError as error:
            return ImageError(self._named(item, error)), time.perf_counter() - start
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return self._too_large(item, error), time.perf_counter() - start
        decode = time.perf_counter() - start
        try:
            return self._segmenter.prepare(image, prompts), decode
        except Exception as error:  # a failure of the segmenter, told when its turn comes
            return self._too_large(item, error) if is_out_of_memory(error) else error, decode

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
        start = time.perf_counter()
        try:
            volume = volume_of(item, self._wanted.reading)
            self._wanted.check(item, volume)
            prompts = self._prompts.get(item.path)
            assert not isinstance(prompts, Prompts)  # of a volume
            if prompts is not None:
                prompts.require_fit(volume)
            self._contents[item] = content_sha256(item)
        except Exception as error:
            if not isinstance(error, DeployError) and not is_out_of_memory(error):
                raise
            self._written(item, ImageError(self._named(item, error)))
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
            self._written(item, ImageError(self._named(item, error)) if of_image else error)
            return
        found.seconds.update(decode=decode)
        self._written(item, self._write(item, found))

    def _named(self, item: Item, error: Exception) -> str:
        """What to say of a failure, with the name of its image, which some errors have already."""
        reason, name = self._reason(error), printable(item.path)
        return reason if reason.startswith(name) else f"{name}: {reason}"

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
                self._fail(item, f"{printable(item.path)}: {self._reason(error)}")
            self._learning.failure(error)
            return {}
        self._learning.success()
        return dict(zip(images, results, strict=True))

    def _write(self, item: Item, found: Found) -> Exception | str | None:
        """Write what was found in an image and keep its record; or say why it has none, with the failure.

        Raises:
            DeployError: the output folder cannot be written any more.
        """
        try:
            if isinstance(found, VolumeSegmentation):
                result: Segmentation | VolumeSegmentation = found
            else:
                result = self._segmenter.finish(found)
                if item.path in self._corrected:  # what a person has said is the result
                    result = replace(result, mask=self._corrected[item.path], confidence=None, corrected=True)
        except ImageError as error:
            return error
        except Exception as error:
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            # Full size comes in here: what does not fit is the image.
            return self._reason(error) if is_out_of_memory(error) else error
        try:
            self._records[item] = report.write_results(
                item, self._output, result, self._segmenter, self._wanted, self._contents[item]
            )
        except DeployError as error:
            return error
        except Exception as error:
            if is_out_of_memory(error):
                return self._reason(error)
            if not isinstance(error, OSError):
                raise
            if error.errno != errno.ENAMETOOLONG:
                raise unwritable(self._output, error) from error
            return "its name is too long for the names of its results; rename it"
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
            self._fail(item, self._named(item, failure) if isinstance(failure, Exception) else of_name)
        self._bar.update()
        if isinstance(failure, Exception):
            self._finishing.failure(failure)
        else:
            self._finishing.success()

    def _reason(self, error: Exception) -> str:
        """What to tell of a failure in the midst of the work, in one line."""
        if is_out_of_memory(error):
            smaller = ", or pass a smaller --batch" if self._batch > 1 else ""
            return f"not enough memory to segment it; make the image smaller, end other programs{smaller}"
        if isinstance(error, DeployError):
            return str(error)
        told = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        return f"segmenting failed, {told}; MSFORMER_DEPLOY_DEBUG=1 shows the traceback"

    def _too_large(self, item: Item, error: Exception) -> ImageError:
        """The failure of an image that does not fit into memory, which is no failure of the segmenter."""
        failure = ImageError(f"{printable(item.path)}: {self._reason(error)}")
        failure.__cause__ = error
        return failure

    def _fail(self, item: Item, reason: str) -> None:
        self._complain(reason)
        self._records[item] = report.failed(item, reason)


def _unless_failed(image: Prepared | Exception) -> Prepared:
    if isinstance(image, Exception):
        raise image
    return image


def unwritable(output: Path, error: OSError) -> DeployError:
    """The failure of an output folder that takes no more."""
    return DeployError(
        f"{printable(output)}: cannot be written ({error.strerror}); make room or choose another --output,"
        " then continue with --skip-existing"
    )
