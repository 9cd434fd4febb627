"""What a run leaves behind: the pictures and record of each image, the report and the gallery of all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..bundle.folder import graph_name
from ..errors import DeployError
from ..foreground import prompt_files
from ..foreground.confidence import Confidence
from ..images import draw
from ..images.inputs import SLICES
from ..images.masks import sha256_of
from ..images.sources import DicomSource
from ..images.volumes.slicer import SUFFIX as SLICER
from ..machine.versions import installed_versions
from ..measures.physical import measure
from ..registry import FORMATS, find_system
from ..segmenter import Segmentation, Segmenter
from . import clinical, gallery, measurements
from .formats import OF_VOXELS, Wanted
from .montage import montage

if TYPE_CHECKING:
    from ..foreground.prompts import Prompts
    from ..foreground.volume_prompts import VolumePrompts
    from ..images.inputs import Item, Outputs
    from ..registry import Precision
    from ..volume_segmenter import VolumeSegmentation

REPORT, GALLERY = "report.json", "index.html"
ONCE = (REPORT, measurements.FILE, GALLERY)  # what :func:`write` writes
OTHER_SETTINGS = "kept from an earlier run with other settings"
COUNTS = ("images", "done", "failed", "skipped", "doubted")  # of the summary


def all_files(items: Iterable[Item], folder: Path) -> Iterator[Path]:
    """Every file that a result of the images and volumes may have, in any format; of each its record comes first.

    Pictures of slices are one folder, whose name ends in :data:`..images.inputs.SLICES`.
    """
    for item in items:
        outputs = item.outputs(folder)
        yield outputs.record
        yield from (*_pictures(outputs), *outputs.candidates) if item.kind == "image" else (outputs.overlay,)
        every = Wanted(FORMATS)  # what would be removed, because it is not of the new result
        yield from (folder / item.relative.with_name(item.relative.name + suffix) for suffix in every.files(item))


def write_results(
    item: Item,
    folder: Path,
    result: Segmentation | VolumeSegmentation,
    segmenter: Segmenter,
    wanted: Wanted,
    content: str | None = None,
) -> dict[str, Any]:
    """Write the results and the record of one image or volume; return the record's entry in the report.

    The record is written last and an older one is removed first, so its presence says that the others are whole.

    Args:
        item: the image or volume.
        folder: the output folder.
        result: of the item.
        segmenter: what made it.
        wanted: what was asked for.
        content: SHA-256 of what was read, see :func:`..images.contents.content_sha256`.

    Raises:
        ImageError: a DICOM object cannot be read any more, or has not what a result in DICOM needs.
        OSError: a file cannot be written.
    """
    outputs = item.outputs(folder)
    outputs.record.parent.mkdir(parents=True, exist_ok=True)
    outputs.record.unlink(missing_ok=True)
    _remove(item, folder)
    try:
        if isinstance(result, Segmentation):
            record = _write_image(item, folder, result, segmenter, wanted, content)
        else:
            record = _write_volume(item, folder, result, segmenter, wanted, content)
    except DeployError:  # there is no result, and so no part of one
        remove_results(item, folder)
        raise
    files.write_text(outputs.record, json.dumps(record, indent=1) + "\n")
    return _entry(record)


def _write_image(
    item: Item, folder: Path, result: Segmentation, segmenter: Segmenter, wanted: Wanted, content: str | None
) -> dict[str, Any]:
    start = perf_counter()
    outputs = item.outputs(folder)
    draw.write_label_map(outputs.labels, result.labels, segmenter.bundle.sizes.clusters)
    draw.write_mask(outputs.mask, result.mask)
    draw.write_overlay(outputs.overlay, result.overlay())
    draw.write_probability(outputs.probability, result.probability)
    chosen = None if result.corrected else segmenter.rule.candidate
    candidates = _write_candidates(outputs, folder, result, chosen)
    found = clinical.of_image(result, segmenter.bundle, wanted.structure)
    written = clinical.write(item, folder, found, wanted)
    seconds = {**result.seconds, "write": perf_counter() - start}
    return {
        **_places(item, folder),
        "input_sha256": content,
        "files": written,
        **({"identifiers": clinical.identifiers(found)} if wanted.identifiers else {}),
        "width": result.image.width,
        "height": result.image.height,
        "intensity_range": list(result.image.intensity_range),
        "ignored_intensities": [each.record() for each in result.image.ignored],
        **_shown(result),
        **({"corrected": True} if result.corrected else {}),
        **({} if segmenter.head is None else {"head": head_of(segmenter)}),
        **_labels(result),
        "foreground": {
            **expected(result, segmenter),
            "candidates": candidates,
            "measurements": measurements.record(measure(result.mask, result.image.spacing)),
        },
        "collapsed": result.collapsed,
        "notes": [*result.image.notes, *_remarks(result, segmenter)],
        "steps": None if segmenter.whole_graph else len(result.trace),  # the graph does not report its steps
        "trace": [{key: value for key, value in asdict(step).items() if value is not None} for step in result.trace],
        **_ending(seconds, segmenter, wanted),
    }


def _write_volume(
    item: Item, folder: Path, result: VolumeSegmentation, segmenter: Segmenter, wanted: Wanted, content: str | None
) -> dict[str, Any]:
    start = perf_counter()
    overlay, volume, chosen = item.outputs(folder).overlay, result.volume, segmenter.rule.candidate
    draw.write_overlay(overlay, montage(result))
    found = clinical.of_volume(result, segmenter.bundle, wanted.structure, chosen)
    written = clinical.write(item, folder, found, wanted)
    sizes = clinical.measured(found)
    seconds = {**result.seconds, "write": perf_counter() - start}
    voxels = next((written[each] for each in OF_VOXELS if each in written), [])

    base = item.relative.as_posix()

    def file(name: str) -> str | None:
        beginnings = (f"{base}.{name}.", *([f"{base}{SLICER}"] if name == "mask" else []))
        return next((each for each in voxels if each.startswith(beginnings)), None)

    slices, height, width = volume.shape
    candidates = [
        {
            "number": number,
            "confidence": round(each.confidence.value, 3),
            "area_fraction": float(result.mask.mean()) if number == chosen else found.candidates[number].area_fraction,
            "mask": file("mask" if number == chosen else f"candidate-{number}"),
        }
        for number, each in enumerate(result.candidates, 1)
    ]
    return {
        "input": str(item.path),
        "kind": "volume",
        "input_sha256": content,
        "series_sha256": clinical.hashed(volume.source),
        "label_map": file("labels"),
        "mask": file("mask"),
        "overlay": overlay.relative_to(folder).as_posix(),
        "probability": file("probability"),
        "files": written,
        **({"identifiers": clinical.identifiers(found)} if wanted.identifiers else {}),
        "width": width,
        "height": height,
        "slices": slices,
        "intensity_range": list(volume.span[::-1] if volume.inverted else volume.span),
        "ignored_intensities": [],
        **_shown(result),
        **_labels(result),
        "foreground": {
            **expected(result, segmenter),
            "candidates": candidates,
            "measurements": measurements.record(sizes),
        },
        "per_slice": [
            {
                "slice": number,
                "area_fraction": float(mask.mean()),
                "confidence": None if each is None else round(each.value, 3),
            }
            for number, (mask, each) in enumerate(zip(result.mask, result.slices, strict=True), 1)
        ],
        "collapsed": result.collapsed,
        "notes": [*volume.notes, *_remarks(result, segmenter)],
        "steps": None,
        "trace": [],
        **_ending(seconds, segmenter, wanted, "volume"),
    }


def _shown(result: Segmentation | VolumeSegmentation) -> dict[str, Any]:
    return {} if result.prompts is None else {"prompts": prompt_files.record(result.prompts)}


def _labels(result: Segmentation | VolumeSegmentation) -> dict[str, Any]:
    ids = np.flatnonzero(result.counts)
    return {
        "label_count": result.label_count,
        "labels": {str(cluster): int(result.counts[cluster]) for cluster in ids},
    }


def expected(result: Segmentation | VolumeSegmentation, segmenter: Segmenter) -> dict[str, Any]:
    """What a record says of a mask, of its size and of the DSC to expect."""
    return {
        "name": str(segmenter.rule),
        "area_fraction": float(result.mask.mean()),
        "mask_sha256": sha256_of(result.mask),
        **_confidence(result.confidence),
    }


def _confidence(found: Confidence | None) -> dict[str, Any]:
    if found is None:
        return {"confidence": None, "interval": None, "doubt": None}
    return {
        "confidence": round(found.value, 3),
        "interval": [round(found.low, 3), round(found.high, 3)],
        "doubt": found.doubt,
    }


def _ending(seconds: dict[str, float], segmenter: Segmenter, wanted: Wanted, kind: str = "image") -> dict[str, Any]:
    return {
        "seconds": {name: round(value, 6) for name, value in {**seconds, "total": sum(seconds.values())}.items()},
        "settings": settings_of(segmenter, wanted, kind),
        "skipped": False,
        "error": None,
    }


def remove_results(item: Item, folder: Path) -> None:
    """Take away all files of an item's result; its record first, which says that the others are there."""
    for path in all_files([item], folder):
        if os.path.lexists(path):  # no error for a name too long, which no file has
            shutil.rmtree(path, ignore_errors=True) if path.name.endswith(SLICES) else path.unlink(missing_ok=True)


def _remove(item: Item, folder: Path) -> None:
    """Take away the files of an earlier result in any format, which would not be those of the new one."""
    for suffix in Wanted(FORMATS).files(item):
        path = folder / item.relative.with_name(item.relative.name + suffix)
        if suffix == SLICES:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def failed(item: Item, reason: str) -> dict[str, Any]:
    """The entry of an image that gave no result."""
    return failed_as(str(item.path), reason)


def failed_as(name: str, reason: str) -> dict[str, Any]:
    """The same of an image by its path as a report has it."""
    return {
        "input": name,
        "label_map": None,
        "mask": None,
        "overlay": None,
        "label_count": None,
        "seconds": {},
        "skipped": False,
        "error": reason,
    }


def existing(item: Item, folder: Path, segmenter: Segmenter, wanted: Wanted) -> dict[str, Any] | None:
    """The entry of an image whose results are all there from an earlier run, in all formats that are wanted, else None.

    Results made with other settings are kept as well, with a note: the report's settings do not hold for them.
    """
    try:
        record = json.loads(item.outputs(folder).record.read_text(encoding="utf-8"))
        whole = record.keys() >= failed(item, "").keys() and all((folder / each).exists() for each in _named(record))
        list(measurements.rows([record]))  # the table will need them
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # no record, or none that run has written
        return None
    if not whole or record["error"] is not None:
        return None
    notes = list(record.get("notes") or [])
    if _decisive(record.get("settings")) != _decisive(settings_of(segmenter, wanted, item.kind)):
        notes.append(OTHER_SETTINGS)
    if "measurements" not in record["foreground"]:
        notes.append("kept from an earlier version, which did not measure; --force measures it")
    return {**_entry(record), "notes": notes, "skipped": True}


def lacking(
    record: dict[str, Any],
    item: Item,
    wanted: Wanted,
    prompts: Prompts | VolumePrompts | None = None,
    segmenter: Segmenter | None = None,
) -> str | None:
    """What a kept result does not have of what is wanted, in words; None if it has everything."""
    formats = [each for each in wanted.of(item) if wanted.is_written_for(each, item)]
    missing: list[str] = [each for each in formats if each not in record.get("files", {})]
    if wanted.identifiers and "identifiers" not in record:
        missing.append("identifiers")
    if prompts is not None and record.get("prompts") != prompt_files.record(prompts):
        missing.append("prompts like these")
    known = None if segmenter is None else head_of(segmenter, item.kind)
    if known is not None and (record.get("head") or {}).get("source") != known["source"]:
        missing.append("head like this one")
    return ", ".join(missing) or None


def of_another_image(record: dict[str, Any], item: Item) -> bool:
    """Whether an earlier record is of another file or series than this one; a file that is gone may have been this."""
    known = record.get("series_sha256")
    if item.files and known is not None:  # the numbers of series in a folder change when one is added
        return bool(known != clinical.hashed(DicomSource(item.files[:1], (None,))))
    try:
        return not os.path.samefile(record["input"], item.path)
    except OSError:
        return False


def settings_of(segmenter: Segmenter, wanted: Wanted, kind: str = "image") -> dict[str, Any]:
    """Everything that decides a result, given the image or the volume."""
    bundle = segmenter.bundle
    precision: Precision = "fp32" if segmenter.settings.mode == "full" else segmenter.precision
    graph = graph_name("segmenter" if segmenter.whole_graph else "encoder", precision)
    return {
        "system": bundle.system,
        "bundle": str(bundle.path),
        "precision": segmenter.precision,
        "graph_sha256": bundle.manifest["files"][graph]["sha256"],
        "packaged_sha256": [each.sha256 for each in bundle.left_out],  # of the weights that are not in the graph's file
        "model": asdict(bundle.sizes),
        "refinement": asdict(segmenter.settings),
        "seed": segmenter.seed,
        "foreground": str(segmenter.rule),
        "whole_graph": segmenter.whole_graph and (kind == "image" or find_system(bundle.system).trained),
        "compiled": segmenter.compiled,
        "structure": wanted.structure,
        "seg_type": wanted.seg_type,
        "window": wanted.reading.window and list(wanted.reading.window),
        "axis": wanted.reading.axis,
        "head": head_of(segmenter, kind),
    }


def head_of(segmenter: Segmenter, kind: str = "image") -> dict[str, Any] | None:
    """What a record says of the head that corrected images taught; None without one, and for volumes, which have none.

    ``source`` is the SHA-256 of the corrected images and masks, and ``weight`` the part of the label-free logit that
    the head replaces.
    """
    head = segmenter.head
    if head is None or kind == "volume":
        return None
    return {"source": head.source, "images": head.images, "weight": head.part}


def build(
    images: list[dict[str, Any]],
    segmenter: Segmenter,
    seconds: float,
    interrupted: bool = False,
    passed_over: dict[str, int] | None = None,
    *,
    wanted: Wanted,
) -> dict[str, Any]:
    """The report of a run.

    Args:
        images: entries of results and failures, in input order.
        segmenter: what made them.
        seconds: wall-clock time from the first image to the last.
        interrupted: whether the run was stopped before its end.
        passed_over: how many files of the folders were not taken, by kind.
        wanted: what was asked for.
    """
    return {
        "images": images,
        "backend": segmenter.backend_name,
        "provider": segmenter.provider,
        "kernels": segmenter.kernels,
        "formats": list(wanted.formats),
        "settings": settings_of(segmenter, wanted),
        "versions": installed_versions(),
        "summary": summarised(images, seconds),
        "passed_over": passed_over or {},
        "interrupted": interrupted,
    }


def summarised(images: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """The summary of a report.

    Args:
        images: its entries.
        seconds: wall-clock time from the first image to the last.
    """
    done = sum(not image["error"] and not image["skipped"] for image in images)
    return {
        "images": len(images),
        "done": done,
        "failed": sum(bool(image["error"]) for image in images),
        "skipped": sum(bool(image["skipped"]) for image in images),
        "doubted": sum(bool((image.get("foreground") or {}).get("doubt")) for image in images),
        "seconds": round(seconds, 3),
        "images_per_second": round(done / seconds, 3) if seconds > 0 else None,
    }


def write(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report.json``, ``measurements.csv`` and the gallery ``index.html`` that shows the report.

    Raises:
        OSError: a file cannot be written.
    """
    files.write_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
    measurements.write(folder / measurements.FILE, report["images"])
    gallery.write(folder / GALLERY, report)


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    """What the report holds of a record: not what is long, for there may be many images."""
    return {key: value for key, value in record.items() if key not in ("trace", "settings", "per_slice")}


def _places(item: Item, folder: Path) -> dict[str, str]:
    names = ("label_map", "mask", "overlay", "probability")
    pictures = zip(names, _pictures(item.outputs(folder)), strict=True)
    return {"input": str(item.path), **{name: path.relative_to(folder).as_posix() for name, path in pictures}}


def _write_candidates(outputs: Outputs, folder: Path, result: Segmentation, chosen: int | None) -> list[dict[str, Any]]:
    """Write the candidates that are not the mask, remove those of an earlier run, and return what a record holds.

    Args:
        outputs: the files of the image.
        folder: the output folder.
        result: of the image.
        chosen: number of the candidate that is the mask; None if none of them is.
    """
    entries: list[dict[str, Any]] = []
    for number, (candidate, path) in enumerate(zip(result.candidates, outputs.candidates, strict=False), 1):
        if number == chosen:
            mask, place = result.mask, outputs.mask
        else:
            mask, place = candidate.mask, path
            draw.write_mask(place, mask)
        entries.append(
            {
                "number": number,
                "confidence": round(candidate.confidence.value, 3),
                "area_fraction": float(mask.mean()),
                "mask": place.relative_to(folder).as_posix(),
            }
        )
    for path in outputs.candidates:
        if path.relative_to(folder).as_posix() not in {each["mask"] for each in entries}:
            path.unlink(missing_ok=True)
    return entries


def _named(record: dict[str, Any]) -> Iterator[str]:
    """The pictures that a record names, relative to the output folder; earlier versions wrote fewer."""
    yield record["overlay"]
    if record.get("kind") != "volume":
        yield from (record[key] for key in ("label_map", "mask"))
        if "probability" in record:
            yield record["probability"]
        yield from (each["mask"] for each in record["foreground"].get("candidates", ()))
    yield from (each for made in record.get("files", {}).values() for each in made)


def _decisive(settings: Any) -> Any:
    """Settings without the bundle's place, which decides nothing; earlier versions lacked these five."""
    lacking = {"structure": "object", "seg_type": "binary", "window": None, "axis": None, "head": None}
    return {**lacking, **settings, "bundle": None} if isinstance(settings, dict) else None


def _pictures(outputs: Outputs) -> tuple[Path, Path, Path, Path]:
    """What is written for every image that gives a result."""
    return outputs.labels, outputs.mask, outputs.overlay, outputs.probability


def _remarks(result: Segmentation | VolumeSegmentation, segmenter: Segmenter) -> list[str]:
    remarks = []
    if result.collapsed:
        remarks.append("learning fell to a single label and was set back to the last state with two")
    if isinstance(result, Segmentation) and result.corrected:
        remarks.append("the mask is the one that a person corrected, as it was given with --like")
    elif result.confidence is None:
        remarks.append(f"the DSC to expect is not known: the mask of {segmenter.rule} is not the figure")
    elif result.confidence.doubt is not None:
        remarks.append(result.confidence.doubt)
    return remarks
