"""Scripts as modules, those of ``studies/`` and others: they are run by path and belong to no package."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from locations import ROOT
from PIL import Image

STUDIES = ROOT / "studies"


def load(name: str, folder: Path = STUDIES) -> ModuleType:
    """A script, executed as a module that is not ``__main__``, with its folder on the path as when it is run."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its tuples look up their annotations
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec.loader.exec_module(module)
    return module


def data_set(folder: Path, images: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> Path:
    """A folder as the scripts take it: ``images/`` (uint8) and ``masks/`` (bool), PNG files by name."""
    for kind, pictures in (("images", images), ("masks", masks)):
        (folder / kind).mkdir(parents=True)
        for name, pixels in pictures.items():
            values = np.where(pixels, 255, 0).astype(np.uint8) if kind == "masks" else pixels
            Image.fromarray(values).save(folder / kind / f"{name}.png")
    return folder


def disc() -> np.ndarray:
    """The disc of the tests' ``picture``, bool (60, 80)."""
    rows, columns = np.mgrid[:60, :80]
    return np.asarray((rows - 30) ** 2 + (columns - 40) ** 2 < 15**2)
