"""Standard streams that are closed, missing or full."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from msformer_deploy import cli
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.commands.streams import OutputLost, occupy_descriptors, standard_streams

COMMAND = f"{sys.executable} -m msformer_deploy"
FULL = Path("/dev/full")
PRODUCTS = [
    *(f"a.png.{kind}" for kind in ("json", "labels.png", "mask.png", "overlay.png", "probability.png")),
    *("index.html", "measurements.csv", "report.json"),
]

full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


class Full(io.RawIOBase):
    """A raw stream on a full disk."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def fill(name: str) -> None:
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(Full()), encoding="utf-8"))

    return fill


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    "streams",
    [
        "2>&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        pytest.param("2>/dev/full", marks=full),
        pytest.param(">/dev/full", marks=full),
        pytest.param(">/dev/full 2>/dev/full", marks=full),
    ],
)
def test_run_leaves_every_file_whatever_the_streams_are(
    streams: str, tiny_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    done = shell(f"{COMMAND} run {images}/a.png --bundle {tiny_bundle.path} --output out {streams}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == PRODUCTS
    assert done.stderr == ""


@posix
@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", pytest.param("2>/dev/full", marks=full)])
@pytest.mark.parametrize(
    ("arguments", "code"), [("list", 0), ("--bogus", 2), ("run missing.png --bundle missing --output out", 1)]
)
def test_an_error_keeps_its_exit_code_where_nothing_can_be_said(
    streams: str, arguments: str, code: int, tmp_path: Path
) -> None:
    done = shell(f"{COMMAND} {arguments} {streams}", tmp_path)
    assert done.returncode == code
    assert done.stderr == ""


@posix
@full
@pytest.mark.parametrize("unbuffered", ["0", ""])
def test_a_result_that_does_not_fit_into_stdout_is_an_error(unbuffered: str, tmp_path: Path) -> None:
    done = shell(f"PYTHONUNBUFFERED={unbuffered} {COMMAND} list --json > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output cannot be written (No space left on device); make room, or send it elsewhere\n"
    )


@posix
def test_a_reader_that_goes_away_gets_no_traceback(tmp_path: Path) -> None:
    done = shell(f"({COMMAND} list --json; echo code $? >&2) | true", tmp_path)
    assert done.stderr in ("code 0\n", "code 1\n")  # true may end before or after
    process = subprocess.Popen(
        [sys.executable, "-m", "msformer_deploy", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (1, b"")
    process.stderr.close()


@posix
def test_a_file_never_takes_the_place_of_a_closed_descriptor(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "from msformer_deploy.commands.streams import occupy_descriptors\n"
        "occupy_descriptors()\n"
        "with open('data', 'w') as stream:\n"
        "    os.write(2, b'what a library prints')\n"
        "    number = stream.fileno()\n"
        "    stream.write('data')\n"
        "raise SystemExit(number if number > 2 else 100)\n"
    )
    done = shell(f'{sys.executable} -c "{script}" <&- >&- 2>&-', tmp_path)
    assert 2 < done.returncode < 100
    assert (tmp_path / "data").read_text(encoding="utf-8") == "data"


def test_descriptors_that_are_open_are_left_alone() -> None:
    before = [os.fstat(number) for number in range(3)]
    occupy_descriptors()
    assert [os.fstat(number) for number in range(3)] == before


@pytest.mark.parametrize("names", [("stderr",), ("stdout",), ("stdout", "stderr")])
def test_missing_streams_are_no_failure_of_a_call(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    for name in names:
        monkeypatch.setattr(sys, name, None)
    arguments = ["run", str(images), "--bundle", str(tiny_bundle.path), "--output", str(tmp_path / "out")]
    assert cli.call(arguments) == 0
    assert (tmp_path / "out" / "report.json").is_file()
    assert cli.call(arguments) == 2
    assert [getattr(sys, name) for name in names] == [None] * len(names)


def test_a_full_stdout_takes_nothing_from_files_and_everything_from_results(
    on_a_full_disk: Any, tiny_bundle: Bundle, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    on_a_full_disk("stdout")
    arguments = ["run", str(images), "--bundle", str(tiny_bundle.path), "--output", str(tmp_path / "out")]
    assert cli.call([*arguments, "--quiet"]) == 0
    assert capfd.readouterr().err == ""
    assert cli.call(["list"]) == 1
    assert capfd.readouterr().err.startswith("error: standard output cannot be written (No space left on device)")


def test_a_full_stderr_drops_what_is_said(on_a_full_disk: Any) -> None:
    on_a_full_disk("stderr")
    assert cli.call(["--bogus"]) == 2
    with standard_streams():
        for _ in range(2):
            click.echo("progress", err=True)


def test_a_lost_output_fails_once(on_a_full_disk: Any) -> None:
    on_a_full_disk("stdout")
    with standard_streams():
        with pytest.raises(OutputLost, match="standard output cannot be written"):
            click.echo("result")
        click.echo("more")


def test_streams_of_another_program_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "stderr", own)
    assert cli.call(["--bogus"]) == 2
    assert own.getvalue() == "error: No such option '--bogus'.\n"


def test_an_evaluation_is_written_though_its_table_is_not(
    on_a_full_disk: Any, tiny_bundle: Bundle, images: Path, picture: Any, tmp_path: Path
) -> None:
    from PIL import Image

    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(picture[..., 2] < 100).save(masks / "a.png")
    on_a_full_disk("stdout")
    report = tmp_path / "report.json"
    arguments = ["evaluate", "--images", images / "a.png", "--masks", masks, "--bundle", tiny_bundle.path]
    assert cli.call([str(each) for each in (*arguments, "--json", report)]) == 1
    assert report.is_file()
