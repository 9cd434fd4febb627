"""Sizes of shapes whose sizes are known, with square and other pixels."""

from __future__ import annotations

import math
import time

import cc3d
import numpy as np
import pytest
from scipy.special import ellipe
from skimage.measure import perimeter_crofton

from msformer_deploy.images.space import Spacing
from msformer_deploy.measures import physical
from msformer_deploy.measures.physical import Measure, measure, measure_volume


def ellipse(
    a: float, b: float, turn: float, row: float = 1.0, column: float = 1.0, shift: tuple[float, float] = (0.3, 0.1)
) -> np.ndarray:
    """A mask of semi-axes in millimetres, turned by radians, its centre off the grid."""
    height, width = (math.ceil(2 * a / step) + 6 for step in (row, column))
    y = (np.arange(height) - height / 2 + shift[0])[:, None] * row
    x = (np.arange(width) - width / 2 + shift[1]) * column
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def only(mask: np.ndarray, row: float = 1.0, column: float = 1.0) -> Measure:
    (found,) = measure(mask, Spacing(row, column, "test")).objects
    return found


def boxed(height: int, width: int) -> np.ndarray:
    return np.pad(np.ones((height, width), bool), 2)


@pytest.mark.parametrize(("row", "column"), [(1.0, 1.0), (0.5, 2.0), (3.0, 0.7)])
def test_a_rectangle(row: float, column: float) -> None:
    found = only(boxed(20, 30), row, column)
    height, width = 20 * row, 30 * column
    assert found.area == pytest.approx(height * width)
    diagonal = math.hypot(height, width)
    half = math.hypot(row, column) / 2  # the outline's last points are in the middle of the last pixels' edges
    assert diagonal - 2 * half <= found.longest_diameter <= diagonal
    across = min(height / width, width / height) * diagonal  # between the longer sides
    assert across - 2 * half < found.perpendicular_diameter < across + half
    if row == column:
        expected = 2 * (height + width) * math.pi / 8 * (1 + math.sqrt(2))  # sides along rows and columns: -5.2 %
        assert expected - 1.2 < found.perimeter < expected  # each corner hides one crossing of a diagonal


@pytest.mark.parametrize("turn", [0.0, 0.4, math.pi / 4, 1.3])
@pytest.mark.parametrize(("row", "column"), [(1.0, 1.0), (1.0, 0.5), (0.7, 0.6)])
def test_an_ellipse(row: float, column: float, turn: float) -> None:
    found, pixel = only(ellipse(40, 20, turn, row, column), row, column), max(row, column)
    assert found.area == pytest.approx(math.pi * 40 * 20, rel=0.01)
    assert found.perimeter == pytest.approx(4 * 40 * ellipe(1 - 0.5**2), rel=0.04 if row > 1.5 * column else 0.015)
    assert -0.6 * pixel < found.longest_diameter - 80 < 1.0 * pixel
    assert -0.6 * pixel < found.perpendicular_diameter - 40 < 1.2 * pixel


@pytest.mark.parametrize(("row", "column"), [(1.0, 1.0), (1.0, 0.5), (2.0, 0.5), (5.0, 1.0)])
def test_the_perimeter_of_a_circle_has_no_bias(row: float, column: float) -> None:
    rng = np.random.default_rng(0)
    ratios = [
        only(ellipse(30, 30, 0, row, column, tuple(rng.uniform(-0.5, 0.5, 2))), row, column).perimeter
        / (2 * math.pi * 30)
        for _ in range(20)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.003)
    assert np.abs(np.subtract(ratios, 1)).max() < 0.012


@pytest.mark.parametrize(
    ("row", "low", "high"), [(1.0, -0.052, 0.026), (2.0, -0.095, 0.086), (4.0, -0.147, 0.105)], ids=str
)
def test_the_perimeter_of_straight_sides_has_the_documented_error(row: float, low: float, high: float) -> None:
    """A long strip: its two long sides run in one direction. The limits are in docs/reference/reports.md."""
    errors = []
    for turn in np.linspace(0, math.pi, 36, endpoint=False):
        y, x = (np.arange(math.ceil(340 / row)) * row - 170)[:, None], np.arange(340) - 170
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        errors.append(only((abs(u) <= 150) & (abs(v) <= 6), row, 1).perimeter / (2 * (300 + 12)) - 1)
    rest = 0.02  # corners, and the short sides
    assert low - rest < min(errors) < low + 2 * rest
    assert high - 2 * rest < max(errors) < high + rest


def test_the_perimeter_over_all_directions_has_no_bias_with_other_pixels() -> None:
    turns = np.linspace(0, math.pi, 24, endpoint=False)
    ratios = [only(ellipse(60, 15, turn, 1, 0.5), 1, 0.5).perimeter for turn in turns]
    assert np.mean(ratios) == pytest.approx(4 * 60 * ellipe(1 - 0.25**2), rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_perimeter_is_that_of_scikit_image_on_square_pixels(seed: int) -> None:
    noise = np.random.default_rng(seed).random((12, 15)) < 0.6
    parts = cc3d.connected_components(noise, connectivity=4)
    expected = sorted(perimeter_crofton(parts == number) for number in range(1, parts.max() + 1))
    plane = physical._Plane(noise)
    assert sorted(plane.perimeters(1, 1)[1:]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_diameters_are_those_of_all_pairs_of_outline_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cc3d.largest_k(np.pad(rng.random((9, 11)) < 0.7, 1), 1, connectivity=4) > 0
    row, column = rng.uniform(0.3, 3, 2)
    ys, xs = np.nonzero(mask[1:] != mask[:-1])
    below = np.stack([(xs + 0.5) * column, (ys + 1) * row], axis=1)
    ys, xs = np.nonzero(mask[:, 1:] != mask[:, :-1])
    points = np.concatenate([below, np.stack([(xs + 1) * column, (ys + 0.5) * row], axis=1)])
    distances = np.hypot(*(points[:, None] - points).transpose(2, 0, 1))
    one, other = np.unravel_index(distances.argmax(), distances.shape)
    direction = (points[other] - points[one]) / distances.max()
    found = only(mask, row, column)
    assert found.longest_diameter == pytest.approx(distances.max())
    assert found.perpendicular_diameter <= np.ptp(points @ (-direction[1], direction[0])) + 1e-9


def test_the_perpendicular_diameter_of_a_bow_is_its_thickness() -> None:
    rows, columns = np.indices((60, 120))
    distance = np.hypot(rows - 5, columns - 60)
    bow = (distance > 38) & (distance < 50) & (rows > 5)
    found = only(bow)
    assert found.longest_diameter == pytest.approx(100, abs=1.5)
    beside = math.sqrt(50**2 - 38**2)  # the longest line that misses the hollow; the bow is 50 high
    assert beside - 1.5 < found.perpendicular_diameter < beside + 3


def test_a_line_of_pixels_is_as_long_and_as_wide_as_its_pixels() -> None:
    found = only(boxed(1, 12), 2.0, 0.5)
    assert (found.longest_diameter, found.perpendicular_diameter) == pytest.approx((6.0, 2.0))


def test_without_spacing_sizes_are_in_pixels() -> None:
    found = measure(boxed(4, 5))
    assert (found.unit, found.spacing, found.whole.area, found.count) == ("px", None, 20.0, 1)
    assert measure(boxed(4, 5), Spacing(1, 1, "")).unit == "mm"


@pytest.mark.parametrize(
    ("where", "touches"), [((0, 5), True), ((16, 5), True), ((5, 0), True), ((5, 16), True), ((1, 1), False)]
)
def test_an_object_at_the_border_is_marked(where: tuple[int, int], touches: bool) -> None:
    mask = np.zeros((20, 20), bool)
    mask[where[0] : where[0] + 4, where[1] : where[1] + 4] = True
    mask[8:12, 8:12] = True
    found = measure(mask)
    assert found.whole.touches_border is touches
    assert touches == any(each.touches_border for each in found.objects)
    assert not all(each.touches_border for each in found.objects)


def test_the_largest_objects_come_first_and_specks_only_count() -> None:
    mask = np.zeros((60, 60), bool)
    mask[2:5, 2:5] = mask[10:30, 10:30] = mask[40:44, 40:44] = True  # 9, 400 and 16 pixels
    mask[30, 30] = True  # touches by a corner: another object
    found = measure(mask)
    assert [each.area for each in found.objects] == [400, 16]
    assert (found.count, found.whole.area) == (4, 426)
    assert found.whole.longest_diameter == found.objects[0].longest_diameter


def test_only_so_many_objects_are_listed() -> None:
    mask = np.pad(np.tile(np.pad(np.ones((4, 4), bool), 1), (4, 61)), 1)
    found = measure(mask)
    assert (len(found.objects), found.count) == (physical.MAX_OBJECTS, 244)
    assert found.whole.area == 244 * 16


def test_an_empty_mask_has_no_objects() -> None:
    for found in (measure(np.zeros((5, 6), bool)), measure_volume(np.zeros((3, 5, 6), bool))):
        assert (found.objects, found.count, found.whole.longest_diameter) == ((), 0, None)
        assert not found.whole.touches_border
    assert measure(np.zeros((5, 6), bool)).whole.area == 0
    assert measure_volume(np.zeros((3, 5, 6), bool)).whole.volume == 0


def test_a_full_mask_is_measured() -> None:
    found = only(np.ones((20, 30), bool))
    assert (found.area, found.touches_border) == (600, True)
    assert found.perimeter == only(boxed(20, 30)).perimeter


@pytest.mark.slow
def test_a_megapixel_takes_a_moment() -> None:
    mask = np.pad(ellipse(450, 300, 0.3), 40)
    start = time.perf_counter()
    measure(mask)
    assert time.perf_counter() - start < 2


class TestVolumes:
    @pytest.mark.parametrize("seed", range(4))
    def test_objects_are_connected_through_slices(self, seed: int) -> None:
        mask = np.random.default_rng(seed).random((7, 13, 12)) < (0.3, 0.4, 0.5, 0.6)[seed]
        parts = cc3d.connected_components(mask, connectivity=6)
        sizes = np.bincount(parts.ravel())[1:]
        found = measure_volume(mask, Spacing(0.5, 2.0, ""), 3.0)
        assert found.count == sizes.size
        expected = sorted((size * 3.0 for size in sizes if size >= physical.MIN_PIXELS), reverse=True)
        assert [each.volume for each in found.objects] == pytest.approx(expected[: physical.MAX_OBJECTS])
        assert found.whole.volume == pytest.approx(mask.sum() * 3.0)
        assert found.whole.touches_border

    def test_a_ball(self) -> None:
        z, y, x = np.mgrid[:24, :70, :80]
        ball = ((z - 11) * 2.5) ** 2 + ((y - 35) * 0.8) ** 2 + ((x - 40) * 0.7) ** 2 <= 25**2
        (found,) = measure_volume(ball, Spacing(0.8, 0.7, ""), 2.5).objects
        assert found.volume == pytest.approx(4 / 3 * math.pi * 25**3, rel=0.01)
        assert found.area == pytest.approx(math.pi * 25**2, rel=0.01)
        assert found.perimeter == pytest.approx(2 * math.pi * 25, rel=0.01)
        assert 50 - 0.8 < found.longest_diameter < 50 + 0.8
        assert (found.slice, found.slices, found.touches_border) == (12, 21, False)

    @pytest.mark.parametrize("at", [0, 5])
    def test_the_first_and_the_last_slice_are_a_border(self, at: int) -> None:
        mask = np.zeros((6, 9, 9), bool)
        mask[at, 3:7, 3:7] = mask[3, 2:6, 2:6] = True
        by_slice = {each.slice: each.touches_border for each in measure_volume(mask).objects}
        assert by_slice == {at + 1: True, 4: False}

    def test_parts_in_slices_that_are_not_neighbours_stay_apart(self) -> None:
        mask = np.zeros((5, 9, 9), bool)
        mask[1, 2:6, 2:6] = mask[3, 2:6, 2:6] = True
        assert measure_volume(mask).count == 2

    def test_a_fork_is_one_object(self) -> None:
        mask = np.zeros((4, 9, 20), bool)
        mask[1, 2:6, 2:6] = mask[1, 2:6, 12:16] = True
        mask[2, 3, 2:16] = True
        (found,) = measure_volume(mask).objects
        assert (found.volume, found.area, found.slice, found.slices) == (46, 16, 2, 2)

    def test_without_a_distance_of_slices_there_is_no_volume(self) -> None:
        mask = np.zeros((4, 9, 9), bool)
        mask[1:3, 2:6, 2:6] = True
        found = measure_volume(mask, Spacing(0.5, 0.5, ""))
        assert (found.objects[0].volume, found.whole.volume, found.objects[0].area) == (None, None, 4.0)
        assert measure_volume(mask).whole.volume == 32
        assert measure_volume(mask, None, 3.0).thickness is None

    @pytest.mark.parametrize("spacing", [None, Spacing(0.5, 0.5, "")])
    def test_frames_in_time_have_no_volume_in_any_unit(self, spacing: Spacing | None) -> None:
        mask = np.zeros((4, 9, 9), bool)
        mask[1:3, 2:6, 2:6] = True
        found = measure_volume(mask, spacing, 3.0, in_space=False)
        assert (found.whole.volume, found.objects[0].volume) == (None, None)
        assert (found.objects[0].area, found.objects[0].slices) == (16 if spacing is None else 4, 2)
