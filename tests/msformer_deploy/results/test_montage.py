"""A few slices of a volume on one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.images.sources import FileSource
from msformer_deploy.images.space import Spacing
from msformer_deploy.images.volume import Volume
from msformer_deploy.results import montage
from msformer_deploy.volume_segmenter import VolumeSegmentation


def result_of(marked: range, slices: int = 40, spacing: Spacing | None = None) -> VolumeSegmentation:
    """Slices of one grey each, darker to lighter, with a mask in some."""
    shape = (slices, 20, 30)
    voxels = np.arange(slices, dtype=np.uint8)[:, None, None] * np.ones((1, 20, 30), np.uint8) * 5
    source = FileSource(Path("v.nii"), "nifti", None)
    volume = Volume(voxels, "v.nii", np.eye(4), spacing, None, (0.0, 255.0), source)
    sure = Confidence(0.9, 0.6, 1.0, None)
    mask = np.zeros(shape, bool)
    mask[marked.start : marked.stop, 5:15, 5:15] = True
    confidences: list[Any] = [sure if each.any() else None for each in mask]
    small = np.zeros((slices, 8, 8), np.float32)
    labels = np.zeros(shape, np.uint8)
    return VolumeSegmentation(volume, labels, mask, small, np.ones(1, np.int64), False, sure, confidences, {})


@pytest.mark.parametrize(
    ("marked", "first", "last", "count"),
    [(range(10, 30), 10, 29, 12), (range(10, 13), 10, 12, 3), (range(7, 8), 7, 7, 1), (range(0), 0, 39, 12)],
)
def test_slices_are_spread_over_the_mask(marked: range, first: int, last: int, count: int) -> None:
    shown = montage._spread(result_of(marked))
    assert (shown[0], shown[-1], len(shown)) == (first, last, count)
    assert shown == sorted(set(shown))


def test_each_slice_is_in_its_place() -> None:
    result = result_of(range(10, 18))
    sheet = montage.montage(result)
    height = round(20 / 30 * montage.CELL)
    assert sheet.shape == (2 * (height + montage.GAP) - montage.GAP, 4 * (montage.CELL + montage.GAP) - montage.GAP, 3)
    for place, index in enumerate(range(10, 18)):
        row, column = (place // 4) * (height + montage.GAP), (place % 4) * (montage.CELL + montage.GAP)
        corner = sheet[row + height - 5, column + montage.CELL - 5]
        assert corner.tolist() == [5 * index] * 3


def test_lines_are_drawn_after_pixels_became_square() -> None:
    """Pixels six times as high as wide: the outline of the mask is as wide along rows as along columns, and sharp."""
    result = result_of(range(1), slices=1, spacing=Spacing(6.0, 1.0, "file"))
    sheet = montage.montage(result)
    assert sheet.shape[0] == montage.CELL
    outline = (sheet == (0, 255, 170)).all(axis=2)
    assert outline.any()
    rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    middle_row, middle_column = (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2
    across, down = outline[middle_row].sum(), outline[:, middle_column].sum()
    assert across == down == 4, "two lines of two pixels in either direction"
    assert (rows[-1] - rows[0]) / (columns[-1] - columns[0]) == pytest.approx(6, rel=0.1)


def test_pixels_that_are_not_square_keep_their_aspect() -> None:
    sheet = montage.montage(result_of(range(1), spacing=Spacing(3.0, 1.0, "file")))
    assert sheet.shape == (montage.CELL, montage.CELL // 2, 3)
