"""Workers of a cluster. What a worker does is tried in this process, and one run on Ray itself."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import load
from sockets import listening
from volumes import nifti, stored

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.cluster import ray as cluster
from msformer_deploy.cluster.destination import Destination
from msformer_deploy.cluster.ray import Order, Worker
from msformer_deploy.errors import BackendUnavailable, DeployError, UsageError
from msformer_deploy.images.inputs import Item, collisions, discover
from msformer_deploy.results.formats import Wanted

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
Open = Callable[..., Worker]


@pytest.fixture
def opened(tiny_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: Any) -> Iterator[Callable[..., Order]]:
    """Makes an order for a place; afterwards the files of ``memory://`` are gone."""
    monkeypatch.chdir(tmp_path)

    def order(place: Path | str, **changes: Any) -> Order:
        given: dict[str, Any] = {
            "open_segmenter": lambda: Segmenter(tiny_bundle, threads=1),
            "place": place,
            "wanted": Wanted(),
            "batch": 1,
            "skip_existing": False,
            "replace": False,
            "clashes": {},
            "folder": tmp_path,
            "seen": images / "a.png",
            "mark": Destination(place).mark(),
        }
        return Order(**{**given, **changes})

    yield order
    fsspec.filesystem("memory").store.clear()


def work(worker: Worker, items: list[Item]) -> tuple[list[int], dict[str, Any], DeployError | None]:
    rows = {"position": list(range(len(items))), "item": [pickle.dumps(item) for item in items]}
    found: tuple[list[int], dict[str, Any], DeployError | None] = pickle.loads(worker(rows)["done"][0])
    return found


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_worker_leaves_what_run_leaves(
    opened: Any, segment: Any, images: Path, tmp_path: Path, out: Path, kind: str
) -> None:
    assert segment(images, "--threads", 1).code == 0
    place = tmp_path / "there" if kind == "folder" else "memory://bucket/results"
    order = opened(place)
    _, found, failure = work(Worker(order), discover([images]))
    assert failure is None
    Destination(place).remove(order.mark)
    expected = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    once = {"report.json", "measurements.csv", "index.html"}
    if kind == "folder":
        there = {path.relative_to(place).as_posix(): path.read_bytes() for path in Path(place).rglob("*.*")}
    else:
        files = fsspec.filesystem("memory")
        there = {name: files.cat_file(f"/bucket/results/{name}") for name in Destination(place).names()}
    assert there.keys() == expected.keys() - once
    for name, content in there.items():
        if not name.endswith(".json"):
            assert content == expected[name].read_bytes(), name
    timed = json.loads(expected["a.png.json"].read_text()), json.loads(there["a.png.json"])
    assert [record.pop("seconds").keys() for record in timed]
    assert timed[0] == timed[1]
    assert [each["input"] for each in found["images"]] == [str(item.path) for item in discover([images])]


@pytest.mark.parametrize("place", ["there", "memory://r"])
def test_results_of_the_same_input_bundle_and_settings_are_kept(
    opened: Any, images: Path, picture: np.ndarray, tiny_bundle: Bundle, tmp_path: Path, place: str
) -> None:
    there: Path | str = tmp_path / place if place == "there" else place
    items = discover([images])
    work(Worker(opened(there)), items)
    again = Worker(opened(there, skip_existing=True))
    _, kept, _ = work(again, items)
    assert [each["skipped"] for each in kept["images"]] == [True, True, True]

    Image.fromarray(picture[::-1].copy()).save(images / "a.png")
    _, changed, _ = work(again, items)
    assert [bool(each["error"]) for each in changed["images"]] == [True, False, False]
    assert "has changed since" in changed["images"][0]["error"]

    other = opened(there, skip_existing=True, open_segmenter=lambda: Segmenter(tiny_bundle, threads=1, seed=5))
    _, refused, _ = work(Worker(other), items[1:])
    assert all("of another bundle or of other settings" in each["error"] for each in refused["images"])
    assert all(each["input"] in each["error"] for each in refused["images"])

    if place != "there":
        fsspec.filesystem("memory").rm_file("/r/b.jpg.mask.png")
        _, lost, _ = work(again, items[1:])
        assert [each["skipped"] for each in lost["images"]] == [False, True]


def test_a_result_that_is_replaced_leaves_no_file_of_the_old_one(opened: Any, images: Path) -> None:
    files = fsspec.filesystem("memory")
    work(Worker(opened("memory://r", wanted=Wanted(("labelme",)))), discover([images]))
    assert files.exists("/r/a.png.labelme.json")
    work(Worker(opened("memory://r", replace=True)), discover([images]))
    assert not files.exists("/r/a.png.labelme.json")
    assert files.exists("/r/a.png.json")


@pytest.mark.needs("nibabel")
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_pictures_of_slices_are_kept_and_replaced(opened: Any, tmp_path: Path, kind: str) -> None:
    path = nifti(tmp_path / "v.nii.gz", stored(), np.eye(4))
    place = (tmp_path / "there").as_uri() if kind == "file" else "memory://r"
    items, wanted = discover([path], volumes=True), Wanted(("png",))

    def slices() -> list[str]:
        return [name for name in Destination(place).names() if ".slices/" in name]

    work(Worker(opened(place, wanted=wanted)), items)
    before = slices()
    assert len(before) >= len(stored())
    _, found, failure = work(Worker(opened(place, wanted=wanted, skip_existing=True)), items)
    assert failure is None
    assert found["images"][0]["skipped"]
    assert slices() == before

    nifti(path, stored()[:4], np.eye(4))  # the volume is shorter now
    _, found, failure = work(Worker(opened(place, wanted=wanted, replace=True)), items)
    assert failure is None
    assert found["images"][0]["error"] is None
    assert len(slices()) == len(before) * 4 // len(stored())


def test_a_name_too_long_fails_its_image_only(opened: Any, images: Path) -> None:
    long = images / ("n" * 245 + ".png")
    shutil.copy(images / "a.png", long)
    _, found, failure = work(Worker(opened("memory://r")), discover([images]))
    assert failure is None
    errors = [each["error"] for each in found["images"]]
    assert [error for error in errors if error] == [
        f"{long}: its name is too long for the names of its results; rename it"
    ]


def test_a_batch_that_the_engine_does_not_take(opened: Any, images: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("msformer_deploy.backends.openvino.OpenVinoBackend.max_batch", 2)
    _, found, failure = work(Worker(opened("memory://r", batch=3)), discover([images]))
    assert found is None
    assert isinstance(failure, UsageError)
    assert "--batch 3 is above the engine's maximum of 2" in str(failure)


def test_what_two_inputs_would_both_write_fails_in_any_block(opened: Any, images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "a.png", images / "A.PNG")
    items = discover([images])
    clashes = collisions(items)
    (clash,) = clashes
    _, found, _ = work(Worker(opened(tmp_path / "there", clashes=clashes)), [clash])
    assert "would overwrite those of" in found["images"][0]["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seen": Path("/nowhere/a.png")}, "/nowhere/a.png: the machine .* does not see this path"),
        ({"seen": Path("a.png"), "folder": Path("/nowhere")}, "/nowhere: the machine .* does not see this path"),
        ({"mark": "another"}, "memory://r: the machine .* does not see what is written there"),
    ],
)
def test_a_machine_that_does_not_see_the_files_says_so(opened: Any, images: Path, changes: Any, message: str) -> None:
    positions, found, failure = work(Worker(opened("memory://r", **changes)), discover([images]))
    assert (positions, found) == ([0, 1, 2], None)
    with pytest.raises(UsageError, match=message):
        raise failure or AssertionError


@pytest.mark.parametrize(
    ("error", "kind"), [(BackendUnavailable("no such device"), BackendUnavailable), (ValueError("odd"), DeployError)]
)
def test_a_worker_that_cannot_start_is_no_error_of_ray(opened: Any, images: Path, error: Exception, kind: Any) -> None:
    def refuse() -> Segmenter:
        raise error

    _, _, failure = work(Worker(opened("memory://r", open_segmenter=refuse)), discover([images]))
    assert type(failure) is kind
    assert str(error) in str(failure)


def test_no_error_leaves_a_worker(opened: Any, images: Path, monkeypatch: Any) -> None:
    worker = Worker(opened("memory://r"))
    monkeypatch.setattr(Destination, "send", lambda *_, **__: (_ for _ in ()).throw(IsADirectoryError("odd\nmore")))
    _, found, failure = work(worker, discover([images]))
    assert found is None
    assert str(failure).endswith(" failed, IsADirectoryError: odd")


def test_failures_in_a_row_are_counted_across_blocks(opened: Any, images: Path, monkeypatch: Any) -> None:
    worker = Worker(opened("memory://r"))
    (first, second, third) = discover([images])
    work(worker, [first])
    monkeypatch.setattr(Segmenter, "learn", lambda *_: (_ for _ in ()).throw(ValueError("odd")))
    said = [work(worker, [item])[2] for item in (second, third, second)]
    assert said[:2] == [None, None]
    assert "3 times in a row" in str(said[2])


def test_a_place_that_cannot_be_written_ends_the_run(opened: Any, images: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError("denied")

    worker = Worker(opened("memory://r"))
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", refuse)
    _, found, failure = work(worker, discover([images]))
    assert found is None
    assert "cannot be read or written" in str(failure)


@pytest.mark.parametrize(
    ("inputs", "workers", "batch", "block"),
    [(2000, 2, 1, 16), (40, 2, 1, 5), (3, 8, 1, 1), (2000, 2, 12, 12), (2000, 2, 32, 32), (3, 1, 4, 4)],
)
def test_blocks(inputs: int, workers: int, batch: int, block: int) -> None:
    assert cluster._block(inputs, workers, batch) == block


def test_parts_are_put_in_order_and_one_that_came_twice_counts_once() -> None:
    def part(*names: str) -> dict[str, Any]:
        images = [{"input": name, "error": None, "skipped": False} for name in names]
        summary = {"images": len(names), "done": len(names), "failed": 0, "skipped": 0, "doubted": 0, "seconds": 1.0}
        once = {"backend": "openvino", "provider": "CPU", "kernels": "reference", "formats": [], "settings": {}}
        rest = {"versions": {}, "passed_over": {}, "interrupted": False}
        return {"images": images, "summary": summary, **once, **rest}

    found = cluster.merged([([2, 3], part("c", "d")), ([0, 1], part("a", "b")), ([2], part("c"))], 2.0, {".txt": 1})
    assert [each["input"] for each in found["images"]] == list("abcd")
    assert (found["summary"]["done"], found["summary"]["images_per_second"]) == (4, 2.0)
    assert found["passed_over"] == {".txt": 1}


@pytest.mark.parametrize(
    ("change", "name"),
    [({"settings": {"bundle": "/b", "graph_sha256": "cd"}}, "graph_sha256"), ({"formats": ["coco"]}, "formats")],
)
def test_parts_of_other_settings_are_not_of_one_run(change: dict[str, Any], name: str) -> None:
    one = {"settings": {"bundle": "/a", "graph_sha256": "ab"}, "formats": []}
    cluster.require_alike(one, {**one, "settings": {"bundle": "/b", "graph_sha256": "ab"}})  # the place decides nothing
    with pytest.raises(DeployError, match=rf"not all machines .* the same settings \({name}\)"):
        cluster.require_alike(one, {**one, **change})


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:x", "head:0", "head:65536", "ray://head:10001"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="write local, or HOST:PORT"):
        cluster._require_answer(address)


@pytest.mark.slow
@pytest.mark.needs("ray")
@pytest.mark.skipif(sys.platform != "linux", reason="looks for open ports in /proc")
def test_a_run_on_ray_leaves_what_run_leaves(
    segment: Any, tiny_bundle: Bundle, images: Path, tmp_path: Path, out: Path
) -> None:
    """All of it at once, because Ray takes seconds to start; meanwhile nothing listens but on the loopback."""
    (images / "bad.png").write_bytes(b"no image")
    assert segment(images, "--threads", 1, "--format", "coco", "--output", tmp_path / "plain").code == 5
    arguments = ("run", images, "--output", "out", "--bundle", tiny_bundle.path, "--ray", "local", "--format", "coco")
    short = {"TMPDIR": "/tmp", "RAY_USAGE_STATS_ENABLED": "1"}  # paths of sockets are short; the variable is replaced
    with subprocess.Popen(
        [sys.executable, "-m", "msformer_deploy", *map(str, arguments)],
        cwd=tmp_path,
        env=os.environ | short,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=load("cluster").bound_to(0),  # one core has one worker
    ) as command:
        addresses: set[str] = set()
        while command.poll() is None:
            addresses |= listening(command.pid)
            time.sleep(0.2)
        said, errors = command.communicate()
    assert command.returncode == 5, errors
    assert said.startswith("3 of 4 images segmented, 1 failed in ")
    assert len(said.splitlines()) == 1
    (error,) = errors.splitlines()
    assert error.startswith(f"error: {images / 'bad.png'}: not a PNG")
    assert addresses == {"127.0.0.1"}
    one, other = (load("cluster").digests(folder) for folder in (out, tmp_path / "plain"))
    assert one == other


def test_an_order_travels(opened: Any) -> None:
    """A worker is another process: nothing in an order may be of this one."""
    from functools import partial

    from msformer_deploy.commands.segmenters import Asked, open_segmenter
    from msformer_deploy.refinement.options import EncoderOptions

    asked = Asked(None, None, None, EncoderOptions(threads=1), None, None, False, None, "auto", True)
    order = replace(opened("memory://r"), open_segmenter=partial(open_segmenter, asked))
    assert pickle.loads(pickle.dumps(order)).open_segmenter.args == (asked,)
