"""MetaImage: every header that is read gives what SimpleITK gives."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from volumes import affines, same_places, simpleitk_affine, stored

from msformer_deploy.errors import ImageError
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.write import write_volume

AFFINE = affines()[0]
SIMPLEITK = pytest.mark.needs("SimpleITK")
DATA = stored().astype("<i2").tobytes()
FIRST = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "DimSize": "12 10 9", "ElementType": "MET_SHORT"}
LAST = {"ElementDataFile": "LOCAL"}
TURNED = "0.6 0.8 0 -0.8 0.6 0 0 0 1"


def written(path: Path, data: bytes = DATA, **fields: str) -> Path:
    lines = [f"{key} = {value}" for key, value in {**FIRST, **LAST, **fields}.items() if value]
    lines.sort(key=lambda line: line.startswith("ElementDataFile"))
    path.write_bytes("\n".join([*lines, ""]).encode() + data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v.mha"


@SIMPLEITK
@pytest.mark.parametrize(
    "fields",
    [
        {"ElementSpacing": "0.5 0.75 2.5", "Offset": "1 2 3", "TransformMatrix": TURNED},
        {"ElementSpacing": "0.5 0.75 2.5", "Position": "1 2 3", "Orientation": TURNED},
        {"ElementSize": "0.5 0.75 2.5", "Origin": "1 2 3", "Rotation": TURNED},
        {"ElementSize": "9 9 9", "ElementSpacing": "0.5 0.75 2.5"},
        {"AnatomicalOrientation": "RAI", "ElementSpacing": "1 1 3"},
        {"AnatomicalOrientation": "LPS", "ElementSpacing": "1 1 3"},
        {"CenterOfRotation": "5 5 5", "Offset": "1 2 3"},
        {"Comment": "words = more words", "HeaderSize": "0"},
        {},
    ],
)
def test_geometry_as_simpleitk_reads_it(fields: dict[str, str], path: Path) -> None:
    import SimpleITK

    volume = read_volume(written(path, **fields))
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), stored())
    assert same_places(stored(), simpleitk_affine(image), volume.voxels, volume.affine)
    assert (volume.spacing is None) == ("ElementSize" not in fields and "ElementSpacing" not in fields)


@SIMPLEITK
@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_big_endian_as_simpleitk_reads_it(key: str, path: Path) -> None:
    import SimpleITK

    volume = read_volume(written(path, stored().astype(">i2").tobytes(), **{key: "True"}))
    assert np.array_equal(volume.voxels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))


@SIMPLEITK
@pytest.mark.parametrize("kind", ["CHAR", "UCHAR", "SHORT", "USHORT", "INT", "UINT", "LONG", "FLOAT", "DOUBLE"])
def test_types_as_simpleitk_reads_them(kind: str, path: Path) -> None:
    import SimpleITK

    code = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"}
    dtype = code.get(kind, {"LONG": "i4", "FLOAT": "f4", "DOUBLE": "f8"}.get(kind))
    volume = read_volume(written(path, stored(dtype).tobytes(), ElementType=f"MET_{kind}"))
    assert np.array_equal(volume.voxels, stored(dtype))
    if kind != "LONG":  # which SimpleITK reads by the width of the system's own type
        assert np.array_equal(volume.voxels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))


def test_data_beside_the_header(path: Path) -> None:
    path = path.with_suffix(".mhd")
    for header, before in (("5", b"other"), ("-1", b"something else")):
        (path.parent / "v.raw").write_bytes(before + DATA)
        assert np.array_equal(
            read_volume(written(path, b"", ElementDataFile="v.raw", HeaderSize=header)).voxels, stored()
        )
    (path.parent / "v.zraw").write_bytes(zlib.compress(DATA))
    volume = read_volume(written(path, b"", ElementDataFile="v.zraw", CompressedData="True"))
    assert np.array_equal(volume.voxels, stored())


@pytest.mark.parametrize("stated", ["/etc/passwd", "../v.raw", "sub/v.raw", "sub\\v.raw", "..", "."])
def test_data_files_of_other_folders_are_refused(stated: str, path: Path) -> None:
    (path.parent / "sub").mkdir()
    for folder in (path.parent, path.parent / "sub"):
        (folder / "v.raw").write_bytes(DATA)
    with pytest.raises(ImageError, match="another folder; put both files into one folder") as caught:
        read_volume(written(path, b"", ElementDataFile=stated))
    assert stated not in str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ElementDataFile": "LIST"}, "in several files; save them as one"),
        ({"ElementDataFile": "slice%03d.raw 1 9 1"}, "in several files; save them as one"),
        ({"ElementDataFile": "MARKER.raw"}, "is missing; put it beside the header"),
        ({"BinaryData": "False"}, "written as text"),
        ({"ElementType": "MET_MARKER"}, "of a type that is not read"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "of a type that is not read"),
        ({"ElementNumberOfChannels": "3"}, "has 3 values per voxel"),
        ({"DimSize": "12 10 0"}, "describes no voxels"),
        ({"DimSize": "12 10"}, "describes no voxels"),
        ({"DimSize": "12 MARKER 9"}, "header is damaged"),
        ({"DimSize": ""}, "header is damaged"),
        ({"NDims": "1", "DimSize": "1080"}, "has 1 axes in space"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "have no inverse; repair"),
        ({"TransformMatrix": "1 0 0 1"}, "header is damaged"),
        ({"ElementSpacing": "1 0 1"}, "have no inverse; repair"),
        ({"ElementSpacing": "1 nan 1"}, "have no inverse; repair"),
        ({"CompressedData": "True"}, "compressed data is damaged"),
        ({"HeaderSize": "-3"}, "header is damaged"),
    ],
)
def test_headers_that_are_wrong(fields: dict[str, str], why: str, path: Path) -> None:
    with pytest.raises(ImageError, match=rf"v\.mha: [^\n]*{why}") as caught:
        read_volume(written(path, **fields))
    assert "MARKER" not in str(caught.value)


def test_a_header_without_end(path: Path) -> None:
    path.write_bytes(b"ObjectType = Image\n" + b"x" * (1 << 21))
    with pytest.raises(ImageError, match="header is damaged"):
        read_volume(path)


def test_results_keep_the_words_of_their_geometry(path: Path, tmp_path: Path) -> None:
    words = {
        "TransformMatrix": TURNED,
        "Offset": "1.10 2 3",
        "CenterOfRotation": "5 5 5",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": "0.50 0.75 2.5",
    }
    volume = read_volume(written(path, **words))
    write_volume(tmp_path / "r.mha", volume.voxels > 500, volume, form="mha")
    lines = (tmp_path / "r.mha").read_bytes().split(b"ElementDataFile")[0].decode().splitlines()
    assert [f"{key} = {value}" for key, value in words.items() if f"{key} = {value}" not in lines] == []
    assert np.array_equal(read_volume(tmp_path / "r.mha").affine, volume.affine)
