"""Ground truth of volumes: whole numbers on the voxels of the image, or one line that says what differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from volumes import affines, in_memory, nifti, stored

from msformer_deploy.errors import ImageError
from msformer_deploy.images.volumes.labels import labels_on, read_labels
from msformer_deploy.images.volumes.write import write_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd")]
AFFINE = affines()[0]
VOLUME = in_memory(stored(), AFFINE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.nii"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64", ">f4"])
def test_whole_numbers_of_any_type(dtype: str, path: Path) -> None:
    ids = (stored() % 7).astype(dtype)
    found, affine = read_labels(nifti(path, ids, AFFINE))
    assert found.dtype == np.uint8
    assert np.array_equal(found, ids)
    assert np.allclose(affine, AFFINE)
    assert np.array_equal(labels_on(VOLUME, path), ids)


def test_the_slope_of_the_file_counts(path: Path) -> None:
    import nibabel

    nifti(path, (2 * stored()).astype(np.int16), AFFINE)
    content = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    header["scl_slope"], header["scl_inter"] = 0.5, 1
    content[:348] = header.binaryblock
    path.write_bytes(content)
    assert np.array_equal(read_labels(path)[0], stored() + 1)


@pytest.mark.parametrize("value", [0.5, -1, 65536, np.nan, np.inf])
def test_other_numbers_are_refused(value: float, path: Path) -> None:
    ids = stored(np.float32)
    ids[3, 4, 5] = value
    with pytest.raises(ImageError, match=r"labels\.nii: has values that are not whole numbers from 0 to 65535"):
        read_labels(nifti(path, ids, AFFINE))


@pytest.mark.parametrize("form", ["nifti", "nrrd", "mha"])
def test_our_own_results_are_labels(form: str, path: Path) -> None:
    write_volume(path, stored(np.uint16), VOLUME, form=form)  # type: ignore[arg-type]
    assert np.array_equal(labels_on(VOLUME, path), stored())


def test_colours_are_refused(tmp_path: Path) -> None:
    data = np.zeros((8, 8, 8, 3), np.uint8)
    data[0] = 7
    header = "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_UCHAR\nElementNumberOfChannels = 3\n"
    (tmp_path / "v.mha").write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + data.tobytes())
    with pytest.raises(ImageError, match="in colours; save labels"):
        read_labels(tmp_path / "v.mha")


def moved(row: int, column: int, by: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[row, column] += by
    return affine


def turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine @ AFFINE


@pytest.mark.parametrize(
    ("ids", "affine", "why"),
    [
        (stored()[1:], AFFINE, "labels of 12 x 10 x 8 voxels for a volume of 12 x 10 x 9; give labels on the voxels"),
        (stored(), moved(0, 0, 0.1), "labels of 0.6 x 0.75 x 2.5 mm for voxels of 0.5 x 0.75 x 2.5 mm"),
        (stored(), moved(0, 3, 4), "begins 4 mm from the first voxel of the volume"),
        (stored(), moved(2, 3, 1.25), "begins 1.25 mm from the first voxel of the volume"),
        (stored(), turned(10), "its axes point in other directions"),
        (stored(), turned(45), "its axes point in other directions"),
    ],
)
def test_labels_on_other_voxels_are_refused(ids: np.ndarray, affine: np.ndarray, why: str, path: Path) -> None:
    with pytest.raises(ImageError, match=rf"labels\.nii: {why}"):
        labels_on(VOLUME, nifti(path, ids.astype(np.uint16), affine))


def test_headers_may_round(path: Path) -> None:
    rounded = AFFINE + np.random.default_rng(0).uniform(-1e-4, 1e-4, (4, 4)) * (np.arange(4) < 3)[:, None]
    assert np.array_equal(labels_on(VOLUME, nifti(path, stored(np.uint16), rounded)), stored())
