"""The two intensities that become black and white in all slices of a volume."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from msformer_deploy.errors import ImageError
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.images.volume import Volume
from msformer_deploy.images.volumes import ranges
from msformer_deploy.images.volumes.stored import StoredVolume


def body(low: float = 0, high: float = 1000) -> np.ndarray:
    """An ellipsoid with a gradient in a dark, noisy background; float64 (12, 40, 50)."""
    slices, rows, columns = np.mgrid[-1:1:12j, -1:1:40j, -1:1:50j]
    inside = slices**2 + rows**2 + columns**2 < 0.8
    values = np.where(inside, 0.5 + 0.4 * columns, 0.1) + np.random.default_rng(0).uniform(-0.02, 0.02, inside.shape)
    return low + (high - low) * values


def find(voxels: np.ndarray, window: tuple[float, float] | None = None, **others: Any) -> Any:
    with np.errstate(over="ignore"):  # as where files are opened
        return ranges.find_span(StoredVolume(voxels, np.eye(4), "nifti", None, True, None, **others), window, "v")


def percentiles(voxels: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(voxels, (0.5, 99.5))
    return float(low), float(high)


def test_the_range_is_from_half_a_per_cent_to_all_but_half_a_per_cent() -> None:
    for voxels in (
        body().astype(np.int16),
        body().astype(np.float32),
        body().astype(">f8"),
        body(-2e6, 5e6).astype(int),
    ):
        span, notes = find(voxels)
        assert span == pytest.approx(percentiles(voxels))
        assert len(notes) == 1
        assert "those beyond are cut off" in notes[0]
        assert find(voxels) == (span, notes)


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        (-2000, np.s_[:, :3], "voxels of -2000 left out of the intensity range: taken for padding"),
        (-32768, np.s_[:, :, 40:], "voxels of -32768 left out of the intensity range: taken for padding"),
        (30000, np.s_[5:7, 20:22, 20:25], "voxels of 30000 left out of the intensity range: far from all others"),
        (32767, np.s_[:, 10, 10], "voxels of 32767 left out of the intensity range: far from all others"),
    ],
)
def test_padding_and_metal_do_not_count(value: int, where: Any, why: str) -> None:
    voxels = body().astype(np.int16)
    counts = np.ones(voxels.shape, bool)
    voxels[where], counts[where] = value, False
    span, notes = find(voxels)
    assert span == pytest.approx(percentiles(voxels[counts]))
    assert why in notes


def test_eight_bits_are_used_as_they_are() -> None:
    assert find(body(0, 100).astype(np.uint8)) == ((0.0, 255.0), ())
    span, _ = find(body(0, 100).astype(np.uint8), slope=2.0)
    assert span == pytest.approx(2 * np.array(percentiles(body(0, 100).astype(np.uint8))))


@pytest.mark.parametrize(
    ("shown", "used"),
    [((0.0, 900.0), True), ((50.0, 400.0), True), ((900.0, 2000.0), False), ((0.0, 65535.0), False)],
)
def test_the_range_of_the_file_is_used_where_it_is_sensible(shown: tuple[float, float], used: bool) -> None:
    span, notes = find(body().astype(np.int16), shown=shown)
    assert (span == shown) is used
    assert any("the file says so" in note for note in notes) is used


def test_a_window_comes_first() -> None:
    assert find(body().astype(np.int16), (40, 400), shown=(0.0, 900.0)) == ((-160.0, 240.0), ())
    assert find(body(0, 100).astype(np.uint8), (40, 40))[0] == (20, 60)


def test_colours_have_no_window_and_a_note_says_so() -> None:
    voxels = np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3)).astype(np.uint8)
    assert find(voxels) == ((0.0, 255.0), ())
    assert find(voxels, (40, 400)) == ((0.0, 255.0), ("the window is not used, because this is colour",))


@pytest.mark.parametrize("colour", [(9, 9, 9), (200, 60, 60)])
def test_one_colour_throughout_is_refused(colour: tuple[int, ...]) -> None:
    voxels = np.full((4, 9, 9, 3), colour, np.uint8)
    with pytest.raises(ImageError, match="v: every voxel has the same value; there is nothing to segment"):
        find(voxels)
    voxels[3, 1, 2, 1] += 1
    assert find(voxels) == ((0.0, 255.0), ())


def test_a_window_that_shows_nothing_is_refused() -> None:
    with pytest.raises(ImageError, match="every voxel lies beyond the window from 5000 to 6000; choose another"):
        find(body().astype(np.int16), (5500, 1000))
    assert find(body().astype(np.int16), (5500, 1000), slope=10.0)[0] == (5000, 6000)


def test_voxels_that_are_no_numbers_are_black_and_counted() -> None:
    voxels = body().astype(np.float32)
    usual, _ = find(voxels.copy())
    voxels[0, 0, :3], voxels[0, 0, 3:5], voxels[3, 9, 9] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        span, notes = find(voxels)
        volume = Volume(voxels, "v", np.eye(4), None, None, span, DicomSource((), ()))
        pixels = np.stack([volume.picture(each).pixels for each in range(len(volume))])
    assert span == pytest.approx(usual, rel=0.01)
    assert "6 of 24000 voxels are NaN or infinite: left out of the intensity range and black" in notes
    assert not pixels[~np.isfinite(voxels)].any()
    assert np.isfinite(pixels).all()
    inverted = Volume(voxels, "v", np.eye(4), None, None, span, DicomSource((), ()), inverted=True)
    assert not inverted.picture(0).pixels[0, :5].any()


def test_mostly_no_numbers_as_where_a_mask_was_applied() -> None:
    voxels = np.full((12, 40, 50), np.nan, np.float32)
    voxels[3:8, 10:30, 10:40] = body()[3:8, 10:30, 10:40]
    assert find(voxels)[0] == pytest.approx(percentiles(voxels[np.isfinite(voxels)]))


@pytest.mark.parametrize(
    ("voxels", "why"),
    [
        (np.full((3, 9, 9), 7, np.int16), "every voxel has the same value"),
        (np.zeros((3, 9, 9), np.uint8), "every voxel has the same value"),
        (np.zeros((3, 9, 9, 3), np.uint8), "every voxel has the same value"),
        (np.full((3, 9, 9), np.nan, np.float32), "every voxel is NaN or infinite"),
        (np.where(np.arange(243).reshape(3, 9, 9) % 2, np.nan, 4).astype(np.float32), "every voxel has the same value"),
        (np.where(body() > 500, 1.7e308, -1.7e308), "too large to distinguish"),
    ],
)
def test_nothing_to_see(voxels: np.ndarray, why: str) -> None:
    with pytest.raises(ImageError, match=f"v: .*{why}"):
        find(voxels)


def test_a_sample_that_misses_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_SAMPLE", 2000)
    voxels = np.zeros((12, 40, 50), np.int16)
    voxels[5, 3:9, 3:9] = 800
    assert find(voxels)[0] == (0, 800)
    assert find(voxels, (400, 100))[0] == (350, 450)


@pytest.mark.parametrize("size", [1500, 5000, 1 << 22])
def test_a_sample_is_small_and_of_all_slices(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_SAMPLE", size)
    voxels = np.repeat(body().astype(np.int16), 4, axis=0)
    assert ranges._sample(voxels).size <= max(size, 50 * 48)
    span, _ = find(voxels)
    low, high = percentiles(voxels)
    assert np.allclose(span, (low, high), atol=0.2 * (high - low))


def test_a_sample_reaches_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_SAMPLE", 2000 * 16)
    air = np.random.default_rng(0).integers(0, 50, (60, 40, 50)).astype(np.int16)
    for place in (slice(0, 12), slice(24, 36), slice(48, 60)):
        voxels = air.copy()
        voxels[place] = body()
        assert find(voxels)[0][1] > 700


def test_large_values_keep_their_differences() -> None:
    for voxels in (body(2**31, 2**31 + 1000).astype(np.uint32), body(1e300, 2e300)):
        span, _ = find(voxels)
        volume = Volume(voxels, "v", np.eye(4), None, None, span, DicomSource((), ()))
        pixels = volume.picture(6).pixels
        assert len(np.unique(pixels)) > 200
        assert np.isfinite(pixels).all()
