"""Volumes as files of the three formats store them: types, grids, and what is refused in one line."""

from __future__ import annotations

import gzip
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import SHAPE, affines, nifti, same_places, simpleitk_image, stored

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.images.volumes import read as reading
from msformer_deploy.images.volumes.read import identify, read_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd"), pytest.mark.needs("SimpleITK")]
AFFINE = affines()[0]
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
EVERY = pytest.mark.parametrize("suffix", SUFFIXES)
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


def written(path: Path, voxels: np.ndarray, compressed: bool = True) -> Path:
    import SimpleITK

    SimpleITK.WriteImage(simpleitk_image(voxels, AFFINE), str(path), compressed and path.suffix != ".nii")
    return path


def refusal(path: Path, **options: Any) -> str:
    """The one line of an error, which names the file."""
    with pytest.raises(ImageError) as caught:
        read_volume(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path.parent))
    assert len(line.removeprefix(str(path))) < 200
    return line


@EVERY
@pytest.mark.parametrize("dtype", TYPES)
def test_voxels_keep_their_type(suffix: str, dtype: str, tmp_path: Path) -> None:
    volume = read_volume(written(tmp_path / f"v{suffix}", stored(dtype)))
    assert volume.voxels.dtype == dtype
    assert same_places(stored(dtype), AFFINE, volume.voxels, volume.affine)


@EVERY
def test_the_content_decides_what_a_file_is(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"v{suffix}", stored())
    renamed = path.rename(tmp_path / "v.png")
    assert len(read_volume(renamed)) == SHAPE[0]
    with renamed.open("rb") as file:
        assert identify(file) == {".ni": "nifti", ".nr": "nrrd", ".nh": "nrrd"}.get(suffix[:3], "mha")


@pytest.mark.parametrize("suffix", [each for each in SUFFIXES if each != ".nii.gz"])
def test_uncompressed_voxels_stay_on_the_disk(suffix: str, tmp_path: Path) -> None:
    volume = read_volume(written(tmp_path / f"v{suffix}", stored(), compressed=False))
    assert not volume.voxels.flags.writeable
    base: Any = volume.voxels
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


@EVERY
def test_colour_stays_colour(suffix: str, tmp_path: Path) -> None:
    colours = np.stack([stored(np.uint8), 255 - stored(np.uint8), 0 * stored(np.uint8)], -1)
    path = tmp_path / f"v{suffix}"
    if suffix.startswith(".nii"):
        import nibabel

        kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        turned = np.ascontiguousarray(colours.transpose(2, 1, 0, 3)).view(kind)[..., 0]
        nibabel.Nifti1Image(turned, np.diag([-1, -1, 1, 1]) @ AFFINE).to_filename(path)
    else:
        written(path, colours)
    volume = read_volume(path)
    assert np.array_equal(volume.arrangement.undo(volume.voxels), colours)
    assert volume.picture(0).pixels.shape == (*volume.shape[1:], 3)


@EVERY
def test_a_picture_is_a_volume_of_one_slice(suffix: str, tmp_path: Path) -> None:
    import SimpleITK

    path = tmp_path / f"v{suffix}"
    image = SimpleITK.GetImageFromArray(stored()[0])
    image.SetSpacing((0.5, 0.75))
    SimpleITK.WriteImage(image, str(path))
    volume = read_volume(path)
    assert volume.shape == (1, *SHAPE[1:])
    assert np.array_equal(volume.arrangement.undo(volume.voxels)[0], stored()[0])
    assert volume.spacing is not None
    assert (volume.spacing.row, volume.spacing.column) == (0.75, 0.5)
    assert volume.thickness is None


@EVERY
def test_several_volumes_in_a_file_are_refused(suffix: str, tmp_path: Path) -> None:
    import SimpleITK

    path = tmp_path / f"v{suffix}"
    series = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(stored() + each) for each in range(3)])
    SimpleITK.WriteImage(series, str(path))
    assert "holds 3 volumes" in refusal(path)
    SimpleITK.WriteImage(series[..., :1], str(path))
    assert np.array_equal(np.sort(read_volume(path).voxels, axis=None), np.arange(np.prod(SHAPE)))


@EVERY
def test_vectors_are_refused(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"v{suffix}", np.stack([stored(np.float32)] * 3, -1))
    assert " values per voxel" in refusal(path)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    assert "complex numbers" in refusal(nifti(tmp_path / "v.nii", stored(np.complex64), AFFINE))


@EVERY
@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_file_that_is_cut_short(suffix: str, share: float, tmp_path: Path) -> None:
    path = written(tmp_path / f"v{suffix}", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    data = next(tmp_path.glob("*raw*")) if suffix in (".mhd", ".nhdr") else path
    os.truncate(data, int(share * data.stat().st_size))
    line = refusal(path)
    words = ("cut short", "header is damaged", "is not NIfTI") if share or path != data else ("the file is empty",)
    assert any(word in line for word in words)


def test_an_archive_of_nothing_is_empty(tmp_path: Path) -> None:
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(b""))
    assert refusal(tmp_path / "v.nii.gz").endswith("v.nii.gz: the file is empty; copy or export it again")


@EVERY
def test_a_header_that_claims_gigabytes_costs_no_memory(suffix: str, tmp_path: Path) -> None:
    """It is compared with the size of the file before any memory is asked for."""
    path = written(tmp_path / f"v{suffix}", stored())
    content = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    if suffix.startswith(".nii"):
        content = content[:42] + np.array([30000, 30000, 2000], "<i2").tobytes() + content[48:]
    else:
        content = content.replace(b"12 10 9", b"30000 30000 2000")
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    assert "cut short" in refusal(path)


@EVERY
def test_what_follows_the_voxels_is_not_unpacked_but_noted(suffix: str, tmp_path: Path) -> None:
    """A small header before a large file: a mistake, or an attack on the memory."""
    path = written(tmp_path / f"v{suffix}", np.zeros((200, 100, 100), np.int16) + np.arange(100, dtype=np.int16))
    content = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    if suffix.startswith(".nii"):
        content = content[:46] + np.array([8], "<i2").tobytes() + content[48:]
    else:
        content = content.replace(b"100 100 200", b"100 100 8")
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    volume = read_volume(path)
    assert len(volume) == 8
    assert any("goes on after the voxels" in note for note in volume.notes)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x89PNG\r\n\x1a\n" + bytes(400), bytes(400), b"NRRD0005\n\n"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    path.write_bytes(content)
    refusal(path)
    path.write_bytes(gzip.compress(content))
    refusal(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "v.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    assert "not a regular file" in refusal(tmp_path / "pipe.nii")


def test_names_of_any_characters(tmp_path: Path) -> None:
    path = written(tmp_path / "v.nii", stored()).rename(tmp_path / "a\nb ü%d {} [x].nii")
    assert read_volume(path).name == str(tmp_path / "a\\nb ü%d {} [x].nii")
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\\nb ü%d {} \[x\]\.nii: is not NIfTI"):
        read_volume(path)


@EVERY
def test_sides_that_are_too_small(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"v{suffix}", np.random.default_rng(0).integers(0, 99, (5, 20, 30)).astype(np.int16))
    assert len(read_volume(path)) == 5
    assert "30 x 5 pixels are too small" in refusal(path, axis="coronal")


def test_slices_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msformer_deploy.images.decoders.stored.MAX_PIXELS", 100)
    assert "over the limit" in refusal(written(tmp_path / "v.nii", stored()))


def test_memory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "v.nii.gz", stored())

    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    assert "not enough memory" in refusal(path)


@pytest.mark.parametrize("change", [lambda file: file.write(b"more"), lambda file: file.truncate(400)])
def test_a_file_that_changes_while_it_is_read(
    change: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "v.nii.gz", stored())
    found = reading.find_span

    def slowly(*arguments: Any) -> Any:
        with path.open("ab") as file:
            change(file)
        return found(*arguments)

    monkeypatch.setattr(reading, "find_span", slowly)
    assert "changed while it was read" in refusal(path)


def test_axes_that_are_not_at_right_angles(tmp_path: Path) -> None:
    """Slices that are shifted against each other are pictures like others; other planes would be of parallelograms."""
    tilted = AFFINE.copy()
    tilted[1, 2] = 0.5
    path = nifti(tmp_path / "v.nii", stored(), tilted)
    volume = read_volume(path)
    assert any("right angles" in note for note in volume.notes)
    assert volume.spacing is not None
    assert volume.thickness == pytest.approx(2.5)  # between planes: the volume in mm³ is right
    assert read_volume(path, axis="axial").shape == SHAPE
    assert "no coronal slices" in refusal(path, axis="coronal")
    skewed = AFFINE.copy()
    skewed[0, 1] = 0.5
    volume = read_volume(nifti(tmp_path / "v.nii", stored(), skewed))
    assert volume.spacing is None
    assert volume.thickness is None
    assert any("sizes are in pixels" in note for note in volume.notes)


def test_planes_of_an_unknown_orientation(tmp_path: Path) -> None:
    import nibabel

    path = tmp_path / "v.nii"
    nibabel.Nifti1Image(stored().T, None).to_filename(path)
    assert any("how the patient lies" in note for note in read_volume(path).notes)
    assert "omit --axis" in refusal(path, axis="axial")


@pytest.mark.parametrize("window", [(40, 0), (40, -1), (np.nan, 4), (0, np.inf)])
def test_windows_without_a_width(window: tuple[float, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a width above 0"):
        read_volume(written(tmp_path / "v.nii", stored()), window)


def test_the_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msformer_deploy.errors import BackendUnavailable
    from msformer_deploy.machine import extras

    monkeypatch.setattr(extras, "is_installed", lambda module: module != "nibabel")
    path = written(tmp_path / "v.nii", stored())
    with pytest.raises(BackendUnavailable, match=r"v\.nii: NIfTI needs nibabel.*msformer-deploy\[volumes\]"):
        read_volume(path)
    assert len(read_volume(written(tmp_path / "v.mha", stored()))) == SHAPE[0]


LARGE = (4200, 512, 512)  # 2.2 GB as int16


def header_of_a_large_file(suffix: str) -> bytes:
    slices, rows, columns = LARGE
    if suffix == ".nii":
        import nibabel

        header = nibabel.Nifti1Header(endianness="<")
        header.set_data_dtype("<i2")
        header.set_data_shape((columns, rows, slices))
        header.set_xyzt_units("mm")
        header["vox_offset"] = 352
        return bytes(header.binaryblock) + bytes(4)
    if suffix == ".nrrd":
        sizes = f"dimension: 3\nsizes: {columns} {rows} {slices}\nendian: little\nencoding: raw"
        return f"NRRD0004\ntype: short\n{sizes}\n\n".encode()
    sizes = f"NDims = 3\nDimSize = {columns} {rows} {slices}\nElementType = MET_SHORT"
    return f"ObjectType = Image\n{sizes}\nElementDataFile = LOCAL\n".encode()


def large_file(path: Path, missing: int = 0) -> Path:
    """A file of 2.2 GB that takes a few blocks of the disk: all but one slice of it is a hole."""
    header, plane = header_of_a_large_file(path.suffix), math.prod(LARGE[1:]) * 2
    with path.open("wb") as file:
        file.write(header)
        file.seek(131 * plane, os.SEEK_CUR)
        file.write((np.arange(plane // 2) % 512).astype("<i2").tobytes())
        file.truncate(len(header) + LARGE[0] * plane - missing)
    assert path.stat().st_size > 2 * 2**30
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_a_file_of_2_gb_needs_memory_for_what_is_looked_at(suffix: str, tmp_path: Path) -> None:
    path = large_file(tmp_path / f"v{suffix}")
    tracemalloc.start()
    try:
        volume = read_volume(path, window=(256, 512))
        picture = volume.picture(131)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert volume.shape == LARGE
    np.testing.assert_allclose(picture.pixels[7], np.arange(512) / 512, atol=1e-6)
    assert peak < 100e6
    large_file(path, missing=1)
    assert "describes 2202009600 bytes of voxels, and the file has fewer; it is cut short" in refusal(path)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_a_packed_file_that_states_2_gb_takes_no_memory_for_them(suffix: str, tmp_path: Path) -> None:
    header, path = header_of_a_large_file(suffix), tmp_path / f"v{suffix}"
    if suffix == ".nii":
        path.write_bytes(gzip.compress(header + bytes(100_000)))
    else:
        path.write_bytes(header.replace(b"raw", b"gzip") + gzip.compress(bytes(100_000)))
    tracemalloc.start()
    try:
        assert "describes 2202009600 bytes of voxels, and the file has fewer" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
