"""A voxel is at the same place of the patient in every format and every reader, for all 48 orientations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from volumes import SHAPE, affines, in_memory, name_of, nifti, same_places, simpleitk_affine, simpleitk_image, stored

from msformer_deploy.images.sources import FileSource, Form
from msformer_deploy.images.space import AXES, Axis, arrangement
from msformer_deploy.images.volumes.labels import labels_on, read_labels
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.write import suffix_of, write_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd"), pytest.mark.needs("SimpleITK")]
FORMS: tuple[Form, ...] = ("nifti", "nrrd", "mha")
AFFINES = pytest.mark.parametrize("affine", affines(), ids=name_of)


@AFFINES
@pytest.mark.parametrize("form", FORMS)
def test_others_find_our_voxels_where_they_are(affine: NDArray[np.float64], form: Form, tmp_path: Path) -> None:
    """Results of a volume of another format, such as DICOM, in an arrangement of its own."""
    import SimpleITK

    chosen = arrangement(affine, "sagittal")
    volume = in_memory(chosen.apply(stored()), chosen.affine(affine, SHAPE), arrangement=chosen)
    path = tmp_path / f"v{suffix_of(form)}"
    write_volume(path, volume.voxels.astype(np.uint16), volume, form=form)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), stored())
    assert np.allclose(simpleitk_affine(image), affine, atol=1e-5)
    if form == "nifti":
        import nibabel

        same = nibabel.load(path)
        assert np.array_equal(np.asarray(same.dataobj).T, stored())
        assert np.allclose(np.diag([-1, -1, 1, 1]) @ same.affine, affine, atol=1e-5)
        assert np.allclose(same.get_qform(), same.get_sform(), atol=1e-5)


@AFFINES
@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_we_find_the_voxels_of_simpleitk_where_they_are(
    affine: NDArray[np.float64], suffix: str, tmp_path: Path
) -> None:
    """And write results back onto them, however the slices were cut."""
    import SimpleITK

    path = tmp_path / f"v{suffix}"
    SimpleITK.WriteImage(simpleitk_image(stored(), affine), str(path), useCompression=suffix != ".nii")
    axis: Axis | None
    for axis in (None, "coronal"):
        volume = read_volume(path, axis=axis)
        assert same_places(stored(), affine, volume.voxels, volume.affine)
        assert volume.voxels.dtype == np.int16
        assert isinstance(volume.source, FileSource)
        result = tmp_path / f"r{suffix_of(volume.source.form)}"
        write_volume(result, volume.voxels.astype(np.uint16), volume, form=volume.source.form)
        image = SimpleITK.ReadImage(str(result))
        assert np.array_equal(SimpleITK.GetArrayFromImage(image), stored())
        assert np.allclose(simpleitk_affine(image), affine, atol=1e-5)


@AFFINES
def test_we_find_the_voxels_of_nibabel_where_they_are(affine: NDArray[np.float64], tmp_path: Path) -> None:
    path = nifti(tmp_path / "v.nii.gz", stored(np.float32), affine)
    for axis in (None, *AXES):
        volume = read_volume(path, axis=axis)
        assert same_places(stored(), affine, volume.voxels, volume.affine)
        assert volume.spacing is not None
        sides = (volume.spacing.column, volume.spacing.row, volume.thickness)
        assert np.allclose(sides, np.linalg.norm(volume.affine[:3, :3], axis=0))


@AFFINES
def test_labels_of_any_orientation_come_to_the_voxels_of_a_volume(affine: NDArray[np.float64], tmp_path: Path) -> None:
    """Both have the same grid; its axes are in another order and run the other way."""
    standard = arrangement(affine, "axial")
    volume = in_memory(standard.apply(stored()), standard.affine(affine, SHAPE))
    path = nifti(tmp_path / "labels.nii.gz", stored(np.uint16), affine)
    labels = labels_on(volume, path)
    assert np.array_equal(labels, volume.voxels)
    assert labels.dtype == np.uint16
    own, own_affine = read_labels(path)
    assert np.array_equal(own, stored())
    assert np.allclose(own_affine, affine, atol=1e-5)
