"""From our torch ops to ONNX nodes that call the functions of ``functions.py``, and the bodies put beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import OnnxFunction, values

from msformer_deploy.kernels.ops import NAMESPACE
from msformer_deploy.kernels.reference import label_dtype
from msformer_deploy.models import deformable

from .functions import FUNCTIONS, OPS

DOMAIN, VERSION = NAMESPACE, 1


def _node(function: OnnxFunction[Any, Any]) -> values.Op:
    """The function as an op known by its schema only, so that the exporter emits a call and leaves the body to us.

    Handing the exporter the function itself does not work: its conversion to a later opset inlines every body.
    """
    proto = function.to_function_proto()
    parameter, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    kinds = {"lr": onnx.defs.OpSchema.AttrType.FLOAT, "momentum": onnx.defs.OpSchema.AttrType.FLOAT}
    schema = onnx.defs.OpSchema(
        proto.name,
        DOMAIN,
        VERSION,
        inputs=[parameter(name, "T") for name in proto.input],
        outputs=[parameter(name, f"T{index}") for index, name in enumerate(proto.output)],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)"], ""),
            *((f"T{index}", ["tensor(float)", "tensor(float16)"], "") for index in range(len(proto.output))),
        ],
        attributes=[
            attribute(name, kinds.get(name, onnx.defs.OpSchema.AttrType.INT), "", required=True)
            for name in proto.attribute
        ],
    )
    return values.Op(values.Opset(DOMAIN, VERSION), proto.name, schema)


def translations() -> dict[Any, Callable[..., Any]]:
    """Our torch ops to their ONNX nodes, as ``torch.onnx.export(custom_translation_table=...)`` takes them."""
    argmax, attention, refine, deform = (_node(function) for function in OPS)

    def cluster_argmax(features: Any, head: Any) -> Any:
        clusters = head.shape[1]
        dtype = onnx.TensorProto.UINT8 if label_dtype(clusters) == torch.uint8 else onnx.TensorProto.UINT16
        return argmax(features, head, label_type=int(dtype))

    def cross_scale_attention(*inputs: Any) -> Any:
        return attention(*inputs)

    def head_refine_step(
        features: Any, head: Any, velocity: Any, offset: int, stride: int, lr: float, momentum: float
    ) -> Any:
        return refine(features, head, velocity, offset=offset, stride=stride, lr=lr, momentum=momentum)

    def deform_conv(*inputs: Any) -> Any:
        return deform(*inputs)

    namespace = getattr(torch.ops, DOMAIN)
    return {
        namespace.cluster_argmax.default: cluster_argmax,
        namespace.cross_scale_attention.default: cross_scale_attention,
        getattr(namespace, deformable.OPERATOR).default: deform_conv,
        namespace.head_refine_step.default: head_refine_step,
    }


def bodies(called: set[str]) -> list[onnx.FunctionProto]:
    """The functions that ``called`` names, and those that they call in turn."""
    protos = {function.name: function.to_function_proto() for function in FUNCTIONS}
    pending, found = sorted(called), {}
    while pending:
        name = pending.pop()
        if name not in found:
            found[name] = protos[name]
            pending += [node.op_type for node in protos[name].node if node.domain == DOMAIN]
    return [found[name] for name in sorted(found)]
