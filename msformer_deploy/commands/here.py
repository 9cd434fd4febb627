"""``run`` on this machine: what was asked for is segmented, here, and the report written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine.memory import REMEDY, is_out_of_memory
from . import corrected, watched
from .on_ray import Ended
from .output import complain, say
from .segmenters import Asked, open_segmenter, writing_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..cluster.shards import Shard
    from ..foreground.prompts import Prompts
    from ..foreground.volume_prompts import VolumePrompts
    from ..images.inputs import Item, PassedOver
    from ..images.watching import Watcher
    from ..results.batch import BatchRun
    from ..results.formats import Wanted
    from ..segmenter import Segmenter


@dataclass(frozen=True)
class Work:
    """What is to be segmented, and what becomes of it.

    Attributes:
        asked: which segmenter does it.
        items: images and volumes; with a watcher those that are there already, which it finds again.
        folder: of the results; it exists.
        batch: images, or slices of a volume, in one call of the graph.
        wanted: what is read and written.
        prompts: what is shown, by image or volume.
        corrections: masks that a person has corrected, by image.
        clashes: items whose results would have the names of others'.
        passed_over: what was found in the inputs and is no item.
        part: of a run; None for all of it.
        of_shard: what its report says of that part.
        watcher: looks for what comes; None where only what is there counts.
        force, skip_existing: what becomes of results that exist.
        quiet: no progress bar.
    """

    asked: Asked
    items: Sequence[Item]
    folder: Path
    batch: int
    wanted: Wanted
    prompts: Mapping[Path, Prompts | VolumePrompts]
    corrections: Mapping[Path, NDArray[np.bool_]]
    clashes: Mapping[Item, Item]
    passed_over: PassedOver
    part: Shard | None
    of_shard: dict[str, Any] | None
    watcher: Watcher | None
    force: bool
    skip_existing: bool
    quiet: bool


def segment(work: Work, write_report: Callable[[dict[str, Any]], None]) -> tuple[Ended, str]:
    """Segment all that is there, or with a watcher all that comes, and write the report, even if the run is cut short.

    Args:
        work: what there is to do.
        write_report: writes the report of a whole run, and what is made of it.

    Returns:
        what was made, and in words what corrected images have taught.

    Raises:
        DeployError: nothing can be segmented, or the output folder cannot be written any more.
    """
    from ..results import merge, report
    from ..results.batch import unwritable

    segmenter = _taught(work)
    batch_run = _batch_run(work, segmenter)
    passed_over = work.passed_over if work.watcher is None else work.watcher.passed_over

    def summary(stopped: bool) -> dict[str, Any]:
        counts = passed_over.counts
        return report.build(batch_run.records(), segmenter, batch_run.seconds, stopped, counts, wanted=work.wanted)

    def report_so_far() -> None:
        try:
            report.write(work.folder, summary(False))
        except OSError as error:
            raise unwritable(work.folder, error) from error

    if work.part is not None and work.force:
        try:
            merge.remove_whole(work.folder)
        except OSError as error:
            raise unwritable(work.folder, error) from error
    ended, left = _through(work, batch_run, report_so_far, summary)
    try:
        if work.of_shard is not None:
            merge.write_shard(work.folder, {**ended.report, "shard": work.of_shard})
        else:
            write_report(ended.report)
    except OSError as error:
        raise unwritable(work.folder, error) from error
    if left:
        say(f"complete and not segmented: {left}; run the same command with --skip-existing to continue")
    return ended, "" if segmenter.head is None else f" {corrected.describe(segmenter)};"


def _taught(work: Work) -> Segmenter:
    """The segmenter, with what corrected images teach it, which is kept in the folder."""
    segmenter = open_segmenter(work.asked)
    segmenter.require_batch(work.batch)
    # Another shard may have learned the same and written it.
    kept = work.skip_existing or (work.part is not None and not work.force)
    if work.corrections:
        segmenter = corrected.taught(segmenter, work.corrections, work.wanted.reading, work.quiet)
        return segmenter.with_head(corrected.keep_head(work.folder, work.items, segmenter.head, kept))
    corrected.keep_head(work.folder, work.items, None, kept)
    corrected.say_volumes(segmenter, work.items)
    return segmenter


def _batch_run(work: Work, segmenter: Segmenter) -> BatchRun:
    from ..results.batch import BatchRun

    return BatchRun(
        segmenter,
        work.items if work.watcher is None else [],
        work.folder,
        work.batch,
        work.skip_existing or (work.watcher is not None and not work.force),  # what comes later was not looked for
        work.quiet,
        writing_threads(),
        complain,
        work.wanted,
        work.prompts,
        {path: mask for path, mask in work.corrections.items() if path not in work.prompts},
        clashes=work.clashes,
    )


def _through(
    work: Work, batch_run: BatchRun, report_so_far: Callable[[], None], summary: Callable[[bool], dict[str, Any]]
) -> tuple[Ended, int]:
    """Run to the end, or to what ends it before; and how many images were left that had come."""
    from ..results.batch import GivenUp

    interrupted, given_up, left = False, None, 0
    try:
        if work.watcher is not None:
            left = watched.watch(batch_run, work.watcher, report_so_far, work.quiet)
        else:
            batch_run.run()
    except KeyboardInterrupt:
        interrupted = True
    except GivenUp as error:
        given_up = error
    except Exception as error:
        if not is_out_of_memory(error) or os.environ.get("MSFORMER_DEPLOY_DEBUG"):
            raise
        given_up = GivenUp(f"there is not enough memory to go on; {REMEDY}, then continue with --skip-existing", 1)
    stopped = interrupted or given_up is not None or left > 0
    return Ended(len(batch_run.items), summary(stopped), interrupted, given_up), left
