"""Borders of regions: what follows an edge of the image, what is outvoted, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from msformer_deploy.foreground.borders import SIDE, follow_edges, redraw
from msformer_deploy.foreground.view import View

ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / SIDE


def disc(radius: float, side: int = SIDE) -> np.ndarray:
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    return (rows - 0.5) ** 2 + (columns - 0.5) ** 2 < radius**2


def image(region: np.ndarray) -> View:
    return View(np.repeat(np.where(region, 0.3, 0.7).astype(np.float32)[None], 3, axis=0))


def differ(one: np.ndarray, other: np.ndarray) -> float:
    return float((one != other).mean())


@pytest.mark.parametrize("side", [65, 97, 257])
@pytest.mark.parametrize("off", [-0.012, 0.012])
def test_a_border_beside_an_edge_moves_to_it(side, off):
    truth = disc(0.25)
    drawn = follow_edges(disc(0.25 + off, side).astype(np.uint8) + 4, image(truth))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (SIDE, SIDE)
    assert differ(drawn == 5, truth) < 0.35 * differ(disc(0.25 + off), truth)


def test_where_the_image_is_flat_a_border_stays_and_is_smooth():
    flat = View(np.full((3, SIDE, SIDE), 0.5, np.float32))
    drawn = follow_edges(disc(0.25, 65).astype(np.uint8), flat)
    assert differ(drawn == 1, disc(0.25)) < differ(
        np.kron(disc(0.25, 64), np.ones((4, 4), bool)), disc(0.25)[:256, :256]
    )


def test_specks_are_outvoted():
    labels = disc(0.25).astype(np.uint8)
    labels[20:23, 20:23] = 1
    labels[128:131, 128:131] = 0
    assert differ(follow_edges(labels, image(disc(0.25))) == 1, disc(0.25)) < 1e-3


def test_several_regions_keep_their_ids():
    labels = (3 * COLUMNS).astype(np.uint16) * 300
    grey = np.repeat((0.2 + 0.3 * (3 * COLUMNS).astype(int)).astype(np.float32)[None], 3, axis=0)
    drawn = follow_edges(labels, View(grey))
    assert drawn.dtype == np.uint16
    assert differ(drawn, labels) == 0


def test_two_regions_are_drawn_as_several_are():
    """Of two regions one is drawn and the other is the rest."""
    labels = disc(0.3).astype(np.uint8)
    three = labels.copy()
    three[0, 0] = 2  # a speck, which is outvoted
    np.testing.assert_array_equal(follow_edges(three, image(disc(0.28))), follow_edges(labels, image(disc(0.28))))


def test_a_single_region_is_all():
    assert (follow_edges(np.full((9, 9), 7, np.uint8), image(disc(0.2))) == 7).all()


@pytest.mark.parametrize("coloured", [True, False])
def test_regions_are_told_apart_again_where_there_are_colours(coloured):
    """A patch of the ground that the map took for the object: its colour says otherwise; a grey map stays."""
    truth, patch = disc(0.2), (np.abs(ROWS - 0.5) < 0.08) & (COLUMNS > 0.7) & (COLUMNS < 0.9)
    ground, thing = ((0.5, 0.6, 0.7), (0.3, 0.35, 0.5)) if coloured else ((0.6,) * 3, (0.4,) * 3)
    pixels = np.where(truth, np.array(thing)[:, None, None], np.array(ground)[:, None, None]).astype(np.float32)
    labels = (truth | patch).astype(np.uint8)
    kept = redraw(labels, View(pixels))[patch].mean()
    assert kept < 0.05 if coloured else kept > 0.5
