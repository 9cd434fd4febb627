"""The gallery of a batch: one HTML page beside report.json that opens offline and loads nothing but its pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from statistics import median
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..files import write_text
from ..foreground.confidence import LOW
from . import measurements

TEMPLATES = Path(__file__).parent / "templates"

IN_DOUBT = f"in doubt: expected DSC below {LOW:g}"

_VIEWS = (("overlay", "Overlay"), ("mask", "Mask"), ("label_map", "Label map"))

# A file name may hold anything: control characters become visible, bytes that are not UTF-8 a replacement mark.
_VISIBLE = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421} | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)

Pairs = list[tuple[str, str]]


def render(report: Mapping[str, Any]) -> str:
    """Return the gallery page of ``report``, the content of report.json; equal reports give equal pages.

    Args:
        report: ``images`` is required; what else is missing is not shown.

    Raises:
        KeyError: ``report`` has no ``images``.
    """
    images = report["images"]
    style, script = ((TEMPLATES / f"gallery.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    timed = [image["seconds"] for image in images if _computed(image)]
    sections = ((key.capitalize(), list(_flat(report.get(key) or {}))) for key in ("settings", "versions"))
    return (
        _environment()
        .get_template("gallery.html")
        .render(
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            views=_VIEWS,
            stats=_stats(report),
            failed=sum(map(_failed, images)),
            interrupted=report.get("interrupted"),
            cards=_cards(images),
            timed=len(timed),
            stages=_stages(timed),
            sections=[(heading, pairs) for heading, pairs in sections if pairs],
        )
    )


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the gallery of ``report`` to ``path``, atomically; it belongs in the folder of report.json.

    Raises:
        KeyError: ``report`` has no ``images``.
        OSError: as the file system gives it.
    """
    write_text(path, render(report))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["count_of"] = _count
    return environment


def _visible(value: object) -> object:
    """What is printed of a value; markup is our own and stays as it is."""
    return value if isinstance(value, Markup) else str(value).translate(_VISIBLE)


def _policy(style: str, script: str) -> str:
    """Forbid every request but pictures; by naming the hashes, forbid also any style or script that is not ours."""
    of_style, of_script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src 'self' file: data:; style-src 'sha256-{of_style}';"
        f" script-src 'sha256-{of_script}'; base-uri 'none'; form-action 'none'"
    )


def _url(path: str) -> str:
    # The bytes of the name, not its characters: a name that is not UTF-8 still finds its file.
    return quote(os.fsencode(path))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float) -> str:
    if round(seconds) < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _known(values: Iterable[tuple[str, Any, Callable[[Any], str]]]) -> Pairs:
    """Names and how their values read, of those that have a value."""
    return [(name, form(value)) for name, value, form in values if value is not None]


def _stats(report: Mapping[str, Any]) -> Pairs:
    summary = report.get("summary") or {}
    return _known(
        [
            *((name.capitalize(), summary.get(name), str) for name in ("images", "done", "failed", "skipped")),
            ("Total time", summary.get("seconds"), _duration),
            ("Rate", summary.get("images_per_second"), "{:.2f} images/s".format),
            ("Backend", report.get("backend"), str),
            ("Provider", report.get("provider"), str),
        ]
    )


def _failed(image: Mapping[str, Any]) -> bool:
    return image.get("error") is not None


def _cards(images: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    cards = [_card(image) for image in images]
    for card in cards:
        if card["error"] is not None:
            card["first_failed"] = True
            break
    return cards


def _card(image: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one image."""
    source = str(image.get("input") or "(unnamed)")
    foreground = image.get("foreground") or {}
    doubted = IN_DOUBT if "interval" in foreground else "in doubt"  # an earlier version doubted for other reasons
    warnings = (("collapsed", image.get("collapsed")), (doubted, foreground.get("doubt")))
    return {
        "source": source,
        "name": PurePath(source).name or source,
        "error": image.get("error"),
        "first_failed": False,
        "urls": {view: _url(image[view]) for view, _ in _VIEWS if _is_picture(image.get(view))},
        "size": [] if "slices" in image else [(key, image[key]) for key in ("width", "height") if key in image],
        "facts": _known(
            [
                ("Slices", image.get("slices"), str),
                ("Labels", image.get("label_count"), str),
                ("Foreground", foreground.get("area_fraction"), lambda share: f"{100 * share:.1f} %"),
                *_sizes(foreground.get("measurements")),
                ("Expected DSC", _expected(foreground), str),
                ("Time", (image.get("seconds") or {}).get("total"), _duration),
            ]
        ),
        "candidates": _others(image),
        "warnings": [name for name, given in warnings if given],
        "skipped": bool(image.get("skipped")),
        "notes": image.get("notes") or [],
    }


def _is_picture(path: str | None) -> bool:
    """Whether a browser can show a result; those of volumes are voxels, and are left out."""
    return path is not None and path.endswith(".png")


def _sizes(found: Mapping[str, Any] | None) -> list[tuple[str, str | None, Callable[[Any], str]]]:
    if found is None:  # of an earlier version
        return []
    volume = found["all"]["volume"] is not None
    return [
        ("Volume" if volume else "Area", measurements.area_of(found), str),
        ("Longest diameter", measurements.diameters_of(found), str),
    ]


def _expected(foreground: Mapping[str, Any]) -> str | None:
    value, interval = foreground.get("confidence"), foreground.get("interval")
    if value is None or interval is None:  # of an earlier version, whose confidence meant something else
        return None
    low, high = interval
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _others(image: Mapping[str, Any]) -> list[dict[str, str]]:
    """The candidates that are not the mask, and how to take each."""
    found = (image.get("foreground") or {}).get("candidates") or []
    return [
        {
            "url": _url(each["mask"]),
            "rule": f"candidate:{each['number']}",
            "expected": f"{each['confidence']:.2f}",
        }
        for each in found
        if each["mask"] != image.get("mask") and _is_picture(each["mask"])
    ]


def _stages(timed: Sequence[Mapping[str, float | None]]) -> list[tuple[str, float, float]]:
    """Every stage with the median and the maximum of its seconds."""
    stages = []
    for stage in dict.fromkeys(stage for seconds in timed for stage in seconds):
        values = [value for seconds in timed if (value := seconds.get(stage)) is not None]
        if values:
            stages.append((stage, median(values), max(values)))
    return stages


def _computed(image: Mapping[str, Any]) -> bool:
    return bool(image.get("seconds")) and not _failed(image) and not image.get("skipped")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings under dotted names, each value as report.json spells it, strings without quotes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
