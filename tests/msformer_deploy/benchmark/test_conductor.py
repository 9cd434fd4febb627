"""In which order rows are measured, what is made of their samples, and what a failure costs: with made-up workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msformer_deploy.benchmark import accuracy, conductor
from msformer_deploy.benchmark.accuracy import Outcome
from msformer_deploy.benchmark.conductor import BLOCKS, Options
from msformer_deploy.benchmark.images import Images
from msformer_deploy.benchmark.plan import Failure, Row
from msformer_deploy.benchmark.process import RowFailed
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.bundle.shipped import default_bundle
from msformer_deploy.doctor import environment
from msformer_deploy.registry import RefineSettings

FULL = RefineSettings(mode="full")
LABELS = np.arange(16, dtype=np.uint8).reshape(4, 4) // 4
MASK = LABELS > 1


class Stage:
    """Everything that happens to workers, and what they are to do."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []  # who and what
        self.asked: list[dict[str, Any]] = []
        self.there = 0
        self.most = 0
        self.milliseconds: dict[str, float] = {}  # per call, by backend; 10 by default
        self.first_ms: dict[str, float] = {}  # of the first call, by backend
        self.fails: dict[tuple[str, str, int], RowFailed] = {}  # by backend, action and how many came before
        self.lost = 0.0  # of a call that no stage tells
        self.blocks_with_a_late_step = 0
        self.labels: dict[str, np.ndarray] = {}
        self.provider = "cpu"


class Fake:
    """A worker in name."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.name, self.calls = stage, "?", count()
        self.did: dict[str, int] = {}
        stage.there += 1
        stage.most = max(stage.most, stage.there)
        self.open = True

    def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        assert self.open
        stage = self.stage
        if action == "open":
            self.name = arguments["backend"]
            self.settings = arguments["settings"]
        stage.log.append((self.name, action))
        stage.asked.append({"do": action, "who": self.name, **json.loads(json.dumps(arguments))})
        before = self.did.get(action, 0)
        self.did[action] = before + 1
        if (self.name, action, before) in stage.fails:
            raise stage.fails[self.name, action, before]
        return {"warnings": [], **getattr(self, f"_{action}", lambda **_: {})(**arguments)}

    def _first(self) -> dict[str, Any]:
        on_gpu = self.stage.provider != "cpu"
        return {
            "load_s": 1.5,
            "first_run_ms": self.stage.first_ms.get(self.name, 99.0),
            "provider": self.stage.provider,
            "precision": "fp32",
            "threads": 2,
            "cuda_graph": False if on_gpu else None,
        }

    def _block(self, seconds: float, calls: int) -> dict[str, Any]:
        whole = [self.stage.milliseconds.get(self.name, 10.0) + 0.01 * (next(self.calls) % 3) for _ in range(calls)]
        halves = [(value - self.stage.lost) / 2 for value in whole]
        rare = {"step 9": [5.0] * calls} if self.did["block"] <= self.stage.blocks_with_a_late_step else {}
        return {"samples_ms": whole, "stages_ms": {"decode": halves, "encoder": halves, **rare}}

    def _finish(self, path: str) -> dict[str, Any]:
        labels = self.stage.labels.get(self.name, LABELS)
        accuracy.save(Path(path), {0: Outcome(labels, MASK), 1: Outcome(labels, MASK)})
        return {"peak_memory_mb": 321.0, "warnings": ["from a library"]}

    def _load(self, concurrency: int, seconds: float) -> dict[str, Any]:
        return {"concurrency": concurrency, "duration_s": seconds, "images": 7}

    def close(self, at_once: bool = False) -> None:
        if self.open:
            self.open = False
            self.stage.there -= 1
            self.stage.log.append((self.name, "killed" if at_once else "closed"))

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage()
    monkeypatch.setattr(conductor, "Worker", lambda: Fake(stage))
    monkeypatch.setattr(environment, "device_memory_mb", lambda: None)
    yield stage
    assert stage.there == 0
    assert stage.most <= 2


@pytest.fixture
def row(tiny_bundle: Bundle) -> Callable[..., Row]:
    """A row, by its backend."""

    def make(backend: str, **changes: Any) -> Row:
        settings = tiny_bundle.refinement
        made = Row(backend, tiny_bundle, backend, "fp32", "encoder", 1, settings, None, asked=True)
        return replace(made, **changes)

    return make


@pytest.fixture
def conduct(stage: Stage, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The report on rows; ``baseline`` is the place of one among them, keywords are options."""
    paths = tuple(tmp_path / f"{place}.png" for place in range(5))

    def measure(*rows: Row, baseline: int | None = None, **options: Any) -> dict[str, Any]:
        given = {"min_seconds": 1.0, "min_iterations": None, "warmup_seconds": 0.5, **options}
        beside = None if baseline is None else rows[baseline]
        report = conductor.conduct(rows, beside, Images(paths), Options(**given))
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        return report

    return measure


def test_blocks_take_turns_with_those_of_the_baseline(stage, conduct, row):
    stage.milliseconds = {"torch": 20.0, "onnxruntime": 10.0, "openvino": 5.0}
    report = conduct(row("torch"), row("onnxruntime"), row("openvino"))
    opened = ["open", "first", "warm"]
    assert stage.log == [
        *(("torch", action) for action in opened),
        *(("onnxruntime", action) for action in opened),
        *[("torch", "block"), ("onnxruntime", "block")] * BLOCKS,
        ("onnxruntime", "finish"),
        ("onnxruntime", "closed"),
        *(("openvino", action) for action in opened),
        *[("torch", "block"), ("openvino", "block")] * BLOCKS,
        ("openvino", "finish"),
        ("openvino", "closed"),
        ("torch", "finish"),
        ("torch", "killed"),
    ]
    torch, onnxruntime, openvino = report["rows"]
    assert [each["name"] for each in report["rows"]] == ["torch", "onnxruntime", "openvino"]
    assert report["settings"]["baseline"] == "torch"
    assert torch["speedup"] is None
    assert onnxruntime["speedup"]["ratio"] == pytest.approx(2, rel=0.01)
    assert onnxruntime["speedup"]["low"] == pytest.approx(2, rel=0.02)
    assert openvino["speedup"]["ratio"] == pytest.approx(4, rel=0.02)
    assert torch["iterations"] == 2 * onnxruntime["iterations"] == 2 * BLOCKS


def test_what_is_told_of_a_row(stage, conduct, row):
    report = conduct(row("torch", batch=4), threads=3, device="cpu")
    (told,) = report["rows"]
    assert told | {"samples_ms": None} == told | {
        "status": "ok",
        "reason": None,
        "provider": "cpu",
        "batch": 4,
        "refine": "head",
        "load_s": 1.5,
        "first_run_ms": 99.0,
        "peak_memory_mb": 321.0,
        "iterations": 10,
        "label_agreement": 1.0,
        "dice_torch": 1.0,
        "dice_truth": None,
        "peak_device_memory_mb": None,
        "speedup": None,
        "samples_ms": None,
    }
    assert told["p50_ms"] == pytest.approx(10.01)
    assert told["images_per_second"] == pytest.approx(4e3 / told["mean_ms"])
    assert told["stages_ms"] == pytest.approx({"decode": 5.005, "encoder": 5.005})
    assert told["stages_sum"] == pytest.approx(1)
    assert told["warnings"][-1] == "from a library"
    assert report["settings"]["images"] == 5
    assert report["settings"]["threads"] == 3
    assert report["environment"]["threads"] == {"asked": 3, "used": 2}
    assert report["load"] == []
    assert report["schema"] == 1


def test_what_workers_are_asked(stage, conduct, row):
    conduct(
        row("onnxruntime", batch=2, graph="segmenter"), threads=3, device="cuda:1", min_seconds=4, min_iterations=25
    )
    opened, _, warm, block = stage.asked[:4]
    asked = {"backend": "onnxruntime", "whole_graph": True, "batch": 2, "threads": 3, "device": "cuda:1", "judged": 5}
    assert asked.items() <= opened.items()
    assert len(opened["images"]) == 5
    assert (warm["seconds"], warm["calls"]) == (0.5, 2)  # 5 images, two of them met in the first call
    assert (block["seconds"], block["calls"]) == (4 / BLOCKS, 3)
    reference = next(each for each in stage.asked if each["who"] == "torch")
    asked = {"backend": "torch", "whole_graph": False, "batch": 1, "device": "cpu", "precision": "fp32"}
    assert asked.items() <= reference.items()


def test_speed_ups_are_by_image(stage, conduct, row):
    """Four images in twice the time are twice as fast."""
    stage.milliseconds = {"torch": 20.0, "onnxruntime": 40.0}
    report = conduct(row("torch"), row("onnxruntime", batch=4))
    assert report["rows"][1]["speedup"]["ratio"] == pytest.approx(2, rel=0.01)


def test_a_baseline_that_is_not_the_first_is_measured_beside_all_and_told_in_its_place(stage, conduct, row):
    report = conduct(row("openvino"), row("torch"), row("onnxruntime"), baseline=1)
    assert stage.log[0] == ("torch", "open")
    assert [each["name"] for each in report["rows"]] == ["openvino", "torch", "onnxruntime"]
    assert [each["speedup"] is None for each in report["rows"]] == [False, True, False]


@pytest.mark.parametrize(
    ("iterations", "first_ms", "expected"),
    [
        (None, 99.0, [1] * BLOCKS),
        (None, 5000.0, [1] * BLOCKS),
        (25, 5000.0, [3] * BLOCKS),
        (1, 99.0, [1] * BLOCKS),
        (4, 5000.0, [1] * 4),
        (1, 450.0, [1] * 2),
        (1, 5000.0, [1]),
    ],
)
def test_a_slow_row_has_no_more_blocks_than_calls(stage, conduct, row, iterations, first_ms, expected):
    stage.first_ms = {"onnxruntime": first_ms}
    conduct(row("torch"), row("onnxruntime"), min_iterations=iterations)
    calls = [each["calls"] for each in stage.asked if (each["do"], each["who"]) == ("block", "onnxruntime")]
    assert calls == expected


def test_mode_full_takes_one_call(stage, conduct, row):
    stage.first_ms = {"openvino": 60_000.0}
    report = conduct(row("torch"), row("openvino", name="f", settings=FULL))
    calls = [(each["who"], each["calls"]) for each in stage.asked if each["do"] == "block"]
    assert calls == [("torch", 10), ("openvino", 1)]
    assert [each["who"] for each in stage.asked if each["do"] == "warm"][:2] == ["torch", "torch"]
    assert report["rows"][1]["iterations"] == 1
    assert any("mode full takes long" in warning for warning in report["rows"][1]["warnings"])


@pytest.mark.parametrize(("lost", "warned"), [(0.2, False), (0.4, True)])
def test_stages_that_do_not_add_up_are_warned_of(stage, conduct, row, lost, warned):
    stage.lost = lost
    (told,) = conduct(row("torch"))["rows"]
    assert told["stages_sum"] == pytest.approx(1 - lost / 10, abs=1e-3)
    assert any("the stages' sum is" in each for each in told["warnings"]) == warned


@pytest.mark.parametrize(("blocks", "median"), [(2, 0.0), (BLOCKS - 2, 5.0)])
def test_a_stage_that_a_call_did_not_have_took_no_time(stage, conduct, row, blocks, median):
    """As the late steps of a refinement that stopped before them."""
    stage.blocks_with_a_late_step = blocks
    stage.lost = 5.0 * blocks / BLOCKS
    (told,) = conduct(row("torch"))["rows"]
    assert told["stages_ms"]["step 9"] == median
    assert told["stages_sum"] == pytest.approx(1)


def test_load_is_told_in_the_order_of_rows(stage, conduct, row):
    report = conduct(row("torch"), row("onnxruntime"), concurrency=(1, 4), duration=3.0)
    told = [(each["name"], each["concurrency"], each["duration_s"]) for each in report["load"]]
    assert told == [(name, threads, 3.0) for name in ("torch", "onnxruntime") for threads in (1, 4)]
    assert all("warnings" not in each for each in report["load"])
    finished, loaded = (stage.log.index(("torch", action)) for action in ("finish", "load"))
    assert finished < loaded, "memory is told before threads take more"


class TestAgreement:
    """With what rows are compared."""

    def test_the_row_that_is_torch_on_the_cpu_is_not_run_again(self, stage, conduct, row):
        stage.labels = {"onnxruntime": LABELS // 2}
        report = conduct(row("onnxruntime"), row("torch"))
        assert [who for who, action in stage.log if action == "open"] == ["onnxruntime", "torch"]
        assert [each["label_agreement"] for each in report["rows"]] == [0.5, 1.0]

    def test_otherwise_torch_is_run_once(self, stage, conduct, row):
        stage.provider = "cuda:0"
        report = conduct(row("onnxruntime"), row("torch"), row("openvino", batch=2))
        assert [who for who, action in stage.log if action == "open"] == ["onnxruntime", "torch", "openvino", "torch"]
        assert {"who": "torch", "do": "warm", "seconds": 0, "calls": 5} in stage.asked
        assert [each["dice_torch"] for each in report["rows"]] == [1.0] * 3

    def test_each_refinement_has_its_own(self, stage, conduct, row):
        none = RefineSettings(mode="none", steps=0)
        conduct(row("torch"), row("onnxruntime", settings=none))
        assert [who for who, action in stage.log if action == "open"] == ["torch", "onnxruntime", "torch"]

    def test_without_torch_nothing_is_compared(self, stage, conduct, row):
        stage.fails["torch", "open", 0] = RowFailed("no torch")
        report = conduct(row("onnxruntime"))
        assert report["rows"][0]["status"] == "ok"
        assert report["rows"][0]["label_agreement"] is None
        assert "nothing to compare with, torch failed: no torch" in report["warnings"]

    @pytest.mark.parametrize("absent", ["torch", "scipy"])
    def test_what_is_lacking_to_compare_is_named_and_torch_not_started(self, stage, conduct, row, monkeypatch, absent):
        monkeypatch.setattr(conductor, "is_installed", lambda module: module != absent)
        report = conduct(row("onnxruntime"), row("torch"))
        assert [who for who, action in stage.log if action == "open"] == ["onnxruntime", "torch"]
        assert [each["label_agreement"] for each in report["rows"]] == [None, None]
        said = f"label maps are not compared with those of torch: {absent} is not installed; pip install"
        assert [line.startswith(said) for line in report["warnings"]].count(True) == 1

    def test_the_default_bundles_have_nothing_to_compare_with(self, conduct, row):
        report = conduct(row("onnxruntime", bundle=default_bundle(), graph="segmenter"))
        assert "label maps are not compared with those of torch: the default bundles of the package" in " ".join(
            report["warnings"]
        )

    def test_ground_truth(self, stage, conduct, row, monkeypatch):
        truths = {0: MASK, 1: ~MASK}
        monkeypatch.setattr(Images, "truth", lambda self, place: truths[place])
        assert conduct(row("torch"))["rows"][0]["dice_truth"] == 0.5


class TestFailures:
    """A row that fails does not end the benchmark, and is told as what it is."""

    @pytest.mark.parametrize("action", ["open", "first", "warm", "block", "finish", "load"])
    def test_of_one_row(self, stage, conduct, row, action):
        stage.fails["onnxruntime", action, 0] = RowFailed("out of cheese")
        report = conduct(row("torch"), row("onnxruntime"), row("openvino"), concurrency=(2,))
        assert [each["status"] for each in report["rows"]] == ["ok", "failed", "ok"]
        failed = report["rows"][1]
        assert (failed["reason"], failed["exit_code"], failed["p50_ms"]) == ("out of cheese", 1, None)
        assert failed.keys() == report["rows"][0].keys()
        assert ("onnxruntime", "killed") in stage.log
        assert report["rows"][2]["speedup"] is not None

    def test_that_is_known_before(self, stage, conduct, row):
        report = conduct(row("torch"), row("onnxruntime", failure=Failure("never", 2)))
        assert (report["rows"][1]["reason"], report["rows"][1]["exit_code"]) == ("never", 2)
        assert "onnxruntime" not in dict(stage.log)

    @pytest.mark.parametrize(
        ("asked", "exit_code", "statuses"),
        [(True, 4, ["ok", "failed"]), (False, 4, ["ok"]), (False, 1, ["ok", "failed"])],
    )
    def test_of_a_default_for_want_of_something_leaves_it_out(self, stage, conduct, row, asked, exit_code, statuses):
        stage.fails["openvino", "open", 0] = RowFailed("no such device", exit_code)
        report = conduct(row("torch"), row("openvino", asked=asked))
        assert [each["status"] for each in report["rows"]] == statuses
        assert ("openvino is left out: no such device" in report["warnings"]) == (len(statuses) == 1)

    @pytest.mark.parametrize(("exit_code", "status"), [(4, "export only"), (1, "failed")])
    @pytest.mark.parametrize("asked", [True, False])
    def test_of_an_engine(self, stage, conduct, row, monkeypatch, asked, exit_code, status):
        monkeypatch.setattr(Row, "has_engine", True)
        stage.fails["tensorrt", "open", 0] = RowFailed("there is no GPU", exit_code)
        told = conduct(row("torch"), row("tensorrt", asked=asked))["rows"][1]
        assert (told["status"], told["reason"]) == (status, "there is no GPU")

    def test_of_the_first_row_makes_the_next_the_baseline(self, stage, conduct, row):
        stage.fails["torch", "first", 0] = RowFailed("no")
        report = conduct(row("torch"), row("onnxruntime"), row("openvino"))
        assert report["settings"]["baseline"] == "onnxruntime"
        assert report["rows"][2]["speedup"] is not None

    def test_of_the_baseline_asked_for_leaves_no_speed_up(self, stage, conduct, row):
        stage.fails["torch", "open", 0] = RowFailed("no")
        report = conduct(row("onnxruntime"), row("torch"), baseline=1)
        assert report["settings"]["baseline"] is None
        assert [each["status"] for each in report["rows"]] == ["ok", "failed"]
        assert report["rows"][0]["speedup"] is None
        assert "no speed-up is told: the baseline torch failed" in report["warnings"]

    def test_of_the_baseline_amid_another_row(self, stage, conduct, row):
        stage.fails["torch", "block", BLOCKS + 3] = RowFailed("killed")
        report = conduct(row("torch"), row("onnxruntime"), row("openvino"), row("tensorrt"))
        assert [each["status"] for each in report["rows"]] == ["failed", "ok", "ok", "ok"]
        assert [each["speedup"] is None for each in report["rows"]] == [True, False, True, True]
        assert {each["iterations"] for each in report["rows"][1:]} == {BLOCKS}
        assert any(each.startswith("openvino and what follows have no speed-up") for each in report["warnings"])

    def test_of_the_baseline_at_the_end(self, stage, conduct, row):
        stage.fails["torch", "finish", 0] = RowFailed("killed")
        report = conduct(row("torch"), row("onnxruntime"))
        assert [each["status"] for each in report["rows"]] == ["failed", "ok"]


def test_ctrl_c_ends_all_workers(stage, conduct, row, monkeypatch):
    monkeypatch.setattr(Fake, "_block", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        conduct(row("torch"), row("onnxruntime"))
    assert stage.log[-2:] == [("onnxruntime", "killed"), ("torch", "killed")]


def test_temporary_files_are_removed(stage, conduct, row, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    conduct(row("torch"), row("onnxruntime"))
    folder = Path(next(each for each in stage.asked if each["do"] == "open")["folder"])
    assert folder.parent == tmp_path
    assert not folder.exists()


def test_device_memory_is_what_the_row_added(stage, conduct, row, monkeypatch):
    stage.provider = "cuda:0"
    used = iter([100.0, *[100.0 + 10 * block for block in range(BLOCKS)]])
    monkeypatch.setattr(environment, "device_memory_mb", lambda: next(used))
    (told,) = conduct(row("torch"))["rows"]
    assert told["peak_device_memory_mb"] == 10 * (BLOCKS - 1)
    assert told["cuda_graph"] is False
