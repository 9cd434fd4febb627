"""Checks the built documentation site, and exits with 1 if a page of it is not as it must be.

    python .ci/site.py build/site

Readers may have no network: no page loads a script, a style, a font or a picture from another host. The command-line
page shows every option of every command, and the page of the Python API every public name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click

# What a browser loads by itself; a link that the reader clicks is not among them.
LOADED = {"src", "srcset", "data", "poster"}
REMOTE = re.compile(r"\s*(?:https?:)?//")
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""")


class Loaded(HTMLParser):
    """Collects in ``found`` what a page loads from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the attributes of one element."""
        for name, value in attrs:
            is_loaded = name in LOADED or (tag == "link" and name == "href")
            if value and is_loaded and REMOTE.match(value):
                self.found.append(value)
            elif value and name == "style":
                self.found += IN_STYLES.findall(value)


def loaded_from_elsewhere(page: str) -> list[str]:
    """Addresses on other hosts that the HTML of a page makes a browser load, styles within the page included."""
    parser = Loaded()
    parser.feed(page)
    return parser.found + IN_STYLES.findall(page)


def missing_options(page: str, commands: dict[str, click.Command]) -> Iterator[str]:
    """``COMMAND --option`` for each option that the section of its command does not show."""
    for name, command in commands.items():
        if isinstance(command, click.Group):
            yield from missing_options(page, {f"{name} {each}": one for each, one in command.commands.items()})
            continue
        _, _, section = page.partition(f'id="msformer-deploy-{name.replace(" ", "-")}"')
        section = re.split(r"<h2\b", section)[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from (f"{name} {each}" for each in parameter.opts if f"<code>{each}</code>" not in section)


def faults(site: Path) -> Iterator[str]:
    """One line for each fault of the site."""
    import msformer_deploy
    from msformer_deploy.cli import cli

    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for address in loaded_from_elsewhere(file.read_text(encoding="utf-8")):
            yield f"{file} loads {address} from another host"
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for option in missing_options(page, cli.commands):
        yield f"reference/command-line.html does not show {option}"
    page = (site / "reference" / "python-api.html").read_text(encoding="utf-8")
    for name in msformer_deploy.__all__:
        if f'id="msformer_deploy.{name}"' not in page:
            yield f"reference/python-api.html does not document {name}"


if __name__ == "__main__":
    lines = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(f"error: {line}" for line in lines) or None)
