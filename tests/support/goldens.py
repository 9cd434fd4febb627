"""What the published code computes (``../shared/golden``), and how its weights are made."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from locations import GOLDEN


@cache
def rule() -> ModuleType:
    """The rule that gives weights and input image their values."""
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The expected arrays, and the facts beside them."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays), json.loads((GOLDEN / f"{name}.json").read_text())


def weights(shapes: Mapping[str, list[int]]) -> dict[str, torch.Tensor]:
    """A state dict of these published names and shapes, filled by the rule."""
    return {name: torch.from_numpy(np.asarray(rule().fill_array(name, tuple(each)))) for name, each in shapes.items()}


def close(got: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Equal to a tolerance relative to the largest expected value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got.detach().numpy() / scale, expected / scale, atol=tolerance)
