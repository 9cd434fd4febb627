"""Stored arrays as slices that people can look at, and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from volumes import affines

from msformer_deploy.images.space import AXES, Axis, arrangement

SHAPE = (3, 4, 5)  # slices, rows, columns as they are stored


@pytest.mark.parametrize("axis", [None, *AXES])
@pytest.mark.parametrize("affine", affines())
def test_a_voxel_stays_where_it_is_in_the_patient(affine: np.ndarray, axis: Axis | None) -> None:
    stored = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    chosen = arrangement(affine, axis)
    seen, seen_affine = chosen.apply(stored), chosen.affine(affine, SHAPE)
    assert np.array_equal(chosen.undo(seen), stored)
    for slice_, row, column in itertools.product((0, 1), (0, 2), (0, 1)):
        place = seen_affine @ (column, row, slice_, 1)
        k, j, i = np.rint((np.linalg.inv(affine) @ place)[2::-1]).astype(int)
        assert stored[k, j, i] == seen[slice_, row, column]


@pytest.mark.parametrize("affine", affines())
def test_slices_look_as_radiologists_know_them(affine: np.ndarray) -> None:
    """Axial: rows go to the back and columns to the patient's left; in the other planes rows go to the feet."""
    for axis, rows, columns in (("axial", (0, 1, 0), (1, 0, 0)), ("coronal", (0, 0, -1), (1, 0, 0))):
        seen = arrangement(affine, axis).affine(affine, SHAPE)
        assert np.array_equal(np.sign(seen[:3, 1]), rows)
        assert np.array_equal(np.sign(seen[:3, 0]), columns)
    seen = arrangement(affine, "sagittal").affine(affine, SHAPE)
    assert np.array_equal(np.sign(seen[:3, 1]), (0, 0, -1))
    assert np.array_equal(np.sign(seen[:3, 0]), (0, 1, 0))


@pytest.mark.parametrize("affine", affines())
def test_slice_1_is_at_the_feet_the_front_or_the_right(affine: np.ndarray) -> None:
    """In whichever order a file stores its slices: people find a slice by its number."""
    for axis, direction in (("axial", (0, 0, 1)), ("coronal", (0, 1, 0)), ("sagittal", (1, 0, 0))):
        seen = arrangement(affine, axis).affine(affine, SHAPE)
        assert np.array_equal(np.sign(seen[:3, 2]), direction)
    assert (arrangement(affine).affine(affine, SHAPE)[:3, 2].max()) > 0


def test_slices_of_no_named_plane_are_those_that_are_stored() -> None:
    for affine in affines():
        assert arrangement(affine).order[0] == 0


def test_oblique_axes_go_to_the_nearest_plane() -> None:
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    assert arrangement(affine, "axial") == arrangement(np.eye(4), "axial")
    assert np.allclose(arrangement(affine, "coronal").affine(affine, SHAPE)[:3, 0], affine[:3, 0])


def test_arrays_with_colours_keep_their_last_axis() -> None:
    chosen = arrangement(np.diag([-1.0, 1, -1, 1]), "sagittal")
    stored = np.zeros((*SHAPE, 3))
    assert chosen.apply(stored).shape == (SHAPE[2], SHAPE[0], SHAPE[1], 3)
    assert chosen.undo(chosen.apply(stored)).shape == stored.shape
