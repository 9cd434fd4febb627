"""A stand-in for Triton Inference Server: its HTTP protocol on the loopback, in front of ONNX Runtime.

It speaks what a client needs to ask one model: the metadata, and inference with binary tensors. It loads a model as
Triton does, by ``config.pbtxt`` alone, and holds the graph to it.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format


@cache
def model_config() -> Any:
    """Triton's own definition of a configuration; by its file, because its package asks for grpc."""
    place = importlib.util.find_spec("tritonclient")
    assert place is not None and place.submodule_search_locations is not None
    file = Path(place.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_configuration(model: Path) -> Any:
    """The ``ModelConfig`` of a model of a repository, every field known to Triton."""
    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), model_config().ModelConfig())


def type_of(tensor: Any) -> str:
    """The type of an input or output in the protocol, such as FP32."""
    return str(model_config().DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def shape_inside(tensor: Any, batch: list[int]) -> list[int]:
    """The shape that the graph has for a tensor, where the configuration gives that of a request."""
    return [*batch, *(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)]


@contextmanager
def serving(model: Path) -> Iterator[int]:
    """Serve a model of a repository on a free port of the loopback, which is yielded."""
    from tritonclient.utils import triton_to_np_dtype

    config = read_configuration(model)
    session = onnxruntime.InferenceSession(model / "1" / config.default_model_filename)
    batch = [-1] if config.max_batch_size else []

    def described(tensors: Any) -> list[dict[str, Any]]:
        return [{"name": each.name, "datatype": type_of(each), "shape": [*batch, *each.dims]} for each in tensors]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            assert self.path == f"/v2/models/{config.name}"
            self._answer({"name": config.name, "inputs": described(config.input), "outputs": described(config.output)})

        def do_POST(self) -> None:
            assert self.path == f"/v2/models/{config.name}/infer"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = int(self.headers["Inference-Header-Content-Length"])
            request, data, given = json.loads(body[:length]), body[length:], {}
            for wanted, sent in zip(config.input, request["inputs"], strict=True):
                assert (sent["name"], sent["datatype"]) == (wanted.name, type_of(wanted))
                assert sent["shape"][len(batch) :] == list(wanted.dims)
                array = np.frombuffer(data, triton_to_np_dtype(sent["datatype"]))
                given[sent["name"]] = array.reshape(sent["shape"])
            found = session.run([each.name for each in config.output], given)
            told, parts = [], []
            for each, array in zip(config.output, found, strict=True):
                shape = [*(array.shape[:1] if batch else ()), *each.dims]
                parts.append(array.reshape(shape).tobytes())
                size = {"binary_data_size": len(parts[-1])}
                told.append({"name": each.name, "datatype": type_of(each), "shape": shape, "parameters": size})
            self._answer({"model_name": config.name, "model_version": "1", "outputs": told}, b"".join(parts))

        def _answer(self, header: dict[str, Any], data: bytes = b"") -> None:
            text = json.dumps(header).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text) + len(data)))
            if data:
                self.send_header("Inference-Header-Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text + data)

        def log_message(self, *_: object) -> None:
            """Nothing: the test's output is the client's."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
