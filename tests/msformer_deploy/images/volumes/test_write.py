"""Files of results: equal bytes for equal results, whole or not at all."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import affines, in_memory, stored

from msformer_deploy.images.sources import Form
from msformer_deploy.images.space import Spacing
from msformer_deploy.images.volumes.labels import read_labels
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.slicer import Segment, write_slicer_segmentation
from msformer_deploy.images.volumes.write import suffix_of, write_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd")]
FORMS = pytest.mark.parametrize("form", ["nifti", "nrrd", "mha"])
VOLUME = in_memory(stored(), affines()[0])


@FORMS
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float32])
def test_results_come_back_as_they_were(form: Form, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / f"r{suffix_of(form)}"
    result = stored(dtype)
    write_volume(path, result, VOLUME, form=form)
    volume = read_volume(path)
    assert volume.voxels.dtype == (np.uint8 if dtype is bool else dtype)
    assert np.array_equal(volume.arrangement.undo(volume.voxels), result)


@pytest.mark.needs("SimpleITK")
@pytest.mark.parametrize(("placed", "code"), [(True, 1), (False, 2)])
def test_nifti_claims_the_coordinates_of_a_scanner_only_where_there_are_some(
    placed: bool, code: int, tmp_path: Path
) -> None:
    """All readers see the same distances, directions and order of rows, also in what nibabel saves again."""
    import nibabel
    import SimpleITK

    affine = np.diag([0.5, 0.75, 2.5, 1.0])
    volume = in_memory(stored(), affine, placed=placed)
    path, again = tmp_path / "r.nii.gz", tmp_path / "again.nii.gz"
    write_volume(path, stored(np.uint16), volume, form="nifti")
    image = nibabel.load(path)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (code, code)
    assert image.header.get_zooms() == (0.5, 0.75, 2.5)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine), again)
    for each in (path, again):
        found = SimpleITK.ReadImage(str(each))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), stored(np.uint16))
        np.testing.assert_allclose(found.GetDirection(), np.eye(3).ravel(), atol=1e-6)
        np.testing.assert_allclose(found.GetSpacing(), (0.5, 0.75, 2.5))
        labels, read_affine = read_labels(each)
        np.testing.assert_array_equal(labels, stored(np.uint16))
        np.testing.assert_allclose(read_affine, affine, atol=1e-6)


@FORMS
def test_equal_results_give_equal_bytes(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = set()
    for later in (0, 10_000_000):
        monkeypatch.setattr(time, "time", lambda later=later: 1e9 + later)
        path = tmp_path / f"{later}{suffix_of(form)}"
        write_volume(path, stored(np.uint8), VOLUME, form=form)
        write_slicer_segmentation(path.with_suffix(".seg.nrrd"), stored(np.uint8), VOLUME, [Segment(1, "a", (1, 2, 3))])
        contents.add((path.read_bytes(), path.with_suffix(".seg.nrrd").read_bytes()))
    assert len(contents) == 1


@FORMS
def test_no_half_of_a_file_is_left(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "ascontiguousarray", full)
    path = tmp_path / "r"
    path.write_bytes(b"earlier")
    with pytest.raises(OSError, match="No space left"):
        write_volume(path, stored(np.uint8), VOLUME, form=form)
    assert [each.name for each in tmp_path.iterdir()] == ["r"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize(("in_space", "unit"), [(True, "mm"), (False, "unknown")])
def test_frames_in_time_are_no_millimetres_apart(in_space: bool, unit: str, tmp_path: Path) -> None:
    import nibabel

    volume = replace(VOLUME, spacing=Spacing(0.5, 0.5, "ultrasound regions"), in_space=in_space)
    write_volume(tmp_path / "r.nii.gz", stored(np.uint8), volume, form="nifti")
    assert nibabel.load(tmp_path / "r.nii.gz").header.get_xyzt_units()[0] == unit


@FORMS
@pytest.mark.parametrize("array", [stored(np.uint8)[1:], stored(np.int64)])
def test_what_is_no_result_is_refused(form: Form, array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no result of a volume"):
        write_volume(tmp_path / "r", array, VOLUME, form=form)
