"""What pairs by name, and what is left over."""

from __future__ import annotations

from pathlib import Path

import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.evaluation.pairing import pair


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_names_pair_whatever_the_suffix_and_the_rest_is_told(tmp_path):
    a, c, d, b = touch(tmp_path / "images", "a.png", "c.jpg", "d.png", "more/b.tif")
    masks = touch(tmp_path / "masks", "a.bmp", "b.png", "x.png", "y.tif", "notes.txt")
    found = pair(tmp_path / "images", tmp_path / "masks")
    assert list(found.pairs.items()) == [(a, masks[0]), (b, masks[1])]
    assert found.images_without_mask == (c, d)
    assert found.masks_without_image == (masks[2], masks[3])


@pytest.mark.parametrize(("limit", "taken"), [(1, "0"), (3, "036"), (10, "0123456789"), (11, "0123456789")])
def test_a_limit_takes_an_even_spread_and_what_it_leaves_is_not_unpaired(tmp_path, limit, taken):
    for folder in ("images", "masks"):
        touch(tmp_path / folder, *(f"{digit}.png" for digit in range(10)))
    found = pair(tmp_path / "images", tmp_path / "masks", limit)
    assert "".join(path.stem for path in found.pairs) == taken
    assert (found.images_without_mask, found.masks_without_image) == ((), ())


def test_nothing_paired_is_an_error(tmp_path):
    touch(tmp_path / "images", "a.png")
    touch(tmp_path / "masks", "b.png")
    with pytest.raises(UsageError, match="no mask has the name of an image"):
        pair(tmp_path / "images", tmp_path / "masks")
