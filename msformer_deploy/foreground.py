"""The label-free choice of the mask: which clusters of a label map are the object."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

RULES = ("auto", "largest", "cluster:ID")
FRAME_BRIGHTNESS = 0.2  # a scope's frame is darker than this, on 0..1
MAX_FRAME_AREA = 0.5  # of the image; more than that is no frame
RIM_WIDTH = 3  # pixels at network resolution


@dataclass(frozen=True)
class ForegroundRule:
    """``auto``, ``largest``, or ``cluster`` with the id of one cluster."""

    kind: str
    cluster: int = 0

    def __str__(self) -> str:
        return f"cluster:{self.cluster}" if self.kind == "cluster" else self.kind


def parse_rule(text: str) -> ForegroundRule:
    """Read a rule as the CLI takes it.

    Raises:
        UsageError: it is none of :data:`RULES`.
    """
    if text in ("auto", "largest"):
        return ForegroundRule(text)
    match = re.fullmatch(r"cluster:(\d{1,9})", text)
    if match is None:
        raise UsageError(f"foreground {text!r} is unknown; choose one of {', '.join(RULES)}")
    return ForegroundRule("cluster", int(match[1]))


def choose(rule: ForegroundRule, labels: NDArray[np.integer], image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The mask of the object.

    ``auto`` works on connected regions of the label map inside the field of view (what a scope's or dermoscope's black
    frame leaves): Otsu's threshold over the regions' mean brightness, weighted by their size, splits them in two; the
    class that holds less of the field's rim is foreground, and of its connected parts the one with most central mass
    is the mask, holes filled. ``largest`` is the largest connected region outside the cluster that holds most of the
    rim.

    Args:
        rule: which rule.
        labels: (S, S) cluster ids.
        image: (3, S, S) float32 in 0..1, what the network saw.

    Returns:
        bool (S, S); empty when there is nothing but one region.
    """
    if rule.kind == "cluster":
        return labels == rule.cluster
    brightness = image.mean(axis=0)
    field = _field_of_view(brightness)
    rim = _rim(field)
    if rule.kind == "largest":
        background = np.bincount(labels[rim]).argmax()
        candidates = np.where(field & (labels != background), labels.astype(np.int64) + 1, 0)
        return _best_part(candidates, np.ones(labels.shape))
    from skimage.measure import label

    regions = label(np.where(field, labels.astype(np.int64) + 1, 0), connectivity=1, background=0)
    foreground = _otsu_class_off_rim(regions, brightness, rim)
    return _best_part(foreground.astype(np.int64), _centrality(labels.shape))


def _field_of_view(brightness: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Everything but the black frame that touches the image border; all of it when the frame would be most of it."""
    from skimage.measure import label

    dark = label(brightness < FRAME_BRIGHTNESS, connectivity=1)
    frame = np.isin(dark, np.unique(dark[_rim(np.ones(brightness.shape, bool))])) & (dark > 0)
    return ~frame if frame.mean() < MAX_FRAME_AREA else np.ones(brightness.shape, bool)


def _otsu_class_off_rim(
    regions: NDArray[np.integer], brightness: NDArray[np.floating], rim: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    from skimage.filters import threshold_otsu

    sizes = np.bincount(regions.ravel())[1:]
    if sizes.size < 2:
        return np.zeros(regions.shape, bool)
    means = np.bincount(regions.ravel(), weights=brightness.ravel())[1:] / sizes
    order = means.argsort()
    threshold = threshold_otsu(hist=(sizes[order], means[order]))
    bright = np.concatenate([[False], means > threshold])[regions]
    return bright if bright[rim].mean() < 0.5 else ~bright & (regions > 0)


def _best_part(classes: NDArray[np.integer], weight: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The connected part of equal, non-zero class with the largest sum of ``weight``, its holes filled."""
    from scipy.ndimage import binary_fill_holes
    from skimage.measure import label

    parts = label(classes, connectivity=1, background=0)
    mass = np.bincount(parts.ravel(), weights=weight.ravel())
    mass[0] = 0
    if mass.size == 1:
        return np.zeros(classes.shape, bool)
    return np.asarray(binary_fill_holes(parts == mass.argmax()))


def _rim(field: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a field of view."""
    from scipy.ndimage import binary_erosion

    return field & ~binary_erosion(field, iterations=RIM_WIDTH)


def _centrality(shape: tuple[int, ...]) -> NDArray[np.floating]:
    """A Gaussian bump over the image, standard deviation a quarter of its side."""
    rows, columns = (np.exp(-8 * np.linspace(-0.5, 0.5, size) ** 2) for size in shape)
    return rows[:, None] * columns
