"""Where answers go, over the loopback: by C-STORE to a server of pynetdicom, by STOW-RS to one of http."""

from __future__ import annotations

import base64
import email
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
pytest.importorskip("requests", reason="requests is not installed")
from ct_series import write_ct_series
from dicom_files import CT
from pydicom import dcmread
from pynetdicom import AE, evt

from msformer_deploy.dicom_node.destinations import Refused, StoreDestination, Unavailable, parse_destination
from msformer_deploy.errors import UsageError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_ct_series(tmp_path / "results", slices=2)


@dataclass
class Server:
    """What takes objects: its port, how it answers, and what it got."""

    port: int = 0
    status: int = 0
    body: Any = None
    got: list[Any] = field(default_factory=list)


@pytest.fixture
def entity() -> Iterator[Callable[..., Server]]:
    running: list[Any] = []

    def start(status: int = 0, sop_class: str = CT, callers: tuple[str, ...] = ()) -> Server:
        found = Server(status=status)

        def stored(event: Any) -> int:
            found.got.append(event.dataset.SOPInstanceUID)
            return found.status

        server = AE("PACS")
        server.require_called_aet = True
        server.require_calling_aet = list(callers)
        server.add_supported_context(sop_class)
        running.append(server.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, stored)]))
        found.port = running[-1].server_address[1]
        return found

    yield start
    for each in running:
        each.shutdown()


class TestStore:
    def test_all_files_arrive(self, entity: Any, files: list[Path]) -> None:
        server = entity(callers=("NODE",))
        parse_destination(f"PACS@127.0.0.1:{server.port}", "NODE").send(files)
        assert server.got == [dcmread(each).SOPInstanceUID for each in files]

    @pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
    def test_a_warning_and_a_duplicate_are_success(self, entity: Any, files: list[Path], status: int) -> None:
        server = entity(status)
        StoreDestination("PACS", "127.0.0.1", server.port, "NODE").send(files)
        assert len(server.got) == 2

    @pytest.mark.parametrize(
        ("status", "kind", "reason"),
        [
            (0xA700, Unavailable, r"it is out of resources \(status A700\)"),
            (0xA702, Unavailable, r"it is out of resources \(status A702\)"),
            (0xA900, Refused, r"it answers with status A900"),
            (0xC123, Refused, r"it answers with status C123"),
            (0x0110, Refused, r"it answers with status 0110"),
            (0x0124, Refused, r"it answers with status 0124"),
        ],
    )
    def test_a_failure(self, entity: Any, files: list[Path], status: int, kind: Any, reason: str) -> None:
        server = entity(status)
        with pytest.raises(kind, match=f"^{reason}$"):
            StoreDestination("PACS", "127.0.0.1", server.port, "NODE").send(files)
        assert len(server.got) == 1

    def test_objects_of_another_kind(self, entity: Any, files: list[Path]) -> None:
        server = entity(sop_class="1.2.840.10008.5.1.4.1.1.4")
        with pytest.raises(Refused, match=r"^it does not take objects of this kind$"):
            StoreDestination("PACS", "127.0.0.1", server.port, "NODE").send(files)

    def test_a_title_that_it_does_not_know(self, entity: Any, files: list[Path]) -> None:
        server = entity(callers=("OTHER",))
        with pytest.raises(Unavailable, match=r"^it rejects the association$"):
            StoreDestination("PACS", "127.0.0.1", server.port, "NODE").send(files)

    def test_nobody_is_there(self, files: list[Path]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(Unavailable, match=r"^it cannot be reached$"):
                StoreDestination("PACS", "127.0.0.1", taken.getsockname()[1], "NODE").send(files)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(status=200, body={})
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login node password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.path, self.headers, content))
            self.send_response(found.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b"" if found.body is None else json.dumps(found.body).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def failed(*reasons: int) -> dict[str, Any]:
    """The answer of STOW-RS with objects that were not stored."""
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [each]}} for each in reasons]}}


class TestWeb:
    def test_all_files_arrive_in_one_request(self, web: Server, files: list[Path]) -> None:
        parse_destination(f"http://127.0.0.1:{web.port}/dicom-web/", "NODE").send(files)
        ((path, headers, content),) = web.got
        assert path == "/dicom-web/studies"
        assert headers["Accept"] == "application/dicom+json"
        assert headers["Authorization"] == f"Basic {base64.b64encode(b'node:secret').decode()}"
        message = email.message_from_bytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + content)
        assert (message.get_content_type(), message.get_param("type")) == ("multipart/related", "application/dicom")
        boundary = f"--{message.get_boundary()}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        assert content == b"".join(boundary + path.read_bytes() + b"\r\n" for path in files) + (
            f"--{message.get_boundary()}--\r\n".encode()
        )

    @pytest.mark.parametrize("body", [None, {}, {"00081199": {"vr": "SQ", "Value": [{}, {}]}}, failed()])
    def test_success(self, web: Server, files: list[Path], body: Any) -> None:
        web.body = body
        parse_destination(f"http://127.0.0.1:{web.port}", "NODE").send(files)

    @pytest.mark.parametrize("status", [200, 202, 409])
    def test_what_it_has_already_is_delivered(self, web: Server, files: list[Path], status: int) -> None:
        web.status, web.body = status, failed(273, 273)  # 0111H
        parse_destination(f"http://127.0.0.1:{web.port}", "NODE").send(files)

    @pytest.mark.parametrize(
        ("status", "body", "kind", "reason"),
        [
            *((status, {}, Unavailable, f"HTTP status {status}") for status in (401, 403, 404, 408, 429, 500, 503)),
            *((status, {}, Refused, f"HTTP status {status}") for status in (302, 400, 415)),
            (200, failed(0xA700), Unavailable, r"status A700\)"),
            (202, failed(0xA700), Unavailable, r"status A700\)"),
            (202, failed(0xC122), Refused, "C122"),
            (200, failed(0), Refused, "0110"),
            (409, failed(273, 272), Refused, "0110"),
            (409, failed(273, 0xA700), Unavailable, r"status A700\)"),
            (409, failed(0x0122, 0x0122), Refused, "0122"),
            (200, {"00081198": {"Value": [{}]}}, Refused, "its answer with HTTP status 200 cannot be read"),
            (200, [], Refused, "its answer with HTTP status 200 cannot be read"),
            (409, "duplicate", Refused, "its answer with HTTP status 409 cannot be read"),
            (202, {}, Refused, "HTTP status 202 and does not say why"),
            *((409, body, Refused, "HTTP status 409 and does not say why") for body in (None, {}, failed(273))),
        ],
    )
    def test_a_failure(self, web: Server, files: list[Path], status: int, body: Any, kind: Any, reason: str) -> None:
        web.status, web.body = status, body
        with pytest.raises(kind, match=f"{reason}$"):
            parse_destination(f"http://127.0.0.1:{web.port}", "NODE").send(files)
        assert len(web.got) == 1

    def test_nobody_is_there(self, files: list[Path]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            destination = parse_destination(f"http://127.0.0.1:{taken.getsockname()[1]}", "NODE")
            with pytest.raises(Unavailable, match=r"^it cannot be reached \(ConnectionError\)$"):
                destination.send(files)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PACS@10.1.2.3:104", "PACS@10.1.2.3:104"),
        ("PACS@pacs.example:104", "PACS@pacs.example:104"),
        ("PACS@[fe80::1]:104", "PACS@fe80::1:104"),
        ("http://127.0.0.1:8042/dicom-web/", "http://127.0.0.1:8042/dicom-web"),
        ("HTTPS://pacs.example/dicom-web", "HTTPS://pacs.example/dicom-web"),
    ],
)
def test_destinations(text: str, shown: str) -> None:
    assert str(parse_destination(text, "NODE")) == shown


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("PACS", "neither AE@HOST:PORT"),
        ("PACS@host", "neither AE@HOST:PORT"),
        ("PACS@host:", "neither AE@HOST:PORT"),
        ("PACS@:104", "neither AE@HOST:PORT"),
        ("PACS@host:0", "neither AE@HOST:PORT"),
        ("PACS@host:99999", "neither AE@HOST:PORT"),
        ("ftp://host", "neither AE@HOST:PORT"),
        ("@host:104", "is not an AE title"),
        ("https://", "is not the address of a DICOMweb service"),
        ("https://host/?a=b", "is not the address of a DICOMweb service"),
        ("https://user:secret@host/", "write it into ~/.netrc"),
    ],
)
def test_what_is_no_destination(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=r"^--send-to") as raised:
        parse_destination(text, "NODE")
    assert part in str(raised.value)
    assert "secret" not in str(raised.value)
