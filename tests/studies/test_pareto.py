"""The search for presets: fronts, what is judged, and what the file saves computing again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scripts
from PIL import Image

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import UsageError
from msformer_deploy.images.read import resize_nearest
from msformer_deploy.measures.overlap import overlap, published_mask
from msformer_deploy.registry import SYSTEMS, RefineSettings
from msformer_deploy.segmenter import Segmenter


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("pareto")


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(1, 0.5), (2, 0.6), (3, 0.55)], [(1, 0.5), (2, 0.6)]),
        ([(3, 0.9), (1, 0.9), (2, 0.9)], [(1, 0.9)]),  # slower and no better
        ([(1, 0.5), (1, 0.7)], [(1, 0.7)]),  # as fast and worse
        ([(5, 0.1), (4, 0.2), (3, 0.3)], [(3, 0.3)]),
        ([], []),
    ],
)
def test_a_front_is_what_nothing_beats(script: ModuleType, points: list[Any], best: list[Any]) -> None:
    made = [script.Point(None, *point) for point in points]
    assert [(point.milliseconds, point.dsc) for point in script.front(made)] == best


def grid(script: ModuleType, **changes: Any) -> list[Any]:
    chosen = {"sides": [257], "precisions": ["fp32"], "steps": [0, 5], "strides": [8, 16], "lrs": [0.01]}
    return script.settings_of(**chosen | {"head_scales": [0.1, 0.2], "regions": [0]} | changes)


def test_settings_are_all_combinations_once(script: ModuleType) -> None:
    made = grid(script, sides=[129, 257])
    assert len(made) == len(set(made)) == len({each.key for each in made})
    learned = [each[2:] for each in made if each.side == 129 and each.steps == 5]
    assert sorted(learned) == [(5, stride, 0.01, scale, 0) for stride in (8, 16) for scale in (0.1, 0.2)]
    assert len([each for each in made if each.steps == 0]) == 2, "without steps only side and regions matter"
    assert len([each for each in grid(script, regions=[0, 2]) if each.steps == 0]) == 2
    setting = script.settings_of([257], ["fp32"], [5], [8], [0.01], [0.1], [3])[0]
    assert setting.refinement == RefineSettings(steps=5, regions=3)


def test_presets_are_always_among_the_settings_and_marked(script: ModuleType) -> None:
    known = {name: each for name, each in SYSTEMS["msformer"].presets.items() if each.refinement.mode != "full"}
    sides = {each.side or script.SYSTEM.side for each in known.values()}
    marked = script.presets(grid(script, sides=sorted(sides), precisions=["fp16", "fp32"]))
    assert marked.keys() == known.keys()
    for name, setting in marked.items():
        assert known[name].fits(setting.side, script.SYSTEM.blocks)
        assert setting.precision == "fp32"
        assert setting.steps == known[name].refinement.steps
        assert known[name].refinement.mode == "none" or setting.refinement == known[name].refinement
    assert script.presets(grid(script, sides=[1025])) == {}


@pytest.mark.parametrize("side", [129, 257])
def test_every_side_is_judged_at_one_size(script: ModuleType, side: int) -> None:
    rows, columns = np.mgrid[:side, :side] / (side - 1)
    labels = ((rows - 0.4) ** 2 + (columns - 0.5) ** 2 < 0.04).astype(np.uint8) + 3
    probability = np.where(labels == 4, 0.9, 0.1).astype(np.float32)
    truth = (np.mgrid[:257, :257][0] / 256 - 0.4) ** 2 + (np.mgrid[:257, :257][1] / 256 - 0.5) ** 2 < 0.04
    own = np.asarray(Image.fromarray(truth).resize((80, 60)))
    scores = script.scored(script.Sample(None, truth, own), labels, probability)
    assert scores["published"] > 0.985
    assert scores["label_free"] > 0.95
    if side == 257:
        assert scores["published"] == overlap(published_mask(labels, truth), truth).dsc


@pytest.mark.parametrize("regions", [0, 2])
def test_what_is_judged_is_what_the_segmenter_makes(
    script: ModuleType, picture: np.ndarray, tiny_bundle: Bundle, regions: int
) -> None:
    image = np.pad(picture, ((30, 30), (40, 40), (0, 0)))  # a black frame, which regions have filled
    setting = script.Setting(33, "fp32", 2, 4, 0.03, 0.1, regions)
    result = Segmenter(tiny_bundle, backend="torch", settings=setting.refinement).segment(image)
    truth = result.mask.copy()
    truth[: len(truth) // 2] = True
    sample = script.Sample(result.image, script.at_published_side(truth), truth)
    with script.open_backend("torch", tiny_bundle, script.Device("cpu")) as encoder:
        found = script.judge(encoder, script.torch.from_numpy(tiny_bundle.head()), [setting], [sample])
    assert found[setting]["label_free"] == [overlap(result.mask, truth).dsc]
    labels = resize_nearest(result.labels, 257, 257)
    assert found[setting]["published"] == pytest.approx(
        [overlap(published_mask(labels, sample.common), sample.common).dsc], abs=0.01
    )


@pytest.fixture
def data(picture: np.ndarray, tmp_path: Path) -> Path:
    """Three images with masks, one whose mask is empty, and one without a mask."""
    images = {str(index): np.roll(picture, index, axis=2) for index in range(5)}
    masks = {str(index): scripts.disc() & (index != 1) for index in range(4)}
    return scripts.data_set(tmp_path / "data", images, masks)


def test_images_with_a_mask_are_taken(script: ModuleType, data: Path) -> None:
    samples = script.samples_of(data, None)
    assert [Path(sample.image.name).name for sample in samples] == ["0.png", "2.png", "3.png"]
    assert samples[0].own.shape == (60, 80)
    assert samples[0].common.shape == (257, 257)
    assert samples[0].common.mean() == pytest.approx(samples[0].own.mean(), rel=0.1)
    assert [Path(sample.image.name).name for sample in script.samples_of(data, 2)] == ["0.png", "2.png"]


def test_data_that_is_none_is_told(script: ModuleType, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither images/ and masks/ nor slices/"):
        script.samples_of(tmp_path, None)
    for path in (data / "masks").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="no mask has the name of an image"):
        script.samples_of(data, None)


def test_slices_are_read_where_h5py_is(script: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "slices").mkdir()
    for name in ("a", "b"):
        (tmp_path / "slices" / f"{name}.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="need h5py"):
        script.samples_of(tmp_path, None)
    labels = {"a.h5": np.zeros((40, 50), np.uint8), "b.h5": 3 * np.eye(40, 50, dtype=np.uint8)}
    values = np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50)

    class File(dict):
        def __init__(self, path: Path) -> None:
            super().__init__(image=values, label=labels[path.name])

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    (sample,) = script.samples_of(tmp_path, None)
    assert sample.image.name == "b.h5"
    assert (sample.image.pixels == values).all()
    assert sample.own.sum() == 40


@pytest.fixture
def call(script: ModuleType, data: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: Any) -> Any:
    """The script on one side, that of the small bundle; notes the bundles it asks for."""
    asked: list[tuple[int, int]] = []

    def get(_: object, side: int, seed: int) -> Bundle:
        asked.append((side, seed))
        return tiny_bundle

    monkeypatch.setattr(script.Bundles, "get", get)

    def run(*arguments: object) -> tuple[int, list[tuple[int, int]]]:
        asked.clear()
        given = ["--data", data, "--sides", 33, "--steps", 0, 2, "--strides", 4, "--backend", "torch", "--rounds", 1]
        given += ["--json", tmp_path / "out.json", *arguments]
        monkeypatch.setattr(sys, "argv", ["pareto.py", *map(str, given)])
        return script.main(), list(asked)

    return run


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(call: Any, tmp_path: Path, capsys: Any) -> None:
    assert call("--picture", tmp_path / "a.png") == (0, [(33, 0)])
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 600
    first = json.loads((tmp_path / "out.json").read_text())
    assert (
        len(first["points"]) == len(first["times"]) == 5
    )  # no learning and two steps, each with all regions and with two; the preset
    for scores in first["points"].values():
        assert {name: len(values) for name, values in scores["data"].items()} == {"published": 3, "label_free": 3}
    for times in first["times"].values():
        assert times["milliseconds"] == times["encoder_ms"] + times["refine_ms"]
        assert times["backend"] == "torch"
    out = capsys.readouterr().out
    assert "published, data" in out
    assert "label-free, mean of the data sets" in out

    assert call() == (0, [])
    assert json.loads((tmp_path / "out.json").read_text()) == first
    assert call("--strides", 4, 8) == (0, [(33, 0)])
    more = json.loads((tmp_path / "out.json").read_text())
    assert more["points"].items() >= first["points"].items()
    assert len(more["points"]) == 7
    assert call("--limit", 2) == (0, [(33, 0)]), "scores on other images are no scores on these"

    assert call("--retime") == (0, [(33, 0)])
    again = json.loads((tmp_path / "out.json").read_text())
    assert (
        again["times"]["side 33, fp32, 2 steps, stride 4, lr 0.01, head scale 0.1, regions all"]["encoder_ms"]
        != (first["times"]["side 33, fp32, 2 steps, stride 4, lr 0.01, head scale 0.1, regions all"]["encoder_ms"])
    )


def test_the_score_of_a_point_is_the_mean_over_images_seeds_and_data_sets(script: ModuleType, tmp_path: Path) -> None:
    sweep = script.Sweep(tmp_path / "a.json", False, {})
    (setting, *_) = grid(script)
    sweep.times[setting.key] = {"milliseconds": 12.0}
    for seed, name, scores in ((0, "a", [0.2, 0.4]), (1, "a", [0.5, float("nan")]), (0, "b", [0.8]), (1, "b", [1.0])):
        sweep.keep(setting, seed, name, {"published": scores, "label_free": [0.0] * len(scores)})
    points = script.points_of(sweep, [setting], [0, 1], ["a", "b"], "published")
    assert {name: each[0].dsc for name, each in points.items()} == pytest.approx(
        {"a": 0.4, "b": 0.9, script.MEAN: 0.65}
    )
    assert points["a"][0].milliseconds == 12


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_no_sweep_is_one_line(call: Any, tmp_path: Path, capsys: Any, content: str) -> None:
    (tmp_path / "out.json").write_text(content)
    assert call() == (2, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert (tmp_path / "out.json").read_text() == content
