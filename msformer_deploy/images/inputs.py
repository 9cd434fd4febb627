"""The images to segment, and the places of their results."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ImageError, UsageError, printable
from ..machine.extras import is_installed
from .decoders import formats

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".gif", ".jp2", ".j2k", ".avif"),
)
HDF5_SUFFIXES = (".h5", ".hdf5")  # of slices, see :mod:`.hdf5`
DICOM_SUFFIXES = (".dcm", ".dicom")  # other names are DICOM by their content
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
MAX_KINDS = 8  # kinds of files that were passed over, in one message

# Pictures written for each image: NAME.labels.png and so on.
RESULTS = ("labels", "mask", "overlay", "probability", "candidate-1", "candidate-2", "candidate-3")
OF_RUN = {"report.json", "measurements.csv", "index.html"}  # what every output folder of run has
OF_SHARD = re.compile(r"report\.shard-\d+-of-\d+\.json")  # what one of a shard has
SLICES = ".slices"  # ends the name of the folder with pictures of each slice of a volume
_ALL = SUFFIXES + HDF5_SUFFIXES
_KNOWN = (*_ALL, *DICOM_SUFFIXES, *VOLUME_SUFFIXES, ".json")
# Files and folders of operating systems whose names do not begin with a dot: Windows, macOS, Linux, Synology.
_LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "icon\r", "lost+found", "@eadir"),
}
_FOLDER, _WITHOUT_SUFFIX, _SPECIAL, _UNREACHABLE = "folder", "without suffix", "special file", "unreachable link"
_COMPRESSED = re.compile(r"\.[a-z][a-z0-9]{0,4}\.(gz|bz2|xz|zst)$")  # .nii.gz, .tar.gz
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9_+-]{1,10}$")  # not the last number of a DICOM UID
_RESULTS = "results folder"  # of an earlier run
_DICOM = "DICOM"  # where pydicom is not installed
_SEGMENTATION = "DICOM SEG"
_IMAGE = "DICOM images"  # where segmentations are looked for
_ADVICE = {
    'pip install "msformer-deploy[dicom]" to read {}': {_DICOM},
    "{} are volumes, which this command does not read; export slices as PNG or TIFF": {*VOLUME_SUFFIXES},
    "convert {} to PNG or TIFF": {
        *(".svs", ".ndpi", ".mrxs", ".czi"),
        *(".heic", ".heif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".ppm", ".pgm", ".pbm", ".tga", ".psd", ".svg"),
        *(".npy", ".npz", ".mat", ".pdf", ".mp4", ".avi", ".mov", ".mkv", ".jpx", ".jpf", ".j2c", ".dib", ".apng"),
    },
    "unpack {}": {".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".7z", ".rar"},
    "name files {} on the command line to try them": {_WITHOUT_SUFFIX},
}


@dataclass(frozen=True)
class Outputs:
    """The files written for one image; of ``candidates`` only those that it has and that are not the mask."""

    labels: Path
    mask: Path
    overlay: Path
    probability: Path
    candidates: tuple[Path, ...]
    record: Path


@dataclass(frozen=True)
class Item:
    """One image or volume to segment.

    Attributes:
        path: the file to read; of a DICOM series its folder, with a number if the folder has several.
        relative: its path in the output folder, with the suffix of the image, so that a.jpg and a.png differ.
        kind: whether it is an image or a volume.
        files: of a DICOM volume, in no order; empty otherwise.
    """

    path: Path
    relative: Path
    kind: Literal["image", "volume"] = "image"
    files: tuple[Path, ...] = ()

    def outputs(self, folder: Path) -> Outputs:
        """Return the paths of the results in the output folder ``folder``."""

        def beside(suffix: str) -> Path:
            return folder / self.relative.with_name(self.relative.name + suffix)

        labels, mask, overlay, probability, *candidates = (beside(f".{name}.png") for name in RESULTS)
        return Outputs(labels, mask, overlay, probability, tuple(candidates), beside(".json"))


class PassedOver:
    """Files of folders that are not images, by kind: a suffix in lower case, or a word such as "special file".

    Hidden files are not counted.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def add(self, path: Path, kind: str) -> None:
        """Add a file; it counts once even if several links lead to it."""
        self._kinds[os.path.realpath(path.parent) + os.sep + path.name] = kind

    def update(self, other: PassedOver) -> None:
        """Add all files of another collection."""
        self._kinds.update(other._kinds)

    def discard(self, paths: Iterable[Path]) -> None:
        """Take files out that are used after all."""
        for path in paths:
            self._kinds.pop(os.path.realpath(path.parent) + os.sep + path.name, None)

    @property
    def counts(self) -> dict[str, int]:
        """Number of files of each kind, the most frequent kind first."""
        return dict(sorted(Counter(self._kinds.values()).items(), key=lambda each: (-each[1], each[0])))

    def line(self) -> str | None:
        """One line on the files that were passed over and what to do; None if there are none."""
        if not self._kinds:
            return None
        counts = self.counts
        named = [f"{count} {kind}" for kind, count in counts.items()][:MAX_KINDS]
        others = sum(list(counts.values())[MAX_KINDS:])
        line = f"passed over: {', '.join([*named, f'{others} of other kinds'] if others else named)}"
        for advice, kinds in _ADVICE.items():
            concerned = [kind for kind in counts if kind in kinds]
            if concerned:
                line += f"; {advice.format(', '.join(concerned))}"
        return line


def discover(
    inputs: Sequence[Path],
    output: Path | None = None,
    passed_over: PassedOver | None = None,
    volumes: bool = False,
    series: bool = True,
) -> list[Item]:
    """List the images that ``inputs`` name, each file once, in the order of ``inputs``.

    A folder stands for the images in it and its subfolders, as :func:`walk` finds them. Any other argument is kept,
    even if it is missing, hidden or has an unknown suffix: the error comes when it is read, and the other images still
    run.

    Args:
        inputs: files and folders.
        output: a folder that is passed over.
        passed_over: collects files that are not images by their names.
        volumes, series: as of :func:`walk`.

    Raises:
        UsageError: a folder cannot be listed, has no images in it, or is the output folder itself.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    found: dict[str, Item] = {}
    for path in inputs:
        if not os.path.isdir(path):
            items = [Item(path, Path(path.name), *(_volume(path, series) if volumes else ()))]
        else:
            own = PassedOver()
            items = walk(path, output, own, volumes, series)
            passed_over.update(own)
            if not items:
                suffixes = (*_ALL, *(VOLUME_SUFFIXES if volumes else ()))
                kinds = ", ".join([*(suffix[1:] for suffix in suffixes), _DICOM])
                line = own.line()
                raise UsageError(
                    f"{printable(path)}: no images ({kinds}) in it" + ("" if line is None else f"; {line}")
                )
        for item in items:
            found.setdefault(os.path.realpath(item.path), item)
    return list(found.values())


def series_among(inputs: Sequence[Path]) -> list[int]:
    """For each DICOM series of which several files are named, so that each is an image of its own, their number."""
    dicoms = [path for path in inputs if path.suffix.lower() not in _ALL and os.path.isfile(path) and _is_dicom(path)]
    if len(dicoms) < 2 or not is_installed("pydicom"):
        return []
    from .dicom.find import series_of

    return [count for series, count in Counter(map(series_of, dicoms)).items() if series and count > 1]


def stem_of(name: str) -> str:
    """The name of a file without its suffix; ``.nii.gz`` is one suffix, and the last number of a DICOM UID is none."""
    known = next((each for each in _KNOWN if name.lower().endswith(each)), None)
    if known is not None:
        return name[: -len(known)] or name
    found = _SUFFIX.search(name.lower())
    return name if found is None else name[: found.start()] or name


def has_known_suffix(name: str) -> bool:
    """Whether the name of a file ends as that of an image or a volume."""
    return name.lower().endswith((*_ALL, *DICOM_SUFFIXES, *VOLUME_SUFFIXES))


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden by a dot (``._a.png``) or belongs to the operating system."""
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


def walk(
    folder: Path,
    output: Path | None = None,
    passed_over: PassedOver | None = None,
    volumes: bool = False,
    series: bool = True,
    also: Callable[[Path], bool] | None = None,
    segmentations: bool = False,
) -> list[Item]:
    """List the images of a folder and its subfolders, sorted; image files of masks are listed too.

    Hidden entries and ``output`` are passed over, and with ``output`` also folders of earlier results. Linked folders
    are followed, and each folder is entered once.

    Args:
        folder: the folder.
        output: a folder that is passed over.
        passed_over: collects files that are not images by their names, DICOM objects that are none, and entries that
            are not files, such as pipes.
        volumes: whether files of volumes are listed, and the files of a DICOM series as one volume. Otherwise each
            DICOM file is an image.
        series: set to False to have each DICOM file as an image even so.
        also: says of a JSON file whether to list it.
        segmentations: list DICOM segmentations, and pass over DICOM images instead.

    Raises:
        UsageError: a folder cannot be listed, or is the output folder itself.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    excluded = None if output is None else _identity(output)
    if excluded is not None and _identity(folder) == excluded:
        raise UsageError(f"{printable(folder)}: is also the output folder; choose another output folder")
    # Each real folder is entered once: this ends loops of links, and several links to a folder add no work.
    entered = {excluded}
    pending, files, dicoms = [folder], [], []
    while pending:
        current = pending.pop()
        if _identity(current) in entered:
            continue
        entered.add(_identity(current))
        children = _visible(current)
        if output is not None and current != folder and _has_results({child.name for child in children}):
            passed_over.add(current, _RESULTS)
            continue
        subfolders = []
        for child in children:
            kind = _kind(child)
            if kind == _FOLDER:
                subfolders.append(child)
            elif (
                kind in _ALL
                or (volumes and kind in VOLUME_SUFFIXES)
                or (kind == ".json" and also is not None and also(child))
            ):
                files.append(child)
            elif kind in DICOM_SUFFIXES or (kind != _SPECIAL and _is_dicom(child)):
                dicoms.append(child)
            else:
                passed_over.add(child, kind)
        pending += reversed(subfolders)  # the next folder is taken from the end
    items = [Item(file, file.relative_to(folder), _kind_of_item(file)) for file in files]
    if dicoms and not is_installed("pydicom"):
        for file in dicoms:
            passed_over.add(file, _DICOM)
    elif dicoms and segmentations:
        items += _of_segmentations(dicoms, folder, passed_over)
    elif dicoms:
        items += _of_dicom(dicoms, folder, passed_over, volumes and series)
    return sorted(items, key=lambda item: item.relative.parts)


def _has_results(names: set[str]) -> bool:
    return names >= OF_RUN or any(map(OF_SHARD.fullmatch, names))


def _of_dicom(files: Sequence[Path], folder: Path, passed_over: PassedOver, volumes: bool) -> list[Item]:
    """The images and volumes among DICOM files of a folder."""
    from .dicom.find import find

    items: list[Item] = []
    for found in find(files, passed_over.add):
        if not (found.files and volumes):
            items.extend(Item(file, file.relative_to(folder)) for file in found.files or (found.place,))
            continue
        relative = found.place.relative_to(folder)
        if not relative.parts:
            relative = Path(os.path.basename(os.path.realpath(folder)) or "series")
        numbered = () if found.number is None else (f"series-{found.number}",)
        items.append(Item(found.place.joinpath(*numbered), relative.joinpath(*numbered), "volume", found.files))
    return items


def _of_segmentations(files: Sequence[Path], folder: Path, passed_over: PassedOver) -> list[Item]:
    """The segmentations among DICOM files of a folder."""
    from .dicom.find import kind_of_file

    items: list[Item] = []
    for file in files:
        try:
            kind = kind_of_file(file)
        except (ImageError, OSError, MemoryError):  # reading it as a mask says why, if it is DICOM at all
            kind = _SEGMENTATION if _is_dicom(file) else file.suffix.lower()
        if kind == _SEGMENTATION:
            items.append(Item(file, file.relative_to(folder)))
        else:
            passed_over.add(file, kind or _IMAGE)
    return items


def _kind_of_item(path: Path) -> Literal["image", "volume"]:
    return "volume" if path.name.lower().endswith(VOLUME_SUFFIXES) else "image"


def _volume(path: Path, series: bool) -> tuple[Literal["image", "volume"], tuple[Path, ...]]:
    """Kind and files of the item of a file that was named."""
    suffixed = path.suffix.lower() in _ALL or not series
    if not suffixed and os.path.isfile(path) and _is_dicom(path) and is_installed("pydicom"):
        from .dicom.find import is_volume

        return ("volume", (path,)) if is_volume(path) else ("image", ())
    return _kind_of_item(path), ()


def _is_dicom(path: Path) -> bool:
    """Whether a regular file is DICOM by its content; no if it cannot be read."""
    try:
        with path.open("rb") as file:
            return formats.identify(file.read(formats.HEAD)) == formats.DICOM
    except OSError:
        return False


def _kind(path: Path) -> str:
    """The kind of an entry of a folder. It is not opened, because opening a pipe would wait for ever."""
    suffix = path.suffix.lower()
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return suffix if suffix in _ALL else _UNREACHABLE
    except OSError:  # a link to nothing or to itself; the error comes when it is read
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
        if not os.access(folder, os.X_OK):  # without this permission names can be listed, but no file opened
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return sorted(child for child in folder.iterdir() if not hidden(child.name))
    except OSError as error:
        raise UsageError(f"{printable(folder)}: cannot be listed: {error.strerror}; make it readable") from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return the identity of a folder, the same for every path to it; None if the folder is missing."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
