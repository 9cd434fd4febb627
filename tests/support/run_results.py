"""What a run left in its folder, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = (".labels.png", ".mask.png", ".overlay.png", ".probability.png", ".json")


def names_in(folder: Path) -> set[str]:
    """Names of its files but those of candidates, whose number depends on the image."""
    return {path.name for path in folder.iterdir() if ".candidate-" not in path.name}


def report_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return data


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    paths = sorted(folder.rglob("*.labels.png"))
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in paths}


def same_maps(one: Path, other: Path) -> bool:
    first, second = label_maps(one), label_maps(other)
    assert first
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def hidden(folder: Path) -> list[Path]:
    """What a failed write would leave: temporary files are hidden ones."""
    return list(folder.rglob(".*"))


def check_pictures(folder: Path, entry: dict[str, Any], clusters: int) -> None:
    """Each finished output opens, has the size of its image and holds what it should."""
    size = (entry["width"], entry["height"])
    labels, mask, overlay = (Image.open(folder / entry[key]) for key in ("label_map", "mask", "overlay"))
    assert (labels.mode, mask.mode, overlay.mode) == ("P", "L", "RGB")
    assert labels.size == mask.size == overlay.size == size
    ids = np.unique(np.asarray(labels))
    assert ids.max() < clusters
    assert {str(value) for value in ids} <= set(entry["labels"])
    assert set(np.unique(np.asarray(mask))) <= {0, 255}
    overlay.load()
