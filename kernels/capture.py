"""CUDA graphs, captured so that neither other threads nor a failure do harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def captured(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """Record into ``graph`` what is queued within, on ``stream``; nothing of it runs.

    Other threads may allocate memory meanwhile, which torch's usual mode takes for a fault of the capture. The current
    stream is the same afterwards, also where the capture fails: torch up to 2.13 then leaves ``stream`` in its place.

    Raises:
        RuntimeError: something cannot be captured.
    """
    before = torch.cuda.current_stream(stream.device)
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            yield
    finally:
        torch.cuda.set_stream(before)
