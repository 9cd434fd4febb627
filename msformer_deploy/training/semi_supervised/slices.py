"""Slices of patients' volumes for semi-supervised training: find them, split them by patient, check and read them.

A folder and its subfolders hold HDF5 files, one per slice, with a data set ``image`` (H, W) in 0..1 and, for a labelled
slice, ``label`` (H, W), as SSL4MIS stores ACDC (HiLab-git/SSL4MIS). Or they hold images, some of them with masks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...bundle.folder import sha256
from ...errors import ImageError, UsageError, printable
from ...images import hdf5
from ...images import masks as mask_files
from ...images.inputs import HDF5_SUFFIXES, PassedOver, discover
from ...images.pairing import pair
from ...images.read import InputImage, read_image
from ...images.slice_names import NAMES, parse

MAX_NAMED = 3  # patients or files in one message

_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601; of equal channels it is their value

Choice = int | float | tuple[str, ...]  # a number of patients, a share of the patients, or their names


@dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
        path: its HDF5 file or image.
        patient, volume: names of the patient and of the volume.
        index: position in the volume.
        labelled: whether it has a truth.
        mask: file of the truth of an image; None for an HDF5 file, which holds its own.
    """

    path: Path
    patient: str
    volume: str
    index: int
    labelled: bool
    mask: Path | None = None


@dataclass(frozen=True)
class Split:
    """Labelled and unlabelled slices for training, and held-out slices; each patient is in one part only."""

    labelled: tuple[Slice, ...]
    unlabelled: tuple[Slice, ...]
    held_out: tuple[Slice, ...]


def find_slices(
    folder: Path, masks: Path | None = None, names: str = NAMES, passed_over: PassedOver | None = None
) -> tuple[Slice, ...]:
    """Find the slices of a folder, in the order of patient, volume and index.

    Args:
        folder: folder of HDF5 files or of images, subfolders included.
        masks: folder of masks for all or some images, see :mod:`.pairing`.
        names: regular expression for a file's name without its suffix. The group ``patient`` is the name of the
            patient; the groups ``volume`` and ``index``, if there are any, are the volume and the position in it.
        passed_over: collects files that are neither slices nor masks.

    Raises:
        UsageError: there is no such folder, it holds no slices or both kinds of files, a name has no patient, two
            slices have one name, or as :func:`.pairing.pair`.
        ImageError: an HDF5 file holds no slice.
        BackendUnavailable: h5py is missing.
    """
    if not folder.is_dir():
        raise UsageError(f"{printable(folder)}: no such folder")
    items = discover([folder], passed_over=passed_over)
    files = [item.path for item in items]
    held = [path for path in files if path.suffix.lower() in HDF5_SUFFIXES]
    if held and masks is not None:
        raise UsageError(f"{printable(folder)}: HDF5 files hold their labels themselves; leave {printable(masks)} out")
    if held and len(held) < len(files):
        raise UsageError(f"{printable(folder)}: holds both HDF5 files and images; keep them in separate folders")
    truths: Mapping[Path, Path | None] = {}
    if masks is not None:
        pairing = pair(items, masks, passed_over)
        truths, files = pairing.pairs, [item.path for item in pairing.images_of(items)]
    _check_names(files)
    if held:
        truths = {path: None for path in held if _holds_labels(path)}
    found = [_named(path, names, path in truths, truths.get(path)) for path in files]
    return tuple(sorted(found, key=lambda each: (each.patient, each.volume, each.index, each.path)))


def choice(text: str) -> Choice:
    """Parse a choice of patients: a number such as ``3``, a share such as ``0.1``, or a file with one name per line.

    Raises:
        UsageError: the text is none of these.
    """
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"0?\.\d+", text):
        return float(text)
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UsageError(
            f"{printable(text)}: is not a number of patients, a share such as 0.1, or a file that lists them ({reason})"
        ) from error
    listed = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not listed:
        raise UsageError(f"{printable(text)}: lists no patient; give one name per line")
    return listed


def split(slices: Sequence[Slice], labelled: Choice, held_out: Choice, seed: int) -> Split:
    """Split the slices by patient.

    Named patients are taken; a number of patients is drawn from those whose every slice has a truth. All other patients
    are unlabelled, and their truths are never read.

    Args:
        slices: result of :func:`find_slices`.
        labelled: patients for training with labels; at least one.
        held_out: patients for evaluation; at least one.
        seed: draws the patients, the held-out ones first.

    Raises:
        UsageError: there are too few patients, or a named one is missing, in two parts, or without truth.
    """
    patients: dict[str, list[Slice]] = {}
    for each in slices:
        patients.setdefault(each.patient, []).append(each)
    if len(patients) < 2:
        raise UsageError(
            f"{len(slices)} slices of {len(patients)} patient: too few; give at least 2 patients, one for training and"
            " one held out"
        )
    complete = [name for name, owned in patients.items() if all(each.labelled for each in owned)]
    named = {
        part: wanted for part, wanted in (("labelled", labelled), ("held out", held_out)) if isinstance(wanted, tuple)
    }
    for part, wanted in named.items():
        _check_named(part, wanted, patients, complete)
    both = set(named.get("labelled", ())) & set(named.get("held out", ()))
    if both:
        raise UsageError(f"{_listed(sorted(both))}: both labelled and held out; remove the name from one list")
    taken = {name for wanted in named.values() for name in wanted}
    rng = np.random.default_rng(seed)
    drawn = rng.permutation([name for name in complete if name not in taken]).tolist()
    judges = _take("held out", held_out, drawn, len(patients))
    teachers = _take("labelled", labelled, [name for name in drawn if name not in judges], len(patients))

    def those(wanted: Callable[[str], bool]) -> tuple[Slice, ...]:
        return tuple(each for each in slices if wanted(each.patient))

    return Split(
        those(lambda name: name in teachers),
        those(lambda name: name not in teachers and name not in judges),
        those(lambda name: name in judges),
    )


def volumes(slices: Sequence[Slice]) -> dict[tuple[str, str], list[Slice]]:
    """Slices by patient and volume, in the order of their positions in the volume."""
    found: dict[tuple[str, str], list[Slice]] = {}
    for each in sorted(slices, key=lambda each: each.index):
        found.setdefault((each.patient, each.volume), []).append(each)
    return dict(sorted(found.items()))


def check(parts: Split, values: Sequence[int], step: Callable[[], object] = lambda: None) -> str:
    """Read every file once, so that no bad file ends a training that has run for hours.

    Args:
        parts: slices to read; the truths of unlabelled slices are not read.
        values: as in :func:`read_labels`.
        step: called after each slice.

    Returns:
        SHA-256 of the split: of one line per slice, with its part, its name, its hash and the hash of its mask.

    Raises:
        ImageError: a slice or its truth cannot be used, or slices of a held-out volume differ in shape.
    """
    found = hashlib.sha256()
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for part in ("labelled", "unlabelled", "held_out"):
        for each in getattr(parts, part):
            image = read_slice(each)
            if part != "unlabelled":
                read_labels(each, values)
            if part == "held_out" and shapes.setdefault((each.patient, each.volume), image.shape) != image.shape:
                raise ImageError(
                    f"{printable(each.path)}: differs in size from other slices of its volume; resize them"
                )
            mask = "" if each.mask is None or part == "unlabelled" else sha256(each.mask)
            line = f"{part} {each.path.stem} {sha256(each.path)} {mask}\n"
            found.update(line.encode("utf-8", "surrogateescape"))
            step()
    return found.hexdigest()


def read_slice(which: Slice) -> NDArray[np.float32]:
    """Read the image of a slice, float32 (H, W), grey in 0..1.

    Raises:
        ImageError: it cannot be read, or its values are not in 0..1.
    """
    if which.path.suffix.lower() not in HDF5_SUFFIXES:
        return _grey(read_image(which.path))
    with hdf5.opened(which.path) as file:
        values = hdf5.plane(file, "image", which.path)
    # This form rejects NaN too.
    if values.dtype.kind not in "fiu" or not (values.min() >= 0 and values.max() <= 1):
        raise ImageError(f"{printable(which.path)}: image has values outside of 0..1; scale each volume to 0..1")
    return values.astype(np.float32)


def read_labels(which: Slice, values: Sequence[int]) -> NDArray[np.uint8]:
    """Read the truth of a slice, uint8 (H, W), class ids from 0.

    Args:
        which: a labelled slice.
        values: stored value of each class, background first: ``range(4)``, or grey values such as (0, 85, 170, 255).

    Raises:
        ImageError: it cannot be read, holds another value, or differs in size from the image.
    """
    path = which.path if which.mask is None else which.mask
    if which.mask is None:
        with hdf5.opened(path) as file:
            stored, shape = hdf5.plane(file, "label", path), hdf5.plane(file, "image", path).shape
    else:
        image = read_image(which.path)
        file_of_mask = mask_files.read_file(path, image)
        if file_of_mask.ids is None:
            raise ImageError(
                f"{printable(path)}: a coloured or lossily compressed mask holds no classes; save one lossless channel"
            )
        stored, shape = file_of_mask.ids, (image.height, image.width)
    if stored.shape != shape:
        sizes = " and ".join(f"{width} x {height}" for height, width in (stored.shape, shape))
        raise ImageError(f"{printable(path)}: labels and image are {sizes} pixels; give them the same size")
    unknown = sorted(set(np.unique(stored).tolist()) - set(values))
    if unknown:
        raise ImageError(
            f"{printable(path)}: unknown class {_listed(unknown)}; classes are stored as {', '.join(map(str, values))}"
        )
    found = np.zeros(stored.shape, np.uint8)
    for class_id, value in enumerate(values):
        found[stored == value] = class_id
    return found


def _check_names(files: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for path in files:
        if first.setdefault(path.stem, path) is not path:
            raise UsageError(
                f"{printable(path)}: has the same name as {printable(first[path.stem])}; the name says which patient a"
                " slice belongs to, so rename one"
            )


def _named(path: Path, names: str, labelled: bool, mask: Path | None) -> Slice:
    found = parse(path.stem, names)
    if found is None:
        raise UsageError(f"{printable(path)}: the name has no patient in it; rename the file, or give a name pattern")
    return Slice(path, found.patient, found.volume, found.index or 0, labelled, mask)


def _check_named(
    part: str, wanted: Sequence[str], patients: Mapping[str, list[Slice]], complete: Sequence[str]
) -> None:
    strangers = [name for name in wanted if name not in patients]
    if strangers:
        raise UsageError(f"{_listed(strangers)}: {part} by the list, but no slice has this patient's name")
    for name in wanted:
        if name not in complete:
            bare = sum(not each.labelled for each in patients[name])
            raise UsageError(f"{name}: {part} by the list, but {bare} of {len(patients[name])} slices have no truth")


def _take(part: str, wanted: Choice, drawn: Sequence[str], patients: int) -> frozenset[str]:
    if isinstance(wanted, tuple):
        return frozenset(wanted)
    count = max(round(wanted * patients), 1) if isinstance(wanted, float) else wanted
    if not 1 <= count <= len(drawn):
        raise UsageError(
            f"cannot draw {count} {part} patients; {len(drawn)} others of {patients} have a truth for every slice"
        )
    return frozenset(drawn[:count])


def _grey(image: InputImage) -> NDArray[np.float32]:
    if image.pixels.ndim == 2:
        return image.pixels.astype(np.float32)
    return (image.pixels.astype(np.float32) @ _LUMA / np.float32(255)).clip(0, 1)


def _holds_labels(path: Path) -> bool:
    """Whether a slice is labelled; a file that is not a slice is refused."""
    with hdf5.opened(path) as file:
        hdf5.find(file, "image", path)
        return "label" in file


def _listed(things: Sequence[object]) -> str:
    names = [printable(str(each)) for each in things[:MAX_NAMED]]
    return ", ".join([*names, "..."] if len(things) > MAX_NAMED else names)
