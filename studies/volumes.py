"""What one head for all slices does to a volume, and what a large volume costs.

    python studies/volumes.py DATA [--slices 300] [--json FILE]

DATA is the folder of the development data; ``DATA/acdc/volumes`` has cardiac MR with labels, as HDF5. Each of these is
segmented slice by slice as images, and as a volume. Of both are shown: the mean DSC between regions of the same id in
neighbouring slices; the same of the masks; the DSC of the mask with the heart (all labels together); and the seconds,
without reading and writing.

Then ``msformer-deploy run`` segments a made CT of 512 x 512 pixels (NIfTI, int16, gzip) in a new process: seconds and
peak memory from the start of the command to the files on disk, in which Python and the runtimes are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cold_start import measured
from numpy.typing import NDArray
from script import exit_code

from msformer_deploy import DeployError, Segmenter, Volume, VolumeSegmenter
from msformer_deploy.images.sources import FileSource

PIXELS = 512


def main() -> int:
    """Measure; an error is one line, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, nargs="+", default=[300], help="of the made CT; default: 300")
    parser.add_argument("--json", type=Path)
    return exit_code(run, parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Measure everything, and print two tables in Markdown.

    Raises:
        DeployError: there are no volumes, or the command failed.
    """
    files = sorted((arguments.data / "acdc" / "volumes").glob("*.h5"))
    if not files:
        raise DeployError(f"{arguments.data}: has no acdc/volumes/*.h5")
    segmenter = Segmenter()
    hearts = [heart(path, segmenter) for path in files]
    print("| volume | regions, neighbours | masks, neighbours | mask and heart | seconds |\n|---|---|---|---|---|")
    for each in (*hearts, mean_of(hearts)):
        print(line(each))
    large = [made_ct(slices) for slices in arguments.slices]
    print("\n| made CT | seconds | per slice | peak memory | voxels alone |\n|---|---|---|---|---|")
    for each in large:
        seconds, slices = each["seconds"], each["slices"]
        print(
            f"| {slices} x {PIXELS} x {PIXELS} | {seconds:.1f} | {seconds / slices:.3f} |"
            f" {each['megabytes']:.0f} MB | {each['voxels_megabytes']:.0f} MB |"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"hearts": hearts, "large": large}, indent=1) + "\n")


def heart(path: Path, segmenter: Segmenter) -> dict[str, Any]:
    """One cardiac volume, slice by slice (``before``) and as a volume (``after``)."""
    import h5py

    with h5py.File(path) as file:
        voxels, truth = np.asarray(file["image"]), np.asarray(file["label"]) > 0
    low, high = np.percentile(voxels, [0.5, 99.5])
    source = FileSource(path, "nifti", None)
    volume = Volume(voxels, path.stem, np.eye(4), None, None, (float(low), float(high)), source)
    start = time.perf_counter()
    alone = [segmenter.segment_batch([volume.picture(index)])[0] for index in range(len(volume))]
    between = time.perf_counter()
    whole = VolumeSegmenter(segmenter).segment(volume)
    seconds = (between - start, time.perf_counter() - between)
    before = np.stack([each.labels for each in alone]), np.stack([each.mask for each in alone])
    after = whole.labels, whole.mask
    return {
        "volume": path.stem,
        "regions": [agreement(labels) for labels, _ in (before, after)],
        "masks": [agreement(mask.astype(int), (1,)) for _, mask in (before, after)],
        "truth": [dsc(mask, truth) for _, mask in (before, after)],
        "seconds": list(seconds),
    }


def agreement(labels: NDArray[Any], ids: Sequence[int] | None = None) -> float:
    """The mean DSC between regions of the same id in neighbouring slices, over ids that one of them has."""
    found = [
        dsc(one == each, other == each)
        for one, other in itertools.pairwise(labels)
        for each in (np.union1d(one, other) if ids is None else ids)
    ]
    return float(np.nanmean(found))


def dsc(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """DSC of two masks; NaN if both are empty."""
    size = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / size if size else float("nan")


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means of all rows."""
    names = ("regions", "masks", "truth", "seconds")
    return {"volume": "mean", **{name: np.mean([each[name] for each in rows], axis=0).tolist() for name in names}}


def line(row: dict[str, Any]) -> str:
    """A row of the first table, before and after."""
    cells = [f"{row[name][0]:.3f}, {row[name][1]:.3f}" for name in ("regions", "masks", "truth")]
    return f"| {row['volume']} | {' | '.join(cells)} | {row['seconds'][0]:.1f}, {row['seconds'][1]:.1f} |"


def made_ct(slices: int) -> dict[str, Any]:
    """Segment a made CT with the command, with default options."""
    import nibabel

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:PIXELS, :PIXELS] / PIXELS - 0.5
    voxels = np.empty((slices, PIXELS, PIXELS), np.int16)
    for index in range(slices):
        widest = 0.9 + 0.1 * np.sin(6 * index / slices)
        plane = np.where((rows / 0.32) ** 2 + (columns / 0.42) ** 2 < widest, 40, -1000)
        depth = (index / slices - 0.5) / 0.3
        organ = ((rows - 0.05) / 0.12) ** 2 + ((columns + 0.15) / 0.15) ** 2 + depth**2 < 1
        plane = np.where(organ, 110, plane)
        voxels[index] = plane + rng.normal(0, 15, plane.shape)
    with tempfile.TemporaryDirectory(prefix="msformer-deploy-") as folder:
        path = Path(folder) / "ct.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([-0.7, -0.7, 1.0, 1.0])), path)
        voxel_bytes = voxels.nbytes
        del voxels
        command = [sys.executable, "-m", "msformer_deploy", "run", str(path), "--output", f"{folder}/out", "--quiet"]
        seconds, megabytes = measured(command, dict(os.environ))
    return {
        "slices": slices,
        "seconds": seconds,
        "megabytes": megabytes,
        "voxels_megabytes": voxel_bytes / 1e6,
    }


if __name__ == "__main__":
    raise SystemExit(main())
