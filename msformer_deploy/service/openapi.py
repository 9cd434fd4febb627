"""The description of the service in OpenAPI 3.1, and the same as a page that loads nothing."""

from __future__ import annotations

from typing import Any

from ..machine.versions import installed_versions
from . import answers, tensors
from .limits import MEBIBYTE, Limits

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
# What any request with an image may get, by status.
_REFUSALS = {
    "400": "The request is not valid, or the image cannot be read.",
    "408": "The body did not come in time.",
    "413": "The body or the image is over a limit.",
    "415": "The body is compressed, a form, or of a format that is not taken.",
    "429": "The queue is full. Retry-After says when to try again.",
    "500": "A fault of the server.",
    "503": "The model is not loaded yet, the server is ending, or it has too little memory.",
    "504": "The request was not done in time.",
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}


def document(name: str, limits: Limits, keyed: bool) -> dict[str, Any]:
    """The description.

    Args:
        name: of the model.
        limits: of requests.
        keyed: whether requests need a key.
    """
    model = f"/v2/models/{name}"
    paths: dict[str, Any] = {
        "/segment": {"post": _segment()},
        "/v2": _get("Name, version and extensions of the server"),
        "/v2/health/live": _get("Whether the server runs"),
        "/v2/health/ready": _get("Whether images are segmented", "503"),
        model: _get("Inputs and outputs of the model"),
        f"{model}/ready": _get("Whether the model is loaded", "503"),
        f"{model}/infer": {"post": _infer()},
        "/metrics": {"get": {"summary": "Metrics for Prometheus", "responses": {"200": {"description": "Text"}}}},
    }
    said = (
        f"A body has up to {limits.body / MEBIBYTE:g} MiB and an image up to {limits.pixels / 1e6:g} megapixels."
        f" {limits.in_flight} requests are in work at a time and {limits.queue} wait; each has {limits.seconds:g} s."
        " Research software, not a medical device."
    )
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "msformer-deploy",
            "version": installed_versions(["msformer-deploy"]).get("msformer-deploy", "unknown"),
            "description": said,
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string", "description": "What is wrong, and what to do"}},
                },
                "Tensor": _TENSOR,
            }
        },
    }
    if keyed:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def page(found: dict[str, Any]) -> str:
    """A page with the description, for people."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    operations = [
        (method.upper(), path, operation)
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]
    return environment.get_template("api.html").render(info=found["info"], operations=operations)


def _get(summary: str, *refusals: str) -> dict[str, Any]:
    responses = {"200": {"description": "JSON", "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {"get": {"summary": summary, "responses": {**responses, **_refused(*refusals)}}}


def _refused(*statuses: str) -> dict[str, Any]:
    return {status: {"description": _REFUSALS[status], "content": _ERROR} for status in statuses}


def _segment() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = {
        f"{each.media_type}{f';view={each.view}' if each.view else ''}": (
            {"schema": {"type": "object"}} if each.media_type == "application/json" else binary
        )
        for each in answers.ANSWERS
    }
    not_accepted = {"406": {"description": "No kind of answer is accepted, or the image has none such."}}
    return {
        "summary": "Segment an image file; Accept chooses the answer",
        "requestBody": {"required": True, "content": {"application/octet-stream": binary}},
        "responses": {
            "200": {"description": "Mask, overlay, DICOM segmentation or record", "content": kinds},
            **not_accepted,
            **_refused(*_REFUSALS),
        },
    }


def _infer() -> dict[str, Any]:
    tensors_of = {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    asked = {"type": "object", "required": ["inputs"], "properties": {"id": {"type": "string"}, "inputs": tensors_of}}
    given = {"type": "object", "required": ["outputs"], "properties": {"outputs": tensors_of}}
    outputs = ", ".join(f"{name} ({output.datatype})" for name, output in tensors.OUTPUTS.items())
    return {
        "summary": f"Infer: {tensors.INPUT} (UINT8, [H, W, 3] or [H, W]) to {outputs}, all [H, W]",
        "parameters": [
            {
                "name": tensors.HEADER,
                "in": "header",
                "description": "Bytes of JSON before the binary tensors",
                "schema": {"type": "integer"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": asked}, "application/octet-stream": binary},
        },
        "responses": {
            "200": {
                "description": "Outputs",
                "content": {"application/json": {"schema": given}, "application/octet-stream": binary},
            },
            "404": {"description": "There is no such model or version.", "content": _ERROR},
            **_refused(*_REFUSALS),
        },
    }
