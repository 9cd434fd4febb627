"""What scripts that read data sets have in common: an error is one line, and results go to files on request."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from msformer_deploy.errors import DeployError
from msformer_deploy.files import write_text


def exit_code(run: Callable[[Namespace], None], arguments: Namespace) -> int:
    """Do what was asked for; what cannot be done is one line, with its exit code."""
    try:
        run(arguments)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def tell(table: str, facts: dict[str, Any], arguments: Namespace) -> None:
    """Print a Markdown table, and write it to ``arguments.markdown`` and the facts to ``arguments.json`` if given."""
    print(table)
    if arguments.markdown:
        write_text(arguments.markdown, table)
    if arguments.json:
        write_text(arguments.json, json.dumps(facts, indent=1) + "\n")
