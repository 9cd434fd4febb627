"""Which mask belongs to which image, and what is left over on either side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import masks
from ..inputs import HDF5_SUFFIXES, SUFFIXES, discover


@dataclass(frozen=True)
class Pairing:
    """Images and masks of one name.

    Attributes:
        pairs: the mask of every image that has one, in the order of the images.
        images_without_mask, masks_without_image: what did not pair, sorted.
    """

    pairs: dict[Path, Path]
    images_without_mask: tuple[Path, ...]
    masks_without_image: tuple[Path, ...]


def pair(images: Path, truth: Path, limit: int | None = None) -> Pairing:
    """Pair the images of a folder with the masks of another by name, whatever the suffix.

    Args:
        images: a folder with images, subfolders included, or one image.
        truth: a folder with masks.
        limit: take so many pairs at most, evenly spread; what did not pair is told of all.

    Raises:
        UsageError: as :func:`.inputs.discover` and :func:`.masks.pair`; nothing paired is among it.
    """
    found = [item.path for item in discover([images])]
    pairs = masks.pair(found, truth)
    stems = {path.stem for path in found}
    left_over = (
        path
        for path in truth.iterdir()
        if path.suffix.lower() in (*SUFFIXES, *HDF5_SUFFIXES) and path.stem not in stems
    )
    return Pairing(
        _spread(pairs, limit),
        tuple(sorted(path for path in found if path not in pairs)),
        tuple(sorted(left_over)),
    )


def _spread(pairs: dict[Path, Path], limit: int | None) -> dict[Path, Path]:
    if limit is None or len(pairs) <= limit:
        return pairs
    paths = list(pairs)
    return {path: pairs[path] for path in (paths[index * len(paths) // limit] for index in range(limit))}
