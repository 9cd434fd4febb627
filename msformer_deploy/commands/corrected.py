"""``run --like``: masks that somebody corrected for some images of a folder, and what they teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .output import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..foreground.prompts import Prompts
    from ..foreground.volume_prompts import VolumePrompts
    from ..images.inputs import Item
    from ..images.items import Reading
    from ..refinement.like import LearnedHead
    from ..segmenter import Segmenter


def corrected_masks(items: Sequence[Item], like: Path, output: Path) -> tuple[list[Item], dict[Path, Path]]:
    """The images to segment, and the corrected masks of some of them, by the images' paths.

    A mask that ``run`` wrote and nobody changed is no correction.

    Raises:
        UsageError: there is no correction of an image; there are volumes; or the results would replace the corrections.
    """
    from ..errors import printable
    from ..images.annotations.painting import holder
    from ..images.pairing import pair

    volumes = [item for item in items if item.kind == "volume"]
    if volumes:
        raise UsageError(f"{printable(volumes[0].path)}: is a volume, and --like is for images; drop --like")
    _require_outside(like, output)
    pairing = pair(items, like, is_draft=_is_draft)
    masks = pairing.pairs
    for mask in masks.values():
        _require_outside(holder(mask) or mask, output)
    if not masks:
        raise UsageError(
            f"{printable(like)}: no mask was changed since run wrote it; correct some, or copy masks that are right to"
            " another folder and pass that"
        )
    for what, paths in (
        ("masks of an earlier run that nobody changed, not taken as corrected", pairing.drafts),
        ("masks taken as corrected", tuple(masks.values())),
        ("corrected masks without an image", pairing.masks_without_image),
    ):
        if paths:
            say(f"{what}: {len(paths)} ({printable(paths[0].name)}{', ...' if len(paths) > 1 else ''})")
    return pairing.images_of(items), masks


def _require_outside(path: Path, output: Path) -> None:
    """See that results cannot replace a correction.

    Raises:
        UsageError: it lies in the folder of results, also through links.
    """
    from ..errors import printable

    if path.resolve().is_relative_to(output.resolve()):
        raise UsageError(
            f"{printable(path)}: --like has corrected masks in the folder of --output, and results would replace them;"
            " choose another --output"
        )


def _is_draft(mask: Path, image: str) -> bool:
    """Whether a mask is one that ``run`` wrote and nobody changed: it has the pixels that the record beside it says.

    Args:
        mask: a file, or an image in a COCO file.
        image: the name of its image.
    """
    import json

    from ..errors import DeployError
    from ..images.annotations.painting import holder
    from ..images.masks import inside, read_file, sha256_of

    file = holder(mask)
    beside = mask if file is None else file.parent / mask.relative_to(file)
    try:
        record = json.loads(beside.with_name(f"{image}.json").read_text(encoding="utf-8"))
        known = record["foreground"]["mask_sha256"]
        return not record.get("corrected") and sha256_of(inside(read_file(mask))) == known
    except (OSError, ValueError, TypeError, KeyError, AttributeError, DeployError):
        return False  # no record of run, or a mask that is refused later


def read_corrections(
    masks: Mapping[Path, Path], reading: Reading, prompts: Mapping[Path, Prompts | VolumePrompts]
) -> dict[Path, NDArray[np.bool_]]:
    """The corrected masks, by the paths of their images.

    Raises:
        UsageError: an image or its mask cannot be used, or prompts contradict the mask.
    """
    from ..errors import ImageError, printable
    from ..foreground.prompts import Prompts
    from ..images.read import read_image
    from ..images.truth import read_truths

    found = {}
    for path, file in masks.items():
        try:
            image = read_image(path, reading.window)
            truths = read_truths(file, image)
        except ImageError as error:
            raise UsageError(f"--like: {error}") from error
        for told in truths.notes:
            say(f"{printable(file.name)}: is {told}")
        mask = truths.masks[None]
        if mask.all() or not mask.any():
            what = "covers the whole image" if mask.all() else "is empty"
            raise UsageError(f"{printable(file)}: the corrected mask {what}; correct it, or remove it from --like")
        shown = prompts.get(path)
        if isinstance(shown, Prompts):
            shown.require_fit(image.height, image.width)
            inside, outside = shown.labelled(image.height, image.width)
            for pixels, wanted in ((inside, True), (outside, False)):
                wrong = pixels[mask[tuple(pixels.T)] != wanted]
                if len(wrong):
                    row, column = wrong[0]
                    raise UsageError(
                        f"{printable(file)}: pixel {column},{row} is {'outside' if wanted else 'inside'} the corrected"
                        f" mask, but a prompt shows it as {'inside' if wanted else 'outside'}; drop one of the two"
                    )
        found[path] = mask
    return found


def taught(
    segmenter: Segmenter, corrections: Mapping[Path, NDArray[np.bool_]], reading: Reading, quiet: bool
) -> Segmenter:
    """The segmenter that has learned from corrected images, which are read one by one."""
    from tqdm import tqdm

    from ..images.read import read_image

    segmenter.require_learning()
    # disable=None: off when stderr is not a terminal.
    bar = tqdm(corrections.items(), unit="corrected", disable=True if quiet else None)
    return segmenter.taught([segmenter.example(read_image(path, reading.window), mask) for path, mask in bar])


def keep_head(
    output: Path, items: Sequence[Item], learned: LearnedHead | None, skip_existing: bool
) -> LearnedHead | None:
    """Write what was learned beside the results, or remove what an earlier run has learned, if results are replaced.

    Where results are kept, the head is the one that made them: one that is learned again may differ by rounding.

    Raises:
        UsageError: existing results are kept, and they have another head or none.
        DeployError: the folder cannot be written.
    """
    from ..errors import printable
    from ..refinement import head_file
    from ..results.batch import unwritable

    path = output / head_file.FILE
    if learned is not None and skip_existing and path.exists():
        former = head_file.read(path)
        if (former.source, former.identity) != (learned.source, learned.identity):
            raise UsageError(
                f"{printable(path)}: was learned from other corrected images or with another bundle, and nothing that"
                " exists is replaced; choose another --output, or replace the results with --force"
            )
        return former
    if learned is not None and skip_existing:
        record = next((file for item in items if (file := item.outputs(output).record).is_file()), None)
        if record is not None:
            raise UsageError(
                f"{printable(record)}: is of a result without corrected images, and nothing that exists is replaced;"
                " choose another --output, or replace the results with --force"
            )
    try:
        if learned is not None:
            head_file.write(path, learned)
        elif not skip_existing:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(output, error) from error
    return learned


def say_volumes(segmenter: Segmenter, items: Sequence[Item]) -> None:
    """Say that what corrected images taught a bundle does nothing for volumes, where there are any."""
    volumes = sum(item.kind == "volume" for item in items)
    if segmenter.head is not None and volumes:
        say(f"volumes: {volumes}, segmented without what corrected images taught the bundle, which is for images only")


def describe(segmenter: Segmenter) -> str:
    assert segmenter.head is not None
    count = segmenter.head.images
    return (
        f"like {count} corrected {'image' if count == 1 else 'images'} (weight of what they taught:"
        f" {segmenter.head.part:g})"
    )
