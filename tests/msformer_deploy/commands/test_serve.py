"""The service as clients meet it: in a process of its own, through sockets of the loopback."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
from bundles import relisted
from locations import ROOT
from PIL import Image
from served import Answer, Served, png, serving

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import Bundle
from msformer_deploy.errors import EXIT_INTERRUPTED

PAGE = ROOT / "docs" / "how-to" / "serve.md"
ROW = re.compile(r"^\| `(GET|POST) (\S+)` \| (.+?) \| (\d{3}) \|", re.MULTILINE)
on_posix = pytest.mark.skipif(os.name == "nt", reason="SIGTERM cannot be sent to one process on Windows")
with_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


@pytest.fixture(scope="module")
def disc() -> np.ndarray:
    """A disc on a gradient, uint8 (60, 80, 3)."""
    rows, columns = np.mgrid[:60, :80]
    image = 150 + 40 * columns[..., None] / 80 + np.random.default_rng(0).integers(-6, 6, (60, 80, 3))
    image[(rows - 30) ** 2 + (columns - 40) ** 2 < 15**2] = (90, 50, 40)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def service(tiny_bundle: Bundle) -> Iterator[Served]:
    """A server with small limits, so that what goes beyond them is small too."""
    options = ["--max-body", 0.5, "--max-pixels", 0.02, "--timeout", 20, "--threads", 1, "--batch", 4]
    with serving("--bundle", tiny_bundle.path, *options) as served:
        yield served


def tensor(shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": "image", "shape": shape, "datatype": "UINT8", **more}


def request(image: np.ndarray, **more: Any) -> bytes:
    """A request for inference in JSON."""
    return json.dumps({"inputs": [tensor(list(image.shape), data=image.tolist())], **more}).encode()


def binary(image: np.ndarray, **more: Any) -> tuple[bytes, dict[str, str]]:
    """The same with a binary tensor, and its headers."""
    described = tensor(list(image.shape), parameters={"binary_data_size": image.nbytes})
    head = json.dumps({"inputs": [described], **more}).encode()
    return head + image.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def sent(kind: str, image: np.ndarray) -> tuple[Any, dict[str, str]]:
    """Body and headers of each kind of request in the page's table."""
    json_image = tensor(list(image.shape), data=image.tolist())
    made: dict[str, Callable[[], tuple[Any, dict[str, str]]]] = {
        "nothing": lambda: (None, {}),
        "tensors in JSON": lambda: (request(image), {}),
        "binary tensors": lambda: binary(image, parameters={"binary_data_output": True}),
        "no JSON": lambda: (b"image", {}),
        "no inputs": lambda: (b"{}", {}),
        "an unknown input": lambda: (json.dumps({"inputs": [{**json_image, "name": "x"}]}).encode(), {}),
        "another datatype": lambda: (json.dumps({"inputs": [{**json_image, "datatype": "FP32"}]}).encode(), {}),
        "another number of values": lambda: (json.dumps({"inputs": [tensor([60, 81, 3], data=[1])]}).encode(), {}),
        "an unknown output": lambda: (request(image, outputs=[{"name": "x"}]), {}),
        "a parameter that is not supported": lambda: (request(image, parameters={"priority": 1}), {}),
        "a wrong `Inference-Header-Content-Length`": lambda: (
            binary(image)[0],
            {"Inference-Header-Content-Length": "999999"},
        ),
        "one value throughout": lambda: (request(np.zeros((9, 9), np.uint8)), {}),
        "a body over the limit": lambda: (bytes(600_000), {}),
        "an image over the limit": lambda: (json.dumps({"inputs": [tensor([200, 200], data=[])]}).encode(), {}),
        "parameters of 100 kB": lambda: (request(image, parameters={"a": "b" * 100_000}), {}),
        "a compressed body": lambda: (zlib.compress(request(image)), {"Content-Encoding": "deflate"}),
        "a PNG": lambda: (png(image), {}),
        "no image": lambda: (b"GIF", {}),
        "a form": lambda: (b"--a", {"Content-Type": "multipart/form-data; boundary=a"}),
        "a PNG, `Accept: text/html`": lambda: (png(image), {"Accept": "text/html"}),
        "a PNG, `Accept: application/dicom`": lambda: (png(image), {"Accept": "application/dicom"}),
    }
    return made[kind]()


def table() -> list[tuple[str, str, str, int]]:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [(method, path, kind, int(status)) for method, path, kind, status in rows]


@pytest.mark.parametrize(("method", "path", "kind", "status"), table(), ids=lambda value: str(value))
def test_the_table_of_conformance(
    service: Served, disc: np.ndarray, method: str, path: str, kind: str, status: int
) -> None:
    body, headers = sent(kind, disc)
    got = service.ask(method, path, body, headers)
    assert got.status == status, got.body
    if status >= 400:
        got.error()


def test_the_table_has_every_route_and_every_kind() -> None:
    paths = {path for _, path, _, _ in table()}
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/msformer", "/segment", "/metrics"} <= paths
    assert {status for *_, status in table()} >= {200, 400, 404, 405, 406, 413, 415}


def blocks(language: str) -> list[str]:
    """Code on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.needs("highdicom")
def test_the_commands_of_the_page(service: Served, disc: np.ndarray, tmp_path: Path) -> None:
    """What curl would send, by its options on the page."""
    import dicom_files

    (tmp_path / "image.png").write_bytes(png(disc))
    dicom_files.write(tmp_path / "slice.dcm", dicom_files.ct())
    (script,) = blocks("console")
    got = {}
    for line in script.splitlines():
        program, *words = shlex.split(line)
        assert program == "curl"
        url = next(word for word in words if word.startswith("http"))
        words.remove(url)
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert options.keys() <= {"--data-binary", "-H", "--output"}
        body = (tmp_path / options["--data-binary"].removeprefix("@")).read_bytes()
        name, _, value = options.get("-H", "Accept: */*").partition(": ")
        found = service.ask("POST", url.removeprefix("http://127.0.0.1:8000"), body, {name: value})
        assert found.status == 200, line
        got[options.get("--output", "")] = found.headers["content-type"]
    assert got == {
        "mask.png": "image/png",
        "overlay.png": "image/png",
        "": "application/json",
        "seg.dcm": "application/dicom",
    }


@pytest.mark.needs("tritonclient")
def test_the_python_of_the_page(
    service: Served, disc: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "image.png").write_bytes(png(disc))
    monkeypatch.chdir(tmp_path)
    (script,) = blocks("python")
    assert "127.0.0.1:8000" in script
    exec(script.replace("127.0.0.1:8000", f"{service.host}:{service.port}"), {})
    clusters, share = map(float, capsys.readouterr().out.split())
    assert clusters >= 1
    assert 0 <= share <= 1


@pytest.mark.slow
def test_the_client_of_triton_gets_what_the_segmenter_finds(
    service: Served, disc: np.ndarray, tiny_bundle: Bundle
) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    client = triton.InferenceServerClient(f"{service.host}:{service.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("msformer")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("msformer")
    assert [each["name"] for each in described["outputs"]] == ["labels", "mask", "probability"]
    expected = Segmenter(tiny_bundle, threads=1).segment(disc)
    for as_binary in (True, False):
        image = triton.InferInput("image", disc.shape, "UINT8")
        image.set_data_from_numpy(disc, binary_data=as_binary)
        wanted = [triton.InferRequestedOutput(name, binary_data=as_binary) for name in ("labels", "mask")]
        found = client.infer("msformer", [image], outputs=wanted, request_id="7")
        assert found.get_response()["id"] == "7"
        assert found.as_numpy("probability") is None
        np.testing.assert_array_equal(found.as_numpy("labels"), expected.labels)
        np.testing.assert_array_equal(found.as_numpy("mask"), expected.mask)
    everything = client.infer("msformer", [image])
    np.testing.assert_array_equal(everything.as_numpy("probability"), expected.probability)
    with pytest.raises(triton.InferenceServerException, match="there is one model"):
        client.get_model_metadata("another")
    client.close()


@pytest.mark.slow
def test_each_answer_of_segment(service: Served, disc: np.ndarray, tiny_bundle: Bundle) -> None:
    expected = Segmenter(tiny_bundle, threads=1).segment(disc)

    def picture(accept: str) -> np.ndarray:
        got = service.ask("POST", "/segment", png(disc), {"Accept": accept})
        assert (got.status, got.headers["content-type"]) == (200, "image/png")
        return np.asarray(Image.open(io.BytesIO(got.body)))

    np.testing.assert_array_equal(picture("*/*"), expected.mask * 255)
    np.testing.assert_array_equal(picture("image/png;view=overlay"), expected.overlay())
    record = service.ask("POST", "/segment", png(disc), {"Accept": "application/json"}).json()
    assert (record["width"], record["height"], record["label_count"]) == (80, 60, expected.label_count)
    assert expected.confidence is not None
    assert record["foreground"]["confidence"] == round(expected.confidence.value, 3)
    assert record["foreground"]["doubt"] == expected.confidence.doubt
    assert record["foreground"]["measurements"]["unit"] == "px"


@pytest.mark.needs("pydicom")
@pytest.mark.needs("highdicom")
def test_dicom_comes_back_as_a_segmentation_of_it(service: Served, tmp_path: Path) -> None:
    import dicom_files
    from pydicom import dcmread

    source = dicom_files.write(tmp_path / "private name.dcm", dicom_files.ct())
    got = service.ask("POST", "/segment", source.read_bytes(), {"Accept": "application/dicom"})
    assert (got.status, got.headers["content-type"]) == (200, "application/dicom")
    found, origin = dcmread(io.BytesIO(got.body)), dcmread(source)
    assert found.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert found.StudyInstanceUID == origin.StudyInstanceUID
    assert (found.Rows, found.Columns) == (dicom_files.ROWS, dicom_files.COLUMNS)
    text = json.dumps(service.log())
    assert "private name" not in text and str(origin.PatientID) not in text
    assert str(origin.SOPInstanceUID) not in text
    assert "image.dcm" not in service.ask("POST", "/segment", source.read_bytes()[:-100]).error()


def test_the_description_loads_nothing_from_elsewhere(service: Served) -> None:
    found = service.get("/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    named = {path.replace("{model}", "msformer") for path in found["paths"]}
    assert {"/segment", "/v2/models/msformer/infer", "/metrics"} <= named
    for path, methods in found["paths"].items():
        for method in methods:
            assert service.ask(method.upper(), path, b"" if method == "post" else None).status not in (404, 405)
    page = service.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert re.findall(rb"""(?:src|href|url)\s*[=(]\s*["']?([^"')>]+)""", page.body) == [b"openapi.json"]
    assert b"/v2/models/msformer/infer" in page.body


def test_metrics_and_log(service: Served, disc: np.ndarray) -> None:
    masks, failures = service.metric("msformer_masks_total"), 'msformer_failures_total{kind="image"}'
    assert service.ask("POST", "/segment", png(disc)).status == 200
    assert service.ask("POST", "/segment", b"no image").status == 400
    assert service.ask("POST", "/secret-name", b"").status == 404
    assert service.metric("msformer_masks_total") == masks + 1
    assert service.metric(failures) >= 1
    for stage in ("wait", "receive", "read", "collect", "learn", "finish", "send"):
        assert service.metric(f'msformer_stage_seconds_count{{stage="{stage}"}}') >= 1
    assert service.metric("msformer_queue_length") == service.metric("msformer_in_flight") == 0
    assert service.metric("msformer_ready") == 1
    lines = service.log()
    assert {"time", "level", "event"} <= lines[-1].keys()
    assert "secret-name" not in json.dumps(lines)
    (last,) = [line for line in lines if line.get("route") == "other"][-1:]
    assert (last["status"], last["failure"]) == (404, "bad request")


def png_bomb() -> bytes:
    """A small file that states a huge size, and holds much."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I4s", 13, b"IHDR") + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    zeros = zlib.compress(bytes(10_000_000), 9)
    data = struct.pack(">I4s", len(zeros), b"IDAT") + zeros + struct.pack(">I", zlib.crc32(b"IDAT" + zeros))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


@with_proc
def test_a_png_that_states_a_huge_size_takes_no_memory(service: Served) -> None:
    before = service.memory()
    got = service.ask("POST", "/segment", png_bomb())
    assert (got.status, got.error()) == (
        413,
        "image: 50000 x 50000 pixels is over the limit of 0.02 megapixels; resize it first",
    )
    assert service.memory() - before < 30_000


@pytest.mark.slow
@with_proc
@pytest.mark.needs("pydicom")
@pytest.mark.parametrize("kind", ["deflated", "jpeg", "jpeg 2000", "run lengths"])
def test_dicom_that_holds_far_more_than_it_states_takes_no_memory(service: Served, tmp_path: Path, kind: str) -> None:
    from dicoms import bomb

    content = bomb(kind, tmp_path / "bomb.dcm", megabytes=96)
    assert len(content) < 500_000
    service.ask("POST", "/segment", content[:3000])  # what reading DICOM needs is imported
    before = service.memory()
    got = service.ask("POST", "/segment", content)
    assert got.status == (413 if kind == "deflated" else 400)
    got.error()
    assert service.memory() - before < 60_000


def hung_up(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc")


def headers(service: Served) -> None:
    with service.connect() as connection:
        lines = b"".join(b"X-%d: 1\r\n" % number for number in range(10_000))
        try:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
            got = connection.recv(100)
        except ConnectionError:  # ended while we sent
            return
    assert b" 431 " in got or b" 400 " in got


def chunks_without_end(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10_000):
            try:
                connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
            except ConnectionError:
                return
    raise AssertionError("it took 640 MB")


def two_lengths(service: Served) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
        assert b" 400 " in connection.recv(100)


@pytest.mark.parametrize("client", [hung_up, headers, chunks_without_end, two_lengths], ids=lambda each: each.__name__)
def test_others_are_served_whatever_a_client_does(
    service: Served, disc: np.ndarray, client: Callable[[Served], None]
) -> None:
    client(service)
    assert service.ask("POST", "/segment", png(disc)).status == 200
    until = time.monotonic() + 20
    while service.metric("msformer_in_flight"):
        assert time.monotonic() < until, "the place of the client is not free"
        time.sleep(0.02)


@pytest.mark.slow
def test_many_at_a_time_get_their_own_masks(service: Served, disc: np.ndarray) -> None:
    pictures = [np.roll(disc, 2 * shift, axis=1) for shift in range(6)]
    found: dict[int, Answer] = {}

    def ask(index: int) -> None:
        found[index] = service.ask("POST", "/segment", png(pictures[index]))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for index, each in found.items():
        assert each.body == service.ask("POST", "/segment", png(pictures[index])).body


@pytest.mark.slow
@on_posix
def test_a_slow_client_holds_its_place_for_a_time_and_the_queue_is_bounded(
    tiny_bundle: Bundle, disc: np.ndarray
) -> None:
    """One place and a queue of one: the first is slow, the second waits, the third is refused; then all are served.

    At the end the server gets SIGTERM: it finishes what is in work, refuses the rest, and exits with 0.
    """
    options = ["--max-in-flight", 1, "--max-queue", 1, "--timeout", 4, "--threads", 1]
    key = {"Authorization": "Bearer 0123456789abcdef"}
    with serving(
        "--bundle", tiny_bundle.path, *options, environment={"MSFORMER_DEPLOY_API_KEY": "0123456789abcdef"}
    ) as served:
        assert served.ask("POST", "/segment", png(disc)).status == 401
        assert served.ask("GET", "/metrics", None, {"Authorization": "Bearer 0123456789abcdee"}).status == 401
        assert served.ask("GET", "/metrics", None, key).status == 200
        slow = _begin(served, key, disc)
        waited: list[Answer] = []
        second = threading.Thread(target=lambda: waited.append(served.ask("POST", "/segment", png(disc), key)))
        second.start()
        _until(lambda: b"msformer_queue_length 1.0" in served.ask("GET", "/metrics", None, key).body)
        third = served.ask("POST", "/segment", png(disc), key)
        assert (third.status, third.headers["retry-after"]) == (429, "1")
        third.error()
        assert b" 408 " in slow.recv(100)
        slow.close()
        second.join()
        assert waited[0].status in (200, 504)  # by the time that was left
        assert served.ask("POST", "/segment", png(disc), key).status == 200

        slow = _begin(served, key, disc)
        served.process.terminate()
        _until(lambda: served.get("/v2/health/ready").status == 503)
        refused = served.ask("POST", "/segment", png(disc), key)
        assert refused.status == 503
        assert "ending" in refused.error()
        slow.sendall(png(disc)[100:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
        slow.close()
        assert served.process.wait(20) == 0
        assert [line["event"] for line in served.log() if line["event"] != "request"] == ["ready", "ending", "ended"]


@pytest.mark.slow
@on_posix
def test_a_second_signal_gives_up_the_requests_in_work(tiny_bundle: Bundle, disc: np.ndarray) -> None:
    with serving("--bundle", tiny_bundle.path, "--timeout", 600, "--threads", 1) as served:
        with _begin(served, {}, disc) as slow:
            served.process.terminate()
            _until(lambda: served.get("/v2/health/ready").status == 503)
            served.process.terminate()
            assert served.process.wait(20) == 0
            assert slow.recv(100).startswith(b"HTTP/1.1 503 ")
        assert [line["event"] for line in served.log() if line["event"] != "request"] == ["ready", "ending", "ended"]


def _begin(served: Served, headers: dict[str, str], picture: np.ndarray) -> socket.socket:
    """Send a part of a request, and wait until it has its place."""
    content = png(picture)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection = served.connect()
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n{lines}\r\n"
    connection.sendall(head.encode() + content[:100])
    _until(lambda: b"msformer_in_flight 1.0" in served.ask("GET", "/metrics", None, headers).body)
    return connection


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--host", "0.0.0.0"], 2, ["other computers", "--api-key-file", "--insecure"]),
        (["--host", "192.0.2.1"], 2, ["other computers"]),
        (["--host", "::"], 2, ["other computers"]),
        (["--host", "example.org"], 2, ["is no IP address"]),
        (["--api-key-file", "missing"], 2, ["missing: no such file"]),
        (["--batch", "9"], 2, ["--batch 9 is never reached", "--max-in-flight 8"]),
        (["--device", "toaster"], 2, ["toaster"]),
        (["--bundle", "nowhere"], 1, ["nowhere"]),
        (["--backend", "toaster"], 2, ["backend 'toaster' is unknown"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_slips(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSFORMER_DEPLOY_API_KEY", raising=False)
    invoke("serve", "--port", "0", *options).error(code, *parts)


def test_a_port_in_use_is_one_line(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        invoke("serve", "--port", port).error(1, f"127.0.0.1 port {port} cannot be used", "choose another --port")


def test_without_the_extra_it_says_what_to_install(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msformer_deploy.machine.extras.is_installed", lambda module: module != "uvicorn")
    invoke("serve").error(4, "serve needs uvicorn", 'pip install "msformer-deploy[serve]"')


@pytest.mark.slow
def test_a_backend_that_computes_something_else_is_never_ready(
    invoke: Any, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msformer_deploy.backends import choose
    from msformer_deploy.errors import BackendUnavailable

    def other(*_: object) -> None:
        raise BackendUnavailable("it gives other labels")

    monkeypatch.setattr(choose, "check", other)
    outcome = invoke("serve", "--port", "0", "--bundle", bundle_copy, "--backend", "onnxruntime", "--threads", "1")
    assert outcome.code == BackendUnavailable.exit_code
    assert outcome.err.splitlines()[-1] == "error: it gives other labels"
    assert outcome.code != EXIT_INTERRUPTED


def test_a_bundle_without_a_fingerprint_is_refused(invoke: Any, bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    facts = {key: value for key, value in manifest.items() if key not in ("schema_version", "files", "fingerprint")}
    relisted(bundle_copy, facts)
    invoke("serve", "--port", "0", "--bundle", bundle_copy).error(1, "has no fingerprint", "export the bundle again")
