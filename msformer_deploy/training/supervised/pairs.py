"""Images and their masks for training with labels: find, check, split and read them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...bundle.folder import sha256
from ...errors import ImageError, UsageError, printable
from ...images import masks
from ...images.annotations import painting
from ...images.inputs import PassedOver
from ...images.pairing import pair_folders
from ...images.read import InputImage, network_input, read_image

MAX_NAMED = 3  # files in one message
ROOM = 2**30  # bytes of memory for pairs that were read: about 500 pairs at side 352


class Pair(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class Split:
    """Pairs to learn from and pairs to validate on, each in the order of the images."""

    training: tuple[Pair, ...]
    validation: tuple[Pair, ...]


def find_pairs(images: Path, truth: Path, passed_over: PassedOver | None = None) -> tuple[Pair, ...]:
    """Pair all images of a folder with all masks of another folder, or of the same folder, see :mod:`.pairing`.

    Args:
        images: folder of images.
        truth: folder of masks, also as NIfTI, NRRD, MetaImage or DICOM segmentations; or a COCO file.
        passed_over: collects files that are neither images nor masks.

    Raises:
        UsageError: a folder is missing, names are ambiguous, there are volumes, or an image or a mask has no partner.
    """
    if not images.is_dir():
        raise UsageError(f"{printable(images)}: no such folder")
    found = pair_folders(images, truth, passed_over=passed_over, series=False)
    if found.volumes:
        raise UsageError(
            f"{printable(images)}: has volumes, but the network learns from images: {len(found.volumes)}"
            f" ({_named(list(found.volumes))}); save their slices and those of their masks as PNG"
        )
    for left_over, what, other in (
        (found.images_without_mask, "images without a mask", truth),
        (found.masks_without_image, "masks without an image", images),
    ):
        if left_over:
            raise UsageError(
                f"{what} of the same name in {printable(other)}: {len(left_over)} ({_named(left_over)}); add the"
                " missing files or remove these"
            )
    return tuple(Pair(image, mask) for image, mask in found.pairs.items())


def split(pairs: Sequence[Pair], share: float, seed: int) -> Split:
    """Set pairs aside for validation: at least one unless the share is 0; at least one is left for training.

    Raises:
        UsageError: there are fewer than two pairs.
    """
    if len(pairs) < 2:
        raise UsageError(f"too few images, {len(pairs)}: give at least 2, one for training and one for validation")
    count = min(max(round(share * len(pairs)), 1), len(pairs) - 1) if share else 0
    chosen = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    return Split(
        tuple(each for index, each in enumerate(pairs) if index not in chosen),
        tuple(each for index, each in enumerate(pairs) if index in chosen),
    )


def check(pairs: Sequence[Pair], step: Callable[[], object]) -> str:
    """Read every file once, so that no bad file ends a training that has run for hours.

    Args:
        pairs: pairs to read.
        step: called after each pair.

    Returns:
        SHA-256 of the pairs: of one line per pair, with the name and the hash of the image and the hash of the mask.

    Raises:
        ImageError: an image or a mask cannot be used.
    """
    found = hashlib.sha256()
    for each in pairs:
        read_binary_mask(each.mask, read_image(each.image))
        drawn = painting.digest(each.mask)
        mask = sha256(each.mask) if drawn is None else hashlib.sha256(drawn).hexdigest()
        line = f"{each.image.stem} {sha256(each.image)} {mask}\n"
        found.update(line.encode("utf-8", "surrogateescape"))
        step()
    return found.hexdigest()


def read_pair(pair: Pair, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read image and mask, both resized to a square with bilinear interpolation.

    Returns:
        float32 (3, side, side), RGB in 0..1, and float32 (1, side, side), the share of each pixel inside the mask.

    Raises:
        ImageError: as :func:`.read.read_image` and :func:`read_binary_mask`.
    """
    image = read_image(pair.image)
    mask = Image.fromarray(read_binary_mask(pair.mask, image).astype(np.uint8) * np.uint8(255))
    resized = np.asarray(mask.resize((side, side), Image.Resampling.BILINEAR), np.float32) / np.float32(255)
    return np.ascontiguousarray(network_input(image, side)[::-1]), resized[None]


class Reader:
    """:func:`read_pair` at one side, with a cache in memory, because every epoch reads every pair.

    Threads may share it.

    Args:
        side: side of the squares, pixels.
        room: maximum size of the cache, bytes.
    """

    def __init__(self, side: int, room: int = ROOM) -> None:
        self._side, self._room = side, room
        self._kept: dict[Pair, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._lock = threading.Lock()

    def __call__(self, pair: Pair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return image and mask; do not write to them, they are in the cache."""
        found = self._kept.get(pair)
        if found is None:
            found = read_pair(pair, self._side)
            size = sum(each.nbytes for each in found)
            with self._lock:
                if pair not in self._kept and size <= self._room:
                    self._room -= size
                    self._kept[pair] = found
        return found


def read_binary_mask(path: Path, image: InputImage) -> NDArray[np.bool_]:
    """Read a mask of one object on background, bool (h, w) of the file's size: 0 and one other value, or soft grey.

    Soft masks, with lossy compression or many values, are cut at half of their range: at 128 for 8 bits.

    Raises:
        ImageError: as :func:`.masks.read_file` and :func:`.masks.check_is_another_picture`, or it holds classes or
            colours.
    """
    file = masks.read_file(path, image)
    masks.check_is_another_picture(path, file, image)
    if file.coloured:
        raise ImageError(f"{printable(path)}: is a coloured mask; save it in black and white, one object on background")
    if not file.soft:
        values = np.unique(file.values)
        if np.count_nonzero(values) > 1:
            raise ImageError(
                f"{printable(path)}: is a mask with the values {', '.join(map(str, values))}; the network learns one"
                " object, so keep 0 for background and one other value"
            )
    return masks.inside(file)


def _named(paths: Sequence[Path]) -> str:
    """Names of the first files."""
    names = [printable(path.name) for path in paths[:MAX_NAMED]]
    return ", ".join([*names, "..."] if len(paths) > MAX_NAMED else names)
