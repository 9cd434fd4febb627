"""Whether an adapted encoder is better than the one it began as, on images that neither has learned from.

Without ground truth there are two scores, goodness measures in the sense of Zhang et al., "Image segmentation
evaluation: a survey of unsupervised methods" (CVIU 110, 2008): the contrast of borders, and the share of the image's
variance that the regions explain. Neither alone follows the DSC closely enough (docs/pretrain.md), so both must have
risen, and by more than chance from image to image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..foreground.borders import SIDE
from ..foreground.frame import without_frame
from ..images.inputs import printable
from ..images.read import network_input, read_image, resize_nearest
from ..images.truth import read_truths
from ..measures.overlap import overlap
from ..segmenter import Segmentation, Segmenter

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..images.inputs import Item

Mask = NDArray[np.bool_]

SCORES = ("contrast", "explained")  # that need no ground truth
NAMES = {"contrast": "contrast", "explained": "explained variance", "dsc": "DSC"}

BLUR = 2.0  # standard deviation of the Gaussian whose slope is taken, pixels of a square of :data:`.borders.SIDE`
CONFIDENCE = 0.95  # that a score has risen, one-sided
LEAST_WITHOUT_TRUTH = 2  # held-out images: a single one tells nothing of chance


@dataclass(frozen=True)
class Judged:
    """One held-out image.

    Attributes:
        image: its relative path.
        contrast, explained: of its label map, see :func:`contrast` and :func:`explained`.
        dsc: of its label-free mask where the truth is known.
    """

    image: str
    contrast: float
    explained: float
    dsc: float | None


def read_truth(item: Item, mask: Path) -> Mask:
    """Ground truth (H, W) of an image, all that is not background.

    Raises:
        ImageError: image or mask cannot be read or used; an empty mask can judge nothing.
    """
    truth = read_truths(mask, read_image(item.path)).masks[None]
    if not truth.any():
        raise ImageError(f"{printable(mask)}: an empty mask cannot judge; leave it out")
    return truth


def judge(
    bundle: Bundle, held_out: Mapping[Item, Mask | None], threads: int | None, step: Callable[[], object]
) -> tuple[Judged, ...]:
    """Segment held-out images as ``run`` does, and judge what comes out.

    Args:
        bundle: of :func:`.candidate.candidate`.
        held_out: images with the truth (H, W) of those that have one.
        threads: of torch.
        step: called after each image.

    Raises:
        ImageError: a file cannot be read any more.
    """
    segmenter = Segmenter(bundle, backend="torch", device="cpu", threads=threads)
    found = []
    for item, truth in held_out.items():
        result = segmenter.segment(item.path)
        dsc = None if truth is None else overlap(result.mask, truth).dsc
        found.append(Judged(item.relative.as_posix(), contrast(result), explained(result), dsc))
        step()
    return tuple(found)


def contrast(result: Segmentation) -> float:
    """Mean slope of the image on both sides of the borders between regions, over its mean slope everywhere.

    Black frames are filled first. Borders are those of the network's own label map: those that are drawn afterwards
    follow the image whatever the network said. 0 for a single region; 1 is what borders anywhere would get.
    """
    labels = resize_nearest(result.network_labels, SIDE, SIDE)
    slope = _slope(without_frame(network_input(result.image, SIDE)))
    on_border = np.zeros(labels.shape, bool)
    across, along = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    on_border[1:] |= across
    on_border[:-1] |= across
    on_border[:, 1:] |= along
    on_border[:, :-1] |= along
    return float(slope[on_border].mean() / slope.mean()) if on_border.any() else 0.0


def explained(result: Segmentation) -> float:
    """Share of the variance of the image that is between the regions of the network's own label map, 0..1.

    The criterion that Otsu's threshold maximises (eta of IEEE SMC-9, 1979), in all channels together.
    """
    labels = result.network_labels
    pixels = network_input(result.image, len(labels)).astype(np.float64)
    within = sum(
        float((labels == each).mean() * pixels[:, labels == each].var(axis=1).sum()) for each in np.unique(labels)
    )
    return 1 - within / float(pixels.var(axis=(1, 2)).sum())


def _slope(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Length of the gradient (S, S) of an image (3, S, S) in all its channels."""
    from scipy import ndimage

    squares = [ndimage.gaussian_gradient_magnitude(channel.astype(np.float64), BLUR) ** 2 for channel in image]
    slope: NDArray[np.float64] = np.sqrt(np.sum(squares, axis=0))
    return slope


@dataclass(frozen=True)
class Verdict:
    """The random encoder, which is that of the seed, and the adapted one, on the same images in the same order."""

    random: tuple[Judged, ...]
    adapted: tuple[Judged, ...]

    @property
    def with_truth(self) -> bool:
        """Whether the DSC decides."""
        return all(each.dsc is not None for each in (*self.random, *self.adapted))

    @property
    def _count(self) -> str:
        return "1 image" if len(self.random) == 1 else f"{len(self.random)} images"

    @property
    def better(self) -> bool:
        """Whether the adapted encoder is to be kept: a larger mean DSC, or both scores surely larger."""
        if self.with_truth:
            return self._mean("dsc", self.adapted) > self._mean("dsc", self.random)
        return all(self._sure_gain(score) > 0 for score in SCORES)

    def summary(self) -> str:
        """All scores of both encoders, in one line."""
        return f"{self._count} held out: {self._told(SCORES + (('dsc',) if self.with_truth else ()))}"

    def refusal(self) -> str:
        """Why the adapted encoder is not kept, in one line."""
        scores, needed = (
            (("dsc",), "") if self.with_truth else (SCORES, f"; both must rise, surely at {CONFIDENCE:.0%}")
        )
        return (
            f"the adapted encoder is not better than the random one on {self._count} held out: {self._told(scores)}"
            f"{needed}; nothing is written"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the manifest: means and every image."""
        return {
            "decided_by": ["dsc"] if self.with_truth else list(SCORES),
            **{
                name: {
                    **{score: self._mean(score, judged) for score in SCORES},
                    "dsc": self._mean("dsc", judged) if self.with_truth else None,
                    "images": [asdict(each) for each in judged],
                }
                for name, judged in (("random", self.random), ("adapted", self.adapted))
            },
        }

    def _told(self, scores: Sequence[str]) -> str:
        means = {score: (self._mean(score, self.random), self._mean(score, self.adapted)) for score in scores}
        return ", ".join(
            f"{NAMES[score]} {before:.4f} before and {after:.4f} after" for score, (before, after) in means.items()
        )

    def _mean(self, score: str, judged: Sequence[Judged]) -> float:
        return float(np.mean([getattr(each, score) for each in judged]))

    def _sure_gain(self, score: str) -> float:
        """The least that the mean of a score has risen by at :data:`CONFIDENCE`: Student's t of the paired changes."""
        from scipy.stats import t

        if len(self.random) < LEAST_WITHOUT_TRUTH:
            return -math.inf
        pairs = zip(self.random, self.adapted, strict=True)
        changes = np.array([getattr(after, score) - getattr(before, score) for before, after in pairs])
        error = changes.std(ddof=1) / math.sqrt(changes.size)
        return float(changes.mean() - t.ppf(CONFIDENCE, changes.size - 1) * error)
