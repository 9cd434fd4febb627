"""Tables of text, for the terminal and in Markdown, and how numbers are put in them."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

NONE = "-"
GAP = "  "  # between columns

Lines = Sequence[Sequence[str]]
_SIDES = {"l": "left", "r": "right"}


def aligned(lines: Lines, sides: str) -> list[str]:
    """Lines of a table for the terminal.

    Args:
        lines: cells, the heads among them; a cell may itself have several lines.
        sides: ``l`` or ``r`` for each column; those after the last are on the right.
    """
    # Heads are the first of the lines, because tabulate leaves more room below heads of its own.
    return _table(lines, (), sides, "plain").splitlines()


def ruled(lines: Lines, sides: str) -> str:
    """The same in Markdown; heads are the first line, and every cell is on one line."""
    head, *rows = [[escaped(cell) for cell in line] for line in lines]
    return _table(rows, head, sides, "pipe")


def _table(rows: Lines, head: Sequence[str], sides: str, form: str) -> str:
    columns = len(head or rows[0])
    return tabulate(
        rows,
        headers=head,
        tablefmt=form,
        colalign=[_SIDES[side] for side in sides.ljust(columns, "r")],
        disable_numparse=True,  # digits are chosen already
    )


def listed(remarks: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {escaped(line)}" for line in remarks)


def counted(count: int, what: str) -> str:
    """A number and its noun."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where it is not defined."""
    return NONE if value is None else f"{value:.{digits}f}"


def escaped(text: str) -> str:
    """Text on one line that Markdown leaves as it is."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
