from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

from msformer_deploy.images.decoders.stored import TooLarge
from msformer_deploy.service import tensors
from msformer_deploy.service.refused import Refused
from msformer_deploy.service.tensors import answer, parse

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
PIXELS = 100


def request(data: Any = None, shape: list[int] | None = None, **more: Any) -> bytes:
    described = {"name": "image", "shape": shape or [2, 4, 3], "datatype": "UINT8", "data": data}
    return json.dumps({"inputs": [described], **more}).encode()


def binary(size: int, tail: bytes, shape: list[int] | None = None, **more: Any) -> tuple[bytes, str]:
    parameters = {"binary_data_size": size}
    described = {"name": "image", "shape": shape or [2, 4, 3], "datatype": "UINT8", "parameters": parameters}
    head = json.dumps({"inputs": [{**described, **more}]}).encode()
    return head + tail, str(len(head))


@pytest.mark.parametrize("data", [IMAGE.tolist(), IMAGE.ravel().tolist()], ids=["nested", "flat"])
def test_tensors_in_json(data: Any) -> None:
    asked = parse(request(data, id="7"), None, PIXELS)
    np.testing.assert_array_equal(asked.image, IMAGE)
    assert (asked.identifier, dict(asked.outputs)) == ("7", {"labels": False, "mask": False, "probability": False})


def test_binary_tensors() -> None:
    body, header = binary(24, IMAGE.tobytes())
    np.testing.assert_array_equal(parse(body, header, PIXELS).image, IMAGE)


def test_each_output_says_whether_it_is_binary() -> None:
    outputs = [{"name": "mask", "parameters": {"binary_data": True}}, {"name": "labels"}]
    assert dict(parse(request(IMAGE.tolist(), outputs=outputs), None, PIXELS).outputs) == {
        "mask": True,
        "labels": False,
    }
    more = {"outputs": [{"name": "mask", "parameters": {"binary_data": False}}, {"name": "labels"}]}
    more["parameters"] = {"binary_data_output": True}  # type: ignore[assignment]
    assert dict(parse(request(IMAGE.tolist(), **more), None, PIXELS).outputs) == {"mask": False, "labels": True}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (request([1] * 23), "do not fit"),
        (request([1] * 25), "do not fit"),
        (request([256] * 24), "do not fit"),
        (request([-1] * 24), "do not fit"),
        (request([0.5] * 24), "do not fit"),
        (request([[[1, 2, 3]] * 4, [[1, 2, 3]] * 3]), "do not fit"),
        (request([[[[1]]]]), "do not fit"),
        (request("text"), "do not fit"),
        (request([[1], []], [2, 1]), "do not fit"),
        (request([[], [1]], [2, 1]), "do not fit"),
        (request([[]], [1, 1]), "do not fit"),
        (request([[1, 2], [3]], [2, 2]), "do not fit"),
        (request([[1, 256], [3, 4]], [2, 2]), "do not fit"),
        (request([[1, -2], [3, 4]], [2, 2]), "do not fit"),
        (request([[1, 2], [3, 4]], [4, 1]), "do not fit"),
        (request([[[1], [2]]], [1, 2]), "do not fit"),
        (request([[1, 2], [3, 4]], [2, 2]).replace(b"2]", b"2]5"), "not valid"),
        (request([[1, 2], [3, 4]], [2, 2]).replace(b"[1,", b"[1 1,"), "not valid"),
        (request([1] * 8, [2, 4, 1]), "send \\[H, W, 3\\]"),
        (request([1] * 8, [8]), "send \\[H, W, 3\\]"),
        (request([], [0, 4]), "send \\[H, W, 3\\]"),
        (request([], [-2, -4]), "send \\[H, W, 3\\]"),
        (request(IMAGE.tolist(), outputs=[{"name": "mask"}, {"name": "mask"}]), "asked for twice"),
        (request(IMAGE.tolist(), parameters={"binary_data_output": 1}), "is not true or false"),
        (request(IMAGE.tolist(), outputs=[{"name": "mask", "parameters": {"classification": 1}}]), "not supported"),
        (b'{"inputs": [{"name": "image", "shape": [2, 4], "datatype": "UINT8"}]}', "has no data"),
        (
            b'{"inputs": [{"name": "image", "shape": [2, 4], "datatype": "UINT8", "parameters":'
            b' {"shared_memory_region": "a"}, "data": [0, 0, 0, 0, 0, 0, 0, 0]}]}',
            "'?shared_memory_region'? is not supported",
        ),
        (b'{"inputs": ' + b"[" * 100_000, "not valid"),
        (b"\xff\xfe", "not valid"),
        (request(IMAGE.tolist()) + b" 1", "not valid"),
    ],
)
def test_what_is_no_request(body: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        parse(body, None, PIXELS)
    assert refused.value.status == 400
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "header"),
    [
        binary(24, IMAGE.tobytes()[:-1]),
        binary(24, IMAGE.tobytes() + b"1"),
        binary(23, IMAGE.tobytes()[:-1]),
        binary(24, IMAGE.tobytes(), data=[1]),
        (request(IMAGE.tolist()) + b"1", str(len(request(IMAGE.tolist())))),
        (request(IMAGE.tolist()), "-1"),
        (request(IMAGE.tolist()), "²"),
        (request(IMAGE.tolist()), "9999"),
    ],
)
def test_bytes_that_do_not_fit(body: bytes, header: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(body, header, PIXELS)
    assert refused.value.status == 400


def test_a_large_image_is_refused_by_its_shape() -> None:
    with pytest.raises(TooLarge, match=r"\[60000, 60000, 3\] is over the limit"):
        parse(request([], [60000, 60000, 3]), None, PIXELS)


def test_what_a_client_sent_is_cut_and_escaped_in_messages() -> None:
    with pytest.raises(Refused) as refused:
        parse(request(IMAGE.tolist(), outputs=[{"name": "\n\x1b" + "x" * 500}]), None, PIXELS)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


def result() -> Any:
    labels = np.array([[0, 1], [2, 300]], np.uint16)
    return SimpleNamespace(labels=labels, mask=labels > 1, probability=np.array([[0, 0.25], [0.5, 1]], np.float32))


def test_an_answer_of_both_kinds() -> None:
    asked = tensors.Asked("a", IMAGE, {"labels": True, "mask": False, "probability": True})
    body, end = answer("msformer", asked, result())
    head = json.loads(body[:end])
    assert (head["id"], head["model_name"], head["model_version"]) == ("a", "msformer", "1")
    labels, mask, probability = head["outputs"]
    assert (labels["datatype"], labels["parameters"], labels["shape"]) == ("UINT16", {"binary_data_size": 8}, [2, 2])
    assert (mask["datatype"], mask["data"]) == ("BOOL", [False, False, True, True])
    assert probability["datatype"] == "FP32" and "data" not in probability
    np.testing.assert_array_equal(np.frombuffer(body[end:][:8], "<u2"), [0, 1, 2, 300])
    np.testing.assert_array_equal(np.frombuffer(body[end:][8:], "<f4"), [0, 0.25, 0.5, 1])


def test_an_answer_in_json_alone_has_no_length_of_its_json_part() -> None:
    body, end = answer("msformer", tensors.Asked("", IMAGE, {"probability": False}), result())
    assert end is None
    assert json.loads(body)["outputs"][0]["data"] == [0, 0.25, 0.5, 1]
    assert "id" not in json.loads(body)


def test_large_tensors_are_not_made_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_JSON_VALUES", 3)
    with pytest.raises(Refused, match="use binary tensors"):
        answer("msformer", tensors.Asked("", IMAGE, {"mask": False}), result())
    with pytest.raises(Refused, match="use binary tensors") as refused:
        parse(request(IMAGE.tolist()), None, PIXELS)
    assert refused.value.status == 413


FLAT = "[" + "1," * 23 + "1]"
IN = '{"inputs":[{"name":"image","shape":[2,4,3],"datatype":"UINT8"'
LONG = {
    "parameters": IN + ',"data":FLAT}],"parameters":{"a":MANY}}',
    "parameters of the input": IN + ',"parameters":{"a":MANY}}]}',
    "parameters of an output": IN + ',"data":FLAT}],"outputs":[{"name":"mask","parameters":{"a":MANY}}]}',
    "shape": (IN + ',"data":FLAT}]}').replace("[2,4,3]", "NUMBERS"),
    "inputs": '{"inputs":OBJECTS}',
    "outputs": IN + ',"data":FLAT}],"outputs":OBJECTS}',
    "name": (IN + ',"data":FLAT}]}').replace("image", "WORD"),
    "id": IN + ',"data":FLAT}],"id":"WORD"}',
    "data": IN + ',"data":NUMBERS}]}',
    "data twice": IN + ',"data":NUMBERS,"data":FLAT}]}',
    "what is unknown": IN + ',"data":FLAT}],"a":MANY}',
}


@pytest.mark.parametrize("part", LONG)
def test_no_part_of_a_request_takes_memory_by_its_length(part: str) -> None:
    text = LONG[part].replace("FLAT", FLAT).replace("MANY", "[" + "[]," * 100_000 + "[]]")
    text = text.replace("NUMBERS", "[" + "9999," * 60_000 + "1]").replace("WORD", "\U0001f600" + "a" * 300_000)
    objects = ",".join(['{"name":"mask","shape":[1,1],"datatype":"UINT8"}'] * 6_000)
    body = text.replace("OBJECTS", f"[{objects}]").encode()
    assert len(body) > 280_000
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as refused:
            parse(body, None, PIXELS)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.status == (400 if part == "inputs" else 413)
    assert taken < len(body) / 10
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_json_part_longer_than_any_tensor_in_json_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_JSON_VALUES", 24)
    for body, header in [(bytes(66_000), None), (bytes(70_000), "66000")]:
        with pytest.raises(Refused, match="the JSON part has 66000 bytes and is over the limit of 65680; use binary"):
            parse(body, header, PIXELS)


def test_as_many_values_as_are_taken_may_be_written_with_spaces_and_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((50, 40, 3), 255, np.uint8)
    monkeypatch.setattr(tensors, "MAX_JSON_VALUES", image.size)
    monkeypatch.setattr(tensors, "MAX_DESCRIPTION", 100)
    np.testing.assert_array_equal(parse(request(image.tolist(), [50, 40, 3]), None, 2000).image, image)


def test_parameters_are_single_values() -> None:
    with pytest.raises(Refused, match=r"not valid: Expected `bool \| int \| float \| str`, got `array`"):
        parse(request(IMAGE.tolist(), parameters={"binary_data_output": [True]}), None, PIXELS)


def test_lists_of_one_value_take_little_memory() -> None:
    body = request([[1]] * 60_000, [60_000, 1])
    tracemalloc.start()
    try:
        assert parse(body, None, 60_000).image.sum() == 60_000
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 4 * len(body)
