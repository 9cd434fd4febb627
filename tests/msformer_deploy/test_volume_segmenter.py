"""Volumes through the whole way: a label map of one meaning, a mask, and what to expect of it."""

from __future__ import annotations

import numpy as np
import pytest
from locations import DATA

from msformer_deploy import volume_segmenter
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import shipped_bundle
from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.foreground import rules
from msformer_deploy.foreground.view import View
from msformer_deploy.foreground.volume_prompts import VolumeBox, VolumePoint, VolumePrompts
from msformer_deploy.images.read import read_image, read_stored
from msformer_deploy.images.sources import DicomSource
from msformer_deploy.images.space import Spacing
from msformer_deploy.images.volume import Volume
from msformer_deploy.refinement.volume import SliceResult
from msformer_deploy.registry import find_system
from msformer_deploy.segmenter import Segmenter
from msformer_deploy.volume_segmenter import VolumeSegmentation, VolumeSegmenter, _Slices

SHAPE = (6, 40, 52)
BALL = np.s_[1:5]  # slices that it is in


def volume_of(voxels: np.ndarray, span: tuple[float, float] = (-200.0, 300.0)) -> Volume:
    return Volume(
        voxels, "ball.nii", np.diag([0.5, 0.5, 2.0, 1.0]), Spacing(0.5, 0.5, "file"), 2.0, span, DicomSource((), ())
    )


@pytest.fixture(scope="module")
def ball() -> tuple[Volume, np.ndarray]:
    """A bright ball in noise, int16, and where it is."""
    rng = np.random.default_rng(0)
    slices, rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    inside = (rows - 20) ** 2 + (columns - 26) ** 2 + (12 * (slices - 2.5) / 2) ** 2 < 11**2
    voxels = np.where(inside, 200, -100) + rng.normal(0, 12, SHAPE)
    return volume_of(voxels.astype(np.int16)), inside


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    found = shipped_bundle(find_system("s3net").sized("fast"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def segmenter(bundle: Bundle) -> Segmenter:
    return Segmenter(bundle, backend="onnxruntime")


@pytest.fixture(scope="module")
def found(segmenter: Segmenter, ball: tuple[Volume, np.ndarray]) -> VolumeSegmentation:
    return VolumeSegmenter(segmenter).segment(ball[0])


def dsc(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def test_the_mask_of_a_ball(segmenter: Segmenter, ball: tuple[Volume, np.ndarray]) -> None:
    volume, inside = ball
    seen = []
    result = VolumeSegmenter(segmenter).segment(volume, lambda *each: seen.append(each))
    assert seen == [(done, 12) for done in range(1, 13)]
    assert (result.labels.shape, result.mask.shape, result.mask.dtype) == (SHAPE, SHAPE, np.dtype(bool))
    assert dsc(result.mask, inside) > 0.9
    assert result.counts.sum() == len(volume) * segmenter.bundle.sizes.side**2
    assert result.label_count == np.unique(result.labels).size == 2
    assert result.confidence is not None
    assert 0 <= result.confidence.low <= result.confidence.value <= 1
    empty = [not each.any() for each in result.mask]
    assert [each is None for each in result.slices] == empty
    assert result.probability_of(2).shape == SHAPE[1:]
    assert result.overlay(2).shape == (*SHAPE[1:], 3)
    assert result.seconds.keys() == {"learn", "segment", "foreground"}


def test_an_inverted_volume_has_the_same_mask(segmenter: Segmenter, ball: tuple[Volume, np.ndarray]) -> None:
    volume, inside = ball
    negative = volume_of((-volume.voxels).astype(np.int16), (-300.0, 200.0))
    object.__setattr__(negative, "inverted", True)
    result = VolumeSegmenter(segmenter).segment(negative)
    assert dsc(result.mask, inside) > 0.9
    np.testing.assert_allclose(negative.picture(0).pixels, volume.picture(0).pixels, atol=1e-6)


def test_features_that_are_not_kept_are_computed_again(
    segmenter: Segmenter,
    ball: tuple[Volume, np.ndarray],
    found: VolumeSegmentation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = segmenter.bundle.sizes
    monkeypatch.setattr(volume_segmenter, "FEATURE_BYTES", 2 * size.side**2 * size.clusters * 4)
    again = VolumeSegmenter(segmenter).segment(ball[0])
    np.testing.assert_array_equal(again.labels, found.labels)
    np.testing.assert_array_equal(again.mask, found.mask)


@pytest.mark.slow
def test_the_batch_changes_no_result(
    segmenter: Segmenter,
    ball: tuple[Volume, np.ndarray],
    found: VolumeSegmentation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last batch is not full, and in the second pass three of the first four slices are kept."""
    by_batches = VolumeSegmenter(segmenter, 4)
    by_batches.open()
    calls, seen = [], []
    encode = by_batches._backend.volume_features

    def noted(images: np.ndarray) -> object:
        encoded = encode(images)
        calls.append(len(images))
        monkeypatch.setattr(volume_segmenter, "FEATURE_BYTES", 3 * encoded.features[0].nbytes)
        return encoded

    monkeypatch.setattr(by_batches._backend, "volume_features", noted)
    result = by_batches.segment(ball[0], lambda *each: seen.append(each))
    assert calls == [4, 2, 1, 2]
    assert seen == [(done, 12) for done in range(1, 13)]
    np.testing.assert_array_equal(result.labels, found.labels)
    np.testing.assert_array_equal(result.mask, found.mask)
    np.testing.assert_array_equal(result.probability, found.probability)


def test_a_batch_of_nothing(segmenter: Segmenter) -> None:
    with pytest.raises(UsageError, match="a batch of 0 slices; pass 1 or more"):
        VolumeSegmenter(segmenter, 0)


def test_rules_look_at_the_volume(bundle: Bundle, ball: tuple[Volume, np.ndarray]) -> None:
    """Two objects: the larger in volume is smaller in the slice that both are in."""
    _, rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    slices = np.arange(SHAPE[0])[:, None, None]
    column = (rows - 20) ** 2 + (columns - 14) ** 2 < 8**2
    plate = ((rows - 20) ** 2 + (columns - 38) ** 2 < 10**2) & (slices == 3)
    voxels = np.where(column | plate, 250, -150) + np.random.default_rng(1).normal(0, 8, SHAPE)
    segmenter = Segmenter(bundle, backend="onnxruntime", foreground_rule="largest")
    mask = VolumeSegmenter(segmenter).segment(volume_of(voxels.astype(np.float32))).mask
    assert dsc(mask, column & np.ones(SHAPE, bool)) > 0.85
    assert mask[3][plate[3]].mean() < 0.1
    both = VolumeSegmenter(Segmenter(bundle, backend="onnxruntime", foreground_rule="all")).segment(
        volume_of(voxels.astype(np.float32))
    )
    assert both.mask[3][plate[3]].mean() > 0.8


def test_the_brightness_of_a_cluster_is_its_mean_over_all_slices(
    ball: tuple[Volume, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, seen = np.random.default_rng(0), []
    slices = _Slices(ball[0], 3, redrawn=False)
    labels = [(rng.random((33, 33)) < share).astype(np.uint8) for share in (0.1, 0.9)]  # cluster 2 is nowhere
    views = [View(rng.random((3, 33, 33)).astype(np.float32) * light) for light in (1.0, 0.2)]
    for each, view in zip(labels, views, strict=True):
        slices.add(SliceResult(each, np.full((33, 33), 0.5, np.float32)), view)

    def chosen(rule: object, drawn: np.ndarray, fields: np.ndarray, shades: np.ndarray) -> np.ndarray:
        seen.append(shades)
        raise ImageError("seen")

    monkeypatch.setattr(rules, "choose_in_volume", chosen)
    with pytest.raises(ImageError, match="seen"):
        slices.chosen(rules.parse_rule("largest"), None)
    light = np.concatenate([view.brightness.ravel() for view in views])
    flat = np.concatenate([each.ravel() for each in labels])
    np.testing.assert_allclose(seen[0], [light[flat == 0].mean(), light[flat == 1].mean(), 0], rtol=1e-5)


@pytest.mark.slow
def test_the_lungs_of_a_made_chest(bundle: Bundle) -> None:
    """Hounsfield units with noise; above and below the lungs there are slices without them."""
    shape = (8, 96, 96)
    slices, rows, columns = np.meshgrid(*(np.linspace(-0.5, 0.5, side) for side in shape), indexing="ij")
    body = np.hypot(rows / 0.35, columns / 0.45) < 1
    lungs = np.logical_or.reduce(
        [(rows / 0.22) ** 2 + ((columns - side) / 0.14) ** 2 + (slices / 0.4) ** 2 < 1 for side in (-0.2, 0.2)]
    )
    windpipe = (np.hypot(rows + 0.05, columns) < 0.028) & (slices < 0)
    table = (np.abs(rows - 0.42) < 0.012) & (np.abs(columns) < 0.4)
    voxels = np.select([lungs, windpipe, body, table], [-850, -1000, 40, 200], -1000)
    voxels = (voxels + np.random.default_rng(0).normal(0, 40, shape)).astype(np.int16)
    segmenter = Segmenter(bundle, backend="onnxruntime", foreground_rule="lung-ct")
    result = VolumeSegmenter(segmenter, 4).segment(volume_of(voxels, (-1350.0, 150.0)))
    assert dsc(result.mask, lungs) > 0.9
    assert [each.any() for each in result.mask] == [each.any() for each in lungs]
    with pytest.raises(
        ImageError, match=r"ball\.nii, slice 4: is an image, and foreground lung-ct is for volumes; choose another"
    ):
        segmenter.segment(volume_of(voxels, (-1350.0, 150.0)).picture(3))


@pytest.mark.slow
@pytest.mark.data
def test_the_lungs_of_real_slices(bundle: Bundle) -> None:
    """Volumes of one slice; air is white in these images."""
    found = VolumeSegmenter(Segmenter(bundle, backend="onnxruntime", foreground_rule="lung-ct"))
    for path in sorted((DATA / "lung_ct" / "images").iterdir()):
        grey = read_image(path).pixels[None, ..., 0]
        truth = read_stored(DATA / "lung_ct" / "masks" / path.name).values
        lungs = (truth if truth.ndim == 2 else truth[..., 0]) > 0
        assert dsc(found.segment(volume_of(grey, (0.0, 255.0))).mask[0], lungs) > 0.95, path.name


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, np.ndarray, np.ndarray]:
    """Two ellipsoids in noise that look alike, and where each is. Slices lie 2 mm apart, rows and columns half a mm."""
    shape = (7, 64, 80)
    slices, rows, columns = np.mgrid[: shape[0], : shape[1], : shape[2]]
    one, other = (
        ((slices - at) / 2.4) ** 2 + ((rows - row) / 12) ** 2 + ((columns - column) / 11) ** 2 < 1
        for at, row, column in ((2.5, 22, 20), (3.5, 40, 58))
    )
    voxels = np.where(one | other, 200, 0) + np.random.default_rng(2).normal(0, 40, shape)
    return volume_of(voxels.astype(np.int16)), one, other


def in_millimetres(column: float, row: float, index: float) -> tuple[float, float, float]:
    return 0.5 * column, 0.5 * row, 2.0 * index


def test_a_point_asks_for_the_object_that_it_is_on_in_all_of_its_slices(
    segmenter: Segmenter, pair: tuple[Volume, np.ndarray, np.ndarray]
) -> None:
    volume, one, other = pair
    shown = VolumePrompts([VolumePoint(*in_millimetres(20, 22, 4))])
    result = VolumeSegmenter(segmenter).segment(volume, prompts=shown)
    assert dsc(result.mask, one) > 0.93
    assert (result.mask & other).sum() < 0.01 * one.sum()
    assert result.mask[4, 22, 20]
    assert result.prompts is shown
    assert result.seconds.keys() == {"learn", "segment", "prompts", "foreground"}
    assert [each.any() for each in result.mask] == [each.any() for each in one]  # the other goes on, one slice more


def test_nothing_is_outside_a_box_and_points_are_obeyed_in_every_candidate(
    segmenter: Segmenter, pair: tuple[Volume, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = pair[0]
    monkeypatch.setattr(volume_segmenter, "FEATURE_BYTES", 0)  # all features are computed again
    box = VolumeBox(*in_millimetres(47, 28, 2), *in_millimetres(69, 52, 4))
    points = [VolumePoint(*in_millimetres(49, 30, 4)), VolumePoint(*in_millimetres(58, 40, 3), inside=False)]
    result = VolumeSegmenter(segmenter).segment(volume, prompts=VolumePrompts(points, [box]))
    bounds = np.zeros(volume.shape, bool)
    bounds[2:5, 28:53, 47:70] = True
    masks = [
        result.mask,
        *(np.stack([each.at_size(index, 64, 80) for index in range(7)]) for each in result.candidates),
    ]
    for mask in masks:
        assert not (mask & ~bounds).any()
        assert mask[4, 30, 49]
        assert not mask[3, 40, 58]


def test_a_box_asks_for_what_is_in_it(segmenter: Segmenter, pair: tuple[Volume, np.ndarray, np.ndarray]) -> None:
    volume, _, other = pair
    box = VolumeBox(*in_millimetres(47, 28, 2), *in_millimetres(69, 52, 5))
    mask = VolumeSegmenter(segmenter).segment(volume, prompts=VolumePrompts(boxes=[box])).mask
    assert dsc(mask, other) > 0.9


def test_prompts_are_refused_where_they_cannot_be_obeyed(bundle: Bundle, ball: tuple[Volume, np.ndarray]) -> None:
    shown = VolumePrompts([VolumePoint(1, 1, 1)])
    largest = Segmenter(bundle, backend="onnxruntime", foreground_rule="largest")
    with pytest.raises(UsageError, match="foreground largest takes no prompts; choose auto or candidate:N"):
        VolumeSegmenter(largest).segment(ball[0], prompts=shown)
    with pytest.raises(UsageError, match="point 1,1,90 is not in the volume"):
        VolumeSegmenter(Segmenter(bundle, backend="onnxruntime")).segment(
            ball[0], prompts=VolumePrompts([VolumePoint(1, 1, 90)])
        )


def test_a_cluster_by_its_id(bundle: Bundle, ball: tuple[Volume, np.ndarray], found: VolumeSegmentation) -> None:
    labels = found.labels
    number = int(labels[2, 20, 26])
    segmenter = Segmenter(bundle, backend="onnxruntime", foreground_rule=f"cluster:{number}")
    result = VolumeSegmenter(segmenter).segment(ball[0])
    assert dsc(result.mask, labels == number) > 0.99
    # The probability is of the figure, and a cluster may be anything.
    assert (result.confidence, result.slices) == (None, [None] * len(ball[0]))


def test_colours(segmenter: Segmenter, ball: tuple[Volume, np.ndarray]) -> None:
    voxels = np.where(ball[1][..., None], (200, 60, 60), (60, 60, 120)).astype(np.uint8)
    result = VolumeSegmenter(segmenter).segment(volume_of(voxels))
    assert dsc(result.mask, ball[1]) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch"}, "backend torch cannot segment volumes; choose one of auto, onnxruntime"),
        ({"backend": "onnxruntime", "foreground_rule": "candidate:3"}, "ball.nii: has only "),
    ],
)
def test_what_cannot_be(tiny_bundle: Bundle, ball: tuple[Volume, np.ndarray], options: dict, message: str) -> None:
    with pytest.raises((UsageError, ImageError), match=message):
        VolumeSegmenter(Segmenter(tiny_bundle, **options)).segment(ball[0])


def test_mode_full_is_for_images(tiny_bundle: Bundle, ball: tuple[Volume, np.ndarray]) -> None:
    from msformer_deploy.registry import RefineSettings

    segmenter = Segmenter(tiny_bundle, settings=RefineSettings(mode="full", steps=1))
    with pytest.raises(UsageError, match="volumes are learned in closed form; drop --refine full"):
        VolumeSegmenter(segmenter).segment(ball[0])


def test_a_complete_bundle_and_another_seed(tiny_bundle: Bundle, ball: tuple[Volume, np.ndarray]) -> None:
    own = VolumeSegmenter(Segmenter(tiny_bundle, backend="onnxruntime")).segment(ball[0])
    other = VolumeSegmenter(Segmenter(tiny_bundle, backend="onnxruntime", seed=5)).segment(ball[0])
    assert own.labels.shape == other.labels.shape
    assert not np.array_equal(own.labels, other.labels)
