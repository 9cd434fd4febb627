"""``run --ray``: what the command does where workers of a cluster do the segmenting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeployError, UsageError
from .output import complain
from .segmenters import Asked, open_segmenter

if TYPE_CHECKING:
    from ..cluster.destination import Destination
    from ..cluster.ray import Size
    from ..images.inputs import Item
    from ..results.formats import Wanted


@dataclass(frozen=True)
class Ended:
    """What a run has made, whole or not.

    Attributes:
        total: number of images and volumes that were to be segmented.
        report: of all that was done.
        interrupted: whether Ctrl-C ended it.
        given_up: what else ended it before its end.
    """

    total: int
    report: dict[str, Any]
    interrupted: bool
    given_up: DeployError | None


def require_fit(output: Path | str, device: str, formats: Sequence[str], others: Mapping[str, object]) -> None:
    """See that the other options can be used together with ``--ray``.

    Args:
        output: of ``--output``.
        device: of ``--device``.
        formats: of ``--format``.
        others: options that cannot, with their values.

    Raises:
        UsageError: one cannot.
    """
    given = [name for name, value in others.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used with --ray; drop {'it' if len(given) == 1 else 'them'}")
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device}: with --ray the cluster chooses the GPU of each worker; pass --device cuda"
        )
    if "coco" in formats and isinstance(output, str):
        raise UsageError(
            f"--format coco needs all masks in one folder, and --output {output} is none; drop one of the two"
        )


def size_of(threads: int | None, device: str, gpus: float | None) -> Size:
    """What each worker takes of the cluster."""
    from ..cluster.ray import Size

    return Size(threads or 1, (1.0 if device == "cuda" else 0.0) if gpus is None else gpus)


def require_free(destination: Destination, items: Sequence[Item], once: Sequence[str]) -> None:
    """See that an address holds nothing that would be lost; of a folder :mod:`.run` sees it.

    Raises:
        UsageError: it does.
    """
    from ..errors import printable
    from ..images.inputs import OF_SHARD
    from ..results import report

    files = destination.names()
    there = files.union(name.rpartition("/")[0] for name in files)  # pictures of slices are in a folder of their own
    if there:
        expected = (path.as_posix() for path in report.all_files(items, Path()))
        for name in (*expected, *once, *sorted(filter(OF_SHARD.fullmatch, there))):
            if name in there:
                raise UsageError(
                    f"{printable(f'{destination.place}/{name}')}: exists already; pass --force to replace results or"
                    " --skip-existing to keep them"
                )


def segment(
    address: str,
    size: Size,
    asked: Asked,
    items: Sequence[Item],
    destination: Destination,
    *,
    wanted: Wanted,
    batch: int,
    skip_existing: bool,
    force: bool,
    clashes: Mapping[Item, Item],
    passed_over: Mapping[str, int],
    quiet: bool,
) -> Ended:
    """Have the workers segment all inputs and write the results.

    Raises:
        DeployError: nothing was done, because the cluster, the inputs or the destination cannot be used.
    """
    from tqdm import tqdm

    from ..cluster.ray import Order, connected, merged, require_alike

    paths = (path for item in items for path in (*item.files[:1], item.path))
    order = Order(
        partial(open_segmenter, asked),
        destination.place,
        wanted,
        batch,
        skip_existing,
        force,
        clashes,
        Path.cwd(),
        next(filter(os.path.lexists, paths), None),
        destination.mark(),
    )
    parts: list[tuple[list[int], dict[str, Any]]] = []
    interrupted, given_up = False, None
    try:
        with connected(address, size) as cluster:
            start = time.perf_counter()
            # disable=None: off when stderr is not a terminal.
            with tqdm(total=len(items), unit="image", disable=True if quiet else None) as bar:
                try:
                    for part in cluster.run(order, items):
                        if parts:
                            require_alike(parts[0][1], part[1])
                        parts.append(part)
                        for entry in part[1]["images"]:
                            if entry["error"] is not None:
                                complain(entry["error"])
                        bar.update(len(part[0]))
                except KeyboardInterrupt:
                    interrupted = True
                except DeployError as error:
                    given_up = error
                except Exception as error:  # of Ray, when the cluster itself is gone
                    if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                        raise
                    given_up = DeployError(
                        f"the cluster failed ({type(error).__name__}); when it runs again, continue with"
                        " --skip-existing"
                    )
            seconds = time.perf_counter() - start
    finally:
        destination.remove(order.mark)
    if not parts:
        raise given_up or KeyboardInterrupt
    content = merged(parts, seconds, passed_over)
    if given_up is None and not interrupted and len(content["images"]) != len(items):
        given_up = DeployError(
            f"the cluster lost {len(items) - len(content['images'])} inputs; run the same command with --skip-existing"
        )
    return Ended(len(items), {**content, "interrupted": interrupted or given_up is not None}, interrupted, given_up)


def write_report(destination: Destination, write: Callable[[Path], None], force: bool) -> None:
    """Write the files of the whole run, for an address in a temporary folder first.

    What an address has of another run and would not be true any more is removed, as :mod:`.run` does it in a folder.

    Args:
        destination: where results are.
        write: writes the files into a folder.
        force: whether results were replaced; no head has made the new ones.

    Raises:
        OSError: a file cannot be written.
        DeployError: the address cannot be written.
    """
    from ..images.inputs import OF_SHARD
    from ..refinement import head_file
    from ..results.annotations import COCO

    with destination.folder() as folder:
        write(folder)
        shards = filter(OF_SHARD.fullmatch, destination.names(depth=1))
        destination.send(folder, replaced=[COCO, *([head_file.FILE] if force else []), *shards])
