"""What ``POST /segment`` answers: a mask, an overlay, a DICOM segmentation or a record, as the client accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..bundle.folder import MANIFEST, sha256
from ..images import png
from ..measures.physical import measure
from ..results import clinical, measurements, report
from ..segmenter import Segmentation, Segmenter
from .refused import Refused

STRUCTURE = "object"  # what a DICOM segmentation calls it


class Answer(NamedTuple):
    """One kind of answer.

    Attributes:
        media_type: of HTTP.
        view: parameter of the media type that tells two kinds of one type apart; None without one.
        write: makes its bytes of a result, with an empty folder that is removed afterwards.
    """

    media_type: str
    view: str | None
    write: Callable[[Segmentation, Segmenter, Path], bytes]


def _mask(result: Segmentation, segmenter: Segmenter, folder: Path) -> bytes:
    return png.encoded(result.mask.astype(np.uint8) * np.uint8(255))


def _overlay(result: Segmentation, segmenter: Segmenter, folder: Path) -> bytes:
    return png.encoded(result.overlay())


def _dicom(result: Segmentation, segmenter: Segmenter, folder: Path) -> bytes:
    source = result.image.source
    if source is None:
        raise Refused(406, "bad request", "a DICOM segmentation needs a DICOM image; accept image/png instead")
    # Imported here, because this needs pydicom.
    from ..results.dicom.identity import MadeBy
    from ..results.dicom.segmentation import write_segmentation

    found, path = clinical.of_image(result, segmenter.bundle, STRUCTURE), folder / "seg.dcm"
    made_by = MadeBy(segmenter.bundle.system, sha256(segmenter.bundle.file(MANIFEST)))
    write_segmentation(path, found.segmented, source, found.segments, made_by=made_by)
    return path.read_bytes()


def _record(result: Segmentation, segmenter: Segmenter, folder: Path) -> bytes:
    image = result.image
    record: dict[str, Any] = {
        "width": image.width,
        "height": image.height,
        "system": segmenter.bundle.system,
        "backend": segmenter.backend_name,
        "intensity_range": list(image.intensity_range),
        "label_count": result.label_count,
        "foreground": {
            **report.expected(result, segmenter),
            "measurements": measurements.record(measure(result.mask, image.spacing)),
        },
        "notes": list(image.notes),
    }
    return json.dumps(record).encode()


ANSWERS = (
    Answer("image/png", None, _mask),
    Answer("image/png", "overlay", _overlay),
    Answer("application/dicom", None, _dicom),
    Answer("application/json", None, _record),
)


def accepted(header: str | None) -> Answer:
    """The answer that a client likes best (RFC 9110, 12.5.1); the mask where it accepts anything.

    Args:
        header: the value of Accept; None if there is none.

    Raises:
        Refused: none of the answers is accepted.
    """
    best: tuple[float, int, Answer] | None = None
    for part in (header or "*/*").split(","):
        media_type, *parameters = (each.strip().lower() for each in part.split(";"))
        given = dict(each.partition("=")[::2] for each in parameters)
        quality = _quality(given.get("q", "1"))
        for order, answer in enumerate(ANSWERS):
            named = media_type == answer.media_type and given.get("view") == answer.view
            whole = media_type in ("*/*", f"{answer.media_type.partition('/')[0]}/*") and answer.view is None
            if quality > 0 and (named or whole) and (best is None or (quality, -order) > best[:2]):
                best = quality, -order, answer
    if best is None:
        kinds = ", ".join(each.media_type + (f";view={each.view}" if each.view else "") for each in ANSWERS)
        raise Refused(406, "bad request", f"no kind of answer is accepted; accept one of {kinds}")
    return best[2]


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
