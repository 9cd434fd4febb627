from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from msformer_deploy.errors import DeployError
from msformer_deploy.web.server import HEADERS, LOOPBACK, address_of, open_server


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "index.html").write_text("<p>page")
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "graph.onnx.gz").write_bytes(b"1")
    (tmp_path / "assets").mkdir()
    with open_server(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield address_of(server)
        server.shutdown()
        thread.join()


def test_no_other_computer_reaches_it_and_the_page_reaches_no_other(tmp_path: Path) -> None:
    with open_server(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
    sources = {source for part in HEADERS["Content-Security-Policy"].split(";") for source in part.split()[1:]}
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:", "data:"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("graph.onnx.gz", "application/gzip"),
    ],
)
def test_files_come_with_their_type_and_all_headers(address: str, path: str, kind: str) -> None:
    with urllib.request.urlopen(address + path) as answer:
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Content-Encoding"] is None
        assert HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("path", ["none.js", "assets/", "../../etc/hostname"])
def test_nothing_but_the_files_is_given(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(address + path)
    assert error.value.code == 404


def test_it_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    with open_server(tmp_path, 0) as server:
        assert server.server_address[0] == LOOPBACK


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeployError, match=rf"port {port} cannot be used \(.+\); choose another one with --port"):
            open_server(tmp_path, port)
