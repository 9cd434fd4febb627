"""Several reports of ``run`` as one: of shards, of folders, and of the workers of a cluster."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DeployError, UsageError, printable, why_unread
from ..images.inputs import OF_SHARD
from . import clinical, report
from .annotations import COCO

_PATHS = ("label_map", "mask", "overlay", "probability")
WHOLE = (*report.ONCE, COCO)  # files that are of all images of a run
_KEYS = {"images", "backend", "provider", "kernels", "formats", "settings", "versions", "summary", "passed_over"}
MAX_NAMED = 5  # shards or settings in one message


@dataclass(frozen=True)
class Part:
    """A report to merge, and where it is.

    Attributes:
        file: of the report; its results are in the same folder.
        report: its content.
    """

    file: Path
    report: Mapping[str, Any]

    @property
    def shard(self) -> Mapping[str, Any] | None:
        """What it says of itself as a part of one run; None if it is a run of its own."""
        found: Mapping[str, Any] | None = self.report.get("shard")
        return found

    @property
    def name(self) -> str:
        """Its file, for messages."""
        return printable(self.file)


def shard_file(number: int, count: int) -> str:
    """Name of the report of a shard, so that all shards may write into one folder."""
    return f"report.shard-{number}-of-{count}.json"


def write_shard(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the report of a shard. Table and gallery are of the whole run, and come with the merged report.

    Raises:
        OSError: the file cannot be written.
    """
    name = shard_file(content["shard"]["number"], content["shard"]["count"])
    files.write_text(folder / name, json.dumps(content, indent=1) + "\n")


def shard_reports(folder: Path) -> list[str]:
    """Names of the reports of shards in a folder, which need not exist."""
    return sorted(each.name for each in folder.glob("report.shard-*") if OF_SHARD.fullmatch(each.name))


def remove_shards(folder: Path) -> None:
    """Remove the reports of shards, which a report of all images replaces: :func:`read_parts` would prefer them.

    Raises:
        OSError: one cannot be removed.
    """
    for name in shard_reports(folder):
        (folder / name).unlink(missing_ok=True)


def remove_whole(folder: Path) -> None:
    """Remove what is of all images of a run: a shard that replaces results makes it untrue, and a merge writes it anew.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in WHOLE:
        (folder / name).unlink(missing_ok=True)


def read_parts(folders: Iterable[Path]) -> list[Part]:
    """The reports of folders: the reports of shards in a folder, or else its ``report.json``.

    Raises:
        UsageError: a folder has no report.
        DeployError: a report cannot be read, or is not one that this version of ``run`` writes.
    """
    return [part for folder in dict.fromkeys(folders) for part in _parts_of(folder)]


def _parts_of(folder: Path) -> Iterator[Part]:
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise UsageError(
            f"{printable(folder)}: cannot be listed ({error.strerror}); name folders of results"
        ) from error
    found = list(filter(OF_SHARD.fullmatch, names)) or [name for name in names if name == report.REPORT]
    if not found:
        raise UsageError(
            f"{printable(folder)}: has neither {report.REPORT} nor a report of a shard; name a folder that run has"
            " written"
        )
    return (_read(folder / name) for name in found)


def _read(file: Path) -> Part:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeployError(f"{printable(file)}: {why_unread(error)}") from error
    except ValueError as error:
        raise DeployError(f"{printable(file)}: is not JSON; run the images of its folder again") from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise DeployError(
            f"{printable(file)}: is not a report of run, or one of an earlier version; run the images of its folder"
            " again"
        )
    return Part(file, content)


def merge(parts: Sequence[Part], output: Path) -> dict[str, Any]:
    """Write the merged report with its table and its gallery, and ``annotations.coco.json`` if ``coco`` was asked for.

    An ``annotations.coco.json`` that is there already is replaced too.

    Args:
        parts: of :func:`read_parts`.
        output: the folder to write to. Results stay where they are, and the report has their paths from there.

    Returns:
        the report.

    Raises:
        UsageError: the parts do not belong together, see :func:`check`.
        DeployError: a part is damaged, a mask of it is missing, or the folder cannot be written.
    """
    try:
        check(parts)
        content = joined([part.report for part in parts])
        # In the order of the images in the report, and each with the folder of its own part.
        placed = [(part.file.parent, entry) for part, entry in _ordered(parts)]
        content["images"] = [_moved(entry, folder, output) for folder, entry in placed]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DeployError(
            f"{parts[0].name}: this report or one that it is merged with is damaged; run its images again"
        ) from error
    try:
        output.mkdir(parents=True, exist_ok=True)
        if "coco" in content["formats"] or (output / COCO).exists():  # an old one would not be of these masks
            clinical.write_coco(output, placed, content["settings"])
        report.write(output, content)
    except OSError as error:
        raise DeployError(
            f"{printable(output)}: cannot be written ({error.strerror}); make room or choose another --output"
        ) from error
    return content


def check(parts: Sequence[Part]) -> None:
    """See that reports can be one.

    Raises:
        UsageError: some are of shards and some are not, shards are missing, unfinished or of different runs, settings
            differ, or an image is in two of them.
    """
    shards = [part for part in parts if part.shard is not None]
    if shards and len(shards) != len(parts):
        whole = next(part for part in parts if part.shard is None)
        raise UsageError(
            f"{whole.name}: is the report of a whole run, but {shards[0].name} is that of a shard; merge shards alone"
        )
    if shards:
        _check_shards(shards)
    first = parts[0]
    for part in parts[1:]:
        differences = differing(first.report, part.report)
        if differences:
            raise UsageError(
                f"{part.name}: was made with other settings than {first.name} ({differences}); run its images again"
                " with the same"
            )
    owners: dict[str, Part] = {}
    for part in parts:
        for entry in part.report["images"]:
            owner = owners.setdefault(entry["input"], part)
            if owner is not part:
                raise UsageError(
                    f"{printable(entry['input'])}: is in both {owner.name} and {part.name}; merge one of the two"
                )


def _check_shards(parts: Sequence[Part]) -> None:
    found: dict[int, Part] = {}
    (first, of_run) = parts[0], parts[0].shard
    assert of_run is not None
    count = of_run["count"]
    for part in parts:
        shard = part.shard
        assert shard is not None
        if shard["count"] != count:
            raise UsageError(
                f"{part.name}: is one of {shard['count']} shards, but {first.name} is one of {count}; remove the"
                " reports of the run that you do not want"
            )
        number = shard["number"]
        if number in found:
            raise UsageError(f"{part.name}: is shard {number} as {found[number].name} is; merge one of the two")
        found[number] = part
        if any(shard[key] != of_run[key] for key in ("inputs", "inputs_sha256")):
            raise UsageError(
                f"{part.name}: saw other inputs than {first.name}, or in another order ({shard['inputs']} and"
                f" {of_run['inputs']}); run all shards on the same inputs in the same order"
            )
    missing = [number for number in range(1, count + 1) if number not in found]
    if missing:
        named = ", ".join(map(str, missing[:MAX_NAMED])) + (", ..." if len(missing) > MAX_NAMED else "")
        raise UsageError(
            f"shards without a report: {len(missing)} of {count} ({named}); run --shard {missing[0]}/{count} and the"
            " others, or name their folders too"
        )
    for number, part in sorted(found.items()):
        assert part.shard is not None
        if part.report["interrupted"] or len(part.report["images"]) != len(part.shard["positions"]):
            raise UsageError(
                f"{part.name}: shard {number} was stopped before its end; run it again with --skip-existing"
            )


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Names of the settings in which two reports differ, for messages; empty if they can be one.

    The bundle's place may differ, its content may not.
    """
    found = list(_differences(_settings(one), _settings(other)))
    return ", ".join(found[:MAX_NAMED]) + (", ..." if len(found) > MAX_NAMED else "")


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content["settings"], "bundle": None, "formats": content["formats"]}


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        first, second = one.get(name), other.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from _differences(first, second, f"{prefix}{name}.")
        elif first != second:
            yield f"{prefix}{name}"


def _ordered(parts: Sequence[Part]) -> list[tuple[Part, Mapping[str, Any]]]:
    """All entries with their parts: of shards as one run would have them, of other reports one after the other."""
    entries = [(part, entry) for part in parts for entry in part.report["images"]]
    if parts[0].shard is None:
        return entries
    positions = [position for part in parts if part.shard is not None for position in part.shard["positions"]]
    return [entry for _, entry in sorted(zip(positions, entries, strict=True), key=lambda each: each[0])]


def _moved(entry: Mapping[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """An entry whose paths, which are relative to ``folder``, are relative to ``output``."""
    between = Path(os.path.relpath(os.path.realpath(folder), os.path.realpath(output)))

    def moved(path: str | None) -> str | None:
        return None if path is None else (between / path).as_posix()

    found = {**entry, **{name: moved(entry[name]) for name in _PATHS if name in entry}}
    if "files" in entry:
        found["files"] = {name: list(map(moved, made)) for name, made in entry["files"].items()}
    if "foreground" in entry:
        candidates = [{**each, "mask": moved(each["mask"])} for each in entry["foreground"]["candidates"]]
        found["foreground"] = {**entry["foreground"], "candidates": candidates}
    return found


def joined(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report with the images of all, in their order, and the sum of all counts.

    Where machines differ, ``backend``, ``provider``, ``kernels`` and ``versions`` have every value once. ``seconds`` is
    the sum, and there are no images per second: the runs may have gone on at the same time.
    """
    first = reports[0]
    images = [entry for each in reports for entry in each["images"]]
    counts = Counter[str]()
    for each in reports:
        counts.update({name: each["summary"][name] for name in report.COUNTS})
    passed_over: Mapping[str, int] = first["passed_over"]
    if "shard" not in first:  # every shard has seen all files
        total = Counter[str]()
        for each in reports:
            total.update(each["passed_over"])
        passed_over = dict(total)
    seconds = sum(each["summary"]["seconds"] for each in reports)
    names = dict.fromkeys(name for each in reports for name in each["versions"])
    return {
        "images": images,
        **{key: _each_once(one[key] for one in reports) for key in ("backend", "provider", "kernels")},
        "formats": first["formats"],
        "settings": first["settings"],
        "versions": {name: _each_once(each["versions"].get(name, "none") for each in reports) for name in names},
        "summary": {**counts, "seconds": round(seconds, 3), "images_per_second": None},
        "passed_over": passed_over,
        "interrupted": any(each["interrupted"] for each in reports),
    }


def _each_once(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
