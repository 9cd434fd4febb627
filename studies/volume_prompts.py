"""What one point and one box are worth in a volume.

    python studies/volume_prompts.py DATA [--bundle BUNDLE] [--json FILE] [--markdown FILE]

DATA is the folder of the development data; ``DATA/acdc/volumes`` has cardiac MR with labels, as HDF5. Beside it volumes
are drawn: two ellipsoids that look alike, organs in a body, and a tube that leans. Prompts are drawn from the truth, as
a person would give them: a point at the deepest place of the slice in which the object is largest, its bounding box,
and both. Shown is the DSC of the whole volume for each object, with no prompt and with each of these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from script import exit_code, tell

from msformer_deploy import (
    DeployError,
    Segmenter,
    Volume,
    VolumeBox,
    VolumePoint,
    VolumePrompts,
    VolumeSegmenter,
    load_bundle,
)
from msformer_deploy.evaluation.drawn import deepest
from msformer_deploy.images.sources import FileSource
from msformer_deploy.images.space import Spacing
from msformer_deploy.measures.overlap import overlap

SHAPE = (24, 128, 160)  # slices, rows and columns of what is drawn
PARTS = {"heart": (1, 2, 3), "left ventricle": (3,), "right ventricle": (1,)}  # labels of ACDC
KINDS = ("none", "point", "box", "point and box")

Mask = NDArray[np.bool_]


def main() -> int:
    """Measure; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Measure everything, and print a table in Markdown.

    Raises:
        DeployError: there are no volumes.
    """
    files = sorted((arguments.data / "acdc" / "volumes").glob("*.h5"))
    if not files:
        raise DeployError(f"{arguments.data}: has no acdc/volumes/*.h5")
    segmenter = VolumeSegmenter(Segmenter(None if arguments.bundle is None else load_bundle(arguments.bundle)))
    scenes = [*drawn(), *((path.stem, *heart(path)) for path in files)]
    rows = [row for name, voxels, objects in scenes for row in scores(segmenter, name, voxels, objects)]
    lines = [
        f"| {' | '.join(('volume', 'object', *KINDS))} |",
        f"|{'---|' * (2 + len(KINDS))}",
        *(f"| {row['volume']} | {row['object']} | {numbers(row['dsc'])} |" for row in rows),
        f"| mean | | {numbers(np.mean([row['dsc'] for row in rows], axis=0))} |",
    ]
    tell("\n".join(lines) + "\n", {"objects": rows}, arguments)


def scores(
    segmenter: VolumeSegmenter, name: str, voxels: NDArray[Any], objects: dict[str, Mask]
) -> Iterator[dict[str, Any]]:
    """DSC of each object of a volume, in the order of :data:`KINDS`."""
    low, high = np.percentile(voxels, [0.5, 99.5])
    # The coordinates of NIfTI are those of voxels: columns, rows and slices.
    volume = Volume(
        voxels,
        name,
        np.diag([-1.0, -1, 1, 1]),
        Spacing(1, 1, "made"),
        1.0,
        (float(low), float(high)),
        FileSource(Path(name), "nifti", None),
    )
    alone = segmenter.segment(volume).mask
    for part, truth in objects.items():
        index = int(truth.sum(axis=(1, 2)).argmax())
        (column, row, _), _ = deepest(truth[index])
        points = [VolumePoint(column, row, index)]
        places = np.argwhere(truth)[:, ::-1]
        boxes = [VolumeBox(*map(float, places.min(axis=0)), *map(float, places.max(axis=0)))]
        shown = (VolumePrompts(points), VolumePrompts(boxes=boxes), VolumePrompts(points, boxes))
        masks = [alone, *(segmenter.segment(volume, prompts=each).mask for each in shown)]
        yield {"volume": name, "object": part, "dsc": [overlap(each, truth).dsc for each in masks]}


def heart(path: Path) -> tuple[NDArray[Any], dict[str, Mask]]:
    """A cardiac volume and its parts."""
    import h5py

    with h5py.File(path) as file:
        voxels, labels = np.asarray(file["image"]), np.asarray(file["label"])
    return voxels, {name: np.isin(labels, ids) for name, ids in PARTS.items()}


def drawn() -> Iterator[tuple[str, NDArray[Any], dict[str, Mask]]]:
    """Volumes that are drawn, and their objects."""
    noise = np.random.default_rng(0).normal(0, 1, SHAPE)
    one, other = ellipsoid((11, 50, 50), (8, 25, 22)), ellipsoid((13, 80, 115), (7, 22, 25))
    yield "two alike", np.where(one | other, 200, 100) + 60 * noise, {"one": one, "other": other}
    body, spine = ellipsoid((11, 64, 80), (40, 55, 72)), ellipsoid((12, 100, 80), (60, 11, 11))
    liver, spleen = ellipsoid((11, 60, 45), (9, 30, 26)), ellipsoid((12, 70, 122), (6, 18, 14))
    organs = np.select([spine, liver | spleen, body], [310, 120, 60], -600) + 25 * noise
    yield "body", np.clip(organs, -160, 300), {"liver": liver, "spleen": spleen}
    slices, rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    tube = np.hypot(rows - 30 - 3 * slices, columns - 50 - 2 * slices) < 12
    tube[[*range(4), *range(20, SHAPE[0])]] = False
    yield "leaning tube", np.where(tube, 180, 100) + 30 * noise, {"tube": tube}


def ellipsoid(centre: tuple[int, int, int], radii: tuple[int, int, int]) -> Mask:
    """Where an ellipsoid is; centre and radii in slices, rows and columns."""
    places = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return np.asarray(np.square(places / np.reshape(radii, (3, 1, 1, 1))).sum(axis=0) < 1)


def numbers(values: Any) -> str:
    """DSC of a row."""
    return " | ".join(f"{each:.3f}" for each in values)


if __name__ == "__main__":
    sys.exit(main())
