"""Hooks of the site's builder: they correct what mkdocs-click makes of defaults, and mark its page for the style."""

from __future__ import annotations

from typing import Any

import click


def on_pre_build(**_: object) -> None:
    """Give options without a default None in place of click's mark for it (since 8.3), which would be shown."""
    from msformer_deploy.cli import cli

    for command in cli.commands.values():
        for option in command.get_params(click.Context(command)):
            option.default = option.to_info_dict()["default"]


def on_page_content(html: str, *, page: Any, **_: object) -> str:
    """Leave the cell empty where the help says what happens without the option."""
    if page.file.src_uri != "reference/command-line.md":
        return html
    html = html.replace("<td>None</td>", "<td></td>").replace("<td>_required</td>", "<td>required</td>")
    return f'<div class="options">{html}</div>'
