"""Every image and volume through the segmenter, every mask to its scores; an image that fails, fails alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DeployError, ImageError, caused_by_interruption, printable
from ..images.inputs import Item
from ..images.items import Reading, volume_of
from ..images.read import read_image
from ..images.truth import Truths, read_truths, read_volume_truths
from ..images.volume import Volume
from ..measures.scores import Scores, score
from ..measures.volumes import VoxelSize, score_mask
from ..refinement.head_file import identity_of
from ..registry import find_system
from . import LABEL_FREE, OF_VOLUMES
from .baselines import baseline
from .corrected import Corrected
from .drawn import with_prompts
from .joined import Joined
from .protocols import Comparison, compare
from .sheet import ContactSheet
from .summary import Judged

if TYPE_CHECKING:
    from ..segmenter import Segmentation, Segmenter
    from ..volume_segmenter import VolumeSegmentation, VolumeSegmenter

Result = TypeVar("Result")
MOST_FAILURES_IN_A_ROW = 3  # of the segmenter; after that the rest is not tried


@dataclass(frozen=True)
class Request:
    """What is asked of every image.

    Attributes:
        protocols: of :data:`.evaluation.PROTOCOLS`.
        baselines: of :data:`.evaluation.BASELINES`.
        classes: class ids, each a truth of its own; none for all that is not background.
        tolerance: of the surface Dice, pixels; None leaves the scores of surfaces out.
        reading: how images and volumes are read.
        prompt: of :data:`.evaluation.PROMPTS`; the label-free mask is the one with these, drawn from each truth.
        corrected: numbers of corrected images whose worth is judged (:mod:`.corrected`).
    """

    protocols: tuple[str, ...]
    baselines: tuple[str, ...]
    classes: tuple[int, ...] = ()
    tolerance: float | None = None
    reading: Reading = field(default_factory=Reading)
    prompt: str = "none"
    corrected: tuple[int, ...] = ()


class Evaluation:
    """What was found so far.

    Args:
        request: what is asked.
        pairs: images and volumes, and their masks.
        complain: called with a line for every image that fails.
        sheet: takes the worst label-free masks.
        volumes: takes every slice, to be scored by volume; of a trained system, which is run once.
        items: those of the pairs that are volumes themselves.

    Attributes:
        volumes: as given.
        corrected: what corrected images are worth, once :meth:`run` has ended.
        failed: why, by image.
        notes: how masks were read where that was a choice, by mask.
        warnings: what is likely to be wrong with masks, by mask.
    """

    def __init__(
        self,
        request: Request,
        pairs: dict[Path, Path],
        complain: Callable[[str], None],
        sheet: ContactSheet | None = None,
        volumes: Joined | None = None,
        items: Mapping[Path, Item] | None = None,
    ) -> None:
        self._request, self._pairs, self._complain, self._sheet = request, pairs, complain, sheet
        self._judged: dict[Path, list[Judged]] = {}
        self._failures_in_a_row = 0
        self._items = items or {}
        self.volumes = volumes
        self.corrected: list[dict[str, Any]] = []
        self._taught = Corrected(request.corrected)
        self.failed: dict[Path, str] = {}
        self.notes: dict[Path, tuple[str, ...]] = {}
        self.warnings: dict[Path, tuple[str, ...]] = {}

    @property
    def judged(self) -> list[Judged]:
        """Every score, image by image, of those that never failed."""
        return [each for path in self._pairs if path not in self.failed for each in self._judged.get(path, ())]

    @property
    def prompted(self) -> bool:
        """Whether masks are those with prompts."""
        return self._request.prompt != "none"

    @property
    def teaching(self) -> bool:
        """Whether the worth of corrected images is judged."""
        return bool(self._request.corrected)

    @property
    def size(self) -> int:
        """How many images there are."""
        return len(self._pairs)

    @property
    def absent_classes(self) -> list[int]:
        """Class ids asked for that no mask has."""
        present = {each.class_id for each in self.judged if each.scores.truth_pixels}
        return [each for each in self._request.classes if each not in present]

    def run(self, segmenter: Segmenter, with_baselines: bool, step: Callable[[], object]) -> None:
        """Judge every image that has not failed yet.

        Args:
            segmenter: of one seed.
            with_baselines: judge these as well; they have no seed, so once is enough.
            step: called after each image.

        Raises:
            DeployError: the segmenter failed on :data:`MOST_FAILURES_IN_A_ROW` images in a row.
            KeyboardInterrupt: passed on.
        """
        volumes = None
        for path, mask in self._pairs.items():
            if path not in self.failed:
                if path in self._items:
                    from ..volume_segmenter import VolumeSegmenter

                    volumes = volumes or VolumeSegmenter(segmenter)
                    self._judge_volume(self._items[path], mask, segmenter, volumes)
                else:
                    self._judge(path, mask, segmenter, with_baselines)
            step()
        if self._request.corrected:
            self.corrected = self._taught.summary(identity_of(segmenter.bundle))

    def _judge(self, path: Path, mask_path: Path, segmenter: Segmenter, with_baselines: bool) -> None:
        try:
            image = read_image(path, self._request.reading.window)
            truths = read_truths(mask_path, image, self._request.classes)
            by_class = truths
            if self.volumes is not None and self.volumes.classes != self._request.classes:
                by_class = read_truths(mask_path, image, self.volumes.classes)
        except DeployError as error:
            self._fail(path, str(error))
            return
        session, result = None, None
        if self.prompted:
            session = self._segmented(path, lambda: segmenter.open(image))
            result = None if session is None else session.segmentation
        else:
            result = self._segmented(path, lambda: segmenter.segment(image))
        if result is None:
            return
        if self.volumes is not None:
            self.volumes.add(path, result.labels, by_class.masks)
        if self._request.corrected:
            (truth,) = truths.masks.values()
            if truth.any() and not truth.all():  # run takes no such correction
                example = self._segmented(path, partial(segmenter.example, image, truth))
                if example is None:
                    return
                self._taught.add(printable(path), example)
        baselines = {name: baseline(name, image) for name in self._request.baselines} if with_baselines else {}
        trained = find_system(segmenter.bundle.system).trained
        for class_id, truth in truths.masks.items():
            if session is not None:
                shown = self._segmented(path, partial(with_prompts, self._request.prompt, session, truth))
                if shown is None:
                    return
                result = shown
            judge = self._judging(path, mask_path, truths, result)
            for protocol in self._request.protocols:
                masks = compare(protocol, result, truth, class_id if trained else None)
                scores = score(*masks, self._request.tolerance)
                judged = judge(segmenter.bundle.system, protocol, segmenter.seed, class_id, masks, scores, "px")
                if protocol == LABEL_FREE and self._sheet is not None:
                    clusters = segmenter.bundle.sizes.clusters
                    self._sheet.offer(_title(path, judged), judged.scores.dsc, result, truth, clusters)
            for name, mask in baselines.items():
                masks = Comparison(mask, truth)
                judge(name, LABEL_FREE, None, class_id, masks, score(*masks, self._request.tolerance), "px")

    def _judge_volume(self, item: Item, mask_path: Path, segmenter: Segmenter, volumes: VolumeSegmenter) -> None:
        """Score a volume in three dimensions, by :data:`.evaluation.OF_VOLUMES` alone."""
        try:
            volume = volume_of(item, self._request.reading)
            truths = read_volume_truths(mask_path, volume, self._request.classes)
        except DeployError as error:
            self._fail(item.path, str(error))
            return
        result = self._segmented(item.path, lambda: volumes.segment(volume))
        if result is None:
            return
        judge = self._judging(item.path, mask_path, truths, result)
        trained = find_system(segmenter.bundle.system).trained
        spacing = _spacing_of(volume)
        for class_id, truth in truths.masks.items():
            for protocol in self._request.protocols:
                if protocol in OF_VOLUMES:
                    masks = compare(protocol, result, truth, class_id if trained else None)
                    scores = score_mask(*masks, spacing, distances=self._request.tolerance is not None)
                    unit = "voxels" if spacing is None else "mm"
                    judge(segmenter.bundle.system, protocol, segmenter.seed, class_id, masks, scores, unit)

    def _judging(
        self, path: Path, mask_path: Path, truths: Truths, result: Segmentation | VolumeSegmentation
    ) -> Callable[[str, str, int | None, int | None, Comparison, Scores, str], Judged]:
        """What keeps the scores of an image or a volume."""
        self.notes[mask_path], self.warnings[mask_path] = truths.notes, truths.warnings
        found = self._judged.setdefault(path, [])
        names = (printable(path), printable(mask_path))

        def judge(
            method: str,
            protocol: str,
            seed: int | None,
            class_id: int | None,
            masks: Comparison,
            scores: Scores,
            unit: str,
        ) -> Judged:
            confidence = result.confidence if masks.prediction is result.mask else None
            found.append(Judged(*names, method, protocol, seed, class_id, scores, confidence, unit))
            return found[-1]

        return judge

    def _segmented(self, path: Path, segment: Callable[[], Result]) -> Result | None:
        """The result, or None when the image has none or the segmenter fails on it."""
        try:
            result = segment()
        except ImageError as error:
            self._fail(path, str(error))
            return None
        except Exception as error:
            if caused_by_interruption(error):
                raise KeyboardInterrupt from error
            if os.environ.get("MSFORMER_DEPLOY_DEBUG"):
                raise
            kind = "" if isinstance(error, DeployError) else f"{type(error).__name__}: "
            why = f"segmenting failed, {kind}{error}; MSFORMER_DEPLOY_DEBUG=1 shows the traceback"
            self._fail(path, f"{printable(path)}: {' '.join(why.split())}")
            self._failures_in_a_row += 1
            if self._failures_in_a_row == MOST_FAILURES_IN_A_ROW:
                raise DeployError(
                    f"segmenting failed {MOST_FAILURES_IN_A_ROW} times in a row, so evaluate stopped; make"
                    " 'msformer-deploy run' work first"
                ) from error
            return None
        self._failures_in_a_row = 0
        return result

    def _fail(self, path: Path, reason: str) -> None:
        self.failed[path] = reason
        if self._sheet is not None:
            self._sheet.withdraw(printable(path))
        self._complain(reason)
        if self.volumes is not None:
            self.volumes.fail(path)


def _spacing_of(volume: Volume) -> VoxelSize | None:
    """Millimetres between slices, rows and columns; None if one of them is not known."""
    if volume.spacing is None or volume.thickness is None:
        return None
    return volume.thickness, volume.spacing.row, volume.spacing.column


def _title(path: Path, judged: Judged) -> str:
    of_class = "" if judged.class_id is None else f", class {judged.class_id}"
    return f"seed {judged.seed}{of_class}: {path.name}"
