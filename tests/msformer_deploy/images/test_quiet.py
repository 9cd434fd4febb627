"""Silence holds for a thread until it leaves, whatever other threads enter and leave meanwhile."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from msformer_deploy.errors import ImageError
from msformer_deploy.images import quiet
from msformer_deploy.images.decoders import pillow
from msformer_deploy.images.dicom import opened

SECRET = "SECRET"
OTHERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "a result": lambda: quiet.failing_by_name("a", "b", "c"),
    "a picture": pillow.silent,
    "a header": opened.silent,
    "of somebody else": warnings.catch_warnings,
}


def warn() -> None:
    warnings.warn(SECRET, stacklevel=1)
    for name in ("pydicom", "highdicom.seg.sop"):
        logging.getLogger(name).warning(SECRET)


@pytest.mark.parametrize("other", OTHERS)
def test_a_thread_stays_silent_when_another_leaves(other: str, caplog: pytest.LogCaptureFixture) -> None:
    entered, left = threading.Event(), threading.Event()

    def enter_and_leave() -> None:
        with OTHERS[other]():
            entered.set()
            inside.wait(5)
        left.set()

    inside = threading.Event()
    thread = threading.Thread(target=enter_and_leave)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet.silent():
            pass  # as at any time before: what restores filters later has found ours
        thread.start()
        entered.wait(5)
        with quiet.failing_by_name("a", "b", "c"):
            inside.set()
            assert left.wait(5)
            warn()
        thread.join()
        assert [str(each.message) for each in caught] == caplog.messages == []
        warn()  # and both are heard again
    assert len(caught) == 1
    assert caplog.messages == [SECRET] * 2


def test_other_threads_are_heard() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet.silent():
            thread = threading.Thread(target=warn)
            thread.start()
            thread.join()
    assert len(caught) == 1


def test_the_last_rule_comes_first() -> None:
    with quiet.silent():
        with quiet.warnings_of("PIL", "error"):
            with pytest.raises(UserWarning, match=SECRET):
                warnings.warn_explicit(SECRET, UserWarning, "a.py", 1, module="PIL.Image")
            with quiet.silent():
                warnings.warn_explicit(SECRET, UserWarning, "a.py", 1, module="PIL.Image")
        warnings.warn_explicit(SECRET, UserWarning, "a.py", 1, module="PIL.Image")


def test_a_failure_is_one_line_without_its_class_and_no_memory_is_none() -> None:
    with pytest.raises(ImageError) as caught, quiet.failing_by_name("a.dcm", "cannot be read", "export it again"):
        raise ValueError(SECRET)
    assert str(caught.value) == "a.dcm: cannot be read; export it again"
    with pytest.raises(MemoryError), quiet.failing_by_name("a.dcm", "cannot be read", "export it again"):
        raise MemoryError
