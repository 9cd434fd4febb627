"""The label-free choice of the mask: which clusters of a label map are the object."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

RULES = ("auto", "largest", "cluster:ID")
FRAME_BRIGHTNESS = 0.3  # a scope's frame is darker than this, on 0..1
MAX_FRAME_AREA = 0.5  # of the image; more than that is no frame
RIM_WIDTH = 2  # pixels at network resolution
MAX_RIM_SHARE = 0.05  # a region with more of the rim than this is background
SPECK_RADIUS = 2  # pixels at network resolution
MIN_AREA = 0.03  # of the image; a smaller object is doubted


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

    All rules but ``cluster`` look inside the field of view only: what the dark frame of a scope or dermoscope leaves.
    ``auto`` takes connected regions of the label map that hold much of the field's rim for background. Of what is left,
    specks removed, the connected part with most central mass is the mask, holes filled. When that is too small (the
    object itself touches the rim), Otsu's threshold over the regions' mean brightness splits them in two instead, and
    the class that holds less of the rim takes the place of what is left. ``largest`` is the largest connected region
    outside the cluster that holds most of the rim.

    Args:
        rule: which rule.
        labels: (S, S) cluster ids.
        image: (3, S, S) float32 in 0..1, what the network saw.

    Returns:
        bool (S, S); empty when there is nothing but one region.
    """
    if rule.kind == "cluster":
        return labels == rule.cluster
    from skimage.measure import label

    brightness = image.mean(axis=0)
    field = _field_of_view(brightness)
    rim = _rim(field)
    clusters = np.where(field, labels.astype(np.int64) + 1, 0)
    if rule.kind == "largest":
        clusters[labels == np.bincount(labels[rim]).argmax()] = 0
        return _best_part(clusters, np.ones(labels.shape))
    regions = label(clusters, connectivity=1, background=0)
    inner = _grown(_shrunk(_off_rim(regions, rim), SPECK_RADIUS), SPECK_RADIUS)
    mask = _best_part(inner.astype(np.int64), _centrality(labels.shape))
    if mask.mean() >= MIN_AREA:
        return mask
    foreground = _otsu_class_off_rim(regions, brightness, rim)
    return _best_part(foreground.astype(np.int64), _centrality(labels.shape))


def _off_rim(regions: NDArray[np.integer], rim: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Every region (0 is none) but those that hold more than :data:`MAX_RIM_SHARE` of the rim."""
    share = np.bincount(regions[rim], minlength=regions.max() + 1) / rim.sum()
    share[0] = 1
    return (share <= MAX_RIM_SHARE)[regions]


def _field_of_view(brightness: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Everything but the black frame that touches the image border; all of it when the frame would be most of it."""
    from skimage.measure import label

    dark = label(brightness < FRAME_BRIGHTNESS, connectivity=1)
    at_border = np.zeros(dark.max() + 1, bool)
    at_border[dark[_rim(np.ones(brightness.shape, bool))]] = True
    at_border[0] = False
    frame = at_border[dark]
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
    from skimage.measure import label

    parts = label(classes, connectivity=1, background=0)
    mass = np.bincount(parts.ravel(), weights=weight.ravel())
    mass[0] = 0
    if mass.size == 1:
        return np.zeros(classes.shape, bool)
    return _filled(parts == mass.argmax())


def _filled(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A region with its holes: all that the image border cannot reach without crossing it."""
    from skimage.measure import label

    around = label(np.pad(~region, 1, constant_values=True), connectivity=1)
    return (around != around[0, 0])[1:-1, 1:-1]


def _rim(field: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a field of view."""
    return field & ~_shrunk(field, RIM_WIDTH)


def _shrunk(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """What is left when all pixels with a neighbour (of four) outside the region or the image go, ``steps`` times."""
    for _ in range(steps):
        wide = np.pad(region, 1)
        region = wide[1:-1, 1:-1] & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return region


def _grown(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The region with all neighbours (of four) of its pixels, ``steps`` times."""
    for _ in range(steps):
        wide = np.pad(region, 1)
        region = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return region


def _centrality(shape: tuple[int, ...]) -> NDArray[np.floating]:
    """A Gaussian bump over the image, standard deviation a quarter of its side."""
    rows, columns = (np.exp(-8 * np.linspace(-0.5, 0.5, size) ** 2) for size in shape)
    return rows[:, None] * columns
