"""The public API: what a segmentation holds, which settings a request means, what is refused."""

from __future__ import annotations

import gc
import io
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pictures import GREY, RGB, UPRIGHT
from PIL import Image

import msformer_deploy
from msformer_deploy import ImageError, RefineSettings, Segmenter, UsageError, load_bundle, read_image, segmenter
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import DeployError
from msformer_deploy.foreground.prompts import Box, Point, Prompts
from msformer_deploy.images.read import image_from_array
from msformer_deploy.refinement import head, strategies
from msformer_deploy.refinement.stopwatch import WallStopwatch
from msformer_deploy.segmenter import as_image, resolve_refinement


def test_every_public_name_exists():
    assert all(getattr(msformer_deploy, name) is not None for name in msformer_deploy.__all__)


def test_an_image_can_be_a_path_an_array_or_read_before(tiny_bundle, images, picture):
    segmenter = Segmenter(tiny_bundle, whole_graph=False)
    path = images / "a.png"
    results = [segmenter.segment(source) for source in (path, str(path), picture, read_image(path))]
    for result in results:
        assert result.labels.shape == result.mask.shape == picture.shape[:2]
        assert result.labels.dtype == np.uint8
        assert result.mask.dtype == bool
        assert np.array_equal(result.labels, results[0].labels)
        assert np.array_equal(result.mask, results[0].mask)
        assert result.overlay().shape == picture.shape
    assert {"decode", "preprocess", "encoder", "refine", "foreground"} == set(results[0].seconds)
    assert results[0].label_count == (results[0].counts > 0).sum()
    assert len(results[0].trace) <= tiny_bundle.refinement.steps


def test_the_mask_finds_the_disc(picture, tiny_bundle):
    """Not a quality measure; the whole path must put the object where it is."""
    mask = Segmenter(tiny_bundle).segment(picture).mask
    rows, columns = np.mgrid[:60, :80]
    truth = (rows - 30) ** 2 + (columns - 40) ** 2 < 15**2
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_backends_give_the_same_labels(tiny_bundle, picture, backend):
    reference = Segmenter(tiny_bundle, backend="torch").segment(picture)
    other = Segmenter(tiny_bundle, backend=backend)
    assert (other.segment(picture).labels == reference.labels).mean() >= 0.999
    assert other.backend_name == backend
    assert other.provider == {"onnxruntime": "CPUExecutionProvider", "torch": "cpu"}[backend]


def test_candidates_are_at_the_size_of_the_image_and_the_first_is_the_mask(tiny_bundle, picture):
    result = Segmenter(tiny_bundle).segment(picture)
    assert 1 <= len(result.candidates) <= 3
    assert all(each.mask.shape == picture.shape[:2] for each in result.candidates)
    assert np.array_equal(result.candidates[0].mask, result.mask)
    assert result.candidates[0].confidence == result.confidence
    last = len(result.candidates)
    taken = Segmenter(tiny_bundle, foreground_rule=f"candidate:{last}").segment(picture)
    assert np.array_equal(taken.mask, result.candidates[-1].mask)


def test_no_dsc_is_expected_of_a_mask_that_is_not_the_figure(tiny_bundle, picture):
    result = Segmenter(tiny_bundle, foreground_rule="largest").segment(picture)
    assert result.mask.any()
    assert not result.mask.all()
    assert result.confidence is None


def test_candidates_stay_in_the_box_of_the_prompts(tiny_bundle, picture):
    result = Segmenter(tiny_bundle).segment(picture, prompts=Prompts(box=Box(40, 10, 69, 49)))
    inside = np.zeros(picture.shape[:2], bool)
    inside[10:50, 40:70] = True
    assert result.candidates
    assert not any((each.mask & ~inside).any() for each in result.candidates)


def test_a_mask_in_a_close_box_fills_it(tiny_bundle, picture):
    rows, columns = np.mgrid[:60, :80]
    truth = (rows - 30) ** 2 + (columns - 40) ** 2 < 15**2
    mask = Segmenter(tiny_bundle).segment(picture, prompts=Prompts(box=Box(26, 16, 54, 44))).mask
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9


def test_prompts_of_one_image_change_no_other_of_its_batch(tiny_bundle, picture):
    segmenter, shown = Segmenter(tiny_bundle), Prompts([Point(40, 30), Point(5, 5, inside=False)])
    sources = [image_from_array(array) for array in (picture, picture[::-1])]
    with_prompts, other = segmenter.segment_batch(sources, prompts=[shown, None])
    assert np.allclose(with_prompts.probability, segmenter.segment(picture, prompts=shown).probability, atol=1e-4)
    assert np.allclose(other.probability, segmenter.segment(picture[::-1]).probability, atol=1e-4)
    assert np.abs(with_prompts.probability - segmenter.segment(picture).probability).max() > 0.01


def test_prompts_need_no_torch(tiny_bundle, picture, monkeypatch):
    segmenter = Segmenter(tiny_bundle)
    assert segmenter.whole_graph
    plain = segmenter.segment(picture)
    monkeypatch.setitem(sys.modules, "torch", None)
    segmenter.segment(picture, prompts=Prompts([Point(40, 30)]))
    assert np.allclose(plain.probability, segmenter.segment(picture).probability, atol=1e-4)
    assert segmenter.whole_graph


SHOWN = (
    Prompts([Point(40, 30), Point(5, 5, inside=False)]),
    Prompts(box=Box(20, 10, 69, 49)),
    Prompts([Point(41, 21)], (Box(30, 12, 60, 40), Box(61, 20, 79, 50))),
)


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.needs("openvino"))])
def test_prompts_in_the_graph_are_those_in_torch(tiny_bundle, picture, backend):
    whole, torch = Segmenter(tiny_bundle, backend=backend), Segmenter(tiny_bundle, whole_graph=False)
    for shown in (None, *SHOWN):
        got, expected = (each.segment(picture, prompts=shown) for each in (whole, torch))
        np.testing.assert_allclose(got.probability, expected.probability, atol=1e-3)
        assert (got.mask == expected.mask).mean() > 0.99


@pytest.mark.parametrize("whole_graph", [True, False])
def test_a_session_gives_what_the_prompts_give_together_and_takes_them_back(tiny_bundle, picture, whole_graph):
    segmenter = Segmenter(tiny_bundle, whole_graph=whole_graph)
    session = segmenter.open(picture)
    assert session.prompts is None
    plain = session.segmentation
    assert np.array_equal(plain.mask, segmenter.segment(picture).mask)
    first = session.add(Point(40, 30))
    second = session.add(Box(20, 10, 69, 49))
    together = segmenter.segment(picture, prompts=Prompts([Point(40, 30)], Box(20, 10, 69, 49)))
    np.testing.assert_allclose(second.probability, together.probability, atol=1e-5)
    assert np.array_equal(second.mask, together.mask)
    assert np.array_equal(second.labels, plain.labels)
    with pytest.raises(UsageError, match="point 40,900 is not in the image"):
        session.add(Point(40, 900))
    assert session.segmentation is second
    again = session.undo()
    assert again.prompts == first.prompts == Prompts((Point(40, 30),))
    assert np.array_equal(again.probability, first.probability)
    assert np.array_equal(again.mask, first.mask)
    assert session.undo() is plain
    with pytest.raises(UsageError, match="there is no prompt to take back"):
        session.undo()


def test_a_session_keeps_no_former_results(tiny_bundle, picture):
    session = Segmenter(tiny_bundle).open(picture)
    former = weakref.ref(session.add(Point(40, 30)))
    session.add(Point(20, 30))
    gc.collect()
    assert former() is None


@pytest.mark.parametrize("shown", [Point(40, 30), [Point(40, 30)], (40, 30), {"points": []}])
def test_what_are_no_prompts_is_one_line(tiny_bundle, picture, shown):
    segmenter = Segmenter(tiny_bundle)
    with pytest.raises(UsageError, match=r"pass Prompts\(\[Point\(60, 45\)\]\)$"):
        segmenter.segment(picture, prompts=shown)


def test_a_session_obeys_every_prompt(tiny_bundle, picture):
    height, width = picture.shape[:2]
    session, rng = Segmenter(tiny_bundle).open(picture), np.random.default_rng(0)
    points = [
        Point(int(x), int(y), inside=bool(index % 3))
        for index, (x, y) in enumerate(zip(rng.permutation(width)[:9], rng.permutation(height)[:9], strict=True))
    ]
    for count, point in enumerate(points, 1):
        found = session.add(point)
        assert all(found.mask[each.y, each.x] == each.inside for each in points[:count])


def test_without_a_bundle_it_is_the_one_of_the_package(picture):
    segmenter = Segmenter()
    assert (segmenter.bundle.system, segmenter.bundle.complete, segmenter.whole_graph) == ("msformer", False, True)
    assert segmenter.segment(picture).mask.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreground_rule": "largest"}, "^foreground largest takes no prompts; choose auto or candidate:N$"),
    ],
)
def test_what_takes_no_prompts_refuses_them(tiny_bundle, picture, options, message):
    with pytest.raises(UsageError, match=message):
        Segmenter(tiny_bundle, **options).segment(picture, prompts=Prompts([Point(40, 30)]))


def test_a_batch_gives_what_its_images_give_alone(tiny_bundle, picture):
    segmenter = Segmenter(tiny_bundle)
    sources = [image_from_array(array) for array in (picture, picture[::-1], picture[:, ::-1, ::-1])]
    for source, together in zip(sources, segmenter.segment_batch(sources), strict=True):
        assert np.array_equal(together.labels, segmenter.segment(source).labels)


def test_the_whole_graph_gives_the_labels_of_the_two_parts(tiny_bundle, picture):
    whole = Segmenter(tiny_bundle, whole_graph=True).segment(picture)
    parts = Segmenter(tiny_bundle).segment(picture)
    assert (whole.labels == parts.labels).mean() >= 0.999
    assert whole.trace == []
    assert "whole_graph" in whole.seconds


def test_seeds_draw_what_is_learned(tiny_bundle, picture):
    own, same, other = (Segmenter(tiny_bundle, seed=seed).segment(picture).labels for seed in (None, 0, 5))
    assert np.array_equal(own, same)
    assert not np.array_equal(own, other)
    assert np.array_equal(other, Segmenter(tiny_bundle, seed=5).segment(picture).labels)


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_full_refinement_starts_from_the_same_network_every_time(tiny_bundle, picture, seed):
    settings = RefineSettings(mode="full", steps=2, lr=0.1, stop_labels=0)
    segmenter = Segmenter(tiny_bundle, settings=settings, seed=seed)
    first, second = segmenter.segment(picture), segmenter.segment(picture)
    assert np.array_equal(first.labels, second.labels)
    assert [step.inter_scale for step in first.trace] == [step.inter_scale for step in second.trace]
    assert segmenter.provider == "cpu"


def test_progress_is_reported(tiny_bundle, picture):
    seen: list[tuple[int, int]] = []
    Segmenter(tiny_bundle, whole_graph=False).segment(picture, lambda *step: seen.append(step))
    assert seen[0] == (1, tiny_bundle.refinement.steps)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, {"mode": "head", "steps": 5, "stride": 4}),
        ({"mode": "head"}, {"mode": "head", "steps": 5}),
        ({"steps": 9}, {"mode": "head", "steps": 9, "stride": 4}),
        ({"mode": "full"}, {"mode": "full", "steps": 50, "lr": 0.1, "inter_weight": 1.5, "intra_weight": 1.3}),
        ({"preset": "initial"}, {"mode": "none", "steps": 0}),
        ({"mode": "none"}, {"mode": "none", "steps": 0}),
    ],
)
def test_what_a_request_means(tiny_bundle, request_, expected):
    settings = resolve_refinement(tiny_bundle, **request_)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"preset": "best"}, "msformer has no preset 'best'"),
        ({"preset": "fast"}, "'fast' needs a bundle of side 97 and blocks 1, but .* has side 33 and blocks 2"),
        ({"preset": "initial", "mode": "head"}, "mode 'none', not 'head'"),
        ({"mode": "none", "steps": 3}, "makes no steps"),
    ],
)
def test_impossible_requests_are_refused(tiny_bundle, request_, said):
    with pytest.raises(UsageError, match=said):
        resolve_refinement(tiny_bundle, **request_)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backend": "tensorflow"}, "backend 'tensorflow'"),
        ({"device": "tpu"}, "tpu"),
        ({"foreground_rule": "best"}, "foreground 'best' is unknown"),
        ({"foreground_rule": "cluster:6"}, "this bundle, which has 6 clusters"),
        ({"whole_graph": True, "seed": 3}, "drop --whole-graph"),
        ({"whole_graph": True, "settings": RefineSettings(steps=1)}, "drop --whole-graph"),
        ({"backend": "onnxruntime", "settings": RefineSettings(mode="full")}, "onnxruntime"),
        ({"settings": RefineSettings(mode="full", repaired=True)}, "not msformer's mode 'full'"),
        ({"settings": RefineSettings(repaired=True)}, "not msformer's mode 'head'"),
    ],
)
def test_impossible_segmenters_are_refused(tiny_bundle, arguments, said):
    with pytest.raises(UsageError, match=said):
        Segmenter(tiny_bundle, **arguments)


FOUND = ["argmax", "figure", "foreground"]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({"whole_graph": False}, ["preprocess", "encoder", "sample"], FOUND),
        ({"settings": RefineSettings(mode="full", steps=2, stop_labels=0)}, ["preprocess"], FOUND),
        ({"settings": RefineSettings(mode="none", steps=0)}, ["preprocess", "encoder"], FOUND),
        ({"whole_graph": True}, ["preprocess", "whole_graph"], ["foreground"]),
        ({}, ["preprocess", "whole_graph"], ["foreground"]),
    ],
    ids=["head", "full", "none", "whole graph", "by default"],
)
def test_the_stages_of_a_call_are_what_its_images_took(tiny_bundle, picture, batch, options, before, after):
    results = Segmenter(tiny_bundle, **options).segment_batch([image_from_array(picture)] * batch)
    steps = [f"step {number + 1}" for number in range(len(results[0].trace))]
    assert list(results[0].stages) == [*before, *steps, *after]
    learned = {"whole_graph"} if "whole_graph" in before else {"refine"}
    for result in results:
        assert result.stages == results[0].stages
        assert set(result.seconds) == {*before, *learned, "foreground"} - {"sample"}
    together = sum(sum(result.seconds.values()) for result in results)
    assert together == pytest.approx(sum(results[0].stages.values()), rel=0.05, abs=0.02)


def test_on_a_gpu_fetching_the_labels_is_a_stage_of_the_learning(tiny_bundle, picture, monkeypatch):
    """The features stay on the CPU, which only poses as a GPU."""
    made = []
    monkeypatch.setattr(strategies, "CudaStopwatch", lambda device: made.append(device) or WallStopwatch())
    on_cpu, on_gpu = (Segmenter(tiny_bundle, whole_graph=False) for _ in range(2))
    on_gpu._strategy.device = "cuda:1"
    assert (on_cpu.on_gpu, on_gpu.on_gpu) == (False, True)
    expected, result = on_cpu.segment(picture), on_gpu.segment(picture)
    assert made == ["cuda:1"]
    assert list(result.stages)[-2:] == ["device_to_host", "foreground"]
    assert result.seconds.keys() == expected.seconds.keys()
    assert sum(result.seconds.values()) - result.seconds["decode"] == pytest.approx(
        sum(result.stages.values()), abs=5e-3
    )


def test_without_its_network_a_segmenter_travels_and_finishes(tiny_bundle, picture):
    segmenter = Segmenter(tiny_bundle)
    other = pickle.loads(pickle.dumps(segmenter.without_network()))
    (learned,) = segmenter.learn([other.prepare(as_image(picture))])
    expected, found = segmenter.finish(learned), other.finish(learned)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.labels, expected.labels)
    with pytest.raises(DeployError, match="the network is in the process that loaded the bundle"):
        other.learn([learned.prepared])


@pytest.mark.parametrize(
    "options",
    [{"backend": "torch"}, {"backend": "onnxruntime"}, {"backend": "openvino"}, {"whole_graph": True}],
    ids=["torch", "onnxruntime", "openvino", "whole graph"],
)
def test_threads_may_share_a_segmenter(tiny_bundle, picture, options):
    segmenter = Segmenter(tiny_bundle, **options)
    pictures = [image_from_array(np.roll(picture, 7 * shift, axis=1)) for shift in range(8)]
    serial = [segmenter.segment(each) for each in pictures]
    assert len({result.network_labels.tobytes() for result in serial}) > 4
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for alone, beside in zip(serial, pool.map(segmenter.segment, pictures), strict=True):
                assert np.array_equal(alone.labels, beside.labels)
                assert np.array_equal(alone.mask, beside.mask)
                assert [step.label_count for step in beside.trace] == [step.label_count for step in alone.trace]
                # Matrix libraries add in an order that depends on where the features lie in memory.
                losses = [[step.cross_entropy for step in each.trace] for each in (beside, alone)]
                assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_bundle_can_be_a_path(tiny_bundle, picture):
    by_path = Segmenter(str(tiny_bundle.path)).segment(picture)
    loaded = Segmenter(load_bundle(tiny_bundle.path)).segment(picture)
    assert np.array_equal(by_path.labels, loaded.labels)


def test_learning_takes_so_many_threads_and_gives_them_back(tiny_bundle, picture, monkeypatch):
    before, seen, real = torch.get_num_threads(), [], head.refine_head

    def learn(*arguments):
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise MemoryError
        return real(*arguments)

    expected = Segmenter(tiny_bundle, whole_graph=False).segment(picture)
    monkeypatch.setattr(head, "refine_head", learn)
    segmenter = Segmenter(tiny_bundle, whole_graph=False, learning_threads=before + 1)
    assert (segmenter.segment(picture).labels == expected.labels).all()
    assert torch.get_num_threads() == before
    with pytest.raises(MemoryError):
        segmenter.segment(picture)
    assert torch.get_num_threads() == before
    assert seen == [before + 1] * 2


# What can be segmented


def opened(picture, kind):
    """The picture in a file of some kind, still open."""
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, kind)
    stored.seek(0)
    return stored


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_images_of_pillow_are_turned(orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    stored = io.BytesIO()
    Image.fromarray(RGB).save(stored, "PNG", exif=exif)
    with Image.open(stored) as image:
        np.testing.assert_array_equal(segmenter.as_image(image).pixels, UPRIGHT[orientation or 1](RGB))
    np.testing.assert_array_equal(segmenter.as_image(Image.fromarray(RGB)).pixels, RGB)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "I;16B"],
)
def test_images_of_pillow_of_every_mode(mode):
    if mode.startswith("I;16"):
        image = Image.frombytes(mode, (32, 24), GREY.astype("<u2" if mode == "I;16" else ">u2").tobytes())
    elif mode == "RGBa":
        image = Image.fromarray(RGB).convert("RGBA").convert(mode)
    elif mode in ("La", "PA"):
        image = Image.fromarray(GREY).convert("LA").convert(mode)
    else:
        image = Image.fromarray(RGB if mode not in ("I", "F") else GREY).convert(mode)
    found = segmenter.as_image(image).pixels
    if mode in ("I", "F", "I;16", "I;16B"):
        array = np.frombuffer(image.tobytes(), {"I": "i4", "F": "f4", "I;16": "<u2", "I;16B": ">u2"}[mode])
        np.testing.assert_array_equal(found, image_from_array(array.reshape(24, 32)).pixels)
    else:
        plain = image.convert("LA") if mode == "La" else image  # the only conversion there is
        np.testing.assert_array_equal(found, np.array(plain.convert("RGBA").convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_bytes_and_files_are_as_the_path(kind, tmp_path):
    content = opened(GREY, kind).getvalue()
    (tmp_path / "a").write_bytes(content)
    expected = read_image(tmp_path / "a").pixels
    with (tmp_path / "a").open("rb") as file, (tmp_path / "a").open("rb", buffering=0) as raw:
        sources = [content, io.BytesIO(content), file, raw, io.BufferedReader(io.BytesIO(content))]
        for source in sources:
            np.testing.assert_array_equal(segmenter.as_image(source).pixels, expected)
    behind = io.BytesIO(b"header" + content)
    behind.seek(6)
    np.testing.assert_array_equal(segmenter.as_image(behind).pixels, expected)


class Pipe(io.RawIOBase):
    """A file in which nothing can be sought."""

    def __init__(self, content):
        self._rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._rest.readinto(buffer)


def test_a_file_that_cannot_be_sought_in():
    np.testing.assert_array_equal(segmenter.as_image(Pipe(opened(RGB, "PNG").getvalue())).pixels, RGB)


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", ">i4", ">f4", "f2", "f4", "f8", "g"]
)
def test_arrays_of_every_type_and_order(dtype):
    array = (GREY // 2 > 50 if dtype == "?" else GREY // 2).astype(dtype)
    expected = segmenter.as_image(array).pixels
    assert expected.dtype == (np.uint8 if dtype in ("?", "u1") else np.float32)
    for other in (array[:, ::-1][:, ::-1], np.asfortranarray(array), np.repeat(array, 2, axis=0)[::2]):
        np.testing.assert_array_equal(segmenter.as_image(other).pixels, expected)
    array.flags.writeable = False
    np.testing.assert_array_equal(segmenter.as_image(array).pixels, expected)


def closed(file):
    file.close()
    return file


def written(file):
    Image.fromarray(RGB).save(file, "PNG")
    return file


def test_tensors_on_the_cpu():
    np.testing.assert_array_equal(segmenter.as_image(torch.from_numpy(RGB)).pixels, RGB)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (lambda: torch.zeros(9, 9, requires_grad=True), "Parameter"),
        (lambda: torch.zeros(9, 9, device="meta"), "Tensor: is not an array"),
        (lambda: io.StringIO("x"), "file: is opened as text; open it with mode 'rb'"),
        (lambda: closed(io.BytesIO(b"x")), "file: is closed; open it again"),
        (lambda: written(io.BytesIO()), "file: stands at its end; call seek(0) on it first"),
        (lambda: io.BufferedWriter(io.BytesIO()), "file: is opened for writing alone; open it with mode 'rb'"),
        (lambda: np.ma.masked_equal(GREY, 3), "array: a masked array; pass array.filled(VALUE)"),
        (lambda: None, "array: object values are not intensities"),
        (lambda: 7, "array: shape () is not an image"),
    ],
)
def test_what_cannot_be_segmented(source, line):
    with pytest.raises(UsageError) as caught:
        segmenter.as_image(source())
    (message,) = str(caught.value).splitlines()
    assert message.startswith(line.replace("Parameter", "Tensor: is not an array"))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (b"", "bytes: the file is empty"),
        (b"nothing", "bytes: not a PNG"),
        (io.BytesIO(b"%PDF-1.7"), "file: is a PDF document"),
        (Image.new("L", (4, 4)), "image: 4 x 4 pixels is too small"),
        (Image.new("L", (9, 9)), "image: every pixel has the same value"),
    ],
)
def test_images_that_cannot_be_used(source, line):
    with pytest.raises(ImageError, match=line):
        segmenter.as_image(source)


def test_an_image_of_pillow_that_turns_out_to_be_damaged():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    content = opened(noise, "PNG").getvalue()
    with Image.open(io.BytesIO(content[:800])) as image, pytest.raises(ImageError, match="image: cannot be decoded"):
        segmenter.as_image(image)


def test_corrected_images_teach_a_new_segmenter(tiny_bundle: Bundle, picture: np.ndarray) -> None:
    segmenter = Segmenter(tiny_bundle)
    mask = np.zeros(picture.shape[:2], bool)
    mask[20:40, 25:55] = True
    before = segmenter.segment(picture)
    taught = segmenter.like([picture], [mask])
    assert (segmenter.head, taught.head.images) == (None, 1)
    after = taught.segment(picture)
    assert not np.array_equal(before.probability, after.probability)
    assert np.array_equal(before.labels, after.labels)
    assert np.array_equal(taught.with_head(None).segment(picture).probability, before.probability)
    session, point = taught.open(picture), Point(5, 5)
    assert np.array_equal(session.segmentation.probability, after.probability)
    shown = session.add(point)
    assert shown.mask[5, 5]
    alone = taught.segment(picture, prompts=Prompts([point]))
    assert np.abs(shown.probability - alone.probability).max() < 1e-4


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("a.png", "its mask is no array of numbers; give its pixels"),
        (None, "its mask is no array of numbers; give its pixels"),
        ([[1, 0], [1]], "the rows of its mask differ in length"),
    ],
)
def test_a_mask_that_is_no_array_cannot_teach(
    tiny_bundle: Bundle, picture: np.ndarray, mask: object, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Segmenter(tiny_bundle).like([picture], [mask])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("images", "mask", "said"),
    [
        (0, None, "0 images and 1 masks; give one mask for each image"),
        (1, np.zeros((60, 80)), "its corrected mask is empty"),
        (1, np.ones((60, 80)), "its corrected mask covers the whole image"),
        (1, np.ones((60, 81)), "a mask of 81 x 60 pixels for an image of 80 x 60"),
    ],
)
def test_what_cannot_teach(tiny_bundle: Bundle, picture: np.ndarray, images: int, mask: np.ndarray, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Segmenter(tiny_bundle).like([picture] * images, [mask])
