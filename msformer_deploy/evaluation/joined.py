"""Slices joined to volumes by their names, and each volume scored once all its slices are there.

A volume that is not whole is never scored, for what is missing might be what was segmented badly: one with a slice that
failed or has no mask or image, that is there twice, that is missing between others, or of another size, or with a file
whose name does not tell its place. What is missing before the first or after the last slice cannot be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DeployError, UsageError, printable
from ..images.inputs import stem_of
from ..images.pairing import bases
from ..images.slice_names import SliceName, parse
from ..images.truth import Mask
from ..measures.volumes import VolumeScore, VoxelSize, score_volume
from ..registry import find_system

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..images.pairing import Pairing

Labels = NDArray[np.integer]
Tell = Callable[[str, str], object]


def require_classes(system: str) -> None:
    """See that labels of a system mean the same in every slice.

    Raises:
        UsageError: they are clusters, numbered anew on each image.
    """
    if not find_system(system).trained:
        raise UsageError(
            f"--volumes needs classes, but the clusters of {system} have no fixed meaning; drop --volumes, or pass a"
            " --bundle of a trained system"
        )


def classes_of(bundle: Bundle, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """Which ids of the masks are scored: those asked for, else all classes but background.

    Args:
        bundle: of a trained system.
        asked: of ``--class``.

    Returns:
        the ids; none where the system knows one object, and all that is not background in a mask is that.

    Raises:
        UsageError: as :func:`require_classes`, or a class is background or none of the bundle's.
    """
    require_classes(bundle.system)
    classes = bundle.sizes.clusters
    for each in asked:
        if each == 0:
            raise UsageError("--volumes does not score the background; drop --class 0")
        if each >= classes:
            raise UsageError(
                f"the bundle has no class {each}, only the background 0 and classes up to {classes - 1}; with"
                " --volumes choose one of these, or drop --class"
            )
    if asked or len(find_system(bundle.system).classes) == 2:
        return tuple(asked)
    return tuple(range(1, classes))


@dataclass
class _Volume:
    """Slices that are expected, and those seen so far: prediction and truth (H, W) by index."""

    expected: int
    seen: dict[int, tuple[Labels, Labels]] = field(default_factory=dict)


class Joined:
    """Volumes of the slices of a pairing; only those with slices still to come are in memory.

    Args:
        pairing: slices with their masks, and what did not pair. Not cut by a limit.
        classes: ids of the masks, from :func:`classes_of`; none for all that is not background as class 1.
        spacing: millimetres between slices, rows and columns; None for distances in voxels.
        distances: whether HD95 is computed, which needs MONAI.
        tell: called with name and reason of every volume that is left out, as soon as that is known.

    Attributes:
        classes, spacing: as given.
        left_out: why, by volume.

    Raises:
        UsageError: no file's name tells the index of a slice.
        DeployError: by their names alone, no volume can be scored.
    """

    def __init__(
        self,
        pairing: Pairing,
        classes: Sequence[int] = (),
        spacing: VoxelSize | None = None,
        *,
        distances: bool = True,
        tell: Tell = lambda name, reason: None,
    ) -> None:
        self.classes, self.spacing = tuple(classes), spacing
        self.left_out: dict[str, str] = {}
        self._distances, self._tell = distances, tell
        self._scores: dict[str, list[VolumeScore]] = {}
        self._names = {path: _name(path) for path in pairing.pairs}
        members: dict[str, dict[Path, int | None]] = {}
        for path, name in self._names.items():
            members.setdefault(name.volume, {})[path] = name.index
        cut = _cut(pairing)
        if not cut and not any(name.index is not None for name in self._names.values()):
            raise UsageError(
                "no file name contains the number of a slice; rename files to NAME_slice_0, NAME_slice_1 and so on,"
                " or drop --volumes"
            )
        self._waiting = {volume: _Volume(len(slices)) for volume, slices in members.items()}
        for volume, reason in cut.items():
            self._leave_out(volume, reason)
        for volume, slices in members.items():
            broken = _broken(slices)
            if broken is not None:
                self._leave_out(volume, broken)
        self.require_any()

    @property
    def scores(self) -> list[VolumeScore]:
        """Of every class asked for of every volume that was whole, sorted by the volumes' names."""
        return [each for volume in sorted(self._scores) for each in self._scores[volume]]

    @property
    def absent_classes(self) -> list[int]:
        """Classes asked for that no mask of a scored volume has."""
        return sorted(
            {each.class_id for each in self.scores} - {each.class_id for each in self.scores if not each.truth_empty}
        )

    def require_any(self) -> None:
        """See that a volume is scored, or may be yet.

        Raises:
            DeployError: there is none.
        """
        if not self._waiting and not self._scores:
            raise DeployError(f"none of the {len(self.left_out)} volumes could be scored; nothing is written")

    def add(self, image: Path, labels: Labels, masks: Mapping[int | None, Mask]) -> None:
        """Take a slice; the last one of a volume has it scored.

        Args:
            image: of the pairing.
            labels: (H, W), predicted classes.
            masks: its truth, bool (H, W) by id of each of :attr:`classes`; under None all that is not background.
        """
        name = self._names[image]
        volume = self._waiting.get(name.volume)
        if volume is None or name.index is None:
            return
        truth = np.zeros(labels.shape, labels.dtype)
        for class_id, mask in masks.items():
            truth[mask] = 1 if class_id is None else class_id
        volume.seen[name.index] = labels, truth
        sizes = {found.shape for found, _ in volume.seen.values()}
        if len(sizes) > 1:
            told = " and ".join(sorted(f"{width} x {height}" for height, width in sizes))
            self._leave_out(name.volume, f"its slices are of different sizes, {told} pixels")
        elif len(volume.seen) == volume.expected:
            del self._waiting[name.volume]
            self._scores[name.volume] = self._scored(name.volume, volume)

    def fail(self, image: Path) -> None:
        """A slice cannot be judged, so that its volume is not whole."""
        self._leave_out(self._names[image].volume, f"{printable(image.name)} failed")

    def _scored(self, name: str, volume: _Volume) -> list[VolumeScore]:
        slices = [maps for _, maps in sorted(volume.seen.items())]
        prediction, truth = (np.stack(maps) for maps in zip(*slices, strict=True))
        wanted = self.classes or (1,)
        scores = score_volume(
            printable(name), prediction, truth, max(wanted) + 1, self.spacing, distances=self._distances
        )
        return [each for each in scores if each.class_id in wanted]

    def _leave_out(self, volume: str, reason: str) -> None:
        """For the first reason found; nothing of the volume is kept."""
        self._waiting.pop(volume, None)
        self._scores.pop(volume, None)
        name = printable(volume)
        if name not in self.left_out:
            self.left_out[name] = reason
            self._tell(name, reason)


def _name(path: Path) -> SliceName:
    stem = stem_of(path.name)
    return parse(stem) or SliceName(stem, stem, None)


def _cut(pairing: Pairing) -> dict[str, str]:
    """Volumes of which a slice did not pair, and why; a file that is no slice by its name cuts none."""
    found: dict[str, str] = {}
    for paths, lacking in ((pairing.images_without_mask, "mask"), (pairing.masks_without_image, "image")):
        for path in paths:
            name = _name(path)
            if name.index is None and lacking == "image":  # p_slice_2_mask is of slice 2
                stem = stem_of(path.name)
                name = _name(Path(next(iter(bases(stem)), stem)))
            if name.index is not None:
                found.setdefault(name.volume, f"{printable(path.name)} has no {lacking}")
    return found


def _broken(slices: Mapping[Path, int | None]) -> str | None:
    """Why files are no whole volume, judged by their indices; None if they are one."""
    files: dict[int, Path] = {}
    for path, index in slices.items():
        if index is None:
            return f"the name of {printable(path.name)} tells no slice index"
        if index in files:
            both = files[index], path
            if files[index].name != path.name:
                both = Path(files[index].name), Path(path.name)
            return f"slice {index} is there twice, {printable(both[0])} and {printable(both[1])}"
        files[index] = path
    gap = next(((one, other) for one, other in pairwise(sorted(files)) if other > one + 1), None)
    return None if gap is None else f"there is no slice between {gap[0]} and {gap[1]}"
