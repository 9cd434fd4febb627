"""Which images teach and which judge, and what the network is shown of those that teach."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..bundle.folder import sha256
from ..errors import ImageError, UsageError
from ..foreground.frame import without_frame
from ..images.read import network_input, read_image

if TYPE_CHECKING:
    from ..images.inputs import Item
    from .settings import PretrainSettings


@dataclass(frozen=True)
class Split:
    """Images that teach and images that judge, each in the order in which they were found."""

    training: tuple[Item, ...]
    held_out: tuple[Item, ...]


def readable(items: Sequence[Item], fail: Callable[[ImageError], None], step: Callable[[], object]) -> list[Item]:
    """Those of the items that are images.

    Args:
        items: files.
        fail: called with the reason for every other one.
        step: called after each.
    """
    found = []
    for item in items:
        try:
            read_image(item.path)
        except ImageError as error:
            fail(error)
        else:
            found.append(item)
        step()
    return found


def split(
    items: Sequence[Item], share: float, seed: int, able: Collection[Item] | None = None, least: int = 1
) -> Split:
    """Hold images out, and leave at least one to learn from.

    Args:
        items: readable images.
        share: of them to hold out.
        seed: draws which.
        able: those that can judge, where not all can; no more of them are held out than there are.
        least: so many are held out at least, where so many are able.

    Raises:
        UsageError: there are too few images, or none can judge.
    """
    if len(items) <= least:
        raise UsageError(
            f"too few images, {len(items)}: at least {least + 1} are needed, one to learn from and {least} to judge on"
        )
    candidates = [index for index, item in enumerate(items) if able is None or item in able]
    if not candidates:
        raise UsageError("none of the images has a mask that can be used; without --masks none is needed")
    count = min(max(least, round(share * len(items))), len(items) - 1, len(candidates))
    chosen = set(np.random.default_rng(seed).permutation(candidates)[:count].tolist())
    return Split(
        tuple(item for index, item in enumerate(items) if index not in chosen),
        tuple(item for index, item in enumerate(items) if index in chosen),
    )


def digest(items: Sequence[Item]) -> str:
    """SHA-256 of the list of files as ``sha256sum`` prints it, one line each: hash, two spaces, relative path."""
    lines = "".join(f"{sha256(item.path)}  {item.relative.as_posix()}\n" for item in items)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def batches(items: Sequence[Item], settings: PretrainSettings, seed: int) -> Iterator[NDArray[np.float32]]:
    """What the network is shown, one array (B, 3, S, S) for each update: BGR in 0..1, black frames filled.

    Each pass over the images has an order of its own and ends with what is left; each image is flipped along either
    axis or both or not at all. Files are read when their turn comes, so that memory does not grow with the folder.

    Raises:
        ImageError: a file cannot be read any more.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(settings.steps):
        order = order or rng.permutation(len(items)).tolist()
        taken, order = order[: settings.batch], order[settings.batch :]
        shown = []
        for index in taken:
            pixels = without_frame(network_input(read_image(items[index].path), settings.side))
            rows, columns = (slice(None, None, step) for step in rng.choice((1, -1), size=2))
            shown.append(pixels[:, rows, columns])
        yield np.stack(shown)
