"""Nothing is sent and nothing is left: every command runs in an empty home folder, under a watch of outgoing calls."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from labelled import write_pairs
from locations import ROOT
from outgoing import build, linux_only, watched

from msformer_deploy import cli
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.doctor.probes import Outcome
from msformer_deploy.machine import silence

TOUR = ROOT / "tests" / "support" / "every_command.py"
ALLOWED = (
    ".cache/msformer-deploy/*",  # the default bundle
    ".cache/matplotlib/fontlist-*.json",  # of the fonts here
    ".config/matplotlib",  # an empty folder
    "temporary/torchinductor_*",  # an empty folder, of torch's exporter
)
RUNTIMES = {"onnxruntime", "openvino"}


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("watch"))


@linux_only
@pytest.mark.slow
def test_every_command_calls_nobody_and_leaves_nothing(watch: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    traces = watched(watch, tmp_path, TOUR, tmp_path / "named", tiny_bundle.path)
    assert json.loads(traces.output.splitlines()[-1]) == [*cli.cli.commands, "python-api"]
    left = [path for path in traces.left if not any(fnmatch.fnmatch(path, allowed) for allowed in ALLOWED)]
    assert (left, traces.calls) == ([], [])


@pytest.mark.slow
@linux_only
def test_left_alone_the_runtimes_are_caught(watch: Path, tmp_path: Path) -> None:
    """The control: without the package both leave files, and OpenVINO calls its maker at once."""
    traces = watched(watch, tmp_path, "-c", "import onnxruntime, openvino")
    assert ".cache/Microsoft/DeveloperTools/.onnxruntime/deviceid" in traces.left
    assert any(path.startswith("intel/") for path in traces.left)
    assert [call for call in traces.calls if "google-analytics.com" in call] != []


CALLS = {
    "connect": "socket().connect(remote)",
    "sendto": "socket(type=SOCK_DGRAM).sendto(b'', remote)",
    "sendmsg": "socket(type=SOCK_DGRAM).sendmsg([b''], [], 0, remote)",
    "getaddrinfo": "getaddrinfo('example.invalid', 80)",
    "gethostbyname": "CDLL(None).gethostbyname(b'example.invalid')",
    "bind": "socket().bind((inet_ntoa(bytes(4)), 0))",
    "listen": "socket().listen()",
}


@linux_only
@pytest.mark.parametrize("process", ["this one", "a child"])
def test_the_watch_sees_each_way_out(watch: Path, tmp_path: Path, process: str) -> None:
    script = "from ctypes import CDLL\nfrom socket import *\nremote = (inet_ntoa(bytes([192, 0, 2, 1])), 9)\n"
    script += "".join(f"try: {call}\nexcept OSError: pass\n" for call in CALLS.values())
    if process == "a child":
        script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {script!r}], check=True)"
    seen = [line.split()[0] for line in watched(watch, tmp_path, "-c", script).calls]
    # Python resolves even a numerical address, which is a call of its own; 192.0.2.1 is nobody's.
    assert set(seen) == set(CALLS)


@linux_only
def test_the_watch_lets_local_sockets_pass(watch: Path, tmp_path: Path) -> None:
    script = (
        "from socket import *\n"
        "for family, address in ((AF_INET, ('127.0.0.1', 0)), (AF_UNIX, 'socket')):\n"
        "    server = socket(family); server.bind(address); server.listen()\n"
        "    socket(family).connect(server.getsockname())\n"
        "getaddrinfo('localhost', 80)\n"
    )
    assert watched(watch, tmp_path, "-c", script).calls == []


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize(
    ("undo", "works", "part"),
    [
        ("", True, "onnxruntime and openvino ran with an empty home folder and wrote nothing to it"),
        ("os.environ['ORT_DISABLE_TELEMETRY'] = '0'", False, ".onnxruntime/deviceid"),
        ("del sys.modules['openvino_telemetry']", False, "intel/openvino_ga_cid"),
    ],
    ids=["as it is", "onnxruntime reports", "openvino reports"],
)
def test_doctor_observes_it(watch: Path, tmp_path: Path, undo: str, works: bool, part: str) -> None:
    script = (
        f"import json, os, sys, msformer_deploy\n{undo}\n"
        "from msformer_deploy.doctor.probes import attempt\nprint(json.dumps(attempt('silence')))\n"
    )
    outcome = Outcome(*json.loads(watched(watch, tmp_path, "-c", script).output.splitlines()[-1]))
    assert (outcome.works, bool(outcome.advice)) == (works, not works)
    assert part in outcome.detail


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no printenv")
@pytest.mark.parametrize("value", [None, "0", "1", ""])
def test_the_variables_are_set_whatever_they_were(value: str | None) -> None:
    """Child processes inherit the settings, Python or not."""
    names = ["ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "RAY_USAGE_STATS_REPORT_URL"]
    assert names == [silence.VARIABLE, *silence.OF_RAY]
    others = {name: text for name, text in os.environ.items() if name not in names}
    script = f"import msformer_deploy, subprocess; subprocess.run(['printenv', *{names}], check=True)"
    environment = others if value is None else others | dict.fromkeys(names, value)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n0\nhttp://127.0.0.1:9\n", "")


@pytest.mark.needs("ray")
@pytest.mark.slow
def test_ray_itself_says_that_it_reports_nothing() -> None:
    """And without the package it says that it would."""
    ask = "from ray._common.usage import usage_lib as u; print(u.usage_stats_enabled(), u._usage_stats_report_url())"
    others = {name: text for name, text in os.environ.items() if name not in silence.OF_RAY}
    said = [
        subprocess.run([sys.executable, "-c", script], env=others, capture_output=True, text=True, check=True).stdout
        for script in (f"import msformer_deploy; {ask}", ask)
    ]
    assert said == ["False http://127.0.0.1:9\n", "True https://usage-stats.ray.io/\n"]


@linux_only
@pytest.mark.needs("ray")
@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_on_ray_only_asks_for_its_cloud_and_leaves_nothing(
    watch: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Ray's head looks up the addresses at which a cloud says which one it is, with usage reports off as well."""
    (tmp_path / "scans").mkdir()
    write_pairs(tmp_path / "scans", 2)
    images, out = tmp_path / "scans" / "images", tmp_path / "out"
    # Paths of sockets are short, so Ray's folder is not in the temporary folder of the test.
    script = (
        "import os, sys; os.environ['TMPDIR'] = '/tmp'; from msformer_deploy import cli;"
        f" sys.exit(cli.call(['run', {str(images)!r}, '--output', {str(out)!r}, '--bundle', {str(tiny_bundle.path)!r},"
        " '--ray', 'local', '-q']))"
    )
    traces = watched(watch, tmp_path, "-c", script)
    assert traces.output.startswith("2 of 2 images segmented")
    left = [path for path in traces.left if not any(fnmatch.fnmatch(path, allowed) for allowed in ALLOWED)]
    assert left == []
    asked = {"getaddrinfo 169.254.169.254", "getaddrinfo metadata.google.internal"}
    assert {call.partition(" (")[0] for call in traces.calls} <= asked


@pytest.mark.parametrize(("value", "warned"), [("0", True), ("1", False)])
def test_a_runtime_that_was_imported_before_is_reported(value: str, warned: bool, tmp_path: Path) -> None:
    script = "import sys, types; sys.modules['onnxruntime'] = types.ModuleType('onnxruntime'); import msformer_deploy"
    environment = os.environ | {silence.VARIABLE: value}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ("onnxruntime was imported before msformer_deploy" in done.stderr) is warned


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["tests/conftest.py", *(f"studies/{path.name}" for path in (ROOT / "studies").glob("*.py"))]
)
def test_no_script_imports_a_runtime_before_the_package(path: str) -> None:
    """Scripts sort third-party imports first. Modules of the package need no such test: the package is there before."""
    imported: list[str] = []
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            imported += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module.partition(".")[0])
    before = imported[: imported.index("msformer_deploy")] if "msformer_deploy" in imported else imported
    assert RUNTIMES.isdisjoint(before)
