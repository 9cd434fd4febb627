"""Pair images with masks by the names of files and folders, and list the files without a partner.

A mask has the name of its image, with any suffix, or this name with a word such as ``x_mask``, ``x-label`` or
``mask_x``. Or folders have such a word: ``images/x`` and ``masks/x``, ``patient/image`` and ``patient/mask``. A folder
of results works too: ``x.png.mask.png`` is the mask of ``x.png``; the label map and the other pictures beside it are
passed over. Masks may be files of volumes, DICOM segmentations or LabelMe files, or one COCO file in place of the
folder. A DICOM series has the name of its folder, and its segmentation may be the only one in a folder of this name.
Ambiguous names are refused, never guessed: the mask of another image gives scores that look right.
"""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..errors import UsageError, printable
from .annotations import coco, labelme, painting
from .inputs import (
    HDF5_SUFFIXES,
    RESULTS,
    SLICES,
    SUFFIXES,
    VOLUME_SUFFIXES,
    Item,
    PassedOver,
    discover,
    has_known_suffix,
    stem_of,
    walk,
)

MAX_FOLDERS, MAX_NAMED = 3, 5  # in one message
_NO_DICOM = (*SUFFIXES, *HDF5_SUFFIXES, *VOLUME_SUFFIXES, painting.SUFFIX)
LABELME = "labelme"  # of the files that are written for LabelMe, such as x.png.labelme.json
_SEG = "seg"  # of the segmentations x.nrrd.seg.nrrd and x.dcm.seg.dcm
# Kinds of results, and what their names end with.
_WRITTEN: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (RESULTS, (".png", ".nii.gz", ".nrrd", ".mha")),
    ((_SEG,), (".nrrd", ".dcm")),
    (("sc", "sr"), (".dcm",)),
    ((LABELME,), (".json",)),
)

_WORDS = r"masks?|segmentations?|segs?|gts?|ground[_-]?truths?|truths?|labels?|annotations?"
_AROUND = r"[_\-. ]"
# x_mask, x_manual1, and x_mask_7, which may be the mask of x_7 or one of several masks of x
_AFTER = re.compile(rf"(?P<base>.*?){_AROUND}({_WORDS}|lesions?|manual)\d*(?P<number>{_AROUND}\d+)?", re.IGNORECASE)
_BEFORE = re.compile(rf"({_WORDS}){_AROUND}(?P<base>.+)", re.IGNORECASE)
_ALONE = re.compile(_WORDS, re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"({_WORDS}|(\d+(st|nd)[_-])?manual)", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"images?|imgs?", re.IGNORECASE)
_IMAGE_WORDS = re.compile(
    rf"^(images?|imgs?|im){_AROUND}|{_AROUND}(images?|imgs?|im|training|test)$|^(images?|imgs?)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Pairing:
    """Images and their masks.

    Attributes:
        pairs: the mask of every image that has one, in the order of the images.
        images_without_mask, masks_without_image: files without a partner, sorted.
        masks_among_images: unused files in the folder of images that are masks by their names, sorted.
        volumes: those of the images, with or without a mask, that are volumes.
        drafts: masks that were left out because ``is_draft`` of :func:`pair` said so, sorted.
    """

    pairs: dict[Path, Path]
    images_without_mask: tuple[Path, ...]
    masks_without_image: tuple[Path, ...]
    masks_among_images: tuple[Path, ...] = ()
    volumes: Mapping[Path, Item] = field(default_factory=dict)
    drafts: tuple[Path, ...] = ()

    def images_of(self, items: Sequence[Item]) -> list[Item]:
        """The items that are images, with or without a mask."""
        images = {*self.pairs, *self.images_without_mask}
        return [item for item in items if item.path in images]


def pair_folders(
    images: Path,
    masks: Path,
    limit: int | None = None,
    passed_over: PassedOver | None = None,
    series: bool = True,
) -> Pairing:
    """Pair the images of a folder with the masks of another folder, or with masks in the same folder.

    Args:
        images: a folder with images and volumes, subfolders included, or one of them.
        masks: a folder with masks, subfolders included; it may be the same folder. Or a COCO file.
        limit: maximum number of pairs, evenly spread; all files without a partner are listed.
        passed_over: collects files that are not images by their names, in both folders.
        series: whether the files of a DICOM series are one volume; otherwise each of them is an image.

    Raises:
        UsageError: as :func:`.inputs.discover` and :func:`pair`, also if no image has a mask.
    """
    items = discover([images], passed_over=passed_over, volumes=True, series=series)
    found = pair(items, masks, passed_over)
    return replace(found, pairs=_spread(found.pairs, limit))


def pair(
    images: Sequence[Item],
    masks: Path,
    passed_over: PassedOver | None = None,
    is_draft: Callable[[Path, str], bool] | None = None,
) -> Pairing:
    """Find the mask of every image that has one.

    Args:
        images: result of :func:`.inputs.discover`; some may be masks by their names.
        masks: a folder of masks, subfolders included. It may be the folder of the images, or within it. Or a COCO file.
        passed_over: collects files of the folder of masks that are not images by their names.
        is_draft: of a mask with the name of a result and the name of its image, whether to leave it out. Where all
            masks are left out, no image has one.

    Raises:
        UsageError: there is no such folder, names are ambiguous, no image has a mask, an image would be its own mask,
            also as a link or a copy, or as :func:`.coco.names`.
    """
    annotated = masks.is_file() and masks.suffix.lower() == painting.SUFFIX
    if not annotated and not masks.is_dir():
        raise UsageError(f"{printable(masks)}: {'is a file, not a folder' if masks.exists() else 'no such folder'}")
    passed_over = PassedOver() if passed_over is None else passed_over
    own = PassedOver()
    pictures = [_Name(item) for item in images]
    found = (
        [Item(masks / name, name) for name in coco.names(masks)]
        if annotated
        else walk(masks, passed_over=own, volumes=True, also=labelme.is_labelme, segmentations=True)
    )
    truths = _without_other_results([_Name(item) for item in found], {each.name for each in pictures})
    passed_over.update(own)
    passed_over.discard(each.path for each in found)  # in a folder of both, they are no images
    passed_over.discard(path for item in images for path in (item.path, *item.files))
    pictures, truths, among, shared = _roles(pictures, truths, masks)
    drafts = (
        [] if is_draft is None else [each for each in truths if each.segmented and is_draft(each.path, each.segmented)]
    )
    truths = [each for each in truths if each not in drafts]
    matched = _match(pictures, truths)
    if not matched and not drafts:
        raise UsageError(_nothing_paired(images, masks, shared, own))
    for picture, truth in matched.items():
        if picture.path.suffix.lower() not in HDF5_SUFFIXES and _same_content(picture.path, truth.path):
            raise UsageError(
                f"{printable(truth.path)}: the mask is the image {printable(picture.path)} itself, by a link or as a"
                " copy; replace it with the mask"
            )
    used = set(matched.values())
    return Pairing(
        {each.path: matched[each].path for each in pictures if each in matched},
        tuple(sorted(each.path for each in pictures if each not in matched)),
        tuple(sorted(each.path for each in truths if each not in used)),
        tuple(sorted(each.path for each in among)),
        {each.path: each.item for each in pictures if each.item.kind == "volume"},
        tuple(sorted(each.path for each in drafts)),
    )


def bases(stem: str) -> tuple[str, ...]:
    """Possible names of the image of a mask, the most likely first; none if no word in the name marks a mask."""
    found = _AFTER.fullmatch(stem)
    if found is not None:
        return tuple(dict.fromkeys((found["base"] + (found["number"] or ""), found["base"])))
    found = _BEFORE.fullmatch(stem)
    return () if found is None else (found["base"],)


def masks_among(items: Sequence[Item]) -> list[Item]:
    """The items that are masks of other items by their names, such as ``x_mask.png`` beside ``x.png``."""
    return [each.item for each in _marked([_Name(item) for item in items])]


def without_masks(items: Sequence[Item], say: Callable[[str], object]) -> list[Item]:
    """The items without :func:`masks_among`, which one message names."""
    masks = set(masks_among(items))
    if masks:
        names = [printable(item.path.name) for item in items if item in masks]
        first = ", ".join([*names[:MAX_NAMED], *(["..."] if len(names) > MAX_NAMED else [])])
        say(f"passed over as masks by their names: {len(names)} ({first})")
    return [item for item in items if item not in masks]


@dataclass(frozen=True, eq=False)
class _Name:
    """The name of a file and of its folders, taken apart."""

    item: Item

    @property
    def path(self) -> Path:
        return self.item.path

    @cached_property
    def entry(self) -> str:
        """Its own path; a link differs from its target."""
        return os.path.realpath(self.path.parent) + os.sep + self.path.name

    @cached_property
    def stem(self) -> str:
        return self.name if self.series else stem_of(self.name)

    @cached_property
    def name(self) -> str:
        return unicodedata.normalize("NFC", self.item.relative.name)  # archives of macOS decompose accented letters

    @property
    def series(self) -> bool:
        """Whether it is a DICOM series, with the name of a folder."""
        return bool(self.item.files) and self.path not in self.item.files

    @cached_property
    def inside(self) -> tuple[str, ...] | None:
        """The folder with the files of a series, or that of a DICOM segmentation, as :attr:`place`; None for others."""
        if self.series:
            numbered = self.path not in self.item.files[0].parents
            return _without_roles(self.folder if numbered else (*self.folder, self.name))
        return self.place if self.suffix not in _NO_DICOM else None

    @cached_property
    def suffix(self) -> str:
        return self.name[len(self.stem) :].lower()

    @cached_property
    def segmented(self) -> str | None:
        """Name of the image of a result, such as ``x.png`` for ``x.png.mask.png``; None for other files.

        A mask in a COCO file has the very name of its image. The name may also be that of a mask by hand: only an image
        of this very name says that it is a result.
        """
        if painting.holder(self.path) is not None:
            return self.name
        image, _, kind = self.stem.rpartition(".")
        written = any(kind in kinds and self.suffix in suffixes for kinds, suffixes in _WRITTEN)
        return image if written and image else None

    @cached_property
    def is_mask(self) -> bool:
        """Whether it is a mask, where it is a result."""
        return self.drawn or self.stem.endswith((".mask", f".{_SEG}"))

    @cached_property
    def drawn(self) -> bool:
        """Whether it is a LabelMe file."""
        return self.path.suffix.lower() == painting.SUFFIX

    @cached_property
    def folder(self) -> tuple[str, ...]:
        return tuple(unicodedata.normalize("NFC", part) for part in self.item.relative.parts[:-1])

    @cached_property
    def place(self) -> tuple[str, ...]:
        """Its folders, without those whose names only say that they hold images or masks."""
        return _without_roles(self.folder)

    @cached_property
    def in_mask_folder(self) -> bool:
        return any(_MASK_FOLDER.fullmatch(part) for part in self.folder)

    @cached_property
    def alone(self) -> bool:
        """Whether its name is only a word such as ``mask``."""
        return _ALONE.fullmatch(self.stem) is not None

    @cached_property
    def bases(self) -> tuple[str, ...]:
        return bases(self.stem)

    @cached_property
    def marked(self) -> bool:
        return self.alone or self.in_mask_folder or bool(self.bases)

    @cached_property
    def core(self) -> str:
        """The name without the words that mark an image or a mask."""
        core = "" if self.alone else self.stem
        while found := _AFTER.fullmatch(core) or _BEFORE.fullmatch(core):
            core = found["base"]
        return _IMAGE_WORDS.sub("", core, count=1).casefold()


def _without_roles(folder: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in folder if not (_MASK_FOLDER.fullmatch(part) or _IMAGE_FOLDER.fullmatch(part)))


Key = Callable[[_Name], Hashable | None]
# Keys of an image and of a mask in the same folders, the most reliable pair first; None for no key.
_BY_NAME: tuple[tuple[Key, Key], ...] = (
    (lambda image: (image.place, image.name), lambda mask: (mask.place, mask.segmented) if mask.segmented else None),
    (lambda image: (image.folder, image.stem), lambda mask: (mask.folder, mask.stem)),
    (lambda image: (image.place, image.stem), lambda mask: (mask.place, mask.stem)),
    (lambda image: (image.place, image.stem), lambda mask: (mask.place, mask.bases[0]) if mask.bases else None),
    (lambda image: (image.place, image.stem), lambda mask: (mask.place, mask.bases[-1]) if mask.bases else None),
)
_BY_REST: tuple[tuple[Key, Key], ...] = (
    (lambda image: image.inside if image.series else None, lambda mask: mask.inside),
    (lambda image: (image.place, image.core), lambda mask: (mask.place, mask.core)),
    (lambda image: image.place, lambda mask: mask.place if mask.alone else None),
)
# Keys where masks are in other folders than their images.
_ANYWHERE: tuple[tuple[Key, Key], ...] = (
    (lambda image: image.stem, lambda mask: mask.stem),
    (lambda image: image.stem, lambda mask: mask.bases[0] if mask.bases else None),
    (lambda image: image.stem, lambda mask: mask.bases[-1] if mask.bases else None),
)
# Keys of the only image.
_OF_ONE: tuple[tuple[Key, Key], ...] = ((lambda image: () if image.series else None, lambda mask: mask.inside),)


def _match(images: Sequence[_Name], masks: Sequence[_Name]) -> dict[_Name, _Name]:
    """Find the mask of every image that has one.

    A key must have exactly one image and one mask.

    Raises:
        UsageError: a key is ambiguous.
    """
    found: dict[_Name, _Name] = {}
    free = list(masks)
    rules = (*_BY_NAME, *_BY_REST, *_ANYWHERE, *(_OF_ONE if len(images) == 1 else ()))
    for image_key, mask_key in rules:
        anywhere, by_name = (image_key, mask_key) in _ANYWHERE, (image_key, mask_key) in _BY_NAME
        owners = _by_key(images, image_key)
        every = _by_key(masks if anywhere else free, mask_key)
        for key, candidates in _by_key(free, mask_key).items():
            mine = owners.get(key, [])
            # A surplus mask has no partner, unless its name says that it is the second mask of an image.
            second = by_name or (not anywhere and any(each.marked for each in candidates))
            if not mine or (all(each in found for each in mine) and not second):
                continue
            if len(mine) > 1:
                raise UsageError(
                    f"{printable(mine[1].path)}: the mask {printable(candidates[0].path)} may belong to this image or"
                    f" to {printable(mine[0].path)}; rename one image, or keep masks in the same subfolders as their"
                    " images"
                )
            rivals = [*every[key], *([found[mine[0]]] if mine[0] in found else [])]
            if len(rivals) > 1:
                raise UsageError(
                    f"{printable(rivals[1].path)}: a second mask of {printable(mine[0].path)}, beside"
                    f" {printable(rivals[0].path)}; keep one of them, or join them into one"
                )
            found[mine[0]] = candidates[0]
        used = set(found.values())
        free = [each for each in free if each not in used]
    return found


def _by_key(names: Iterable[_Name], key: Key) -> dict[Hashable, list[_Name]]:
    found: dict[Hashable, list[_Name]] = {}
    for each in names:
        value = key(each)
        if value is not None:
            found.setdefault(value, []).append(each)
    return found


def _marked(names: Sequence[_Name]) -> list[_Name]:
    """The masks among files: their name or a folder's has a word for masks, and their image is beside them."""
    stems = {(each.place, each.stem) for each in names if not each.in_mask_folder}
    plain = [each for each in names if not each.marked]
    cores, places = {(each.place, each.core) for each in plain}, {each.place for each in plain}
    found = []
    for each in names:
        images = {(each.place, base) for base in (*each.bases, *((each.stem,) if each.in_mask_folder else ()))}
        if each.marked and (
            images & stems or (each.place, each.core) in cores or (each.alone and each.place in places)
        ):
            found.append(each)
    return found


def _roles(images: list[_Name], masks: list[_Name], folder: Path) -> tuple[list[_Name], list[_Name], list[_Name], bool]:
    """Separate images from masks where both lists hold the same files; drop the files of the other kind from each.

    Returns:
        images; masks; masks among the images, which are not used; whether a file was in both lists.
    """
    entries = {each.entry for each in masks}
    shared = [each for each in images if each.entry in entries]
    if shared and all(_within(folder, each.item) for each in shared):
        images = [each for each in images if each.entry not in entries]
    elif shared:
        marked = {each.entry for each in _marked(images)}
        own = {each.entry for each in shared if each.path.suffix.lower() in HDF5_SUFFIXES}  # they hold their labels
        others = {each.entry for each in shared} - marked - own
        images = [each for each in images if each.entry not in marked]
        masks = [each for each in masks if each.entry not in others]
    exact = {(each.folder, each.stem): each for each in masks}
    entries = {each.entry for each in masks}
    among = [each for each in _marked(images) if (each.folder, each.stem) not in exact and each.entry not in entries]
    useless = set(among)
    images = [each for each in images if each not in useless]
    # In a folder that also holds the images, or copies of them, only files with a word for masks are masks.
    called = {*_marked(masks), *(each for each in masks if each.drawn)}
    if called:
        originals = {(each.folder, each.stem): each.path for each in images}
        masks = [
            each
            for each in masks
            if each in called
            or each.path.suffix.lower() in HDF5_SUFFIXES
            or not _same_content(each.path, originals.get((each.folder, each.stem)))
        ]
    return images, masks, among, bool(shared)


def _without_other_results(names: list[_Name], images: set[str]) -> list[_Name]:
    """The files without the label maps, overlays, probabilities and slices that ``run`` wrote beside its masks.

    Masks of several formats stay, and a LabelMe file beside a mask too: nobody knows which of them was corrected.

    Args:
        names: of files in the folder of masks.
        images: names of the images.
    """

    def of_image(name: str) -> bool:
        return name in images or has_known_suffix(name)

    masks = {
        (each.folder, each.segmented)
        for each in names
        if each.segmented and each.is_mask and not each.drawn and of_image(each.segmented)
    }
    return [
        each
        for each in names
        if (each.is_mask or (each.folder, each.segmented) not in masks)
        and not any(part.endswith(SLICES) and of_image(part.removesuffix(SLICES)) for part in each.folder)
    ]


def _within(folder: Path, item: Item) -> bool:
    """Whether a folder is below the folder in which an image was found."""
    root = os.path.realpath(item.path.parents[len(item.relative.parts) - 1])
    return os.path.realpath(folder).startswith(root.rstrip(os.sep) + os.sep)


def _same_content(one: Path, other: Path | None) -> bool:
    if other is None:
        return False
    try:
        if os.path.samefile(one, other):
            return True
        # Empty files are equal, but the error for an empty file comes when it is read.
        return os.path.getsize(one) > 0 and filecmp.cmp(one, other, shallow=False)
    except OSError:  # the error comes when it is read
        return False


def _nothing_paired(images: Sequence[Item], masks: Path, shared: bool, passed_over: PassedOver) -> str:
    line = passed_over.line()
    rest = "" if line is None else f"; {line}"
    if shared:
        return (
            f"{printable(masks)}: images and masks are in one folder, and no name says which files are masks; add"
            f" _mask to the names of the masks, or keep them in a separate folder{rest}"
        )
    roots = dict.fromkeys(printable(item.path.parents[len(item.relative.parts) - 1]) for item in images)
    folders = ", ".join([*list(roots)[:MAX_FOLDERS], *(["..."] if len(roots) > MAX_FOLDERS else [])])
    return f"{printable(masks)}: no mask has the name of an image in {folders}{rest}"


def _spread(pairs: dict[Path, Path], limit: int | None) -> dict[Path, Path]:
    if limit is None or len(pairs) <= limit:
        return pairs
    paths = list(pairs)
    return {path: pairs[path] for path in (paths[index * len(paths) // limit] for index in range(limit))}
