"""Which images rows are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.benchmark import images
from msformer_deploy.errors import ImageError


@pytest.fixture
def paths(picture: np.ndarray, tmp_path: Path) -> list[Path]:
    """More images than are taken."""
    first = tmp_path / "000.png"
    Image.fromarray(picture).save(first)
    rest = [tmp_path / f"{place:03}.png" for place in range(1, 70)]
    for path in rest:
        path.hardlink_to(first)
    return [first, *rest]


def test_few_are_taken_as_they_are(paths):
    chosen = images.choose_images(paths[:10], {})
    assert chosen.paths == tuple(paths[:10])
    assert chosen.judged == images.MOST_JUDGED == 8
    assert images.choose_images(paths[:3], {}).judged == 3
    assert chosen.truth(0) is None


def test_of_many_an_even_spread_is_taken(paths):
    chosen = images.choose_images(paths, {})
    assert len(set(chosen.paths)) == len(chosen.paths) == images.MOST
    gaps = np.diff([paths.index(path) for path in chosen.paths])
    assert set(gaps) == {2, 3}


def test_with_masks_those_that_have_one_are_taken_and_all_are_judged(paths, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.tile(np.repeat([0, 255], 80), (120, 1)).astype(np.uint8)).save(mask)
    chosen = images.choose_images(paths[:20], dict.fromkeys(paths[5:17], mask))
    assert chosen.paths == tuple(paths[5:17])
    assert chosen.judged == 12
    truth = chosen.truth(3)
    assert truth.shape == (60, 80)
    assert truth.mean() == 0.5
    assert truth[:, 40:].all()


@pytest.mark.parametrize("masked", [False, True])
def test_what_cannot_be_read_is_told_at_once(paths, tmp_path, masked):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        images.choose_images([paths[0], *([] if masked else [bad])], {paths[0]: bad} if masked else {})
