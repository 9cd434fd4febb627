"""The torch reference against plain formulas, and the custom ops against the reference."""

from __future__ import annotations

import pytest
import torch
from refinements import check_loop
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from msformer_deploy import kernels
from msformer_deploy.errors import UsageError
from msformer_deploy.kernels import cuda, launch, ops, reference
from msformer_deploy.kernels.errors import KernelError, KernelsUnavailable


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# batch, channels, height, width, clusters: one pixel, a prime number of them, one cluster, more than a chunk
ARGMAX_SHAPES = [(1, 4, 1, 1, 3), (2, 5, 1, 97, 7), (3, 6, 9, 4, 1), (1, 2, 150, 150, 100), (2, 3, 5, 5, 257)]


@pytest.mark.parametrize(("batch", "channels", "height", "width", "clusters"), ARGMAX_SHAPES)
@pytest.mark.parametrize("shared", [True, False])
def test_cluster_argmax_is_the_argmax_of_the_projection(batch, channels, height, width, clusters, shared):
    features = random(batch, channels, height, width)
    head = random(1 if shared else batch, clusters, channels, seed=1)
    labels, counts = kernels.cluster_argmax(features, head)
    scores = torch.einsum("bkc,bchw->bkhw", head.expand(batch, -1, -1), features)
    assert torch.equal(labels.long(), scores.argmax(dim=1))
    assert labels.dtype == (torch.uint8 if clusters <= 256 else torch.uint16)
    expected = torch.stack([torch.bincount(image.flatten().long(), minlength=clusters) for image in labels])
    assert torch.equal(counts, expected)


def test_cluster_argmax_breaks_ties_to_the_lowest_id():
    labels, counts = kernels.cluster_argmax(torch.ones(1, 2, 3, 3), torch.ones(1, 5, 2))
    assert labels.eq(0).all()
    assert counts.tolist() == [[9, 0, 0, 0, 0]]


def attention_inputs(fine: int, coarse: int, width: int, batch: int = 2) -> list[torch.Tensor]:
    shapes = [shape for n in (fine, coarse) for shape in ((batch, n, width), (batch, width, n), (batch, n, width))]
    return [random(*shape, seed=index) for index, shape in enumerate(shapes)]


@pytest.mark.parametrize(("fine", "coarse", "width"), [(1, 1, 1), (97, 25, 8), (64, 16, 5)])
def test_cross_scale_attention_is_softmax_attention_through_the_context(fine, coarse, width):
    inputs = attention_inputs(fine, coarse, width)
    out_fine, out_coarse, context_fine, context_coarse, consistency = kernels.cross_scale_attention(*inputs)
    contexts = []
    for (query, key, value), out, context in (
        (inputs[:3], out_fine, context_fine),
        (inputs[3:], out_coarse, context_coarse),
    ):
        weights = key.exp() / key.exp().sum(dim=2, keepdim=True)
        expected = torch.einsum("bkn,bnv->bkv", weights, value)
        torch.testing.assert_close(context, expected)
        queries = query.exp() / query.exp().sum(dim=2, keepdim=True)
        torch.testing.assert_close(out, torch.einsum("bnk,bkv->bnv", queries, expected))
        contexts.append(expected)
    torch.testing.assert_close(consistency, F.cosine_similarity(*contexts, dim=2).mean(dim=1))


def test_consistency_is_one_minus_the_published_inter_scale_loss():
    fine, coarse = random(1, 10, 10), random(1, 10, 10, seed=1)
    published = torch.nn.CosineEmbeddingLoss()(fine[0], coarse[0], torch.ones(1))
    torch.testing.assert_close(1 - reference.context_consistency(fine, coarse)[0], published)


@pytest.mark.parametrize(("offset", "stride"), [(0, 1), (0, 3), (2, 3), (4, 7)])
@pytest.mark.parametrize("clusters", [2, 9])
def test_head_refine_step_is_sgd_on_the_cross_entropy_of_its_own_argmax(offset, stride, clusters):
    """Autograd on the plain loss is the oracle of the closed form, momentum included, over three steps."""
    features = random(2, 5, 31)
    head, velocity = random(2, clusters, 5, seed=1), torch.zeros(2, clusters, 5, dtype=torch.float64)
    learned = [each.clone().requires_grad_() for each in head]
    optimisers = [torch.optim.SGD([each], lr=0.3, momentum=0.9) for each in learned]
    for _ in range(3):
        head, velocity, loss, counts = kernels.head_refine_step(
            features, head, velocity, offset=offset, stride=stride, lr=0.3, momentum=0.9
        )
        for image, (weight, optimiser) in enumerate(zip(learned, optimisers, strict=True)):
            scores = features[image, :, offset::stride].T @ weight.T
            target = scores.argmax(dim=1)
            expected = F.cross_entropy(scores, target)
            optimiser.zero_grad()
            expected.backward()
            optimiser.step()
            torch.testing.assert_close(loss[image], expected.detach())
            torch.testing.assert_close(head[image], weight.detach())
            assert torch.equal(counts[image], torch.bincount(target, minlength=clusters))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_and_rounded_once(dtype):
    features, head = random(1, 40, 5, 9, dtype=dtype), random(1, 7, 40, seed=1, dtype=dtype)
    labels, _ = kernels.cluster_argmax(features, head)
    assert torch.equal(labels, kernels.cluster_argmax(features.float(), head.float())[0])
    inputs = [each.to(dtype) for each in attention_inputs(31, 9, 6)]
    for got, exact in zip(
        kernels.cross_scale_attention(*inputs),
        kernels.cross_scale_attention(*[each.float() for each in inputs]),
        strict=True,
    ):
        assert got.dtype == dtype
        assert torch.equal(got, exact.to(dtype))
    state = random(1, 7, 40, seed=2, dtype=torch.float32)
    got = kernels.head_refine_step(features.flatten(2), state, state, lr=0.1, momentum=0.9)
    exact = kernels.head_refine_step(features.flatten(2).float(), state, state, lr=0.1, momentum=0.9)
    assert all(map(torch.equal, got, exact))


def test_attention_gradients_of_half_types_are_those_of_float32():
    half = [each.half().requires_grad_() for each in attention_inputs(7, 4, 3)]
    full = [each.detach().float().requires_grad_() for each in half]
    for inputs in (half, full):
        sum(out.float().sum() for out in kernels.cross_scale_attention(*inputs)).backward()
    for each, other in zip(half, full, strict=True):
        torch.testing.assert_close(each.grad.float(), other.grad, rtol=2e-3, atol=2e-3)


def op_samples() -> list[tuple[torch._ops.OpOverload, tuple]]:
    registered = torch.ops.msformer
    features = random(2, 4, 5, 6, dtype=torch.float32)
    head = random(2, 3, 4, dtype=torch.float32)
    attention = [each.float().requires_grad_() for each in attention_inputs(20, 6, 4)]
    return [
        (registered.cluster_argmax.default, (features, head)),
        (registered.cluster_argmax.default, (features, head[:1])),
        (registered.cross_scale_attention.default, tuple(attention)),
        (registered.head_refine_step.default, (features.flatten(2), head, torch.zeros_like(head), 1, 2, 0.5, 0.9)),
    ]


@pytest.mark.parametrize("name", ["cluster_argmax", "cross_scale_attention", "head_refine_step"])
def test_cuda_tensors_have_an_implementation_of_their_own(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"msformer::{name}", "CUDA")


@pytest.mark.slow
def test_torch_compile_sees_one_op():
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return graph.forward

    features, head = random(1, 4, 3, 3), random(1, 5, 4)
    compiled = torch.compile(lambda x, w: kernels.cluster_argmax(x, w)[0], backend=record, fullgraph=True)
    assert torch.equal(compiled(features, head), kernels.cluster_argmax(features, head)[0])
    (graph,) = graphs
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert torch.ops.msformer.cluster_argmax in called or torch.ops.msformer.cluster_argmax.default in called
    assert not any("matmul" in str(target) for target in called)


@pytest.fixture
def no_launcher(monkeypatch):
    """A machine without PyCUDA and cuda.core, before any warning."""

    def fail():
        raise KernelsUnavailable("no launcher")

    monkeypatch.setattr(launch, "launcher", fail)
    monkeypatch.setattr(ops, "_fallbacks", {})


ARGMAX = (torch.ones(1, 2, 3, 3), torch.ones(1, 4, 2))


def test_auto_falls_back_with_one_recorded_warning(no_launcher):
    with pytest.warns(kernels.KernelFallback, match="torch runs in place of CUDA kernels: no launcher") as caught:
        assert ops.by_kernel("cluster_argmax", *ARGMAX) is None
        assert ops.by_kernel("cluster_argmax", *ARGMAX) is None
    assert len(caught) == 1
    assert kernels.fallbacks() == ("no launcher",)


def test_cuda_never_falls_back(no_launcher):
    with kernels.using("cuda"), pytest.raises(KernelsUnavailable, match=r"^no launcher$"):
        ops.by_kernel("cluster_argmax", *ARGMAX)
    assert kernels.fallbacks() == ()


def test_reference_asks_for_no_launcher(no_launcher, recwarn):
    with kernels.using("reference"):
        assert ops.by_kernel("cluster_argmax", *ARGMAX) is None
    assert not recwarn.list


def test_a_failed_launch_is_no_reason_to_fall_back(monkeypatch):
    class Broken:
        def launch(self, *_):
            raise KernelError("kernel cluster_argmax_f32_n4: an illegal memory access was encountered")

    monkeypatch.setattr(launch, "launcher", Broken)
    monkeypatch.setattr(cuda, "_capability", lambda device: 80)
    with pytest.raises(KernelError, match="illegal memory access"):
        ops.by_kernel("cluster_argmax", *ARGMAX)


def test_an_unknown_choice_is_refused():
    with pytest.raises(UsageError, match="choose one of auto, cuda, reference"), kernels.using("fast"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("index", range(4))
def test_opcheck(index):
    """Schema, fake implementation, autograd registration and tracing, as torch itself checks them."""
    torch.library.opcheck(*op_samples()[index])


def test_attention_gradients():
    inputs = [each.requires_grad_() for each in attention_inputs(7, 4, 3)]
    assert torch.autograd.gradcheck(kernels.cross_scale_attention, inputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.cluster_argmax(torch.zeros(2, 3, 4), torch.zeros(1, 2, 3)), r"features must have shape"),
        (lambda: kernels.cluster_argmax(torch.zeros(2, 3, 4, 4), torch.zeros(3, 2, 3)), r"head must have shape"),
        (lambda: kernels.cross_scale_attention(*[torch.zeros(1, 4, 3)] * 6), r"key_fine must have shape"),
        (
            lambda: kernels.head_refine_step(
                torch.zeros(1, 3, 9), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), offset=2, stride=2, lr=1, momentum=0
            ),
            r"offset",
        ),
        (
            lambda: kernels.cluster_argmax(torch.zeros(1, 3, 0, 4), torch.zeros(1, 2, 3)),
            r"features must have shape .*0",
        ),
        (lambda: kernels.cluster_argmax(torch.zeros(1, 3, 1, 4), torch.zeros(1, 0, 3)), r"head must have shape"),
        (
            lambda: kernels.cluster_argmax(torch.zeros(1, 3, 1, 4).int(), torch.zeros(1, 2, 3)),
            r"features must be of dtype float64 or float32 or float16 or bfloat16, got int32",
        ),
        (
            lambda: kernels.cluster_argmax(torch.zeros(1, 3, 1, 4), torch.zeros(1, 2, 3).half()),
            r"head must be of dtype float32, got float16",
        ),
        (
            lambda: ops._check_cluster_argmax(torch.zeros(1, 3, 1, 4), torch.zeros(1, 2, 3, device="meta")),
            r"head must be on cpu, as features is, got meta",
        ),
        (
            lambda: kernels.cross_scale_attention(
                *[each.float() for each in attention_inputs(4, 2, 3)[:5]], attention_inputs(4, 2, 3)[5]
            ),
            r"value_coarse must be of dtype float32, got float64",
        ),
        (
            lambda: kernels.head_refine_step(
                torch.zeros(1, 3, 9).half(), *[torch.zeros(1, 2, 3).half()] * 2, lr=1, momentum=0
            ),
            r"head must be of dtype float32, got float16",
        ),
        (
            lambda: kernels.head_refine_step(
                torch.zeros(1, 3, 2), *[torch.zeros(1, 2, 3)] * 2, offset=2, stride=3, lr=1, momentum=0
            ),
            r"offset must lie below the number of pixels, 2, got 2",
        ),
        (
            lambda: kernels.head_refine_loop(
                torch.zeros(1, 3, 0), torch.zeros(1, 2, 3), steps=1, stride=1, lr=1, momentum=0, stop_labels=1
            ),
            r"features must have shape",
        ),
        (
            lambda: torch.ops.msformer.cluster_argmax(torch.zeros(1, 3, 1), torch.zeros(1, 2, 3)),
            r"features must have shape",
        ),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_on_a_gpu_without_kernels_torch_makes_all_updates_at_once(monkeypatch):
    """On tensors of a GPU that is not there; with kernels, theirs are taken, and on a CPU there is a faster way."""
    settings = {"steps": 7, "stride": 4, "lr": 0.5, "momentum": 0.9, "stop_labels": 2}
    monkeypatch.setattr(reference, "head_refine_loop", lambda *_, **given: given)
    for device, expected in (("cuda", settings), ("cpu", None)):
        with FakeTensorMode(), kernels.using("reference"):
            features, head = torch.empty(3, 12, 81, device=device), torch.empty(3, 6, 12, device=device)
            assert kernels.head_refine_loop(features, head, **settings) == expected


@pytest.mark.parametrize("stride", [1, 4])
def test_updates_are_queued_without_waiting_for_any(stride):
    """These tensors have no values, so whatever waits for one fails."""
    with FakeTensorMode():
        features, head = torch.empty(3, 12, 81), torch.empty(3, 6, 12)
        done = reference.head_refine_loop(features, head, steps=7, stride=stride, lr=0.5, momentum=0.9, stop_labels=2)
        shapes = [tuple(each.shape) for each in done]
        assert shapes == [(3, 6, 12), (3, 6, 12), (3, 6, 12), (8, 3), (3,), (7, 3), (7, 3, 6)]
        with pytest.raises(DataDependentOutputException):
            done.loss.tolist()


@pytest.mark.parametrize("stop_labels", [1, 3, 5])
@pytest.mark.parametrize("steps", [1, 11])
def test_updates_that_are_queued_at_once_are_those_made_one_by_one(monkeypatch, steps, stop_labels):
    check_loop(monkeypatch, reference.head_refine_loop, steps, stop_labels)
