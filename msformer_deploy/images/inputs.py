"""What to segment, and where the results of each image go."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".gif", ".jp2", ".j2k", ".avif"),
)
HDF5_SUFFIXES = (".h5", ".hdf5")  # of slices, see :mod:`.hdf5`
MOST_KINDS = 8  # of files passed over, in one line

_ALL = SUFFIXES + HDF5_SUFFIXES
# What systems leave in folders beside files whose names begin with a dot: Windows, macOS, Linux, Synology.
_LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "icon\r", "lost+found", "@eadir"),
}
_FOLDER, _WITHOUT_SUFFIX, _SPECIAL, _UNREACHABLE = "folder", "without suffix", "special file", "unreachable link"
_COMPRESSED = re.compile(r"\.[a-z][a-z0-9]{0,4}\.(gz|bz2|xz|zst)$")  # .nii.gz, .tar.gz
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9_+-]{1,10}$")  # not the last number of a DICOM UID
_ADVICE = {
    "convert {} to PNG or TIFF": {
        *(".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".svs", ".ndpi", ".mrxs", ".czi"),
        *(".heic", ".heif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".ppm", ".pgm", ".pbm", ".tga", ".psd", ".svg"),
        *(".npy", ".npz", ".mat", ".pdf", ".mp4", ".avi", ".mov", ".mkv", ".jpx", ".jpf", ".j2c", ".dib", ".apng"),
    },
    "unpack {}": {".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".7z", ".rar"},
    "name files {} on the command line to try them": {_WITHOUT_SUFFIX},
}
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


class PassedOver:
    """Files of folders that are not taken, by kind: a suffix in small letters, or what else they are.

    Hidden files are not among them.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def add(self, path: Path, kind: str) -> None:
        """Take note of a file, once however many folders lead to it."""
        self._kinds[os.path.realpath(path.parent) + os.sep + path.name] = kind

    def update(self, other: PassedOver) -> None:
        """Take note of all that another one has."""
        self._kinds.update(other._kinds)

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind, the most frequent one first."""
        return dict(sorted(Counter(self._kinds.values()).items(), key=lambda each: (-each[1], each[0])))

    def line(self) -> str | None:
        """What was passed over and what to do about it, in one line; None where that is nothing."""
        if not self._kinds:
            return None
        counts = self.counts
        named = [f"{count} {kind}" for kind, count in counts.items()][:MOST_KINDS]
        others = sum(list(counts.values())[MOST_KINDS:])
        line = f"passed over: {', '.join([*named, f'{others} of other kinds'] if others else named)}"
        for advice, kinds in _ADVICE.items():
            concerned = [kind for kind in counts if kind in kinds]
            if concerned:
                line += f"; {advice.format(', '.join(concerned))}"
        return line


def discover(inputs: Sequence[Path], output: Path | None = None, passed_over: PassedOver | None = None) -> list[Item]:
    """List the images that ``inputs`` name, each file once, in the order of ``inputs``.

    A folder stands for the images in it and its subfolders, as :func:`walk` finds them. Any other argument is kept as
    it is, also if it is missing, hidden or has an unknown suffix: reading it says what is wrong, and the other images
    still run.

    Args:
        inputs: files and folders.
        output: a folder that is passed over.
        passed_over: takes note of what is not an image by its name.

    Raises:
        UsageError: a folder cannot be listed, has no images in it, or is the output folder itself.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    found: dict[str, Item] = {}
    for path in inputs:
        items = [Item(path, Path(path.name))]
        if os.path.isdir(path):
            own = PassedOver()
            items = walk(path, output, own)
            passed_over.update(own)
            if not items:
                kinds = ", ".join(suffix[1:] for suffix in _ALL)
                told = own.line()
                raise UsageError(
                    f"{printable(path)}: no images ({kinds}) in it" + ("" if told is None else f"; {told}")
                )
        for item in items:
            found.setdefault(os.path.realpath(item.path), item)
    return list(found.values())


def hidden(name: str) -> bool:
    """Whether a file or folder is not the user's own: hidden by a dot (``._a.png``), or left behind by a system."""
    return name.startswith(".") or name.casefold() in _LEFTOVERS


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


def walk(folder: Path, output: Path | None = None, passed_over: PassedOver | None = None) -> list[Item]:
    """List the images of a folder and its subfolders, sorted; those of masks are images as well.

    Hidden entries and ``output`` are passed over, linked folders are followed, and each folder is entered once.

    Args:
        folder: to be listed.
        output: a folder that is passed over.
        passed_over: takes note of what is not an image by its name, and of what is no file, such as a pipe.

    Raises:
        UsageError: a folder cannot be listed, or is the output folder itself.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    excluded = None if output is None else _identity(output)
    if excluded is not None and _identity(folder) == excluded:
        raise UsageError(f"{printable(folder)}: is the output folder as well; choose another output folder")
    # Each real folder is entered once: that ends loops of links, and links across cannot multiply the walk.
    entered = {excluded}
    pending, files = [folder], []
    while pending:
        current = pending.pop()
        if _identity(current) in entered:
            continue
        entered.add(_identity(current))
        subfolders = []
        for child in _visible(current):
            kind = _kind(child)
            if kind == _FOLDER:
                subfolders.append(child)
            elif kind in _ALL:
                files.append(child)
            else:
                passed_over.add(child, kind)
        pending += reversed(subfolders)  # because the next folder is taken from the end
    relatives = sorted((file.relative_to(folder) for file in files), key=lambda relative: relative.parts)
    return [Item(folder / relative, relative) for relative in relatives]


def _kind(path: Path) -> str:
    """What an entry of a folder is; nothing is opened, as a pipe would never answer."""
    suffix = path.suffix.lower()
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return suffix if suffix in _ALL else _UNREACHABLE
    except OSError:  # a link to nothing or to itself, which fails where it is read
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        return _FOLDER
    if not stat.S_ISREG(mode):
        return _SPECIAL
    name = path.name.lower()
    found = _COMPRESSED.search(name) or _SUFFIX.search(name)
    return suffix if suffix in _ALL else found.group() if found is not None else _WITHOUT_SUFFIX


def _visible(folder: Path) -> list[Path]:
    try:
        if not os.access(folder, os.X_OK):  # its names can be listed then, and nothing behind them be reached
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return sorted(child for child in folder.iterdir() if not hidden(child.name))
    except OSError as error:
        raise UsageError(f"{printable(folder)}: cannot be listed: {error.strerror}; make it readable") from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells one folder from all others whatever its path; None for one that is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
