"""The metrics of a run as a CSV file, one row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ... import files
from ...errors import DeployError, printable

Row = Mapping[str, float]


class MetricsLog:
    """Rows of numbers; ``epoch`` counts from 1. A number that an epoch does not have is an empty field."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[Row] = []

    def resume(self, epochs: int) -> None:
        """Keep the rows of the file up to and including epoch ``epochs``; the next row replaces the later ones.

        Raises:
            DeployError: the file cannot be read, or does not have these epochs.
        """
        self.rows = [row for row in read(self._path) if row.get("epoch", 0) <= epochs]
        if [row.get("epoch") for row in self.rows] != list(range(1, epochs + 1)):
            raise DeployError(f"{printable(self._path)}: lacks rows for some of the {epochs} epochs; start again")

    def append(self, row: Row) -> None:
        """Add a row and write the whole file again, atomically.

        Raises:
            DeployError: the file cannot be written.
        """
        self.rows.append(row)
        text = io.StringIO()
        columns = dict.fromkeys(name for each in self.rows for name in each)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            files.write_text(self._path, text.getvalue())
        except OSError as error:
            raise DeployError(
                f"{printable(self._path)}: cannot be written ({error.strerror}); make room, then --resume"
            ) from error


def read(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        DeployError: the file is missing, or is not a table of numbers.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        rows: list[Row] = [
            {name: _number(field) for name, field in zip(header, line, strict=True) if field} for line in lines
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise DeployError(f"{printable(path)}: cannot be read as the metrics of a run ({error})") from error
    return rows


def _number(field: str) -> float:
    return int(field) if field.isdecimal() else float(field)
