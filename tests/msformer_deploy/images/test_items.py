"""One volume by its path, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="nibabel is not installed")
pytest.importorskip("pydicom", reason="pydicom is not installed")
import nibabel
from dicoms import image, save, series

from msformer_deploy import read_volume
from msformer_deploy.errors import ImageError, UsageError

VOXELS = np.random.default_rng(0).integers(0, 900, (9, 16, 12)).astype(np.int16)


def nifti(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(VOXELS.T, np.diag([-1.0, -1, 2, 1])), path)
    return path


def test_a_file(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "v.nii.gz"))
    assert volume.shape == VOXELS.shape
    assert volume.thickness == 2
    assert read_volume(str(tmp_path / "v.nii.gz"), axis="sagittal").shape == (12, 9, 16)


def test_a_window(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "v.nii"), (400, 200))
    assert volume.span[0] < 301
    assert volume.span[1] > 499


def test_a_folder_of_one_series(tmp_path: Path) -> None:
    series(tmp_path / "ct")
    assert len(read_volume(tmp_path / "ct")) == 4


def test_a_dicom_object_of_several_frames(tmp_path: Path) -> None:
    assert len(read_volume(save(image(VOXELS), tmp_path / "cine"))) == 9


def test_what_is_not_one_volume(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    nifti(tmp_path / "b.nii")
    with pytest.raises(UsageError, match="has 2 volumes; give the file, or the folder of one series"):
        read_volume(tmp_path)
    save(image(), tmp_path / "one.dcm")
    with pytest.raises(UsageError, match=r"one\.dcm: has no volume"):
        read_volume(tmp_path / "one.dcm")
    with pytest.raises(ImageError, match="no such file"):
        read_volume(tmp_path / "none.nii")
