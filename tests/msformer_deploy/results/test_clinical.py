"""What formats are given of a result: sizes, candidates and overlays, as few at a time as they need."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import shipped_bundle
from msformer_deploy.foreground.candidates import VolumeCandidate, volume_candidates
from msformer_deploy.foreground.confidence import Confidence
from msformer_deploy.foreground.prompts import Point, Prompts
from msformer_deploy.foreground.volume_prompts import VolumePoint, VolumePrompts
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.images.space import Arrangement, Spacing
from msformer_deploy.images.volume import Volume
from msformer_deploy.registry import find_system
from msformer_deploy.results import clinical
from msformer_deploy.segmenter import Segmentation, as_image
from msformer_deploy.volume_segmenter import VolumeSegmentation

SHAPE = (4, 10, 12)
SURE = Confidence(0.9, 0.6, 1.0, None)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    found = shipped_bundle(find_system("s3net").sized("fast"))
    assert found is not None
    return found


def segmentation(**volume: Any) -> VolumeSegmentation:
    """Two blocks in noise, of which the first is the mask."""
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 0.1, (4, 8, 8)).astype(np.float32)
    probability[1:3, 1:4, 1:4], probability[1:3, 5:7, 5:7] = 0.95, 0.6
    voxels = rng.integers(0, 256, SHAPE).astype(np.uint8)
    of = Volume(voxels, "v", np.eye(4), None, None, (0.0, 255.0), DicomSource((), ()), **volume)
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 1:5, 1:6] = True
    return VolumeSegmentation(
        of,
        rng.integers(0, 2, SHAPE).astype(np.uint8),
        mask,
        probability,
        np.ones(2, np.int64),
        False,
        SURE,
        [SURE] * 4,
        {},
        volume_candidates(probability),
    )


def test_candidates_are_drawn_when_a_format_needs_them(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    found = segmentation()
    assert len(found.candidates) > 1
    expected = np.stack([found.candidates[1].at_size(index, *SHAPE[1:]) for index in range(SHAPE[0])])
    drawn: list[int] = []
    at_size = VolumeCandidate.at_size

    def noted(self: VolumeCandidate, index: int, *size: int) -> Any:
        drawn.append(index)
        return at_size(self, index, *size)

    monkeypatch.setattr(VolumeCandidate, "at_size", noted)
    result = clinical.of_volume(found, bundle, "object", 1)
    assert sorted(result.candidates) == list(range(2, len(found.candidates) + 1))
    assert not drawn
    fraction = result.candidates[2].area_fraction
    assert fraction == pytest.approx(expected.mean())
    assert 0 < fraction < 1
    assert drawn == [0, 1, 2, 3]
    again = clinical.of_volume(found, bundle, "object", 1).candidates[2]
    np.testing.assert_array_equal(again.mask(), expected)
    assert again.area_fraction == pytest.approx(fraction)
    assert drawn == [0, 1, 2, 3] * 2, "what is drawn for a file is measured at once"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("flipped", [(False, False, False), (True, False, False), (False, True, False), (True,) * 3])
def test_overlays_lie_as_the_slices_are_stored(
    bundle: Bundle, tmp_path: Path, order: Any, flipped: tuple[bool, bool, bool]
) -> None:
    turn = Arrangement(order, flipped)
    found = clinical.of_volume(segmentation(arrangement=turn), bundle, "object", 1)
    expected = turn.undo(np.stack([found.overlay(index) for index in range(SHAPE[0])]))
    with clinical._stored_overlays(found, tmp_path) as pictures:
        np.testing.assert_array_equal(np.stack(list(pictures)), expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_space", [True, False])
def test_frames_in_time_have_no_volume_in_voxels(bundle: Bundle, in_space: bool) -> None:
    result = clinical.of_volume(segmentation(in_space=in_space), bundle, "object", 1)
    measured = clinical.measured(result)
    assert measured.whole.volume == (40 if in_space else None)
    assert [each.area for each in measured.objects] == [20]
    placed = replace(result, volume=replace(result.volume, spacing=Spacing(0.5, 0.5, ""), thickness=2.0))
    assert clinical.measured(placed).whole.volume == (20 if in_space else None)


def test_a_result_says_whether_a_person_prompted_it(bundle: Bundle) -> None:
    plain = segmentation()
    shown = replace(plain, prompts=VolumePrompts([VolumePoint(1, 2, 3)]))
    assert [clinical.of_volume(each, bundle, "object", 1).prompted for each in (plain, shown)] == [False, True]
    mask = np.eye(10, dtype=bool)
    image = Segmentation(
        as_image(mask), mask.astype(np.uint8), mask, mask, np.ones(2, np.int64), [], False, np.eye(10), None, {}
    )
    prompted = replace(image, prompts=Prompts([Point(3, 3)]))
    assert [clinical.of_image(each, bundle, "object").prompted for each in (image, prompted)] == [False, True]
