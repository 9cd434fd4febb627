"""Stages that stumble over images of certain names; other processes import them from here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.errors import DeployError
from msformer_deploy.foreground.view import View
from msformer_deploy.images.image import InputImage
from msformer_deploy.images.inputs import Item
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.results.formats import Wanted
from msformer_deploy.results.stages import Entry, Found, Stages
from msformer_deploy.segmenter import Learned, Prepared

SIDE = 8


class Unportable(Exception):
    """An error that cannot be made again from its message."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(f"{message} at {place}")


class Bystander(SimpleNamespace):
    """In place of a segmenter."""

    def without_network(self) -> Bystander:
        return self


@dataclass(frozen=True)
class Stumbling(Stages):
    def read(self, item: Item) -> tuple[Prepared | Exception | None, float]:
        if item.path.name == "kills its reader":
            os._exit(7)
        if item.path.name == "is unportable":
            return Unportable("lost", 3), 0.0
        pixels = np.full((40, 40, 3), len(item.path.name), np.uint8)
        view = View(np.zeros((3, 20, 20), np.float32))
        image = InputImage(pixels, item.path.name, (0.0, 255.0))
        return Prepared(image, np.full((3, SIDE, SIDE), 0.5, np.float32), view, 0.25), 0.5

    def write(self, item: Item, found: Found, corrected: NDArray[np.bool_] | None = None) -> Entry | Exception | str:
        assert isinstance(found, Learned)
        if item.path.name == "kills its writer":
            os._exit(7)
        if item.path.name == "fills the disk":
            raise DeployError("full")
        prepared = found.prepared
        return {
            "input": prepared.image.name,
            "process": os.getpid(),
            "shapes": [prepared.image.pixels.shape, prepared.view.square.shape],
            "refinement": found.refinement,
            "corrected": None if corrected is None else int(corrected.sum()),
        }


def stumbling(**changes: Any) -> Stumbling:
    """Stages without a bundle."""
    bundle = SimpleNamespace(system=next(name for name, system in SYSTEMS.items() if not system.trained))
    fields: dict[str, Any] = {"segmenter": Bystander(bundle=bundle), "output": Path(), "batch": 1, "wanted": Wanted()}
    return Stumbling(**{**fields, "prompts": {}, **changes})


def item(name: str) -> Item:
    return Item(Path(name), Path(name))
