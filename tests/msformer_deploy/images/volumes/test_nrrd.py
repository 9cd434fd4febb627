"""NRRD: spaces, units, encodings and data files."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from volumes import SHAPE, affines, same_places, stored

from msformer_deploy.errors import ImageError
from msformer_deploy.images.sources import FileSource
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.write import write_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd")]
AFFINE = affines()[0]
DATA = stored().astype("<i2").tobytes()
GEOMETRY = (
    "space: left-posterior-superior",
    "space directions: (0.5,0,0) (0,0.75,0) (0,0,2.5)",
    "space origin: (-7.25,11.5,5)",
)


def written(path: Path, *lines: str, data: bytes = DATA, first: tuple[str, ...] | None = None) -> Path:
    head = ["NRRD0005", *(first or ("type: short", "dimension: 3", "sizes: 12 10 9", "endian: little"))]
    if not any(line.startswith("encoding") for line in lines):
        head.append("encoding: raw")
    path.write_bytes("\n".join([*head, *lines, "", ""]).encode() + data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v.nrrd"


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (1, 1)),
        ("LPS", (1, 1)),
        ("left posterior superior", (1, 1)),
        ("right-anterior-superior", (-1, -1)),
        ("RAS", (-1, -1)),
        ("left-anterior-superior", (1, -1)),
    ],
)
def test_spaces_of_the_patient(space: str, signs: tuple[int, int], path: Path) -> None:
    volume = read_volume(written(path, f"space: {space}", *GEOMETRY[1:]))
    expected = np.diag([*signs, 1.0, 1.0]) @ AFFINE
    assert same_places(stored(), expected, volume.voxels, volume.affine)
    assert volume.notes == ("intensities from 5.395 to 1073.61 become black to white; those beyond are cut off",)


@pytest.mark.parametrize("space", ["space: scanner-xyz", "space: 3D-right-handed", "space dimension: 3"])
def test_other_spaces_have_sizes_but_no_planes(space: str, path: Path) -> None:
    volume = read_volume(written(path, space, *GEOMETRY[1:]))
    assert same_places(stored(), AFFINE, volume.voxels, volume.affine)
    assert volume.thickness == 2.5
    assert any("how the patient lies" in note for note in volume.notes)
    with pytest.raises(ImageError, match="omit --axis"):
        read_volume(path, axis="axial")


def test_spacings_alone(path: Path) -> None:
    volume = read_volume(written(path, "spacings: 0.5 0.75 2.5", 'units: "cm" "cm" "cm"'))
    assert np.array_equal(volume.affine, np.diag([5, 7.5, 25, 1]))
    assert volume.thickness == 25
    volume = read_volume(written(path, "spacings: 0.5 nan 2.5"))
    assert volume.spacing is None
    assert read_volume(written(path)).spacing is None


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("um", 0.001), ("µm", 0.001), ("m", 1000), ("", 1)])
def test_units_of_space(unit: str, factor: float, path: Path) -> None:
    volume = read_volume(written(path, *GEOMETRY, f'space units: "{unit}" "{unit}" "{unit}"'))
    assert volume.thickness == pytest.approx(2.5 * factor)


@pytest.mark.parametrize("units", ['"pixel" "pixel" "pixel"', '"mm" "mm" "um"'])
def test_units_that_are_unknown_or_mixed_give_no_sizes(units: str, path: Path) -> None:
    volume = read_volume(written(path, *GEOMETRY, f"space units: {units}"))
    assert volume.spacing is None
    assert any("a unit that is not known" in note for note in volume.notes)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("raw", DATA),
        ("gzip", gzip.compress(DATA, mtime=0)),
        ("gz", gzip.compress(DATA[:100], mtime=0) + gzip.compress(DATA[100:], mtime=0) + bytes(8)),
        ("bzip2", bz2.compress(DATA)),
        ("bz2", bz2.compress(DATA)),
    ],
    ids=["raw", "gzip", "gz", "bzip2", "bz2"],
)
def test_encodings(encoding: str, data: bytes, path: Path) -> None:
    for skip, before in ((0, b""), (2, b"a line\nand another\n")):
        written(path, *GEOMETRY, f"encoding: {encoding}", f"line skip: {skip}", data=before + data)
        assert np.array_equal(read_volume(path).voxels, stored())
    if encoding == "raw":
        for skip in (7, -1):
            written(path, *GEOMETRY, f"byte skip: {skip}", data=bytes(7) + data)
            assert np.array_equal(read_volume(path).voxels, stored())


@pytest.mark.parametrize("encoding", ["ascii", "text", "hex"])
def test_voxels_as_text_are_refused(encoding: str, path: Path) -> None:
    with pytest.raises(ImageError, match="written as text"):
        read_volume(written(path, f"encoding: {encoding}"))


def test_big_endian(path: Path) -> None:
    first = ("type: int16", "dimension: 3", "sizes: 12 10 9", "endian: big")
    volume = read_volume(written(path, *GEOMETRY, first=first, data=stored().astype(">i2").tobytes()))
    assert np.array_equal(volume.voxels, stored())


@pytest.mark.parametrize("stated", ["/etc/passwd", "../v.raw", "sub/v.raw", "sub\\v.raw", "..", "C:v.raw"])
def test_data_files_of_other_folders_are_refused(stated: str, path: Path) -> None:
    (path.parent / "sub").mkdir()
    for folder in (path.parent, path.parent / "sub"):
        (folder / "v.raw").write_bytes(DATA)
    with pytest.raises(ImageError, match="another folder; put both files into one folder") as caught:
        read_volume(written(path, *GEOMETRY, f"data file: {stated}", data=b""))
    assert stated not in str(caught.value).removeprefix(str(path))


def test_data_files_that_are_missing_or_several(path: Path) -> None:
    with pytest.raises(ImageError, match=r"v\.nrrd: the file of its voxels, [^\n]* is missing"):
        read_volume(written(path, *GEOMETRY, "data file: MARKER.raw", data=b""))
    for stated in ("LIST", "slice%03d.raw 1 9 1"):
        with pytest.raises(ImageError, match="in several files; save them as one"):
            read_volume(written(path, *GEOMETRY, f"data file: {stated}", data=b"a.raw\nb.raw\n"))


def test_results_keep_the_words_of_their_geometry(path: Path, tmp_path: Path) -> None:
    lines = ("space: RAS", *GEOMETRY[1:], 'space units: "um" "um" "um"', "centerings: cell cell node")
    volume = read_volume(written(path, *lines), axis="sagittal")
    assert isinstance(volume.source, FileSource)
    write_volume(tmp_path / "r.nrrd", volume.voxels > 500, volume, form="nrrd")
    head, _, data = (tmp_path / "r.nrrd").read_bytes().partition(b"\n\n")
    assert head.decode().splitlines() == [
        "NRRD0005",
        "type: unsigned char",
        "dimension: 3",
        "space: right-anterior-superior",
        "space directions: (0.5,0.0,0.0) (0.0,0.75,0.0) (0.0,0.0,2.5)",
        "space origin: (-7.25,11.5,5.0)",
        'space units: "um" "um" "um"',
        "sizes: 12 10 9",
        "centerings: cell cell node",
        "kinds: domain domain domain",
        "encoding: gzip",
    ]
    assert np.array_equal(np.frombuffer(gzip.decompress(data), np.uint8).reshape(SHAPE), stored() > 500)
    again = read_volume(tmp_path / "r.nrrd", axis="sagittal")
    assert np.array_equal(again.affine, volume.affine)
    for lines in (("spacings: 0.5 0.75 2.5",), ("space: 3D-Left-Handed", *GEOMETRY[1:])):
        volume = read_volume(written(path, *lines))
        write_volume(tmp_path / "r.nrrd", volume.voxels > 500, volume, form="nrrd")
        again = read_volume(tmp_path / "r.nrrd")
        assert np.array_equal(again.affine, volume.affine)
        assert again.spacing == volume.spacing


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("space: LPS", "space directions: (1,0,0) (2,0,0) (0,0,1)"), "have no inverse; repair"),
        (("space: LPS", "space directions: (1,0,0) (0,inf,0) (0,0,1)"), "have no inverse; repair"),
        (("space: LPS", "space directions: (1,0,0) none none"), "has 1 axes in space"),
        (("space: LPS", "space directions: (1,0,0) (MARKER"), "header is damaged"),
        (("sizes: 12 10 9",), "header is damaged"),
        (("byte skip: -7",), "header is damaged"),
        (("line skip: 100",), "cut short"),
    ],
)
def test_headers_that_are_wrong(lines: tuple[str, ...], why: str, path: Path) -> None:
    with pytest.raises(ImageError, match=rf"v\.nrrd: [^\n]*{why}") as caught:
        read_volume(written(path, *lines))
    assert "MARKER" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (("type: short", "dimension: 3", "sizes: 12 10 0", "endian: little"), "describes no voxels"),
        (("type: short", "dimension: 4", "sizes: 12 10 9", "endian: little"), "describes no voxels"),
        (("type: block", "dimension: 3", "sizes: 12 10 9"), "of a type that is not read"),
        (("type: MARKER", "dimension: 3", "sizes: 12 10 9"), "of a type that is not read"),
        (("dimension: 3", "sizes: 12 10 9"), "header is damaged"),
        (("type: short", "dimension: 3", "sizes: 12 10 9"), "header is damaged"),
        (("type: short", "dimension: 3", "sizes: 12 10 9", "endian: MARKER"), "header is damaged"),
    ],
)
def test_first_lines_that_are_wrong(first: tuple[str, ...], why: str, path: Path) -> None:
    with pytest.raises(ImageError, match=rf"v\.nrrd: [^\n]*{why}") as caught:
        read_volume(written(path, first=first))
    assert "MARKER" not in str(caught.value)
