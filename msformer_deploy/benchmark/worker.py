"""One row in a process of its own: what it loads, takes and breaks is that row's alone.

``python -m msformer_deploy.benchmark.worker`` reads requests from stdin, one JSON object a line, and answers each with
one on stdout. A request names a method of :class:`Sampler` in ``do`` and has its arguments beside that; ``open`` is
the constructor. An answer is what the method returns, or ``error`` and ``exit_code``. The process ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import DeployError

if TYPE_CHECKING:
    from ..images.read import InputImage
    from .accuracy import Outcomes

Stages = dict[str, float]  # milliseconds


class Sampler:
    """A segmenter, and the samples that are taken of it.

    Args:
        bundle, backend, device, precision, threads, whole_graph, compile: as :class:`.segmenter.Segmenter` takes them.
        settings: fields of the refinement.
        images: paths, taken in rotation.
        judged: how many of them, from the first, outcomes are kept of.
        batch: images in one call.
        folder: where results are written.
    """

    def __init__(
        self, *, settings: dict[str, Any], images: list[str], judged: int, batch: int, folder: str, **segmenter: Any
    ) -> None:
        start = time.perf_counter()
        from ..images.inputs import Item
        from ..registry import RefineSettings
        from ..segmenter import Segmenter

        self.segmenter = Segmenter(segmenter.pop("bundle"), settings=RefineSettings(**settings), **segmenter)
        self._load_seconds = time.perf_counter() - start
        self._items = [Item(Path(path), Path(str(place))) for place, path in enumerate(images)]
        self._judged, self._batch, self._folder = judged, batch, Path(folder)
        self._turns = count()
        self.outcomes: Outcomes = {}

    def first(self) -> dict[str, Any]:
        """The first image, after the call that checks the backend; and what runs."""
        total, _ = self._call()
        return {
            "load_s": self._load_seconds,
            "first_run_ms": total,
            "provider": self.segmenter.provider,
            "precision": self.segmenter.precision,
            "threads": _torch_threads(),
            "cuda_graph": self.segmenter.backend_name == "tensorrt" if self.segmenter.on_gpu else None,
        }

    def warm(self, seconds: float, calls: int) -> dict[str, Any]:
        """Calls that do not count: for so long, at least so many."""
        return {"calls": sum(1 for _ in self._repeated(seconds, calls))}

    def block(self, seconds: float, calls: int) -> dict[str, Any]:
        """Samples: for so long, at least so many. Milliseconds of each call, and of each of its stages."""
        timed = list(self._repeated(seconds, calls))
        stages = dict.fromkeys(stage for _, each in timed for stage in each)
        return {
            "samples_ms": [total for total, _ in timed],
            "stages_ms": {stage: [each.get(stage, 0.0) for _, each in timed] for stage in stages},
        }

    def finish(self, path: str) -> dict[str, Any]:
        """The most memory that the process has held; and the outcomes, in a file."""
        from . import accuracy

        accuracy.save(Path(path), self.outcomes)
        return {"peak_memory_mb": peak_memory_mb()}

    def load(self, concurrency: int, seconds: float) -> dict[str, Any]:
        """Threads that share the segmenter: throughput and latency. Nothing is written."""
        from . import load

        def call(turn: int) -> int:
            images = [image for _, image in self._read(turn)]
            self.segmenter.segment_batch(images)
            return len(images)

        return load.run(call, concurrency, seconds)

    def _repeated(self, seconds: float, calls: int) -> Iterator[tuple[float, Stages]]:
        end = time.perf_counter() + seconds
        done = 0
        while done < calls or time.perf_counter() < end:
            yield self._call()
            done += 1

    def _call(self) -> tuple[float, Stages]:
        """The next images, from their files to the files of their results: milliseconds in all and by stage."""
        from ..results import report
        from ..results.formats import Wanted

        start = time.perf_counter_ns()
        images = self._read(next(self._turns))
        read = time.perf_counter_ns()
        results = self.segmenter.segment_batch([image for _, image in images])
        learned = time.perf_counter_ns()
        for (place, _), result in zip(images, results, strict=True):
            report.write_results(self._items[place], self._folder, result, self.segmenter, Wanted())
        end = time.perf_counter_ns()
        self._keep([place for place, _ in images], results)
        stages = {stage: 1e3 * seconds for stage, seconds in results[0].stages.items()}
        return 1e-6 * (end - start), {"decode": 1e-6 * (read - start), **stages, "write": 1e-6 * (end - learned)}

    def _read(self, turn: int) -> list[tuple[int, InputImage]]:
        from ..images.read import read_image

        first = turn * self._batch
        places = [place % len(self._items) for place in range(first, first + self._batch)]
        return [(place, read_image(self._items[place].path)) for place in places]

    def _keep(self, places: list[int], results: list[Any]) -> None:
        from . import accuracy

        for place, result in zip(places, results, strict=True):
            if place < self._judged:
                self.outcomes.setdefault(place, accuracy.outcome_of(result))


def peak_memory_mb() -> float | None:
    """The most memory that this process has held so far, MB; None where the system does not tell.

    From /proc where there is one: what ``getrusage`` tells there begins with the memory of the process that started
    this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e6


def _torch_threads() -> int | None:
    """Threads that torch uses for one operator, None where it is not even imported."""
    if "torch" not in sys.modules:
        return None
    import torch

    return torch.get_num_threads()


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more; after a failure only that."""
    sampler: Sampler | None = None
    with warnings.catch_warnings(record=True) as caught:
        for line in requests:
            request = json.loads(line)
            action = request.pop("do")
            try:
                if action == "open":
                    sampler, answer = Sampler(**request), {}
                else:
                    answer = getattr(sampler, action)(**request)
                answer["warnings"] = list(dict.fromkeys(" ".join(str(each.message).split()) for each in caught))
            except DeployError as error:
                answer = {"error": " ".join(str(error).split()), "exit_code": error.exit_code}
            except MemoryError:
                answer = {"error": "memory ran out; pass a smaller --batch", "exit_code": DeployError.exit_code}
            except Exception as error:  # a bug in one row must not hide what the others do
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                answer = {"error": reason, "exit_code": DeployError.exit_code}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def main() -> None:
    """Serve stdin on stdout, to which nothing else is written: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with open(0, encoding="utf-8", closefd=False) as requests:
        serve(requests, answers)


if __name__ == "__main__":
    main()
