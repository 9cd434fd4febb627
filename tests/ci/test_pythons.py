"""Which Pythons ``make test-pythons`` finds, and what makes it fail. What it runs is real and takes minutes."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from locations import ROOT
from packaging.requirements import Requirement

SCRIPT = ROOT / ".ci" / "pythons.py"
pythons = runpy.run_path(str(SCRIPT))
posix = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")


def stand_in(path: Path, *, says: str = "", code: int = 0) -> Path:
    """A program that prints a line and ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


@posix
class TestFind:
    def test_the_first_that_starts(self, tmp_path: Path) -> None:
        shim = stand_in(tmp_path / "shims" / "python3.12", says="pyenv: python3.12: command not found", code=127)
        right, later = (stand_in(tmp_path / name / "python3.12", says="3.12") for name in ("a", "b"))
        assert pythons["find"](12, [tmp_path / "none", shim, right, later]) == right

    @pytest.mark.parametrize(("says", "code"), [("3.11", 0), ("3.12", 1), ("", 0)], ids=["other", "fails", "silent"])
    def test_another_does_not_count(self, tmp_path: Path, says: str, code: int) -> None:
        assert pythons["find"](12, [stand_in(tmp_path / "python3.12", says=says, code=code)]) is None

    def test_a_file_that_is_no_program_does_not_count(self, tmp_path: Path) -> None:
        (tmp_path / "python3.12").write_text("")
        assert pythons["find"](12, [tmp_path / "python3.12"]) is None

    def test_this_python(self) -> None:
        minor = sys.version_info.minor
        assert pythons["find"](minor, [Path(sys.executable)]) == Path(sys.executable)


def test_places_are_path_and_then_pyenv_the_newest_first(tmp_path: Path) -> None:
    for name in ("3.12.1", "3.12.10", "3.12.9", "3.11.7", "3.1.2"):
        (tmp_path / ".pyenv" / "versions" / name).mkdir(parents=True)
    found = pythons["places"](12, os.pathsep.join(["/one", "", "/two"]), tmp_path)
    assert found[:2] == [Path("/one/python3.12"), Path("/two/python3.12")]
    assert [place.parents[1].name for place in found[2:]] == ["3.12.10", "3.12.9", "3.12.1"]


class TestConclusion:
    def test_one_that_is_absent_is_named_and_no_failure(self, capsys: Any) -> None:
        assert pythons["conclude"]({10: None, 11: "fine", 12: "fine"}, 11) is None
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "Python 3.10: not tested, because no python3.10 that starts is here"
        assert printed[1:] == ["Python 3.11: fine", "Python 3.12: fine"]

    def test_only_the_running_one_is_said(self, capsys: Any) -> None:
        assert pythons["conclude"]({10: None, 11: "fine"}, 11) is None
        assert capsys.readouterr().out.endswith("only Python 3.11, which runs this script, was tested\n")

    def test_none_is_a_failure(self) -> None:
        assert pythons["conclude"]({10: None, 11: None}, 11) == (
            "error: no Python was tested; install one of python3.10, python3.11"
        )

    def test_one_that_fails_is_a_failure(self) -> None:
        assert pythons["conclude"]({10: "error: it broke", 11: "fine", 12: "error: it too"}, 11) == (
            "error: the package does not work with Python 3.10, 3.12"
        )


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("2512 passed, 30 skipped, 1 warning in 30.77s", (2512, 30)),
        ("3 passed in 0.1s", (3, 0)),
        ("12 deselected in 0.1s", (0, 0)),
        ("no tests ran in 0.1s", (0, 0)),
    ],
)
def test_tests_are_counted_by_the_last_line(last: str, expected: tuple[int, int]) -> None:
    assert pythons["counts"](f"99 passed\n{last}\n") == expected


def test_a_wheel_that_is_small_and_whole_passes_and_no_other(tmp_path: Path, monkeypatch: Any) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("msformer_deploy/__init__.py", b"")
    with pytest.raises(pythons["Fault"], match="carries no compiled kernels"):
        pythons["require_small"](wheel)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("msformer_deploy/kernels/compiled/one.compute_80.ptx.xz", bytes(100_000))
    assert pythons["require_small"](wheel) == pytest.approx(0.1, abs=0.01)
    monkeypatch.setitem(pythons["require_small"].__globals__, "MAX_WHEEL", 0.05)
    with pytest.raises(pythons["Fault"], match=r"the wheel has 0.1 MB, allowed 0.05"):
        pythons["require_small"](wheel)


def test_all_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_bytes(b"x" * 1_500_000)
    (tmp_path / "c.so").write_bytes(b"x" * 500_000)
    (tmp_path / "link").symlink_to("a")
    assert pythons["megabytes"](tmp_path) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('it broke')", "ends with exit code 1: it broke"),
        ("import sys; print('careful', file=sys.stderr)", "prints to stderr: careful"),
    ],
)
def test_a_command_that_fails_or_complains_is_a_fault(code: str, message: str) -> None:
    with pytest.raises(pythons["Fault"], match=re.escape(message)):
        pythons["said"]([sys.executable, "-c", code])


def test_the_fence_in_python_keeps_the_network_off(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(pythons["FENCE"])
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 5)"
    with pytest.raises(pythons["Fault"], match="OSError: the network is cut off"):
        pythons["said"]([sys.executable, "-c", code], None, {**os.environ, "PYTHONPATH": str(tmp_path)})


def test_every_file_that_it_names_is_there() -> None:
    for name in (*pythons["TESTS"], *pythons["LEFT_OUT"]):
        assert (ROOT / pythons["TORCHLESS"] / name).exists(), name


def test_it_tests_every_python_that_is_declared() -> None:
    declared = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, declared)) == pythons["MINORS"]


def brought(name: str, extra: str = "") -> set[str]:
    """A distribution and those that it needs, by their names with hyphens."""
    found, to_see = set[str](), [(name, extra)]
    while to_see:
        name, extra = to_see.pop()
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for need in map(Requirement, needs):
            needed = need.name.lower().replace("_", "-")
            if needed not in found and (need.marker is None or need.marker.evaluate({"extra": extra})):
                to_see.append((needed, ""))
    return found


def imported_at_once(path: Path) -> Iterator[str]:
    """The packages that a module imports when it is imported, up to a skip where one is not installed."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]
        elif "importorskip" in ast.unparse(node):
            return


def with_support(path: Path) -> set[str]:
    """What a module imports at once, and what the modules import that tests share, if it imports these."""
    found = set(imported_at_once(path))
    for name in [*found]:
        shared = ROOT / "tests" / "support" / f"{name}.py"
        if shared.is_file() and shared != path:
            found |= with_support(shared)
    return found


def test_the_tests_import_only_what_is_installed_for_them() -> None:
    """One module that cannot be imported ends all tests of a Python, after minutes."""
    ours = {"msformer_deploy", *(path.stem for path in (ROOT / "tests" / "support").glob("*.py"))}
    installed = brought("msformer-deploy", "cpu") | brought("pytest")
    known = importlib.metadata.packages_distributions()
    folder, names = ROOT / pythons["TORCHLESS"], pythons["TESTS"]
    left_out = {folder / name for name in pythons["LEFT_OUT"]}
    files = {path for name in names for path in (folder / name, *(folder / name).rglob("test_*.py")) if path.is_file()}
    assert left_out <= files, "LEFT_OUT names a file that is not there, or that no entry of TESTS brings"
    lacking = {
        f"{path.relative_to(folder)}: {name}"
        for path in files - left_out
        for name in with_support(path) - sys.stdlib_module_names - ours
        if not installed.intersection(each.lower().replace("_", "-") for each in known.get(name, ()))
    }
    assert lacking == set()
