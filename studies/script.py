"""What scripts have in common: an error is one line, and results go to files on request."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from msformer_deploy.errors import DeployError
from msformer_deploy.files import write_text


def exit_code(run: Callable[[Namespace], int | None], arguments: Namespace) -> int:
    """Do what was asked for; the exit code is the one it returns, 0 for None. A failure is one line, with its code."""
    try:
        return run(arguments) or 0
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def tell(table: str, facts: dict[str, Any], arguments: Namespace) -> None:
    """Print a Markdown table, and write it to ``arguments.markdown`` and the facts to ``arguments.json`` if given."""
    print(table)
    if arguments.markdown:
        write_text(arguments.markdown, table)
    if arguments.json:
        write_text(arguments.json, json.dumps(facts, indent=1) + "\n")
