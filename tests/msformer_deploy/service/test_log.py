from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest

from msformer_deploy.service.log import taken_over

SECRET = "Miller^Anna"


def lines(capsys: Any) -> list[dict[str, Any]]:
    err = capsys.readouterr().err
    assert SECRET not in err
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in err.splitlines()]


def test_a_warning_of_a_library_is_one_line_without_its_text(capsys: Any) -> None:
    with warnings.catch_warnings(), taken_over():
        warnings.simplefilter("always")
        warnings.warn_explicit(f"{SECRET} is odd", UserWarning, f"/home/{SECRET}/lib/values.py", 7)
    assert lines(capsys) == [{"level": "warning", "event": "library", "category": "UserWarning", "at": "values:7"}]


def test_what_a_library_logs_is_one_line_without_its_text(capsys: Any) -> None:
    with taken_over():
        logging.getLogger("tifffile").warning(f"{SECRET} has no pixels")  # a message without arguments
        logging.getLogger("tifffile").info(SECRET)
    (line,) = lines(capsys)
    assert line.pop("at").startswith("test_log:")
    assert line == {"level": "warning", "event": "library", "logger": "tifffile"}


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio"])
def test_what_the_server_of_http_says_has_its_words_and_not_what_they_are_about(capsys: Any, name: str) -> None:
    with taken_over():
        logging.getLogger(name).error("a request failed: %s\n%s", SECRET, SECRET)
    assert lines(capsys) == [{"level": "error", "event": "library", "logger": name, "message": "a request failed: %s"}]


def test_what_was_before_is_there_again() -> None:
    def state() -> list[object]:
        loggers = [logging.getLogger(name) for name in (None, "uvicorn", "asyncio")]
        return [warnings.showwarning, *((list(each.handlers), each.propagate, each.level) for each in loggers)]

    before = state()
    with pytest.raises(KeyError), taken_over():
        assert state() != before
        raise KeyError
    assert state() == before
