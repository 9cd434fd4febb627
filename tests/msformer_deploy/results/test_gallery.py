"""The page is read back by an HTML parser: what a browser would request, show and run."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest

from msformer_deploy.images.space import Spacing
from msformer_deploy.measures.physical import measure, measure_volume
from msformer_deploy.results import gallery, measurements

ODD_NAMES = [
    "plain.png",
    "two words.png",
    'it\'s "quoted".png',
    "a#b?c=d&e.png",
    "100%25.png",
    "a:b.png",
    "<script>alert(1)<_script>.png",
    "läsion_皮膚.png",
    "new\nline\ttab.png",
    "folder/inner.png",
]
VOID = {"meta", "link", "img", "input", "br"}
URL_ATTRIBUTES = ("src", "href", "data-overlay", "data-mask", "data-label_map")
NOTICE = "Research software: not a medical device. Masks are chosen without labels; check them."


class Page(HTMLParser):
    """Every element with its attributes, the text of the page, and the balance of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inline: dict[str, str] = {}
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.inline[self.open[-1]] = data
        else:
            self.text += data

    def all(self, tag: str, of_class: str | None = None) -> list[dict[str, str | None]]:
        found = (attributes for name, attributes in self.elements if name == tag)
        return [a for a in found if of_class is None or of_class in (a.get("class") or "").split()]

    def urls(self) -> list[str]:
        return [value for _, attributes in self.elements for key in URL_ATTRIBUTES if (value := attributes.get(key))]


def image(name: str, **changes: Any) -> dict[str, Any]:
    stages = {"decode": 0.01, "encoder": 0.7, "total": 0.96}
    return {
        "input": f"/data/{name}",
        "label_map": f"{name}.labels.png",
        "mask": f"{name}.mask.png",
        "overlay": f"{name}.overlay.png",
        "width": 768,
        "height": 560,
        "label_count": 12,
        "foreground": {
            "name": "auto",
            "area_fraction": 0.234,
            "confidence": 0.8765,
            "interval": [0.4265, 1.0],
            "doubt": None,
            "candidates": [
                {"number": 1, "confidence": 0.8765, "area_fraction": 0.234, "mask": f"{name}.mask.png"},
                {"number": 2, "confidence": 0.512, "area_fraction": 0.1, "mask": f"{name}.candidate-2.png"},
            ],
        },
        "collapsed": False,
        "notes": [],
        "seconds": stages,
        "skipped": False,
        "error": None,
    } | changes


def failed(name: str, error: str) -> dict[str, Any]:
    absent = dict.fromkeys(("label_map", "mask", "overlay", "width", "height", "label_count", "foreground", "seconds"))
    return image(name, error=error, **absent)


def report(*images: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": list(images),
        "backend": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "settings": {"size": 257, "refine": {"steps": 10}, "foreground": "auto", "threads": None},
        "versions": {"msformer-deploy": "0.1.0"},
        "summary": {
            "images": len(images),
            "done": len(images),
            "failed": 0,
            "skipped": 0,
            "seconds": 25.1,
            "images_per_second": 0.95,
        },
        "interrupted": False,
    }


def resolve(url: str) -> str:
    """Return the path that a browser asks for: everything up to ``?`` and ``#``, unquoted."""
    return os.fsdecode(unquote_to_bytes(urlsplit(url).path))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids most of these names")
def test_every_url_finds_its_file(tmp_path: Path) -> None:
    images = [image(name) for name in [*ODD_NAMES, os.fsdecode(b"latin-\xe4.png")]]
    written = [entry[view] for entry in images for view in ("overlay", "mask", "label_map")]
    written += [entry["foreground"]["candidates"][1]["mask"] for entry in images]
    try:
        for name in [*written, "report.json", "measurements.csv"]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system forbids one of these names")
    gallery.write(tmp_path / "index.html", report(*images))

    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    files = [url for url in page.urls() if not url.startswith(("#", "data:"))]
    assert all((tmp_path / resolve(url)).is_file() for url in files)
    assert {resolve(url) for url in files} == {*written, "report.json", "measurements.csv"}
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_overlay_is_shown_without_a_script_and_loaded_lazily() -> None:
    picture, _ = Page(gallery.render(report(image("a b.png")))).all("img")
    assert picture["src"] == "a%20b.png.overlay.png"
    assert picture["loading"] == "lazy"
    assert (picture["width"], picture["height"]) == ("768", "560")
    assert picture["alt"] == "Overlay: a b.png"


def test_controls_are_hidden_until_the_script_runs() -> None:
    page = Page(gallery.render(report(image("a.png"))))
    (tools,) = page.all("div", "tools")
    assert "hidden" in tools
    pressed = {button["data-view"]: button["aria-pressed"] for button in page.all("button")}
    assert pressed == {"overlay": "true", "mask": "false", "label_map": "false"}


def test_nothing_is_requested_from_elsewhere() -> None:
    text = gallery.render(report(*map(image, ODD_NAMES)))
    without_hashes = re.sub(r"'sha256-[^']*'", "", text)
    assert not re.search(r"https?:|//|@import|url\(", without_hashes)
    assert all(urlsplit(url).scheme in ("", "data") and not urlsplit(url).netloc for url in Page(text).urls())


def test_a_path_cannot_become_another_host_or_scheme() -> None:
    text = gallery.render(report(image("a.png", overlay="http://host/a.png", mask="javascript:alert(1)")))
    assert all(urlsplit(url).scheme in ("", "data") and not urlsplit(url).netloc for url in Page(text).urls())


def test_the_policy_forbids_the_network_and_names_the_inline_code() -> None:
    page = Page(gallery.render(report()))
    (policy,) = [m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "'self' file: data:"
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inline[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert not any(key == "style" or key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_text_from_the_report_is_escaped_everywhere() -> None:
    evil = "\"'><script>alert(1)<\\script>&amp;"
    entry = image(evil, notes=[evil], seconds={evil: 1.0})
    full = report(entry, failed(evil, evil)) | {"backend": evil, "provider": evil}
    full |= {"settings": {evil: {evil: [evil]}}, "versions": {evil: evil}}
    page, plain = Page(gallery.render(full)), Page(gallery.render(report(image("a.png"))))
    assert len(page.all("script")) == 1
    assert page.inline == plain.inline
    assert page.text.count(evil) >= 8


def test_a_failed_image_is_a_card_and_is_linked_from_the_top() -> None:
    text = gallery.render(report(image("a.png"), failed("b.png", "not an image"), failed("c.png", "too large")))
    page = Page(text)
    cards = page.all("li", "card")
    assert [card.get("id") for card in cards] == [None, "failed", None]
    assert len(page.all("img")) == 2, "one image and its other candidate"
    assert "2 of 3 images failed" in page.text
    assert "not an image" in page.text
    assert "too large" in page.text
    assert "#failed" in page.urls()
    assert text.index("2 of 3 images failed") < text.index('class="grid"')


def test_no_failure_no_alert() -> None:
    page = Page(gallery.render(report(image("a.png"))))
    assert not page.all("p", "alert")


def test_an_interrupted_run_says_so() -> None:
    assert "interrupted" in Page(gallery.render(report(image("a.png")) | {"interrupted": True})).text


def test_a_doubted_mask_says_so() -> None:
    doubted = {"confidence": 0.2, "interval": [0.0, 0.4], "doubt": "the mask is not certain"}
    page = Page(gallery.render(report(image("a.png"), image("b.png", foreground=doubted))))
    assert page.text.count("in doubt: expected DSC below 0.7") == 1


def test_other_candidates_are_small_pictures_with_what_takes_them() -> None:
    page = Page(gallery.render(report(image("a b.png"))))
    assert len(page.all("ul", "candidates")) == 1
    _, picture = page.all("img")
    assert picture["src"] == "a%20b.png.candidate-2.png"
    assert picture["loading"] == "lazy"
    assert picture["alt"] == "candidate:2: a b.png"
    assert "a%20b.png.candidate-2.png" in [link.get("href") for link in page.all("a")]
    assert "--foreground candidate:2Expected DSC 0.51" in page.text
    assert "candidate:1" not in page.text, "the mask itself"


def test_where_a_later_candidate_is_the_mask_the_first_is_offered() -> None:
    entry = image("a.png")
    first, second = entry["foreground"]["candidates"]
    first["mask"], second["mask"] = "a.png.candidate-1.png", "a.png.mask.png"
    page = Page(gallery.render(report(entry)))
    assert "--foreground candidate:1" in page.text
    assert "candidate:2" not in page.text


def test_a_result_of_an_earlier_version_has_no_candidates_and_no_expected_dsc() -> None:
    before = {"confidence": 0.5, "area_fraction": 0.1, "doubt": "colours differ little"}
    page = Page(gallery.render(report(image("a.png", foreground=before))))
    assert not page.all("ul", "candidates")
    assert "in doubt" in page.text
    assert "expected dsc" not in page.text.lower()


def test_caption_and_header() -> None:
    page = Page(gallery.render(report(image("a.png", collapsed=True, skipped=True, notes=["one", "two"]))))
    shown = (
        "a.png",
        "Labels12",
        "Foreground23.4 %",
        "Expected DSC0.88 (0.43 to 1.00)",
        "Time0.96 s",
        "collapsed",
        "skipped",
        "2 notes",
    )
    header = ("Images1", "Total time25.1 s", "Rate0.95 images/s", "Backendonnxruntime", NOTICE)
    facts = ("refine.steps10", "foregroundauto", "threadsnull", "msformer-deploy0.1.0")
    assert [part for part in (*shown, *header, *facts) if part not in page.text] == []


def test_times_are_over_the_images_that_were_computed() -> None:
    totals = [image(f"{t}.png", seconds={"encoder": t, "total": t + 1}) for t in (1.0, 2.0, 6.0)]
    skipped = image("s.png", skipped=True, seconds={"total": 99.0})
    page = Page(gallery.render(report(*totals, skipped, failed("f.png", "broken"))))
    assert "Encoder2.0006.000" in page.text
    assert "Total3.0007.000" in page.text
    assert "over 3 images" in page.text


def test_a_picture_that_was_not_written_is_not_requested() -> None:
    picture, _ = Page(gallery.render(report(image("a.png", overlay=None)))).all("img")
    assert "hidden" in picture
    assert "src" not in picture
    assert picture["data-mask"] == "a.png.mask.png"
    nothing = Page(gallery.render(report(image("a.png", overlay=None, mask=None, label_map=None, foreground=None))))
    assert not nothing.all("img")
    assert "Not written" in nothing.text


@pytest.mark.parametrize("images", [[], [{}], [{"input": "a.png", "overlay": "o.png"}], [{"error": "broken"}]])
def test_what_is_missing_is_not_shown(images: list[dict[str, Any]]) -> None:
    page = Page(gallery.render({"images": images}))
    assert "None" not in page.text
    assert not page.all("dl")
    assert not page.all("table")
    assert len(page.all("li", "card")) == len(images)
    assert NOTICE in page.text


@pytest.mark.parametrize("key", list(report()))
def test_any_one_key_may_be_missing_or_null(key: str) -> None:
    full = report(image("a.png"))
    if key != "images":
        assert gallery.render(full | {key: None}) == gallery.render({k: v for k, v in full.items() if k != key})
    for part in full["images"][0]:
        Page(gallery.render(full | {"images": [image("a.png", **{part: None})]}))


def test_images_are_required() -> None:
    with pytest.raises(KeyError):
        gallery.render({})


def test_control_characters_are_made_visible_and_the_page_is_utf_8() -> None:
    text = gallery.render(report(image("a\x00\nb\udce4.png")))
    assert "a\u2400\u240ab\ufffd.png" in Page(text).text
    assert text.encode("utf-8")


def test_equal_reports_give_equal_pages() -> None:
    full = report(image("a.png"), failed("b.png", "broken"))
    before = copy.deepcopy(full)
    assert gallery.render(full) == gallery.render(copy.deepcopy(full))
    assert full == before


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "0.00 s"), (9.5, "9.50 s"), (119.4, "119.4 s"), (119.6, "2 min 0 s"), (3599.6, "1 h 0 min")],
)
def test_total_time_is_easy_to_read(seconds: float, expected: str) -> None:
    page = Page(gallery.render({"images": [], "summary": {"seconds": seconds}}))
    assert f"Total time{expected}" in page.text


@pytest.mark.parametrize(
    ("spacing", "shape", "shown"),
    [
        (None, (20, 30), ["Area", "600 px², touches the border", "Longest diameter", " px"]),
        (
            Spacing(0.5, 0.5, "pixel spacing"),
            (20, 30),
            ["Area", "150 mm², touches the border", "Longest diameter", " mm"],
        ),
        (Spacing(0.5, 0.5, "affine"), (4, 20, 30), ["Volume", "1.8 ml, touches the border", "Longest diameter", " mm"]),
    ],
)
def test_sizes_are_shown_with_their_unit(spacing: Spacing | None, shape: tuple[int, ...], shown: list[str]) -> None:
    mask = np.ones(shape, bool)
    found = measurements.record(measure(mask, spacing) if mask.ndim == 2 else measure_volume(mask, spacing, 3.0))
    entry = image("a.png")
    entry["foreground"]["measurements"] = found
    text = Page(gallery.render(report(entry))).text
    assert all(each in text for each in shown)
    assert "Longest diameter" not in Page(gallery.render(report(image("a.png")))).text
