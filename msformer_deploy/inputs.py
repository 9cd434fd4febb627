"""What to segment, and where the results of each image go."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
HDF5_SUFFIXES = (".h5", ".hdf5")  # of slices, see :mod:`.hdf5`

_ALL = SUFFIXES + HDF5_SUFFIXES
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, invisible marks, undecodable bytes, line and paragraph ends


def printable(path: Path | str) -> str:
    r"""Return ``path`` fit for a one-line message: line breaks, controls, undecodable bytes as ``\n``, ``\x1b``..."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in str(path)
    )


@dataclass(frozen=True)
class Outputs:
    """The files written for one image; ``probability`` by trained systems alone."""

    labels: Path
    mask: Path
    overlay: Path
    probability: Path
    record: Path


@dataclass(frozen=True)
class Item:
    """One image to segment.

    Attributes:
        path: the file to read.
        relative: its place in the output folder, source extension included, so that a.jpg and a.png stay apart.
    """

    path: Path
    relative: Path

    def outputs(self, folder: Path) -> Outputs:
        """Return where the results go when ``folder`` is the output folder."""

        def beside(suffix: str) -> Path:
            return folder / self.relative.with_name(self.relative.name + suffix)

        labels, mask, overlay, probability = (
            beside(f".{name}.png") for name in ("labels", "mask", "overlay", "probability")
        )
        return Outputs(labels, mask, overlay, probability, beside(".json"))


def discover(inputs: Sequence[Path], output: Path | None = None) -> list[Item]:
    """List the images that ``inputs`` name, each file once, in the order of ``inputs``.

    A folder stands for the images in it and its subfolders, sorted; hidden entries and ``output`` are passed over and
    linked folders are followed. Any other argument is kept as it is, also if it is missing or has an unknown suffix:
    reading it says what is wrong, and the other images still run.

    Raises:
        UsageError: a folder cannot be listed, has no images in it, or is the output folder itself.
    """
    found: dict[str, Item] = {}
    for path in inputs:
        for item in _walk(path, output) if os.path.isdir(path) else [Item(path, Path(path.name))]:
            found.setdefault(os.path.realpath(item.path), item)
    return list(found.values())


def collisions(items: Sequence[Item]) -> dict[Item, Item]:
    """Map each item whose outputs would overwrite those of an earlier item to that earlier item.

    Names that differ only by case or by Unicode composition count as equal, as on the usual disks of macOS and Windows.
    """
    owners: dict[str, Item] = {}
    clashes = {}
    for item in items:
        place = unicodedata.normalize("NFC", item.relative.as_posix().casefold())
        owner = owners.setdefault(place, item)
        if owner is not item:
            clashes[item] = owner
    return clashes


def _walk(folder: Path, output: Path | None) -> list[Item]:
    excluded = None if output is None else _identity(output)
    if _identity(folder) == excluded:
        raise UsageError(f"{printable(folder)}: is the output folder as well; choose another output folder")
    # Each real folder is entered once: that ends loops of links, and links across cannot multiply the walk.
    entered = {excluded}
    pending, files = [folder], []
    while pending:
        current = pending.pop()
        if _identity(current) in entered:
            continue
        entered.add(_identity(current))
        children = _visible(current)
        # reversed, because the next folder is taken from the end
        pending += [child for child in reversed(children) if os.path.isdir(child)]
        files += [child for child in children if child.suffix.lower() in _ALL and not os.path.isdir(child)]
    if not files:
        kinds = ", ".join(suffix[1:] for suffix in _ALL)
        raise UsageError(f"{printable(folder)}: no images ({kinds}) in it")
    relatives = sorted((file.relative_to(folder) for file in files), key=lambda relative: relative.parts)
    return [Item(folder / relative, relative) for relative in relatives]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{printable(folder)}: cannot be listed: {error.strerror}; make it readable") from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells one folder from all others whatever its path; None for one that is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
