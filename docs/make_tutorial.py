"""Makes the picture of the tutorial of corrected images: ``python docs/make_tutorial.py``.

A stained section of scikit-image is cut into 16 tiles. Four of them get a corrected mask, which here is the brown
stain, found by its colour (Ruifrok & Johnston 2001). The picture has all tiles before and after ``run --like``, put
together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image
from skimage import color, data, filters, morphology

from msformer_deploy.cli import cli

PICTURE = Path(__file__).parent / "images" / "like.png"
TILE = 128  # pixels of the section
CORRECTED = ((0, 0), (1, 3), (2, 1), (3, 2))  # row and column of the tiles


def main() -> None:
    """Segment, correct, segment again, and print the mean DSC of the tiles that nobody corrected."""
    section = data.immunohistochemistry()
    stain = filters.gaussian(color.rgb2hed(section)[..., 2], 3)
    brown = morphology.remove_small_objects(stain > filters.threshold_otsu(stain), max_size=300)
    places = [(row, column) for row in range(4) for column in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        scans, corrected = Path(folder, "scans"), Path(folder, "corrected")
        for each in (scans, corrected):
            each.mkdir()
        for row, column in places:
            Image.fromarray(_tile(section, row, column)).save(scans / f"{row}{column}.png")
        for row, column in CORRECTED:
            mask = _tile(brown, row, column).astype(np.uint8) * 255
            Image.fromarray(mask).save(corrected / f"{row}{column}.png")
        before, after = Path(folder, "draft"), Path(folder, "better")
        _run("run", scans, "--output", before)
        _run("run", scans, "--output", after, "--like", corrected)
        others = [each for each in places if each not in CORRECTED and _tile(brown, *each).any()]
        for results in (before, after):
            scores = [_dsc(_read(results, "mask", *each) > 0, _tile(brown, *each)) for each in others]
            print(f"{results.name}: mean DSC {np.mean(scores):.3f} of {len(scores)} tiles that were not corrected")
        halves = [
            np.vstack([np.hstack([_read(results, "overlay", row, column) for column in range(4)]) for row in range(4)])
            for results in (before, after)
        ]
    gap = np.full((halves[0].shape[0], 16, 3), 255, np.uint8)
    sheet = Image.fromarray(np.hstack([halves[0], gap, halves[1]]))
    sheet.quantize(256, kmeans=10, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


def _tile(section: np.ndarray, row: int, column: int) -> np.ndarray:
    return section[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]


def _read(results: Path, kind: str, row: int, column: int) -> np.ndarray:
    return np.asarray(Image.open(results / f"{row}{column}.png.{kind}.png"))


def _run(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--quiet"], catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(result.output)


def _dsc(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * int((mask & truth).sum()) / int(mask.sum() + truth.sum())


if __name__ == "__main__":
    main()
