"""The ONNX face of our operations: model-local functions in the domain ``msformer``, bodies in standard ops.

A runtime without our kernels inlines the bodies and needs no custom-op library; one with a plugin of the same name
can substitute it. Semantics are those of ``msformer_deploy.kernels.reference``, against which every body is tested.
"""

from onnxscript import BOOL, INT64, script, values
from onnxscript import opset20 as op

from msformer_deploy.kernels import ops

OPSET = 20
DOMAIN = ops.NAMESPACE
VERSION = 1
_msformer = values.Opset(DOMAIN, VERSION)


@script(_msformer, default_opset=op)
def ClusterArgmax(features, head, label_type: int):
    # First the transposition, then the reshape: an encoder ends with its inverse, and the two cancel.
    rows = op.Transpose(features, perm=[0, 2, 3, 1])
    pixels = op.Reshape(rows, op.Concat(op.Constant(value_ints=[0, -1]), op.Shape(head, start=2, end=3), axis=0))
    ids = op.ArgMax(op.MatMul(pixels, op.Transpose(head, perm=[0, 2, 1])), axis=2, keepdims=0)
    labels = op.Cast(op.Reshape(ids, op.Shape(rows, start=0, end=3)), to=label_type)
    batch, clusters = op.Shape(rows, start=0, end=1), op.Shape(head, start=1, end=2)
    zeros = op.ConstantOfShape(op.Concat(batch, clusters, axis=0))
    ones = op.CastLike(op.ConstantOfShape(op.Shape(ids)) + 1.0, features)
    counts = op.Cast(
        op.ScatterElements(op.CastLike(zeros, features), ids, ones, axis=1, reduction="add"), to=INT64.dtype
    )
    return labels, counts


@script(_msformer, default_opset=op)
def CrossScaleAttention(query_fine, key_fine, value_fine, query_coarse, key_coarse, value_coarse):
    context_fine = op.MatMul(op.Softmax(key_fine, axis=2), value_fine)
    context_coarse = op.MatMul(op.Softmax(key_coarse, axis=2), value_coarse)
    fine = op.MatMul(op.Softmax(query_fine, axis=2), context_fine)
    coarse = op.MatMul(op.Softmax(query_coarse, axis=2), context_coarse)
    axis = op.Constant(value_ints=[2])
    epsilon = op.CastLike(op.Constant(value_float=1e-12), context_fine)
    dot = op.ReduceSum(context_fine * context_coarse, axis, keepdims=0)
    square_fine = op.ReduceSum(context_fine * context_fine, axis, keepdims=0) + epsilon
    square_coarse = op.ReduceSum(context_coarse * context_coarse, axis, keepdims=0) + epsilon
    consistency = op.ReduceMean(dot / op.Sqrt(square_fine * square_coarse), op.Constant(value_ints=[1]), keepdims=0)
    return fine, coarse, context_fine, context_coarse, consistency


@script(_msformer, default_opset=op)
def DeformConv(x, weight, offset, mask):
    # Offsets and factors of one image are those of all, which ONNX wants once for each.
    batch = op.Concat(op.Shape(x, start=0, end=1), op.Constant(value_ints=[1, 1, 1]), axis=0)
    return op.DeformConv(
        x, weight, op.Expand(offset, batch), None, op.Expand(mask, batch), kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    )


@script(_msformer, default_opset=op)
def HeadRefineStep(features, head, velocity, offset: int, stride: int, lr: float, momentum: float):
    one = op.Constant(value_ints=[1])
    start = op.Reshape(op.Constant(value_int=offset), one)
    step = op.Reshape(op.Constant(value_int=stride), one)
    # Pixels lie one after the other where features come from an encoder: a sample of them is a few rows of memory.
    all_pixels = op.Transpose(features, perm=[0, 2, 1])
    pixels = op.Slice(all_pixels, start, op.Constant(value_ints=[9223372036854775807]), one, step)
    scores = op.MatMul(pixels, op.Transpose(head, perm=[0, 2, 1]))
    log_probabilities = op.LogSoftmax(scores, axis=2)
    loss = op.Neg(
        op.ReduceMean(op.ReduceMax(log_probabilities, op.Constant(value_ints=[2]), keepdims=0), one, keepdims=0)
    )
    ids = op.ArgMax(scores, axis=2, keepdims=0)
    target = op.OneHot(ids, op.Shape(head, start=1, end=2), op.CastLike(op.Constant(value_floats=[0.0, 1.0]), head))
    counts = op.Cast(op.ReduceSum(target, one, keepdims=0), to=INT64.dtype)
    residual = op.Transpose(op.Exp(log_probabilities) - target, perm=[0, 2, 1])
    sampled = op.CastLike(op.Shape(pixels, start=1, end=2), head)
    gradient = op.MatMul(residual, pixels) / sampled
    new_velocity = op.CastLike(op.Constant(value_float=momentum), head) * velocity + gradient
    new_head = head - op.CastLike(op.Constant(value_float=lr), head) * new_velocity
    return new_head, new_velocity, loss, counts


# The loop around the ops, as refinement has it in torch. A graph has no early exit: an image that stopped goes on
# through updates that change nothing. The ops are called beside these functions, not in them: TensorRT's parser loses
# an attribute that one function hands on to another.


@script(_msformer, default_opset=op)
def LabelCount(counts):
    present = op.Cast(counts > op.Constant(value_int=0), to=INT64.dtype)
    return op.ReduceSum(present, op.Constant(value_ints=[1]), keepdims=0)


@script(_msformer, default_opset=op)
def BeginRefinement(pixels, head, head_scale: float):
    batch = op.Shape(pixels, start=0, end=1)
    scaled = op.CastLike(op.Constant(value_float=head_scale), head) * head
    heads = op.Expand(scaled, op.Concat(batch, op.Shape(head), axis=0))
    zero = op.Cast(op.ConstantOfShape(batch), to=BOOL.dtype)
    return heads, heads - heads, heads, op.Not(zero), zero


@script(_msformer, default_opset=op)
def GuardUpdate(updated, counts, head, safe, active, collapsed, stop_labels: int):
    label_count = LabelCount(counts)
    several = label_count >= op.Constant(value_int=2)
    learning = op.And(active, several)
    single = op.And(active, op.Not(several))
    per_image = op.Constant(value_ints=[1, 2])
    learning_image = op.Unsqueeze(learning, per_image)
    new_safe = op.Where(learning_image, head, safe)
    new_head = op.Where(learning_image, updated, op.Where(op.Unsqueeze(single, per_image), safe, head))
    new_active = op.And(learning, label_count > op.Constant(value_int=stop_labels))
    return new_head, new_safe, new_active, op.Or(collapsed, single)


@script(_msformer, default_opset=op)
def SettleRefinement(counts, head, safe, collapsed):
    single = LabelCount(counts) < op.Constant(value_int=2)
    final = op.Where(op.Unsqueeze(single, op.Constant(value_ints=[1, 2])), safe, head)
    return final, op.Or(collapsed, single)


@script(_msformer, default_opset=op)
def SharedHead(head, counts, regions: int):
    """The ``regions`` clusters with most counts: their ids, and their rows of the head."""
    number = op.Reshape(op.Constant(value_int=regions), op.Constant(value_ints=[1]))
    _most, ids = op.TopK(op.CastLike(counts, head), number, axis=1)
    indices = op.Unsqueeze(ids, op.Constant(value_ints=[2]))
    return ids, op.GatherND(head, indices, batch_dims=1)


@script(_msformer, default_opset=op)
def SharedLabels(ids, ranks, shares, counts, label_type: int):
    """Ranks among the clusters that are kept as ids, and their pixels as those of all clusters."""
    flat = op.Cast(op.Reshape(ranks, op.Constant(value_ints=[0, -1])), to=INT64.dtype)
    labels = op.Cast(op.Reshape(op.GatherElements(ids, flat, axis=1), op.Shape(ranks)), to=label_type)
    return labels, op.ScatterElements(counts - counts, ids, shares, axis=1)


OPS = (ClusterArgmax, CrossScaleAttention, HeadRefineStep, DeformConv)
FUNCTIONS = (*OPS, LabelCount, BeginRefinement, GuardUpdate, SettleRefinement, SharedHead, SharedLabels)
