"""NIfTI: which affine, which unit, and what results carry."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import SHAPE, affines, in_memory, nifti, same_places, stored

from msformer_deploy.errors import ImageError
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.write import write_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd")]
AFFINE = affines()[0]
RAS = np.diag([-1.0, -1, 1, 1])


def changed(path: Path, **fields: Any) -> Path:
    """The file with other fields in its header."""
    content = bytearray(path.read_bytes())
    header = header_of(content)
    for key, value in fields.items():
        header[key] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


def header_of(content: bytes | bytearray) -> Any:
    """The header as it is; nibabel's images have one without the place and the scale of the voxels."""
    import nibabel

    return nibabel.Nifti1Header(bytes(content[:348]), check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return nifti(tmp_path / "v.nii", stored(), AFFINE)


@pytest.mark.parametrize(("code", "factor"), [("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_units_of_length(code: str, factor: float, path: Path) -> None:
    volume = read_volume(nifti(path, stored(), AFFINE, unit=code))
    assert volume.spacing is not None
    assert volume.spacing.column == pytest.approx(0.5 * factor)
    assert volume.thickness == pytest.approx(2.5 * factor)
    expected = AFFINE.copy()
    expected[:3] *= factor
    assert same_places(stored(), expected, volume.voxels, volume.affine)


def test_a_unit_that_is_missing_is_taken_for_millimetres_and_noted(path: Path) -> None:
    volume = read_volume(changed(path, xyzt_units=0))
    assert volume.thickness == pytest.approx(2.5)
    assert "its header names no unit of length; millimetres are assumed" in volume.notes


def test_a_unit_that_is_no_length_gives_no_sizes(path: Path) -> None:
    volume = read_volume(changed(path, xyzt_units=5))
    assert volume.spacing is None
    assert volume.thickness is None
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), 1)


def test_the_sform_is_used_where_its_code_is_set_else_the_qform(path: Path) -> None:
    assert read_volume(path).notes == read_volume(changed(path, qform_code=0)).notes
    volume = read_volume(changed(path, qform_code=1, qoffset_x=100))
    assert any(note == "its sform and its qform disagree by up to 92.8 mm; the sform is used" for note in volume.notes)
    assert same_places(stored(), AFFINE, volume.voxels, volume.affine)
    volume = read_volume(changed(path, sform_code=0))
    moved = AFFINE.copy()
    moved[0, 3] = -100
    assert same_places(stored(), moved, volume.voxels, volume.affine)
    assert not any("disagree" in note for note in volume.notes)


def test_a_qform_that_is_no_rotation(path: Path) -> None:
    assert any("disagree; the" in note for note in read_volume(changed(path, quatern_b=3)).notes)
    with pytest.raises(ImageError, match="qform is not finite or has no inverse; repair it"):
        read_volume(changed(path, sform_code=0))


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0], [0, 0.75, 0, 3]])
def test_an_affine_without_inverse(row: list[float], path: Path) -> None:
    with pytest.raises(ImageError, match=r"v\.nii: its sform is not finite or has no inverse"):
        read_volume(changed(path, srow_x=row))


@pytest.mark.parametrize("sides", [(0.0, 1, 1), (np.nan, 1, 1)])
def test_sides_that_are_missing_without_an_affine(sides: tuple[float, ...], path: Path) -> None:
    volume = read_volume(changed(path, sform_code=0, qform_code=0, pixdim=(1, *sides, 0, 0, 0, 0)))
    assert volume.spacing is None
    assert np.isfinite(volume.affine).all()


def test_big_endian_files_and_nifti_2_read_and_stay_as_they_are(tmp_path: Path) -> None:
    import nibabel

    for number, kind in enumerate((nibabel.Nifti1Image, nibabel.Nifti2Image)):
        for order in "<>":
            image = kind(stored().T, RAS @ AFFINE, kind.header_class(endianness=order))
            image.to_filename(tmp_path / "v.nii")
            volume = read_volume(tmp_path / "v.nii")
            assert same_places(stored(), AFFINE, volume.voxels, volume.affine)
            result = tmp_path / "r.nii.gz"
            write_volume(result, volume.voxels.astype(np.uint16), volume, form="nifti")
            read = nibabel.load(result)
            assert np.array_equal(np.asarray(read.dataobj), stored().T)
            assert read.header.endianness == order
            assert read.header["sizeof_hdr"] == (348, 540)[number]


def test_slope_and_intercept_are_kept_beside_the_stored_voxels(path: Path) -> None:
    volume = read_volume(changed(path, scl_slope=-2, scl_inter=1000))
    assert volume.voxels.dtype == np.int16
    assert (volume.slope, volume.intercept) == (-2, 1000)
    low, high = volume.span
    assert low < high
    assert (low, high) == pytest.approx((1000 - 2 * 0.995 * 1079, 1000 - 2 * 0.005 * 1079))
    pixels = volume.arrangement.undo(np.stack([volume.picture(each).pixels for each in range(len(volume))]))
    assert pixels[0, 0, 0] == 1
    assert pixels[-1, -1, -1] == 0
    for slope in (0, np.nan):
        assert read_volume(changed(path, scl_slope=slope, scl_inter=9)).slope == 1


def test_results_have_the_geometry_of_the_source_bit_by_bit(path: Path, tmp_path: Path) -> None:
    import nibabel

    changed(path, qform_code=2, sform_code=4, qoffset_y=7.7, xyzt_units=3, dim_info=57, toffset=3)
    source = header_of(path.read_bytes())
    volume = read_volume(path, axis="coronal")
    write_volume(tmp_path / "r.nii.gz", volume.voxels > 500, volume, form="nifti")
    image = nibabel.load(tmp_path / "r.nii.gz")
    header = header_of(gzip.decompress((tmp_path / "r.nii.gz").read_bytes()))
    for field in ("dim", "pixdim", "dim_info", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"):
        assert header[field].tobytes() == source[field].tobytes()
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        assert header[field].tobytes() == source[field].tobytes()
    assert image.get_data_dtype() == np.uint8
    assert header.get_slope_inter() == (1, 0)
    assert (header["cal_min"], header["cal_max"], header["toffset"]) == (0, 0, 0)
    assert np.array_equal(np.asarray(image.dataobj).T, stored() > 500)


def test_results_of_a_file_with_time_are_without_it(tmp_path: Path) -> None:
    import nibabel

    nibabel.Nifti1Image(stored().T[..., None], RAS @ AFFINE).to_filename(tmp_path / "v.nii")
    volume = read_volume(tmp_path / "v.nii")
    write_volume(tmp_path / "r.nii.gz", volume.voxels > 500, volume, form="nifti")
    assert nibabel.load(tmp_path / "r.nii.gz").shape == SHAPE[::-1]


def test_shear_is_in_the_sform_alone(tmp_path: Path) -> None:
    """Quaternions turn; they cannot shear."""
    import nibabel

    tilted = AFFINE.copy()
    tilted[1, 2] = 1
    write_volume(tmp_path / "r.nii.gz", stored(np.uint16), in_memory(stored(), tilted), form="nifti")
    image = nibabel.load(tmp_path / "r.nii.gz")
    assert np.allclose(RAS @ image.affine, tilted)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 1)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dim": [3, 12, 10, 0, 1, 1, 1, 1]}, "describes no voxels"),
        ({"dim": [3, 12, -10, 9, 1, 1, 1, 1]}, "describes no voxels"),
        ({"dim": [9, 12, 10, 9, 1, 1, 1, 1]}, "describes 9 axes"),
        ({"dim": [1, 1080, 1, 1, 1, 1, 1, 1]}, "describes 1 axes"),
        ({"dim": [5, 12, 10, 3, 1, 3, 1, 1]}, "several values per voxel"),
        ({"datatype": 1536, "bitpix": 128}, "of a type that is not read"),
        ({"datatype": 77}, "header is damaged"),
        ({"vox_offset": 8}, "puts the voxels into the header"),
        ({"vox_offset": 1e9}, "cut short"),
        ({"vox_offset": -400}, "puts the voxels into the header"),
        ({"scl_slope": 2, "scl_inter": np.inf}, "header is damaged"),
        ({"magic": b"ni1"}, "half of a pair"),
    ],
)
def test_headers_that_are_wrong(fields: dict[str, Any], why: str, path: Path) -> None:
    with pytest.raises(ImageError, match=rf"v\.nii: [^\n]*{why}"):
        read_volume(changed(path, **fields))


def test_volumes_too_wide_for_nifti_1(tmp_path: Path) -> None:
    import nibabel

    wide = np.zeros((1, 2, 40000), np.uint8)
    write_volume(tmp_path / "r.nii.gz", wide, in_memory(wide, np.eye(4)), form="nifti")
    image = nibabel.load(tmp_path / "r.nii.gz")
    assert image.shape == (40000, 2, 1)
    assert int(image.header["xyzt_units"]) == 0  # the distances are not known
