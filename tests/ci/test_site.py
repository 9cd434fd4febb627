"""What ``make docs`` refuses in the built site."""

from __future__ import annotations

import runpy
from pathlib import Path

import click
import pytest

SITE = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "site.py"))


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://host/a.js"></script>',
        '<script src="//host/a.js"></script>',
        '<link rel="stylesheet" href="https://host/a.css">',
        '<img src=" http://host/a.png">',
        '<img srcset="https://host/a.png 2x">',
        '<div style="background: url(https://host/a.png)">',
        "<style>@import 'https://host/a.css';</style>",
        "@font-face { src: url('//host/a.woff2') }",
    ],
)
def test_what_another_host_would_serve_is_found(page: str) -> None:
    assert SITE["loaded_from_elsewhere"](page)


@pytest.mark.parametrize(
    "page",
    [
        '<a href="https://host/">a link to click</a>',
        '<script src="../assets/a.js"></script>',
        "src: url(../fonts/a.woff2); mask: url('data:image/svg+xml;charset=utf-8,<svg xmlns=\"http://www.w3.org\">')",
    ],
)
def test_links_and_local_files_are_no_fault(page: str) -> None:
    assert SITE["loaded_from_elsewhere"](page) == []


def test_an_option_is_looked_for_in_the_section_of_its_command() -> None:
    commands = {name: click.Command(name, params=[click.Option(["-q", "--quiet"])]) for name in ("one", "two")}
    shown = '<h2 id="msformer-deploy-one">one</h2> <code>-q</code> <code>--quiet</code>'
    empty = '<h2 id="msformer-deploy-two">two</h2> --quiet'
    assert list(SITE["missing_options"](shown + empty, commands)) == ["two -q", "two --quiet"]
    assert list(SITE["missing_options"](empty + shown, commands)) == ["two -q", "two --quiet"]
    assert len(list(SITE["missing_options"]("", commands))) == 4
    group = {"both": click.Group("both", commands)}
    assert "both one -q" not in SITE["missing_options"](shown.replace("deploy-one", "deploy-both-one"), group)
    assert "both two -q" in SITE["missing_options"](shown, group)
