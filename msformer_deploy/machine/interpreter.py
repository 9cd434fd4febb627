"""How this package starts a module of its own in another process of the same Python."""

from __future__ import annotations

import sys

# ``python -m`` looks for packages in the current folder first. ``-P`` prevents that, but Python 3.10 does not have it.
_CODE = (
    "import sys; sys.path[0] or sys.path.pop(0); "
    "import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def command_of(module: str) -> list[str]:
    """The command that runs a module as ``python -m`` does; files in the current folder are not taken for packages.

    Args:
        module: its full name; arguments for it go behind the command.
    """
    return [sys.executable, "-c", _CODE.format(module=module)]
