"""Every image through the segmenter and the baselines, every mask to its scores; an image that fails, fails alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeployError, ImageError, caused_by_interruption, printable
from ..images.read import InputImage, read_image
from ..images.truth import read_truths
from ..measures.scores import score
from ..registry import find_system
from . import LABEL_FREE
from .baselines import baseline
from .joined import Joined
from .protocols import Comparison, compare
from .sheet import ContactSheet
from .summary import Judged

if TYPE_CHECKING:
    from ..segmenter import Segmentation, Segmenter

MOST_FAILURES_IN_A_ROW = 3  # of the segmenter; after that the rest is not tried


@dataclass(frozen=True)
class Request:
    """What is asked of every image.

    Attributes:
        protocols: of :data:`.evaluation.PROTOCOLS`.
        baselines: of :data:`.evaluation.BASELINES`.
        classes: class ids, each a truth of its own; none for all that is not background.
        tolerance: of the surface Dice, pixels; None leaves the scores of surfaces out.
    """

    protocols: tuple[str, ...]
    baselines: tuple[str, ...]
    classes: tuple[int, ...] = ()
    tolerance: float | None = None


class Evaluation:
    """What was found so far.

    Args:
        request: what is asked.
        pairs: images and their masks.
        complain: called with a line for every image that fails.
        sheet: takes the worst label-free masks.
        volumes: takes every slice, to be scored by volume; of a trained system, which is run once.

    Attributes:
        volumes: as given.
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
    ) -> None:
        self._request, self._pairs, self._complain, self._sheet = request, pairs, complain, sheet
        self._judged: dict[Path, list[Judged]] = {}
        self._failures_in_a_row = 0
        self.volumes = volumes
        self.failed: dict[Path, str] = {}
        self.notes: dict[Path, tuple[str, ...]] = {}
        self.warnings: dict[Path, tuple[str, ...]] = {}

    @property
    def judged(self) -> list[Judged]:
        """Every score, image by image, of those that never failed."""
        return [each for path in self._pairs if path not in self.failed for each in self._judged.get(path, ())]

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
        for path, mask in self._pairs.items():
            if path not in self.failed:
                self._judge(path, mask, segmenter, with_baselines)
            step()

    def _judge(self, path: Path, mask_path: Path, segmenter: Segmenter, with_baselines: bool) -> None:
        try:
            image = read_image(path)
            truths = read_truths(mask_path, image, self._request.classes)
            by_class = truths
            if self.volumes is not None and self.volumes.classes != self._request.classes:
                by_class = read_truths(mask_path, image, self.volumes.classes)
        except ImageError as error:
            self._fail(path, str(error))
            return
        result = self._segmented(path, image, segmenter)
        if result is None:
            return
        if self.volumes is not None:
            self.volumes.add(path, result.labels, by_class.masks)
        self.notes[mask_path], self.warnings[mask_path] = truths.notes, truths.warnings
        baselines = {name: baseline(name, image) for name in self._request.baselines} if with_baselines else {}
        found = self._judged.setdefault(path, [])

        def judge(method: str, protocol: str, seed: int | None, class_id: int | None, masks: Comparison) -> Judged:
            scores = score(*masks, self._request.tolerance)
            confidence = result.confidence if masks.prediction is result.mask else None
            names = (printable(path), printable(mask_path))
            found.append(Judged(*names, method, protocol, seed, class_id, scores, confidence))
            return found[-1]

        trained = find_system(segmenter.bundle.system).trained
        for class_id, truth in truths.masks.items():
            for protocol in self._request.protocols:
                masks = compare(protocol, result, truth, class_id if trained else None)
                judged = judge(segmenter.bundle.system, protocol, segmenter.seed, class_id, masks)
                if protocol == LABEL_FREE and self._sheet is not None:
                    clusters = segmenter.bundle.sizes.clusters
                    self._sheet.offer(_title(path, judged), judged.scores.dsc, result, truth, clusters)
            for name, mask in baselines.items():
                judge(name, LABEL_FREE, None, class_id, Comparison(mask, truth))

    def _segmented(self, path: Path, image: InputImage, segmenter: Segmenter) -> Segmentation | None:
        """The result, or None when the image has none or the segmenter fails on it."""
        try:
            result = segmenter.segment(image)
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


def _title(path: Path, judged: Judged) -> str:
    of_class = "" if judged.class_id is None else f", class {judged.class_id}"
    return f"seed {judged.seed}{of_class}: {path.name}"
