"""``run --ray``: what is refused before a cluster is started, and how a run ends."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy.commands import on_ray
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.images.inputs import Item
from msformer_deploy.machine import extras

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--shard", "1/2"], ["--shard cannot be used with --ray; drop it"]),
        (["--like", "x"], ["--like cannot be used with --ray"]),
        (["--point", "1,2", "--box", "1,2,3,4"], ["--point, --box cannot be used with --ray; drop them"]),
        (["--watch"], ["--watch cannot"]),
        (["--scribbles", "x.png"], ["--scribbles cannot"]),
        (["--prompts", "x.json"], ["--prompts cannot"]),
        (["--device", "cuda:1"], ["--device cuda:1", "pass --device cuda"]),
        (["--output", "s3://b/r", "--format", "coco"], ["--format coco", "s3://b/r"]),
        (["--output", "nowhere://b/r"], ["nowhere://b/r: cannot be used"]),
        (["--ray", "head"], ["'head' is no address", "HOST:PORT"]),
    ],
)
def test_what_cannot_be_used_together(
    segment: Any, good: Path, tmp_path: Path, out: Path, arguments: list[str], parts: list[str]
) -> None:
    segment(good, "--ray", "local", *arguments).error(2, *parts)
    assert not out.exists() or not any(out.iterdir())


def test_options_of_ray_without_it(segment: Any, good: Path, out: Path) -> None:
    segment(good, "--output", "s3://b/r").error(2, "--output s3://b/r", "only --ray can write to")
    segment(good, "--ray-gpus", "0.5").error(2, "--ray-gpus", "add --ray")


def test_nobody_answers(segment: Any, good: Path, out: Path) -> None:
    with socket.socket() as closed:  # bound, but it does not listen
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        segment(good, "--ray", address).error(4, f"--ray {address}: no Ray cluster answers there", "ray start --head")
    assert list(out.iterdir()) == []


def test_ray_is_not_installed(segment: Any, good: Path, out: Path, monkeypatch: Any) -> None:
    real = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "ray" and real(module))
    segment(good, "--ray", "local").error(4, "--ray needs ray", 'pip install "msformer-deploy[ray]"')
    assert not out.exists()


def test_what_exists_is_kept(segment: Any, good: Path, out: Path) -> None:
    assert segment(good).code == 0
    before = (out / "good.png.json").read_bytes()
    segment(good, "--ray", "local").error(2, out / "good.png.json", "exists already", "--force")
    fsspec.filesystem("memory").pipe_file("/kept/good.png.mask.png", b"")
    segment(good, "--ray", "local", "--output", "memory://kept").error(2, "memory://kept/good.png.mask.png", "--force")
    fsspec.filesystem("memory").store.clear()
    assert (out / "good.png.json").read_bytes() == before


def test_a_folder_that_cannot_be_made(segment: Any, good: Path, out: Path) -> None:
    out.touch()
    segment(good, "--ray", "local").error(2, out, "cannot be created")


@pytest.mark.parametrize(
    ("threads", "device", "gpus", "cpus_and_gpus"),
    [(None, "auto", None, (1, 0)), (4, "cuda", None, (4, 1)), (2, "cuda", 0.25, (2, 0.25)), (1, "cpu", None, (1, 0))],
)
def test_what_a_worker_takes(threads: Any, device: str, gpus: Any, cpus_and_gpus: tuple[int, float]) -> None:
    size = on_ray.size_of(threads, device, gpus)
    assert (size.cpus, size.gpus) == cpus_and_gpus


class Cluster:
    """A stand-in: gives parts, and then fails."""

    def __init__(self, parts: list[Any], failure: BaseException | None) -> None:
        self._parts, self._failure = parts, failure

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, *_: object) -> Any:
        yield from self._parts
        if self._failure is not None:
            raise self._failure


def part(position: int, error: str | None = None, **settings: str) -> tuple[list[int], dict[str, Any]]:
    images = [{"input": str(position), "error": error, "skipped": False}]
    summary = {"images": 1, "done": 1, "failed": 0, "skipped": 0, "doubted": 0, "seconds": 1.0}
    once = {"backend": "openvino", "provider": "CPU", "kernels": "reference", "formats": [], "settings": settings}
    return [position], {
        "images": images,
        "summary": summary,
        **once,
        "versions": {},
        "passed_over": {},
        "interrupted": 0,
    }


@pytest.mark.parametrize(
    ("parts", "failure", "interrupted", "given_up"),
    [
        ([part(0), part(1)], None, False, None),
        ([part(0)], KeyboardInterrupt(), True, None),
        ([part(0)], DeployError("no room"), False, "no room"),
        ([part(0)], ValueError("odd"), False, "the cluster failed (ValueError); when it runs again"),
        ([part(1)], None, False, "the cluster lost 1 inputs; run the same command with --skip-existing"),
    ],
)
def test_how_a_run_can_end(
    tmp_path: Path, monkeypatch: Any, parts: Any, failure: Any, interrupted: bool, given_up: str | None
) -> None:
    found = of_cluster(tmp_path, monkeypatch, Cluster(parts, failure))
    assert found.interrupted is interrupted
    assert given_up is None or given_up in str(found.given_up)
    assert (found.given_up is None) is (given_up is None)
    assert found.report["interrupted"] is (interrupted or given_up is not None)
    assert len(found.report["images"]) == len(parts)
    assert list(tmp_path.iterdir()) == [], "the mark is gone"


def test_a_machine_with_another_bundle_ends_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    parts = [part(0, graph_sha256="ab"), part(1, graph_sha256="cd")]
    found = of_cluster(tmp_path, monkeypatch, Cluster(parts, None))
    assert "same settings (graph_sha256)" in str(found.given_up)
    assert [each["input"] for each in found.report["images"]] == ["0"]


@pytest.mark.parametrize("force", [True, False])
def test_what_is_not_of_these_masks_leaves_an_address(force: bool) -> None:
    from msformer_deploy.cluster.destination import Destination

    files = fsspec.filesystem("memory")
    stale = ("annotations.coco.json", "head.safetensors", "report.shard-1-of-2.json")
    for name in (*stale, "sub/report.shard-1-of-2.json"):
        files.pipe_file(f"/r/{name}", b"old")
    place = Destination("memory://r")
    on_ray.write_report(place, lambda folder: (folder / "report.json").write_text("new"), force)
    kept = set() if force else {"head.safetensors"}
    assert place.names() == {"report.json", "sub/report.shard-1-of-2.json", *kept}
    files.store.clear()


@pytest.mark.parametrize("name", ["v.nii.gz.slices/0001.mask.png", "report.shard-1-of-2.json"])
def test_what_exists_at_an_address_is_kept(name: str) -> None:
    from msformer_deploy.cluster.destination import Destination

    fsspec.filesystem("memory").pipe_file(f"/r/{name}", b"")
    volume = Item(Path("v.nii.gz"), Path("v.nii.gz"), "volume")
    with pytest.raises(UsageError, match=rf"memory://r/{name.partition('/')[0]}: exists already"):
        on_ray.require_free(Destination("memory://r"), [volume], [])
    fsspec.filesystem("memory").store.clear()


def test_nothing_done_is_no_report(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(DeployError, match="no room"):
        of_cluster(tmp_path, monkeypatch, Cluster([], DeployError("no room")))
    with pytest.raises(KeyboardInterrupt):
        of_cluster(tmp_path, monkeypatch, Cluster([], KeyboardInterrupt()))


def of_cluster(folder: Path, monkeypatch: Any, cluster: Cluster) -> on_ray.Ended:
    from msformer_deploy.cluster import ray
    from msformer_deploy.cluster.destination import Destination
    from msformer_deploy.commands.segmenters import Asked
    from msformer_deploy.refinement.options import EncoderOptions
    from msformer_deploy.results.formats import Wanted

    monkeypatch.setattr(ray, "connected", lambda *_: cluster)
    asked = Asked(None, None, None, EncoderOptions(), None, None, False, None, "auto", True)
    return on_ray.segment(
        "local",
        on_ray.size_of(None, "auto", None),
        asked,
        [Item(Path(name), Path(name)) for name in "ab"],
        Destination(folder),
        wanted=Wanted(),
        batch=1,
        skip_existing=False,
        force=False,
        clashes={},
        passed_over={},
        quiet=True,
    )
