"""The command line as a whole: how it starts, and how every failure ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import every_command

from msformer_deploy import cli, errors
from msformer_deploy.bundle.folder import Bundle

COMMANDS = ("export", "run", "inspect", "doctor", "list")
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "cc3d", "scipy", "skimage", "PIL", "msgspec")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ``list`` raise."""

    def fail_with(error: BaseException) -> None:
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setattr(cli.cli.commands["list"], "callback", fail)

    return fail_with


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["run", "--help"], set()),
        (["export", "--help"], set()),
        (["--version"], set()),
        (["list", "--json"], set()),
        (["inspect", "--json", "BUNDLE"], {"numpy", "onnx", "msgspec"}),
        (["doctor", "--json"], {"numpy", "onnx", "onnxruntime"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_starts_light(tiny_bundle: Bundle, arguments: list[str], allowed: set[str]) -> None:
    script = (
        "import json, sys\n"
        "from msformer_deploy.cli import call\n"
        "code = call(sys.argv[2:])\n"
        "print(json.dumps([name for name in sys.argv[1].split() if name in sys.modules]), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    arguments = [str(tiny_bundle.path) if argument == "BUNDLE" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", script, " ".join(HEAVY), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stderr.splitlines()[-1])) <= allowed
    if "--json" in arguments:
        assert json.loads(done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["doctor"],
        ["inspect", "BUNDLE"],
        ["run", "IMAGES", "--output", "out", "--bundle", "BUNDLE"],
        ["run", "IMAGES", "--output", "out", "--bundle", "BUNDLE", "--foreground", "all"],
        [
            *("benchmark", "BUNDLE", "--images", "IMAGES", "--backend", "onnxruntime", "--backend", "torch"),
            *("--min-seconds", "0.1", "--min-iterations", "1", "--warmup-seconds", "0"),
        ],
    ],
    ids=lambda arguments: " ".join(arguments[:8]),
)
def test_the_runtime_needs_neither_scipy_nor_scikit_image(
    tiny_bundle: Bundle, images: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """They are as good as absent, also in the processes that a command starts."""
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text("import sys\nsys.modules |= dict(scipy=None, skimage=None)\n")
    paths = {"BUNDLE": str(tiny_bundle.path), "IMAGES": str(images), "out": str(tmp_path / "out")}
    script = "import sys\nfrom msformer_deploy.cli import call\nsys.exit(call(sys.argv[1:]))"
    places = os.pathsep.join(filter(None, [str(tmp_path / "absent"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script, *(paths.get(argument, argument) for argument in arguments)],
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert ("not compared with those of torch: scipy is not installed" in said) == ("benchmark" in arguments)


def test_run_on_png_loads_nothing_of_clinical_formats(tiny_bundle: Bundle, seven: Path, tmp_path: Path) -> None:
    """From the start to the end of a whole run: its start-up time is what it was before there were such formats."""
    (seven / "notes").write_text("without a suffix")
    script = (
        "import sys\n"
        "from msformer_deploy.cli import call\n"
        "code = call(sys.argv[2:])\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(loaded.intersection(sys.argv[1].split())))\n"
        "sys.exit(code)\n"
    )
    clinical = "pydicom highdicom imagecodecs pylibjpeg gdcm nibabel nrrd SimpleITK itk h5py PIL"
    arguments = (clinical, "run", seven, "--output", tmp_path / "out", "--bundle", tiny_bundle.path)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "measurements.csv").is_file()
    assert done.stdout.splitlines()[-1] == "PIL", "of these, only what pictures need"


def test_help_names_every_command_and_exit_code(invoke: Any) -> None:
    outcome = invoke("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert set(COMMANDS) <= set(cli.cli.commands)
    assert all(re.search(rf"^  {name} ", outcome.out, re.MULTILINE) for name in cli.cli.commands)
    assert all(f"{code} " in outcome.out for code in (0, 1, 2, 3, 4, 5, 130))
    assert invoke("-h") == outcome


@pytest.mark.parametrize("command", every_command())
def test_every_command_and_option_has_help(invoke: Any, command: str) -> None:
    assert invoke(*command.split(), "--help").code == 0
    options = [parameter for parameter in every_command()[command].params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_no_command_shows_the_help(invoke: Any) -> None:
    outcome = invoke()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: ")
    assert len(outcome.err.splitlines()) > 10


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["frobnicate"], "'frobnicate'"),
        (["run", "a.png"], "'--output'"),
        (["run", "--output", "out"], "'INPUT...'"),
        (["run", "a.png", "--output"], "'--output'"),
        (["run", "a.png", "--bogus"], "--bogus"),
        (["export"], "'--output'"),
        (["export", "--output", "b", "--system", "unet"], "'unet'"),
        pytest.param(
            ["export", "--output", "b", "--system", "mcsc"],
            "needs trained weights",
            marks=pytest.mark.needs("torch", "onnxscript", "skimage"),
        ),
        (["inspect"], "'PATH'"),
        (["list", "surplus"], "surplus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_told_in_one_line(invoke: Any, arguments: list[str], part: str) -> None:
    invoke(*arguments).error(2, part)


def after(first: BaseException, error: Exception) -> Exception:
    """An error that rose while another was being handled."""
    error.__context__ = first
    return error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.DeployError("it broke;\n mend it"), 1, "error: it broke; mend it"),
        (errors.UsageError("no"), 2, "error: no"),
        (errors.ValidationMismatch("no"), 3, "error: no"),
        (errors.BackendUnavailable("no"), 4, "error: no"),
        (errors.ImageError("no"), 1, "error: no"),
        (errors.BundleError("no"), 1, "error: no"),
        (click.UsageError("no"), 2, "error: no"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (after(KeyboardInterrupt(), RuntimeError("a library gave way")), 130, "error: interrupted"),
        (
            RuntimeError("a\nb"),
            1,
            "error: internal error, RuntimeError: a b; MSFORMER_DEPLOY_DEBUG=1 shows the traceback",
        ),
    ],
    ids=repr,
)
def test_every_failure_is_one_line_and_a_code(
    invoke: Any, failing: Any, monkeypatch: Any, error: BaseException, code: int, line: str
) -> None:
    monkeypatch.delenv("MSFORMER_DEPLOY_DEBUG", raising=False)
    failing(error)
    outcome = invoke("list")
    assert (outcome.code, outcome.out, outcome.err.strip()) == (code, "", line)


def test_the_traceback_of_an_internal_error_can_be_had(invoke: Any, failing: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MSFORMER_DEPLOY_DEBUG", "1")
    failing(RuntimeError("why"))
    with pytest.raises(RuntimeError, match="why"):
        invoke("list")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX pipe")
def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "input(); from msformer_deploy.cli import main; main()", "list"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()  # before the command may start to write
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


def test_the_documented_codes(tmp_path: Path) -> None:
    assert (errors.EXIT_SOME_FAILED, errors.EXIT_INTERRUPTED) == (5, 130)
