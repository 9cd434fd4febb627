"""The rule that chooses the mask: a candidate, or regions of the label map."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from . import lungs
from .morphology import field_of_view, filled, numbered, parts_of, rim_of
from .view import View

RULES = ("auto", "largest", "all", "lung-ct", "candidate:N", "cluster:ID")
MAX_CANDIDATES = 3  # of an image
MIN_AREA = 0.004  # of the image; smaller parts are specks
_NUMBERED = ("candidate", "cluster")


@dataclass(frozen=True)
class ForegroundRule:
    """One of :data:`RULES`, or ``classes``, see :func:`of_classes`.

    Attributes:
        kind: what stands before the colon.
        number: what stands behind it: the id of a cluster, or which candidate, counted from 1.
    """

    kind: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}" if self.kind in _NUMBERED else self.kind

    @property
    def candidate(self) -> int | None:
        """Which candidate it takes, counted from 1; None means that it chooses otherwise."""
        return {"auto": 1, "candidate": self.number}.get(self.kind)

    @property
    def of_figure(self) -> bool:
        """Whether its mask is the figure that the probability is of, or a part of it.

        The expected DSC is known for such masks alone.
        """
        return self.kind in ("auto", "candidate", "classes")

    @property
    def for_volumes(self) -> bool:
        """Whether it looks at a volume, and has no mask for an image."""
        return self.kind == "lung-ct"


def parse_rule(text: str) -> ForegroundRule:
    """Read a rule as the CLI takes it.

    Raises:
        UsageError: it is none of :data:`RULES`.
    """
    if text in RULES and ":" not in text:
        return ForegroundRule(text)
    match = re.fullmatch(rf"({'|'.join(_NUMBERED)}):(\d{{1,9}})", text)
    if match is None:
        raise UsageError(f"foreground {text!r} is unknown; choose one of {', '.join(RULES)}")
    rule = ForegroundRule(match[1], int(match[2]))
    if rule.kind == "candidate" and not 1 <= rule.number <= MAX_CANDIDATES:
        raise UsageError(f"foreground {text} does not exist; choose a number from 1 to {MAX_CANDIDATES}")
    return rule


def of_classes(rule: ForegroundRule) -> ForegroundRule:
    """The rule on labels that are the classes of a trained system, of which 0 is background.

    Raises:
        UsageError: it is one for clusters that nobody has named.
    """
    if rule.kind not in ("auto", "cluster", "classes"):
        raise UsageError(
            f"foreground {rule} chooses among clusters or candidates, but a trained system has classes; choose auto or"
            " cluster:ID"
        )
    return ForegroundRule("classes") if rule.kind == "auto" else rule


def choose(rule: ForegroundRule, labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    """The mask of the object from a label map.

    ``auto`` and ``candidate:N`` are not among these rules: they take one of :func:`.candidates.candidates`. ``lung-ct``
    is for volumes.

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
        return labels == rule.number
    return _CHOICES[rule.kind](labels, view)


def choose_in_volume(
    rule: ForegroundRule,
    labels: NDArray[np.integer],
    fields: NDArray[np.bool_],
    shades: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """The mask of the object from the label map of a volume; parts are connected through slices.

    Args:
        rule: as :func:`choose`, or ``lung-ct``: see :func:`.lungs.delineate`.
        labels: (N, S, S) cluster ids, of one meaning in all slices.
        fields: bool (N, S, S), see :func:`.morphology.field_of_view`.
        shades: (K,) mean brightness of each cluster.
    """
    if rule.kind == "cluster":
        return labels == rule.number
    if rule.kind == "classes":
        return labels != 0
    if rule.kind == "lung-ct":
        return lungs.delineate(labels, shades)
    rims = np.stack([rim_of(field) for field in fields])
    ground = np.bincount(labels[rims]).argmax()
    inside = np.where(fields & (labels != ground), labels.astype(np.int32) + 1, 0)
    parts = numbered(inside)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    large = sizes >= MIN_AREA * labels[0].size  # a speck of a volume is one of a slice
    if rule.kind == "largest":
        large &= np.arange(sizes.size) == sizes.argmax()
    return np.stack([filled(each) for each in large[parts]])


def _largest(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    return next(iter(_apart(labels, view)), np.zeros(labels.shape, bool))


def _all(labels: NDArray[np.integer], view: View) -> NDArray[np.bool_]:
    return np.logical_or.reduce([np.zeros(labels.shape, bool), *_apart(labels, view)])


_CHOICES: dict[str, Callable[[NDArray[np.integer], View], NDArray[np.bool_]]] = {
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
