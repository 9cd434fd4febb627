"""Synthetic scenes: pictures drawn from shapes, textures and physics, with what is figure in them.

No pixel comes from a real image. A scene depends on a seed and its index alone, so that a run that goes on, and
processes beside one another, see the same stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....errors import UsageError
from . import colour, generic, magnetic, microscopy, radiology, sound
from .canvas import Canvas, Drawing
from .prompts import prompted

SMALLEST, LARGEST = 0.003, 0.9  # shares of the image; a figure that is smaller or larger is drawn anew
SIDES = (32, 100)  # minimum and maximum, pixels; the stored fields of noise are too small for more
_TRIES = 20

# Families and their weights. The first three are general: a third of all scenes, and a quarter late in a run.
FAMILIES: dict[str, tuple[Callable[[Canvas], Drawing], float]] = {
    "blobs": (generic.blobs, 28),
    "bodies": (generic.bodies, 13),
    "many": (generic.many, 5),
    "dermoscopy": (colour.dermoscopy, 7),
    "polyp": (colour.polyp, 14),
    "lesion_endoscopy": (colour.lesion_endoscopy, 4),
    "fundus": (colour.fundus, 4),
    "lung_ct": (radiology.lung_ct, 6),
    "chest_xray": (radiology.chest_xray, 3),
    "abdomen_ct": (radiology.abdomen_ct, 5),
    "panoramic": (radiology.panoramic, 2.5),
    "breast_xray": (radiology.breast_xray, 1.5),
    "bones_xray": (radiology.bones_xray, 1.5),
    "brain_tumour": (magnetic.brain_tumour, 7),
    "heart": (magnetic.heart, 4),
    "bladder": (magnetic.bladder, 3),
    "prostate": (magnetic.prostate, 4),
    "spine": (magnetic.spine, 3.5),
    "lesion_us": (sound.lesion, 8),
    "fetal_head": (sound.fetal_head, 3),
    "chamber_us": (sound.chamber, 2),
    "white_cell": (microscopy.white_cell, 4),
    "blood_smear": (microscopy.blood_smear, 2),
    "fluorescence": (microscopy.fluorescence, 1.5),
    "histology": (microscopy.histology, 3),
    "angiography": (microscopy.angiography, 2),
    "colonoscopy": (colour.colonoscopy, 0),
    "breast_us": (sound.breast, 0),
}
# Weights that change towards the end of a run, when what is easy has been learned.
LATE: dict[str, float] = {"colonoscopy": 14, "breast_us": 8, "dermoscopy": 10, "polyp": 8, "lesion_us": 5, "blobs": 20}


class Scene(NamedTuple):
    """One example to learn from.

    Attributes:
        image: float32 (3, S, S), RGB in 0..1; three equal channels where it is grey.
        prompts: float32 (3, S, S) in 0..1: positive points, negative points, box; zeros where there is none.
        figure: bool (S, S), never empty: the figure of the scene, or what the prompts ask for.
    """

    image: NDArray[np.float32]
    prompts: NDArray[np.float32]
    figure: NDArray[np.bool_]


def scene(seed: int, index: int, side: int, family: str | None = None, *, late: bool = False) -> Scene:
    """Draw a scene.

    Args:
        seed: seed of all scenes.
        index: number of this scene, from 0.
        side: S, pixels.
        family: one of :data:`FAMILIES`; drawn by their weights if None.
        late: whether the weights of :data:`LATE` hold.

    Raises:
        UsageError: the side is not within :data:`SIDES`.
        RuntimeError: the family draws no figure of a usable size.
    """
    if not SIDES[0] <= side <= SIDES[1]:
        raise UsageError(f"the side of a scene must be {SIDES[0]} to {SIDES[1]} pixels, not {side}")
    rng = np.random.default_rng((seed, index))
    if family is None:
        changed = LATE if late else {}
        weights = np.array([changed.get(name, weight) for name, (_, weight) in FAMILIES.items()])
        family = list(FAMILIES)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    for _ in range(_TRIES):
        drawing = FAMILIES[family][0](Canvas(rng, side, seed))
        if SMALLEST <= drawing.figure.mean() <= LARGEST:
            return Scene(np.ascontiguousarray(drawing.image, np.float32), *prompted(rng, drawing))
    raise RuntimeError(f"{family}: no figure of a usable size in {_TRIES} tries (seed {seed}, scene {index})")
