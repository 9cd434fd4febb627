"""The label-free choice of the mask: which regions of a label map are the object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from . import dermoscopy, endoscopy, lung_ct
from .morphology import best_part, centrality, closed, field_of_view, filled, grown, opened, parts_of, rim_of, shrunk
from .mucosa import is_mucosa
from .view import View

RULES = ("auto", "dermoscopy", "lung-ct", "endoscopy", "regions", "largest", "all", "cluster:ID")
MIN_AREA = 0.004  # of the image; smaller parts are specks
RIM_COST = 4.0  # how fast a part loses with the share of its outline that lies on the rim of the field of view
HOLE_COST = 6.0  # and with the share of it that is holes: what encloses other regions is background
COMPANION = 0.3  # parts of the same region with so much of the best one's score belong to the object: two lungs
OUTLINE = 2  # pixels
LEAK = 3  # steps; what is narrower on both sides neither joins a region to the rim nor opens a hole
MAX_RIM_SHARE = 0.05  # where there are many clusters, a part with more of the rim than this is background
MIN_OBJECT = 0.03  # of the image; a smaller object of several clusters is not taken


@dataclass(frozen=True)
class ForegroundRule:
    """One of :data:`RULES`, or ``classes``, see :func:`of_classes`; ``cluster`` has the id of one cluster."""

    kind: str
    cluster: int = 0

    def __str__(self) -> str:
        return f"cluster:{self.cluster}" if self.kind == "cluster" else self.kind


def parse_rule(text: str) -> ForegroundRule:
    """Read a rule as the CLI takes it.

    Raises:
        UsageError: it is none of :data:`RULES`.
    """
    if text in RULES[:-1]:
        return ForegroundRule(text)
    match = re.fullmatch(r"cluster:(\d{1,9})", text)
    if match is None:
        raise UsageError(f"foreground {text!r} is unknown; choose one of {', '.join(RULES)}")
    return ForegroundRule("cluster", int(match[1]))


def of_classes(rule: ForegroundRule) -> ForegroundRule:
    """The rule on labels that are the classes of a trained system, of which 0 is background.

    Raises:
        UsageError: it is one for clusters that nobody has named.
    """
    if rule.kind not in ("auto", "cluster", "classes"):
        raise UsageError(
            f"foreground {rule} chooses among clusters, but a trained system has classes; choose auto or cluster:ID"
        )
    return ForegroundRule("classes") if rule.kind == "auto" else rule


def choose(rule: ForegroundRule, labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    """The mask of the object.

    ``auto``
        by the image: ``endoscopy`` for the colours of mucosa (:mod:`.mucosa`), ``dermoscopy`` for others, ``regions``
        for grey images.
    ``dermoscopy``, ``lung-ct``, ``endoscopy``
        :func:`.dermoscopy.delineate`, :func:`.lung_ct.delineate`, :func:`.endoscopy.delineate`.
    ``regions``
        weighs every connected part of every cluster inside the field of view (what the dark frame of a scope leaves):
        its central mass, less with the share of its outline on the field's rim, less with its holes. What hangs on a
        part at the rim through a narrow leak is a part of its own. The heaviest part is the object, together with parts
        of the same cluster that come near it, holes filled. In a map of more than two clusters it is rather the central
        part of all that does not hold much of the rim.
    ``largest``, ``all``
        the largest connected part, or all but specks, outside the cluster that holds most of the rim; holes filled.
    ``cluster:ID``
        all pixels of that cluster.
    ``classes``
        all that is not class 0, of a trained system.

    Args:
        rule: which rule.
        labels: (S, S) cluster ids.
        view: of the image, its square of the same size.

    Returns:
        bool (S, S); empty when there is nothing but one region.
    """
    if rule.kind == "cluster":
        return labels == rule.cluster
    return _CHOICES[rule.kind](labels, view)


def _by_image(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    if not view.coloured:
        return _regions(labels, view)
    lesion = dermoscopy.delineate(labels, view)
    return endoscopy.delineate(view) if is_mucosa(view, lesion) else lesion


def _regions(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    field, rim = _field_and_rim(view)
    if np.unique(labels[field]).size > 2:
        several = _off_rim(labels, field, rim)
        if several.mean() >= MIN_OBJECT:
            return several
    return _heaviest(labels, field, rim)


def _largest(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    return next(iter(_apart(labels, view)), np.zeros(labels.shape, bool))


def _all(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    return np.logical_or.reduce([np.zeros(labels.shape, bool), *_apart(labels, view)])


_CHOICES: dict[str, Callable[[NDArray[np.integer], View], NDArray[np.bool_]]] = {
    "auto": _by_image,
    "dermoscopy": dermoscopy.delineate,
    "lung-ct": lambda labels, _: lung_ct.delineate(labels),
    "endoscopy": lambda _, view: endoscopy.delineate(view),
    "regions": _regions,
    "largest": _largest,
    "all": _all,
    "classes": lambda labels, _: labels != 0,
}


def _field_and_rim(view: View) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    field = field_of_view(view.brightness)
    return field, rim_of(field)


def _apart(labels: NDArray[np.integer], view: View) -> list[NDArray[np.bool_]]:
    """The parts of all clusters but the one with most of the rim, largest first, holes filled."""
    field, rim = _field_and_rim(view)
    ground = np.bincount(labels[rim]).argmax()
    parts = [
        filled(part)
        for cluster in np.unique(labels[field])
        if cluster != ground
        for part in parts_of((labels == cluster) & field, MIN_AREA)
    ]
    return sorted(parts, key=lambda part: -int(part.sum()))


def _off_rim(labels: NDArray[np.integer], field: NDArray[np.bool_], rim: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The central object of several clusters: all parts but those that hold much of the rim, specks removed."""
    from skimage.measure import label

    parts = label(np.where(field, labels.astype(np.int64) + 1, 0), connectivity=1, background=0)
    share = np.bincount(parts[rim], minlength=parts.max() + 1) / rim.sum()
    share[0] = 1
    inner = opened((share <= MAX_RIM_SHARE)[parts], OUTLINE)
    return best_part(inner.astype(np.int64), centrality(labels.shape))


@dataclass(frozen=True, eq=False)
class _Part:
    cluster: int
    mask: NDArray[np.bool_]
    score: float


def _heaviest(labels: NDArray[np.integer], field: NDArray[np.bool_], rim: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found = list(_parts(labels, field, rim))
    if len(found) < 2:  # one region is no object in another
        return np.zeros(labels.shape, bool)
    best = max(found, key=lambda part: part.score)
    companions = [part for part in found if part.cluster == best.cluster and part.score >= COMPANION * best.score]
    return np.logical_or.reduce([filled(part.mask) for part in companions])


def _parts(labels: NDArray[np.integer], field: NDArray[np.bool_], rim: NDArray[np.bool_]) -> Iterator[_Part]:
    weight = centrality(labels.shape)
    for cluster in np.unique(labels[field]):
        for part in _without_leaks((labels == cluster) & field, rim):
            holes = 1 - part.sum() / closed(part, LEAK).sum()
            outline = part & ~shrunk(part, OUTLINE)
            on_rim = (part & rim).sum() / outline.sum()
            score = weight[part].sum() * np.exp(-RIM_COST * on_rim) * (1 - holes) ** HOLE_COST
            yield _Part(int(cluster), part, score)


def _without_leaks(region: NDArray[np.bool_], rim: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The connected parts of a region; of one at the rim, what is on the rim's side of its leaks, and the rest."""
    for part in parts_of(region, MIN_AREA):
        if not (part & rim).any():
            yield part
            continue
        wide = np.pad(part, LEAK, mode="edge")  # at the image's border nothing is narrow
        cores = (core[LEAK:-LEAK, LEAK:-LEAK] for core in parts_of(shrunk(wide, LEAK)))
        regrown = (grown(core, LEAK) & part for core in cores)
        outside = np.logical_or.reduce([np.zeros_like(part), *(each for each in regrown if (each & rim).any())])
        yield from parts_of(outside, MIN_AREA)
        yield from parts_of(part & ~outside, MIN_AREA)
