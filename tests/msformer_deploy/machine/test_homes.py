"""Users without a home, a name or a temporary folder."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from msformer_deploy import cli
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.machine import homes

pwd = pytest.importorskip("pwd", reason="this system has no password file")
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose number the system does not know, as with ``docker run --user 12345``."""

    def getpwuid(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    for name in (*NAMES, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is set back, whatever a test sets
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_user_without_a_home_has_no_cache(home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    path = homes.user_cache()
    assert path is None or path.is_absolute()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the variable names the cache on Linux only")
@pytest.mark.usefixtures("unknown")
def test_a_cache_that_is_named_needs_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert homes.user_cache() == tmp_path / "msformer-deploy"


@pytest.mark.parametrize("error", [KeyError("uid"), RuntimeError("no home"), OSError("no home")])
def test_what_a_library_raises_for_want_of_a_home_is_no_cache(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> Path:
        raise error

    monkeypatch.setattr("platformdirs.user_cache_path", fail)
    assert homes.user_cache() is None


@pytest.mark.usefixtures("unknown")
def test_run_without_a_home_says_what_to_set(invoke: Any, images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    line = invoke("run", images, "--output", "out", "--steps", 3).error(
        1, "cache folder", "cannot be found", "XDG_CACHE_HOME", "--bundle"
    )
    assert "--output" not in line
    assert not (tmp_path / "~").exists()


@pytest.mark.usefixtures("unknown")
@pytest.mark.needs("onnxscript")  # a bundle is about to be made
def test_run_with_a_home_that_nobody_can_write(
    invoke: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    line = invoke("run", images, "--output", tmp_path / "out", "--steps", 3).error(
        1, "cache folder", "cannot be made or written", "Not a directory", "XDG_CACHE_HOME", "--bundle"
    )
    assert "--output" not in line


@pytest.mark.usefixtures("unknown")
def test_run_by_default_needs_no_home(invoke: Any, images: Path, tmp_path: Path) -> None:
    outcome = invoke("run", images, "--output", tmp_path / "out", "-q")
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.usefixtures("unknown")
def test_run_with_a_bundle_needs_no_home(segment: Any, images: Path) -> None:
    outcome = segment(images, "-q")
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.usefixtures("unknown")
def test_a_user_without_a_name_gets_the_number() -> None:
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    homes.name_user()
    assert getpass.getuser() == str(os.getuid())


def test_a_user_with_a_name_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.delenv("USER", raising=False)
    homes.name_user()
    assert getpass.getuser() == "somebody"
    assert "USER" not in os.environ


@pytest.mark.slow
def test_evaluate_imports_all_of_its_libraries_for_an_unknown_user(
    tiny_bundle: Bundle, images: Path, picture: Any, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "masks").mkdir()
    Image.fromarray(picture[..., 2] < 100).save(tmp_path / "masks" / "a.png")
    script = (
        "import pwd, sys\n"
        "def getpwuid(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = getpwuid\n"
        "from msformer_deploy.cli import call\n"
        "sys.exit(call(sys.argv[1:]))\n"
    )
    arguments = ["--images", images / "a.png", "--masks", tmp_path / "masks", "--bundle", tiny_bundle.path]
    environment = {name: value for name, value in os.environ.items() if name not in (*NAMES, "HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", script, "evaluate", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error:" not in done.stderr


def test_no_temporary_folder_is_one_line(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(tempfile, "tempdir", None)
        meanwhile.setattr(tempfile, "_get_default_tempdir", fail)
        assert not homes.has_temporary_folder()
    assert homes.has_temporary_folder()
    monkeypatch.setattr(cli.cli.commands["list"], "callback", fail)
    monkeypatch.setattr(cli, "has_temporary_folder", lambda: False)
    invoke("list").error(1, "temporary files", "TMPDIR")
