"""The gallery of a batch: one HTML page beside report.json that opens offline and loads nothing but its pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path, PurePath
from statistics import median
from typing import Any
from urllib.parse import quote

from ..files import write_text

_VIEWS = (("overlay", "Overlay"), ("mask", "Mask"), ("label_map", "Label map"))

_NOTICE = "Research software: not a medical device. Masks are chosen without labels; check them."

# A file name may hold anything: control characters become visible, bytes that are not UTF-8 a replacement mark.
_VISIBLE = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421} | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f6f8; --card: #fff; --line: #dce2e8; --text: #17222d; --soft: #586674; --frame: #e9edf1;
  --accent: #0b6478; --on-accent: #fff; --warn: #7a4b00; --warn-page: #fdf3dc; --bad: #a1211b; --bad-page: #fcecea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1418; --card: #182027; --line: #2b363f; --text: #e4eaef; --soft: #9aa8b4; --frame: #0b0f12;
    --accent: #5cc3d8; --on-accent: #06252c; --warn: #f0c674; --warn-page: #33290f; --bad: #ff9d94; --bad-page: #3a1a18;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; max-width: 1600px; padding: 2rem clamp(1rem, 3vw, 2.5rem);
  background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
a { color: var(--accent); }
h1 { margin: 0; font-size: 1.6rem; font-weight: 600; letter-spacing: -.01em; line-height: 1.25; }
dl, ul { margin: 0; padding: 0; list-style: none; }
dd { margin: 0; }
dt { color: var(--soft); }
bdi { overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.notice { margin: .25rem 0 0; color: var(--soft); }
.stats { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 1.5rem 0; }
.stats dt { font-size: .8rem; }
.stats dd { font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.alert { margin: 0 0 .75rem; padding: .6rem .9rem; border-left: 3px solid; border-radius: 4px; }
.alert a { color: inherit; }
.bad { color: var(--bad); background: var(--bad-page); }
.warn { color: var(--warn); background: var(--warn-page); }
.tools {
  position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; align-items: center; gap: .6rem 1rem;
  margin: 0 -.5rem .5rem; padding: .75rem .5rem; background: var(--page);
}
.views { display: flex; border: 1px solid var(--line); border-radius: 8px; background: var(--card); overflow: clip; }
.views button {
  padding: .45rem .95rem; border: 0; background: none; color: inherit; font: inherit; white-space: nowrap;
  cursor: pointer;
}
.views button + button { border-left: 1px solid var(--line); }
.views button[aria-pressed=true] { background: var(--accent); color: var(--on-accent); font-weight: 600; }
.views button:focus-visible { outline-offset: -4px; outline-color: currentcolor; }
.tools input {
  flex: 0 1 18rem; min-width: 9rem; padding: .45rem .8rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); color: inherit; font: inherit;
}
.shown { color: var(--soft); font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); gap: 1.1rem; }
.card {
  display: flex; flex-direction: column; overflow: clip; scroll-margin-top: 5rem;
  border: 1px solid var(--line); border-radius: 10px; background: var(--card);
}
.card:target { border-color: var(--bad); box-shadow: 0 0 0 1px var(--bad); }
.picture {
  position: relative; display: grid; place-items: center; aspect-ratio: 4 / 3;
  background: var(--frame); color: var(--soft); text-decoration: none;
}
.picture img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; background: var(--frame); }
.picture.bad {
  padding: 1.25rem; overflow: auto; overflow-wrap: anywhere; color: var(--bad); background: var(--bad-page);
}
.picture.bad strong { display: block; }
a.picture:focus-visible { outline-offset: -3px; }
.caption { padding: .8rem .95rem .9rem; }
.name { display: block; font-weight: 600; line-height: 1.35; }
.facts { display: flex; flex-wrap: wrap; gap: .15rem 1.25rem; margin-top: .45rem; font-size: .87rem; }
.facts dt { display: inline; margin-right: .3rem; }
.facts dd { display: inline; font-variant-numeric: tabular-nums; }
.badges { display: flex; flex-wrap: wrap; align-items: flex-start; gap: .4rem; margin-top: .6rem; font-size: .8rem; }
.badge, .badges summary {
  display: inline-block; padding: .08rem .6rem; border: 1px solid var(--line); border-radius: 99px; color: var(--soft);
}
.badge.warn { border-color: transparent; color: var(--warn); }
.badges summary { cursor: pointer; list-style: none; }
.badges summary::-webkit-details-marker { display: none; }
.badges summary::after { content: " \\25be"; }
.badges details[open] { flex-basis: 100%; }
.badges details[open] summary::after { content: " \\25b4"; }
.badges details li { margin-top: .4rem; overflow-wrap: anywhere; }
.more {
  margin-top: 1.1rem; padding: .8rem 1.1rem;
  border: 1px solid var(--line); border-radius: 10px; background: var(--card);
}
.more > summary { font-weight: 600; cursor: pointer; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 3rem; }
.more section { min-width: 0; }
h2 { margin: .9rem 0 .3rem; font-size: .87rem; font-weight: 600; color: var(--soft); }
.table { display: grid; grid-template-columns: minmax(7rem, auto) 1fr; font-size: .9rem; }
.table > * { padding: .3rem 1.25rem .3rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.timing { width: min(100%, 30rem); margin-top: .7rem; border-collapse: collapse; font-size: .9rem; }
.timing th, .timing td {
  padding: .3rem 0; border-top: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums;
}
.timing th { font-weight: 400; color: var(--soft); }
.timing th:first-child { text-align: left; }
.timing thead th { border-top: 0; }
.timing caption { padding-top: .6rem; caption-side: bottom; text-align: left; color: var(--soft); }
footer { margin-top: 1.5rem; color: var(--soft); font-size: .87rem; }
@media (max-width: 30rem) {
  body { padding-top: 1.25rem; }
  .stats { gap: .6rem 1.6rem; margin: 1.1rem 0; }
  .stats dd { font-size: 1rem; }
  .views, .tools input { flex: 1 1 100%; }
  .views button { flex: 1; padding-inline: .4rem; }
  .tools { position: static; }
}
@media print { .tools { display: none; } .card { break-inside: avoid; } }
"""

# Only attributes already in the page are read, so no value from the report ever becomes code or markup.
_SCRIPT = """
"use strict";
const all = (selector) => [...document.querySelectorAll(selector)];
const views = all("[data-view]");
const filter = document.getElementById("filter");
const shown = document.getElementById("shown");
const cards = all(".card").map((card) => [card, card.querySelector(".name").textContent.toLowerCase()]);

function show(chosen) {
  for (const button of views) button.setAttribute("aria-pressed", button === chosen);
  for (const link of all("a.picture")) {
    const image = link.querySelector("img");
    const source = image.getAttribute("data-" + chosen.dataset.view);
    image.hidden = source === null;
    if (source === null) { link.removeAttribute("href"); continue; }
    image.src = link.href = source;
    image.alt = `${chosen.textContent}: ${link.dataset.name}`;
  }
}

function narrow() {
  const wanted = filter.value.trim().toLowerCase();
  let count = 0;
  for (const [card, name] of cards) {
    card.hidden = !name.includes(wanted);
    count += !card.hidden;
  }
  shown.textContent = wanted ? `${count} of ${cards.length} shown` : "";
}

for (const button of views) button.addEventListener("click", () => show(button));
filter.addEventListener("input", narrow);
all("[href='#failed']").forEach((link) => link.addEventListener("click", () => { filter.value = ""; narrow(); }));
document.querySelector(".tools").hidden = false;
narrow();
"""


def render(report: Mapping[str, Any]) -> str:
    """Return the gallery page of ``report``, the content of report.json; equal reports give equal pages.

    Args:
        report: ``images`` is required; what else is missing is not shown.

    Raises:
        KeyError: ``report`` has no ``images``.
    """
    images = report["images"]
    head = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Segmentation results: {_count(len(images), "image")}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
"""
    parts = (
        "<body>",
        f'<header>\n<h1>Segmentation results</h1>\n<p class="notice">{_NOTICE}</p>',
        _stats(report),
        _alerts(report),
        "</header>\n<main>",
        _tools(),
        _grid(images),
        _timing(images),
        _facts(report),
        '</main>\n<footer>All values are in <a href="report.json">report.json</a>.</footer>',
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n",
    )
    return head + "\n".join(part for part in parts if part)


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the gallery of ``report`` to ``path``, atomically; it belongs in the folder of report.json.

    Raises:
        KeyError: ``report`` has no ``images``.
        OSError: as the file system gives it.
    """
    write_text(path, render(report))


def _policy() -> str:
    """Forbid every request but pictures; by naming the hashes, forbid also any style or script that is not ours."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (_STYLE, _SCRIPT))
    return (
        f"default-src 'none'; img-src 'self' file: data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _text(value: object) -> str:
    """Escape for element content and for quoted attributes alike."""
    return escape(str(value).translate(_VISIBLE))


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


def _definitions(kind: str, pairs: Iterable[tuple[str, str | None]], *, grouped: bool = True) -> str:
    """Build a ``<dl>`` of the pairs that have a value; values are HTML already, names are not."""
    opening, closing = ("<div>", "</div>") if grouped else ("", "")
    rows = [f"{opening}<dt>{_text(k)}</dt><dd>{v}</dd>{closing}" for k, v in pairs if v is not None]
    return f'<dl class="{kind}">{"".join(rows)}</dl>' if rows else ""


def _stats(report: Mapping[str, Any]) -> str:
    summary = report.get("summary") or {}
    counts = [(name.capitalize(), _optional(summary.get(name))) for name in ("images", "done", "failed", "skipped")]
    rest = [
        ("Total time", _optional(summary.get("seconds"), _duration)),
        ("Rate", _optional(summary.get("images_per_second"), lambda rate: f"{rate:.2f} images/s")),
        ("Backend", _optional(report.get("backend"))),
        ("Provider", _optional(report.get("provider"))),
    ]
    return _definitions("stats", counts + rest)


def _optional(value: Any, form: Callable[[Any], object] = str) -> str | None:
    return None if value is None else _text(form(value))


def _alerts(report: Mapping[str, Any]) -> str:
    images = report["images"]
    failed = sum(_failed(image) for image in images)
    lines = []
    if failed:
        text = f"{failed} of {_count(len(images), 'image')} failed"
        lines.append(f'<p class="alert bad"><a href="#failed">{text}</a></p>')
    if report.get("interrupted"):
        lines.append('<p class="alert warn">The run was interrupted: images it had not reached are not listed.</p>')
    return "\n".join(lines)


def _tools() -> str:
    buttons = "".join(
        f'<button type="button" data-view="{key}" aria-pressed="{str(key == "overlay").lower()}">{name}</button>'
        for key, name in _VIEWS
    )
    # Hidden until the script shows it: without a script these controls do nothing.
    return (
        f'<div class="tools" hidden><div class="views" role="group" aria-label="Picture shown">{buttons}</div>'
        '<input id="filter" type="search" placeholder="Filter by file name" aria-label="Filter by file name"'
        ' autocomplete="off"><span id="shown" class="shown" role="status"></span></div>'
    )


def _failed(image: Mapping[str, Any]) -> bool:
    return image.get("error") is not None


def _grid(images: Iterable[Mapping[str, Any]]) -> str:
    cards = []
    target = ' id="failed"'
    for image in images:
        cards.append(_card(image, target if _failed(image) else ""))
        target = "" if _failed(image) else target
    return '<ul class="grid">\n' + "\n".join(cards) + "\n</ul>" if cards else "<p>No images.</p>"


def _card(image: Mapping[str, Any], attributes: str) -> str:
    source = str(image.get("input") or "(unnamed)")
    name = _text(PurePath(source).name or source)
    foreground = image.get("foreground") or {}
    facts = [
        ("Labels", _optional(image.get("label_count"))),
        ("Foreground", _optional(foreground.get("area_fraction"), lambda value: f"{100 * value:.1f} %")),
        ("Confidence", _optional(foreground.get("confidence"), lambda value: f"{value:.2f}")),
        ("Time", _optional((image.get("seconds") or {}).get("total"), _duration)),
    ]
    picture = _error(image["error"]) if _failed(image) else _picture(image, name)
    caption = f'<bdi class="name" title="{_text(source)}">{name}</bdi>{_definitions("facts", facts)}{_badges(image)}'
    return f'<li class="card"{attributes}>{picture}<div class="caption">{caption}</div></li>'


def _error(error: object) -> str:
    return f'<div class="picture bad"><div><strong>Failed</strong>{_text(error)}</div></div>'


def _picture(image: Mapping[str, Any], name: str) -> str:
    """Build the frame: the overlay as a link to itself, with the other views' addresses for the script."""
    urls = {key: _url(image[key]) for key, _ in _VIEWS if image.get(key) is not None}
    missing = "<span>Not written</span>"
    if not urls:
        return f'<div class="picture">{missing}</div>'
    others = "".join(f' data-{key}="{url}"' for key, url in urls.items())
    first = urls.get("overlay")
    return (
        f'<a class="picture"{_attribute("href", first)} data-name="{name}">{missing}'
        f'<img loading="lazy" decoding="async" alt="Overlay: {name}"{_attribute("src", first)}'
        f"{_attribute('width', image.get('width'))}{_attribute('height', image.get('height'))}"
        f"{others}{'' if first else ' hidden'}></a>"
    )


def _attribute(name: str, value: object) -> str:
    return "" if value is None else f' {name}="{_text(value)}"'


def _badges(image: Mapping[str, Any]) -> str:
    badges = []
    if image.get("collapsed"):
        badges.append('<span class="badge warn">collapsed</span>')
    if (image.get("foreground") or {}).get("doubt"):
        badges.append('<span class="badge warn">in doubt</span>')
    if image.get("skipped"):
        badges.append('<span class="badge">skipped</span>')
    if notes := image.get("notes"):
        items = "".join(f"<li>{_text(note)}</li>" for note in notes)
        badges.append(f"<details><summary>{_count(len(notes), 'note')}</summary><ul>{items}</ul></details>")
    return f'<div class="badges">{"".join(badges)}</div>' if badges else ""


def _timing(images: Iterable[Mapping[str, Any]]) -> str:
    """Build the table of stages over the images that this run computed."""
    timed = [image["seconds"] for image in images if _computed(image)]
    if not timed:
        return ""
    stages = dict.fromkeys(stage for seconds in timed for stage in seconds)
    rows = []
    for stage in stages:
        values = [seconds[stage] for seconds in timed if seconds.get(stage) is not None]
        if values:
            rows.append(
                f'<tr><th scope="row">{_text(stage.capitalize())}</th>'
                f"<td>{median(values):.3f}</td><td>{max(values):.3f}</td></tr>"
            )
    return (
        '<details class="more" open><summary>Time per image</summary><table class="timing">'
        f"<caption>Seconds, over {_count(len(timed), 'image')}; failed and skipped images are left out.</caption>"
        '<thead><tr><th scope="col">Stage</th><th scope="col">Median</th><th scope="col">Maximum</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></details>"
    )


def _computed(image: Mapping[str, Any]) -> bool:
    return bool(image.get("seconds")) and not _failed(image) and not image.get("skipped")


def _facts(report: Mapping[str, Any]) -> str:
    sections = []
    for key in ("settings", "versions"):
        pairs = ((name, _text(value)) for name, value in _flat(report.get(key) or {}))
        if table := _definitions("table", pairs, grouped=False):
            sections.append(f"<section><h2>{key.capitalize()}</h2>{table}</section>")
    if not sections:
        return ""
    columns = "".join(sections)
    return (
        f'<details class="more"><summary>Settings and versions</summary><div class="columns">{columns}</div></details>'
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings under dotted names, each value as report.json spells it, strings without quotes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
