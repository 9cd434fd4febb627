"""``listen`` as it is used: with dcmtk and a real archive, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom", reason="highdicom is not installed")
pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
import orthanc
import programs
from ct_series import NAME, write_ct_series
from listening import Listening, listening
from locations import ROOT
from ports import unused_port

from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.commands.listen import listen
from msformer_deploy.dicom_node.callers import parse_caller
from msformer_deploy.dicom_node.destinations import parse_destination
from msformer_deploy.machine.addresses import is_loopback

USABLE = ("--spool", "spool", "--send-to", "PACS@127.0.0.1:104")
with_archive = [
    pytest.mark.slow,
    pytest.mark.needs_debian("dcmtk"),
    pytest.mark.needs_debian("orthanc"),
    pytest.mark.needs_debian("orthanc-dicomweb"),
]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--host", "0.0.0.0"], ["can be reached by other computers", "--allow AE@ADDRESS"]),
        (["--host", "example.org"], ["--host 'example.org' is no IP address"]),
        (["--allow", "CT1"], ["--allow 'CT1' is not of the form AE@ADDRESS"]),
        (["--aet", "A" * 17], ["--aet", "is not an AE title"]),
        (["--send-to", "nowhere"], ["--send-to 'nowhere' is neither AE@HOST:PORT"]),
        (["--window", "sky"], ["sky"]),
        (["--foreground", "sky"], ["sky"]),
        (["--backend", "sky"], ["sky"]),
        (["--device", "sky"], ["sky"]),
    ],
)
def test_what_is_refused_leaves_nothing(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("listen", *USABLE, *arguments).error(2, *parts)
    assert list(tmp_path.iterdir()) == []


def test_an_extra_that_is_missing_is_named(invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msformer_deploy.machine.extras.is_installed", lambda module: module != "pynetdicom")
    invoke("listen", *USABLE).error(4, "needs pynetdicom", 'pip install "msformer-deploy[listen]"')


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken(invoke: Any, tiny_bundle: Bundle, tmp_path: Path, host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = ("--spool", tmp_path / "spool", "--send-to", "PACS@127.0.0.1:104", "--bundle", tiny_bundle.path)
        port = taken.getsockname()[1]
        invoke("listen", *options, "--host", host, "--port", port).error(
            1, f"address {host} with port {port} cannot be used"
        )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[orthanc.Orthanc]:
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def results(archive: orthanc.Orthanc, study: str) -> dict[str, list[dict[str, Any]]]:
    """For each modality of a study, the tags of its objects."""
    found: dict[str, list[dict[str, Any]]] = {}
    for instance in archive.json("/instances"):
        tags = archive.json(f"/instances/{instance}/simplified-tags")
        if tags["StudyInstanceUID"] == study:
            found.setdefault(tags["Modality"], []).append(tags)
    return found


def sources(seg: dict[str, Any]) -> int:
    """The number of images that a SEG refers to."""
    (series,) = seg["ReferencedSeriesSequence"]
    return len(series["ReferencedInstanceSequence"])


def private(node: Listening) -> None:
    """The log names nobody."""
    text = node.log.read_text(encoding="utf-8")
    assert not [part for part in (NAME, "QQMARK", "2.25.7") if part in text]


class TestWithAnArchive:
    pytestmark = with_archive

    @pytest.mark.parametrize("number", [11, pytest.param(12, marks=pytest.mark.exhaustive)], ids=["C-STORE", "STOW-RS"])
    def test_a_series_from_storescu_is_answered(
        self, archive: orthanc.Orthanc, tiny_bundle: Bundle, tmp_path: Path, number: int
    ) -> None:
        web = f"http://127.0.0.1:{archive.http}/dicom-web"
        destination = f"ORTHANC@127.0.0.1:{archive.dicom}" if number == 11 else web
        files = write_ct_series(tmp_path / "series", number, slices=4)
        options = ("--bundle", tiny_bundle.path, "--complete-on-release", "--overlays")
        with listening(tmp_path, "--send-to", destination, *options) as node:
            programs.run("echoscu", "127.0.0.1", str(node.port))
            programs.run("storescu", "127.0.0.1", str(node.port), *files[:3])
            node.wait_for("sent to")
            found = results(archive, f"2.25.71{number}")
            assert {modality: len(objects) for modality, objects in found.items()} == {"SEG": 1, "OT": 1}
            assert sources(found["SEG"][0]) == 3

            programs.run("storescu", "127.0.0.1", str(node.port), *files[:3])
            node.wait_for("sent to", count=2)
            assert {modality: len(each) for modality, each in results(archive, f"2.25.71{number}").items()} == {
                "SEG": 1,
                "OT": 1,
            }, "the same objects again are the same objects"

            programs.run("storescu", "127.0.0.1", str(node.port), files[3])
            node.wait_for("sent to", count=3)
            late = results(archive, f"2.25.71{number}")["SEG"]
            assert sorted(map(sources, late)) == [3, 4]
            assert len({each["SeriesInstanceUID"] for each in late}) == 2
            (newer,) = (each for each in late if sources(each) == 4)
            assert newer["SeriesDescription"].endswith(", revision 2")
            assert node.end() == 0
            assert node.lines()[-1] == (
                "ended; series in the spool: 0 incoming, 0 complete, 0 sending, 2 done, 0 failed"
            )
            private(node)

    def test_the_page_runs(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        """Its commands, and its configuration of Orthanc; other are the ports and the times."""
        start, tools = blocks("sh")[:2]
        _, command = start.splitlines()
        program, name, *words = shlex.split(command)
        assert (program, name) == ("msformer-deploy", "listen")
        write_ct_series(tmp_path / "study", 21)
        port = unused_port()
        (tmp_path / "msformer.lua").write_text(blocks("lua")[0])
        configuration = json.loads(blocks("json")[0].replace("11112", str(port)))
        configuration |= {"LuaScripts": [str(tmp_path / "msformer.lua")], "StableAge": 1}
        with orthanc.running(tmp_path, **configuration) as archive:
            words = [word.replace("4242", str(archive.dicom)) for word in words]
            with listening(tmp_path, *words, "--bundle", tiny_bundle.path, "--quiet-seconds", "0.2", port=port) as node:
                for line in tools.splitlines():
                    words = shlex.split(line.replace("11112", str(port)))
                    programs.run(*(tmp_path / word if word == "study" else word for word in words))
                node.wait_for("sent to")
                files = write_ct_series(tmp_path / "other", 22)
                programs.run("storescu", "127.0.0.1", str(archive.dicom), *files)
                node.wait_for("sent to", count=2)
                assert [len(results(archive, f"2.25.71{number}")["SEG"]) for number in (21, 22)] == [1, 1]
                assert node.end() == 0
                assert not [line for line in node.lines() if "refused" in line], "its own SEG was sent to it"

    @pytest.mark.exhaustive
    def test_the_archive_sends_a_series_and_gets_the_answer(
        self, archive: orthanc.Orthanc, tiny_bundle: Bundle, tmp_path: Path
    ) -> None:
        programs.run("storescu", "127.0.0.1", str(archive.dicom), *write_ct_series(tmp_path / "series", 13))
        options = ("--bundle", tiny_bundle.path, "--quiet-seconds", "0.2", "--allow", "ORTHANC@127.0.0.1")
        with listening(tmp_path, "--send-to", f"http://127.0.0.1:{archive.http}/dicom-web", *options) as node:
            put(archive, "/modalities/node", {"AET": "MSFORMER", "Host": "127.0.0.1", "Port": node.port})
            (series,) = (
                each["ID"]
                for each in archive.json("/series?expand")
                if each["MainDicomTags"]["SeriesInstanceUID"] == "2.25.7213"
            )
            put(archive, "/modalities/node/store", {"Resources": [series], "Synchronous": True}, method="POST")
            node.wait_for("sent to")
            assert [sources(each) for each in results(archive, "2.25.7113")["SEG"]] == [3]
            seg = next(
                each["ID"]
                for each in archive.json("/series?expand")
                if each["MainDicomTags"]["Modality"] == "SEG" and each["ParentStudy"] == parent(archive, series)
            )
            with pytest.raises(urllib.error.HTTPError):  # a SEG is no image to segment
                put(archive, "/modalities/node/store", {"Resources": [seg], "Synchronous": True}, method="POST")
            node.wait_for("refused an instance of ORTHANC at 127.0.0.1: is DICOM SEG", "(status 0122)")
            assert node.end() == 0
            private(node)

    @pytest.mark.exhaustive
    def test_killed_it_goes_on_where_it_was(
        self, archive: orthanc.Orthanc, tiny_bundle: Bundle, tmp_path: Path
    ) -> None:
        """Killed with a series on the disk and with one that waits for a destination that is down."""
        files = write_ct_series(tmp_path / "series", 14)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            down = f"ORTHANC@127.0.0.1:{nobody.getsockname()[1]}"
            for complete, state in (("--quiet-seconds=600", "incoming"), ("--quiet-seconds=0", "sending")):
                with listening(tmp_path, "--send-to", down, "--bundle", tiny_bundle.path, complete) as node:
                    if state == "incoming":
                        programs.run("storescu", "127.0.0.1", str(node.port), *files)
                    else:
                        node.wait_for("cannot be reached; series that wait for it: 1; trying again in 1 s")
                    node.process.send_signal(signal.SIGKILL)
                    assert node.process.wait(20) == -signal.SIGKILL
                assert len(list((tmp_path / "spool" / state).iterdir())) == 1
        up = f"ORTHANC@127.0.0.1:{archive.dicom}"
        with listening(tmp_path, "--send-to", up, "--bundle", tiny_bundle.path) as node:
            node.wait_for("sent to")
            assert node.end() == 0
        assert [sources(each) for each in results(archive, "2.25.7114")["SEG"]] == [3]


def blocks(language: str) -> list[str]:
    """What the page shows."""
    text = (ROOT / "docs" / "how-to" / "dicom-node.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_commands_of_the_page_are_understood() -> None:
    lines = [line.removeprefix("ExecStart=") for line in blocks("ini")[0].splitlines() if line.startswith("ExecStart=")]
    lines += blocks("sh")[2].splitlines()
    assert len(lines) == 2
    for line in lines:
        program, name, *words = shlex.split(line)
        assert (Path(program).name, name) == ("msformer-deploy", "listen")
        found = listen.make_context("listen", words).params
        parse_destination(found["send_to"], found["aet"])
        assert is_loopback(found["host"]) or all(map(parse_caller, found["allowed"]))


def put(archive: orthanc.Orthanc, path: str, body: Any, method: str = "PUT") -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{archive.http}{path}", json.dumps(body).encode(), method=method)
    urllib.request.urlopen(request, timeout=20).close()


def parent(archive: orthanc.Orthanc, series: str) -> str:
    return str(archive.json(f"/series/{series}")["ParentStudy"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.exhaustive)])
def test_a_signal_ends_it_with_exit_code_0(tiny_bundle: Bundle, tmp_path: Path, name: str) -> None:
    with listening(tmp_path, "--send-to", "PACS@127.0.0.1:104", "--bundle", tiny_bundle.path, "--allow", "*@*") as node:
        node.wait_for("every caller may send")
        node.process.send_signal(signal.Signals[name])
        assert node.process.wait(20) == 0
        assert node.lines()[1:] == [
            "every caller may send; --allow AE@ADDRESS names those that may",
            "ending: what is in hand is finished; a second signal ends at once",
            "ended; series in the spool: 0 incoming, 0 complete, 0 sending, 0 done, 0 failed",
        ]
