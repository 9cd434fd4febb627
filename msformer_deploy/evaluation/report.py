"""An evaluation as plain data, for ``--json`` and for everything that is told of it."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..measures import volumes
from ..measures.scores import Scores
from ..measures.statistics import CONFIDENCE
from .summary import Judged, summarise

if TYPE_CHECKING:
    from ..images.inputs import PassedOver
    from ..images.pairing import Pairing
    from .joined import Joined
    from .runner import Evaluation, Request

SCHEMA = 1


def build(
    evaluation: Evaluation,
    request: Request,
    pairing: Pairing,
    environment: dict[str, Any],
    settings: dict[str, Any],
    passed_over: PassedOver,
) -> dict[str, Any]:
    """The report of an evaluation that judged at least one image; a number that is not defined is None.

    Args:
        evaluation: what was found.
        request: what was asked.
        pairing: what was judged, and what did not pair.
        environment: as :func:`.benchmark.environment.describe` told it when the work began.
        settings: whatever else decides the numbers.
        passed_over: files of the folders that are neither images nor masks.

    Returns:
        plain data; the keys are told in ``docs/reference/reports.md``.
    """
    judged = evaluation.judged
    return {
        "schema": SCHEMA,
        "environment": environment,
        "settings": {
            **settings,
            **asdict(request),
            "monai": None if request.tolerance is None else version("monai"),
        },
        "confidence": CONFIDENCE,
        "images": len({each.image for each in judged}),
        "images_without_mask": [printable(path) for path in pairing.images_without_mask],
        "masks_without_image": [printable(path) for path in pairing.masks_without_image],
        "masks_among_images": [printable(path) for path in pairing.masks_among_images],
        "passed_over": passed_over.counts,
        "failed": [{"image": printable(path), "reason": reason} for path, reason in evaluation.failed.items()],
        "warnings": _told(evaluation.warnings),
        "notes": _told(evaluation.notes),
        "summary": summarise(judged),
        "rows": [_row(each) for each in judged],
        **({"corrected": evaluation.corrected} if request.corrected else {}),
        **({} if evaluation.volumes is None else _of_volumes(evaluation.volumes)),
    }


def _of_volumes(joined: Joined) -> dict[str, Any]:
    return {
        "spacing_mm": None if joined.spacing is None else list(joined.spacing),
        "volumes": [_plain(each) for each in joined.scores],
        "volume_summary": [_plain(each) for each in volumes.summarise(joined.scores)],
        "volumes_left_out": [{"name": name, "reason": reason} for name, reason in joined.left_out.items()],
    }


def _told(by_mask: dict[Any, tuple[str, ...]]) -> list[dict[str, Any]]:
    return [{"mask": printable(path), "told": list(told)} for path, told in by_mask.items() if told]


def _plain(scores: Scores | volumes.VolumeScore | volumes.ClassSummary) -> dict[str, Any]:
    """Scores as they are written: None for what is not defined, and nothing for what was not computed at all."""
    return {
        "class" if name == "class_id" else name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(scores).items()
        if value is not None
    }


def _row(judged: Judged) -> dict[str, Any]:
    """One score."""
    return {
        "image": judged.image,
        "mask": judged.mask,
        "method": judged.method,
        "protocol": judged.protocol,
        "seed": judged.seed,
        "class": judged.class_id,
        "unit": judged.unit,
        **_plain(judged.scores),
        "confidence": None if judged.confidence is None else round(judged.confidence.value, 3),
        "doubt": None if judged.confidence is None else judged.confidence.doubt,
    }
