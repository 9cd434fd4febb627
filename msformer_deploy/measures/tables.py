"""Tables of text, for the terminal and in Markdown, and how numbers are put in them."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "-"
_GAP = "  "

Lines = Sequence[Sequence[str]]


def aligned(lines: Lines, texts: int) -> list[str]:
    """Lines of a table for the terminal.

    Args:
        lines: cells; heads are the first.
        texts: so many columns are words, those after them numbers.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        _GAP.join(
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def ruled(lines: Lines, texts: int) -> str:
    """The same in Markdown."""
    head, *rows = lines
    ruler = ["---" if index < texts else "---:" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in (head, ruler, *rows))


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
