"""What a capture does to its surroundings, with a stand-in for torch's: no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from msformer_deploy.kernels.capture import captured

SIDE = SimpleNamespace(device="cuda:0")


class Torch:
    """Where a capture fails at its end, its stream stays the current one, as in torch up to 2.13."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: bool) -> None:
        self.current, self.mode, self._fails = "the caller's", "global", fails
        patch.setattr(torch.cuda, "graph", self.graph)
        patch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        patch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "current", stream))

    @contextmanager
    def graph(self, graph: object, stream: object, capture_error_mode: str = "global") -> Iterator[None]:
        before, self.current, self.mode = self.current, stream, capture_error_mode
        yield
        if self._fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.current = before


@pytest.mark.parametrize("fails", [False, True])
def test_the_current_stream_is_the_same_afterwards(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    fake = Torch(monkeypatch, fails)
    try:
        with captured("graph", SIDE):
            assert fake.current is SIDE
    except RuntimeError:
        assert fails
    else:
        assert not fails
    assert fake.current == "the caller's"


def test_other_threads_may_allocate_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Torch(monkeypatch, fails=False)
    with captured("graph", SIDE):
        assert fake.mode == "thread_local"
