"""The hash of an input: that of its file, and of all files where there are several."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from msformer_deploy.errors import ImageError
from msformer_deploy.images.contents import content_sha256
from msformer_deploy.images.inputs import Item

MHD = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = {}\n"
NHDR = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n{}\n"


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_one_file_has_its_own_hash(tmp_path: Path) -> None:
    known = written(tmp_path / "a.png", b"\0" * 3_000_000)  # more than one block
    assert content_sha256(Item(tmp_path / "a.png", Path("a.png"))) == known


def test_a_series_has_one_hash_whatever_its_order_and_names(tmp_path: Path) -> None:
    digests = sorted(written(tmp_path / name, name.encode()) for name in "abc")
    files = tuple(tmp_path / name for name in "abc")
    expected = hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()
    for order in (files, files[::-1]):
        assert content_sha256(Item(tmp_path, Path("series"), "volume", order)) == expected
    (tmp_path / "c").write_bytes(b"changed")
    assert content_sha256(Item(tmp_path, Path("series"), "volume", files)) != expected


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("v.mhd", MHD.format("v.raw")),
        pytest.param("v.nhdr", NHDR.format("data file: v.raw\n"), marks=pytest.mark.needs("nrrd")),
    ],
)
def test_voxels_in_a_file_of_their_own_belong_to_a_volume(tmp_path: Path, name: str, header: str) -> None:
    digests = [written(tmp_path / name, header.encode()), written(tmp_path / "v.raw", bytes(8))]
    item = Item(tmp_path / name, Path(name), "volume")
    both = hashlib.sha256("".join(f"{each}\n" for each in sorted(digests)).encode()).hexdigest()
    assert content_sha256(item) == both
    (tmp_path / "v.raw").write_bytes(bytes(7) + b"\1")
    assert content_sha256(item) != both


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("v.mha", MHD.format("LOCAL")),
        pytest.param("v.nrrd", NHDR.format(""), marks=pytest.mark.needs("nrrd")),
    ],
)
def test_voxels_in_the_file_of_a_volume(tmp_path: Path, name: str, header: str) -> None:
    known = written(tmp_path / name, header.encode() + bytes(8))
    assert content_sha256(Item(tmp_path / name, Path(name), "volume")) == known


def test_a_file_that_is_gone_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        content_sha256(Item(tmp_path / "gone.png", Path("gone.png")))
