"""What is left of a segmenter, of torch's threads and of locks in a forked child."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from msformer_deploy import Segmenter, registry
from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.machine import driver, forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PATIENCE = 60  # seconds; what hangs does so for ever
BACKENDS = ("openvino", "onnxruntime", "torch")


def in_child(function: Callable[[], Any]) -> Any:
    """What the function returns in a forked child, or its error as text; fails where the child hangs."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def answer() -> None:
        try:
            theirs.send(function())
        except Exception as error:
            theirs.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=answer)
    process.start()
    theirs.close()
    try:
        assert ours.poll(PATIENCE), "the child hangs"
        answered = ours.recv()
        process.join(PATIENCE)
        assert process.exitcode == 0
        return answered
    finally:
        process.kill()
        process.join()


def use_openmp() -> float:
    """Start OpenMP's threads and use them."""
    return float(torch.ones(400_000).mul(2).relu().sum())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_segmenter_made_before_the_fork_says_so(name: str, tiny_bundle: Bundle, picture: np.ndarray) -> None:
    segmenter = Segmenter(tiny_bundle, backend=name)
    segmenter.segment(picture)
    answer = in_child(lambda: segmenter.segment(picture).labels)
    assert answer == (
        f"DeployError: the graph that {name} runs was created before this process was forked, and its threads are not"
        " in this process; create a Segmenter in each process, after the fork"
    )
    segmenter.segment(picture)  # in the parent it goes on


def test_a_network_to_train_made_before_the_fork_says_so(tiny_bundle: Bundle, picture: np.ndarray) -> None:
    settings = registry.RefineSettings(mode="full", steps=1)
    segmenter = Segmenter(tiny_bundle, backend="torch", settings=settings)
    assert "create a Segmenter in each process" in in_child(lambda: segmenter.segment(picture).labels)


@pytest.mark.parametrize("graph", ["encoder", "segmenter"])
def test_a_backend_made_before_the_fork_says_so(graph: Any, tiny_bundle: Bundle) -> None:
    pixels = np.zeros((1, 3, 33, 33), np.float32)
    with open_backend("onnxruntime", tiny_bundle, Device("cpu"), 2, graph) as backend:
        run = backend.encode if graph == "encoder" else backend.segment
        assert "create a Segmenter in each process" in in_child(lambda: run(pixels))


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_segmenter_made_in_the_child_gives_the_parents_labels(
    name: str, tiny_bundle: Bundle, picture: np.ndarray
) -> None:
    expected = Segmenter(tiny_bundle, backend=name, threads=2).segment(picture).labels
    use_openmp()
    found = in_child(lambda: Segmenter(tiny_bundle, backend=name, threads=2).segment(picture).labels)
    assert np.array_equal(found, expected)


def test_openvino_is_passed_over_in_the_child_of_a_process_that_uses_it(
    tiny_bundle: Bundle, picture: np.ndarray
) -> None:
    expected = Segmenter(tiny_bundle, backend="openvino").segment(picture).labels

    def automatic() -> Any:
        with pytest.warns(
            UserWarning, match="onnxruntime is used, because a faster backend failed: openvino does not run in"
        ):
            segmenter = Segmenter(tiny_bundle)
        return segmenter.segment(picture).labels

    assert np.array_equal(in_child(automatic), expected)
    assert in_child(lambda: Segmenter(tiny_bundle, backend="openvino")).startswith(
        "BackendUnavailable: openvino does not run in a process that was forked from one that uses it; use --backend"
    )


def test_torch_computes_on_several_threads_in_a_child() -> None:
    expected = use_openmp()
    assert in_child(use_openmp) == expected
    assert in_child(torch.get_num_threads) == torch.get_num_threads()


def test_a_child_of_a_child_makes_its_own(tiny_bundle: Bundle, picture: np.ndarray) -> None:
    def grandchild() -> Any:
        segmenter = Segmenter(tiny_bundle, backend="onnxruntime")
        segmenter.segment(picture)
        return in_child(lambda: segmenter.segment(picture).labels)

    assert "create a Segmenter in each process" in in_child(grandchild)


def test_a_lock_that_another_thread_holds_is_free_in_the_child() -> None:
    lock = forks.lock_across_forks()
    held, forking = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            forking.wait(0.2)  # the fork waits for it

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert in_child(lambda: lock.acquire(timeout=1)) is True
    thread.join()
    assert lock.acquire(timeout=1)
    lock.release()


@pytest.mark.slow
def test_the_locks_of_the_package_are_free_in_a_child() -> None:
    from msformer_deploy.backends import openvino
    from msformer_deploy.images.decoders import pillow

    for lock in (pillow._LOCK, openvino._STARTING):
        lock.acquire()
        threading.Timer(0.2, lock.release).start()
        assert in_child(lambda lock=lock: lock.acquire(timeout=1)) is True


def test_a_driver_that_the_parent_started_says_how_to_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def cuInit(self, _: int) -> int:  # noqa: N802 - the driver's name
            return 3

    monkeypatch.setattr(driver.ctypes, "CDLL", lambda _: Library())
    assert "'spawn'" in in_child(driver.find_driver)
