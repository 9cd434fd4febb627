"""Requests and answers of inference in the Open Inference Protocol v2, as JSON or with binary tensors behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import printable
from ..images.decoders.stored import TooLarge
from ..segmenter import Segmentation
from .refused import Refused, bad_request

HEADER = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors
VERSION = "1"  # the only version of the model
INPUT = "image"
MAX_JSON_VALUES = 4_000_000  # of one tensor; as JSON it takes many times the memory
MAX_DESCRIPTION = 65_536  # bytes of a request in JSON without its values; read, they take about 24 times as much
JSON_BYTES = 6  # of a value and its part of the brackets, as Python writes pixels: "[255, 255, 255], "
_NESTED = re.compile(rb"\s*\[\s*\[")
_BYTE = Annotated[int, msgspec.Meta(ge=0, le=255)]
_SHOWN = 40  # characters of what a client sent, in a message


class Output(NamedTuple):
    """One output: its type in the protocol, and how it is made of a result, (H, W)."""

    datatype: str
    of: Callable[[Segmentation], NDArray[Any]]


OUTPUTS: Mapping[str, Output] = {
    "labels": Output("UINT16", lambda result: result.labels.astype("<u2")),
    "mask": Output("BOOL", lambda result: result.mask),
    "probability": Output("FP32", lambda result: result.probability.astype("<f4")),
}


_Parameters = dict[str, bool | int | float | str]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _Parameters = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = {}


class _Request(msgspec.Struct):
    inputs: tuple[_Tensor]
    id: str = ""
    parameters: _Parameters = {}
    outputs: list[_Output] | None = None


class _Values(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()


class _ValuesOfRequest(msgspec.Struct):
    """Where the values of a request are. Nothing else of it is decoded, and no list that grows: a tuple ends at one."""

    inputs: tuple[_Values]


class Asked(NamedTuple):
    """A request for inference.

    Attributes:
        identifier: the client's; empty without one.
        image: uint8 (H, W, 3) or (H, W).
        outputs: for each name whether it is binary in the answer.
    """

    identifier: str
    image: NDArray[np.uint8]
    outputs: Mapping[str, bool]


def metadata(name: str) -> dict[str, Any]:
    """The model's metadata; -1 is any size."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "msformer-deploy",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, 3]}],
        "outputs": [{"name": name, "datatype": output.datatype, "shape": [-1, -1]} for name, output in OUTPUTS.items()],
    }


def parse(content: bytes, header: str | None, pixels: int) -> Asked:
    """Read a request.

    Args:
        content: the body.
        header: value of :data:`HEADER`; None if there is none, and all of the body is JSON.
        pixels: maximum number in an image.

    Raises:
        Refused: it is no valid request, asks for what there is not, or its JSON part is too long.
        TooLarge: the image has more pixels.
    """
    end = len(content)
    if header is not None:
        if not (header.isascii() and header.isdigit() and int(header) <= len(content)):
            raise bad_request(f"{HEADER} is not a number of bytes of the body; send the length of the JSON part")
        end = int(header)
    request, behind = _decoded(memoryview(content)[:end]), memoryview(content)[end:]
    tensor = request.inputs[0]
    if tensor.name != INPUT:
        raise bad_request(f"the model takes one input, {INPUT!r}, and got {_shown(tensor.name)}")
    _require_known(request.parameters, "binary_data_output")
    binary = _flag(request.parameters, "binary_data_output", False)
    asked = [_Output(name) for name in OUTPUTS] if request.outputs is None else request.outputs
    outputs: dict[str, bool] = {}
    for each in asked:
        if each.name not in OUTPUTS or each.name in outputs:
            raise bad_request(f"output {_shown(each.name)} is unknown or asked for twice; there are {_named(OUTPUTS)}")
        _require_known(each.parameters, "binary_data")
        outputs[each.name] = _flag(each.parameters, "binary_data", binary)
    _check(tensor, pixels)
    _require_known(tensor.parameters, "binary_data_size")
    if "binary_data_size" in tensor.parameters:
        return Asked(request.id, _from_bytes(tensor, behind), outputs)
    if len(behind):
        raise bad_request(f"{len(behind)} bytes behind the JSON part belong to no input; send binary_data_size")
    return Asked(request.id, _from_json(tensor), outputs)


def answer(name: str, asked: Asked, result: Segmentation) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON part; None if all of it is JSON.

    Raises:
        Refused: an output is too large for JSON.
    """
    described, behind = [], []
    for each, binary in asked.outputs.items():
        array = np.ascontiguousarray(OUTPUTS[each].of(result))
        entry: dict[str, Any] = {"name": each, "datatype": OUTPUTS[each].datatype, "shape": list(array.shape)}
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            behind.append(array.tobytes())
        else:
            _check_json(array.size)
            entry["data"] = msgspec.Raw(msgspec.json.encode(array.ravel().tolist()))
        described.append(entry)
    record = {"model_name": name, "model_version": VERSION, "outputs": described}
    head = msgspec.json.encode({"id": asked.identifier, **record} if asked.identifier else record)
    return b"".join([head, *behind]), len(head) if behind else None


def _decoded(text: memoryview) -> _Request:
    """A request, whose parts are decoded only once they are known to be short; its values are still to be read."""
    _check_length("the JSON part", len(text), MAX_JSON_VALUES)
    try:
        values = msgspec.json.decode(text, type=_ValuesOfRequest).inputs[0].data
        _check_length("the JSON part without its values", len(text) - len(memoryview(values)), 0)
        return msgspec.json.decode(text, type=_Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"the request is not valid: {printable(str(error))}") from error


def _check(tensor: _Tensor, pixels: int) -> None:
    if tensor.datatype != "UINT8":
        raise bad_request(f"input {INPUT!r} has datatype {_shown(tensor.datatype)}; send UINT8")
    shape = tensor.shape
    if len(shape) not in (2, 3) or min(shape) < 1 or shape[2:] not in ([], [3]):
        raise bad_request(f"input {INPUT!r} has shape {_shown(shape)}; send [H, W, 3] or [H, W]")
    if shape[0] * shape[1] > pixels:
        limit = f"{pixels / 1e6:g} megapixels"
        raise TooLarge(f"{INPUT}: {_shown(shape)} is over the limit of {limit}; resize it first")


def _from_bytes(tensor: _Tensor, behind: memoryview) -> NDArray[np.uint8]:
    size = math.prod(tensor.shape)
    if tensor.parameters["binary_data_size"] != size or len(behind) != size or tensor.data != msgspec.Raw():
        raise bad_request(
            f"input {INPUT!r} of shape {tensor.shape} needs {size} bytes behind the JSON part, binary_data_size {size}"
            f" and no data; {len(behind)} bytes came"
        )
    return np.frombuffer(behind, np.uint8).reshape(tensor.shape)


def _from_json(tensor: _Tensor) -> NDArray[np.uint8]:
    """The values of a tensor in JSON: flat, or nested as its shape is."""
    size = math.prod(tensor.shape)
    _check_json(size)
    if tensor.data == msgspec.Raw():
        raise bad_request(f"input {INPUT!r} has no data")
    _check_length(f"data of input {INPUT!r}", len(memoryview(tensor.data)), size)
    text = bytes(tensor.data)
    if _NESTED.match(text):
        # Valid JSON whose brackets and commas are those of the shape. Lists of lists would take ten times the memory.
        if text.translate(None, b"0123456789 \t\r\n") != _brackets(tensor.shape):
            raise bad_request(f"data of input {INPUT!r} do not fit its shape and UINT8: send as many whole numbers")
        text = b"[%b]" % text.translate(None, b"[]")
    kind = Annotated[list[_BYTE], msgspec.Meta(min_length=size, max_length=size)]
    try:
        values = msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise bad_request(f"data of input {INPUT!r} do not fit its shape and UINT8: {printable(str(error))}") from error
    return np.array(values, np.uint8).reshape(tensor.shape)


def _brackets(shape: Sequence[int]) -> bytes:
    """Nested lists of a shape, without their values."""
    text = b""
    for length in reversed(shape):
        text = b"[%b]" % ((text + b",") * length)[:-1]
    return text


def _check_json(values: int) -> None:
    if values > MAX_JSON_VALUES:
        raise Refused(
            413,
            "too large",
            f"a tensor of {values} values is over the limit of {MAX_JSON_VALUES} for JSON; use binary tensors",
        )


def _check_length(what: str, length: int, values: int) -> None:
    limit = values * JSON_BYTES + MAX_DESCRIPTION
    if length > limit:
        raise Refused(
            413, "too large", f"{what} has {length} bytes and is over the limit of {limit}; use binary tensors"
        )


def _require_known(parameters: Mapping[str, Any], known: str) -> None:
    for name in parameters:
        if name != known:
            raise bad_request(f"parameter {_shown(name)} is not supported here; leave it out")


def _flag(parameters: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise bad_request(f"parameter {name!r} is not true or false")
    return value


def _named(names: Sequence[str] | Mapping[str, Any]) -> str:
    return _shown(", ".join(map(repr, names)) or "none")


def _shown(value: object) -> str:
    text = printable(str(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
