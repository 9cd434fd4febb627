"""The kernels on a real GPU, through the ops as the product calls them; ``studies/gpu_check.py`` goes further."""

from __future__ import annotations

import pytest
import torch

from msformer_deploy import kernels
from msformer_deploy.kernels import reference
from msformer_deploy.refinement.head import refine_head
from msformer_deploy.registry import RefineSettings

pytestmark = pytest.mark.gpu
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCES = {torch.float32: 4e-6, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def kernels_or_nothing():
    """Fail a test in which torch runs in place of a kernel."""
    with kernels.using("cuda"):
        yield


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "channels", "side", "clusters"), [(1, 1, 1, 1), (2, 200, 33, 100), (3, 30, 17, 300)])
def test_cluster_argmax(dtype, batch, channels, side, clusters):
    features = random(batch, channels, side, side, dtype=dtype)
    head = random(batch, clusters, channels, seed=1, dtype=dtype)
    labels, counts = kernels.cluster_argmax(features, head)
    scores = torch.einsum("bkc,bchw->bkhw", head.double(), features.double())
    chosen = scores.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    assert (scores.amax(dim=1) - chosen).max() <= 1e-5 * scores.abs().max()
    expected = torch.stack([torch.bincount(image.flatten().long(), minlength=clusters) for image in labels])
    assert torch.equal(counts, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "fine", "coarse"), [(1, 1, 1), (100, 1089, 289), (256, 97, 31)])
def test_cross_scale_attention(dtype, width, fine, coarse):
    shapes = [shape for n in (fine, coarse) for shape in ((2, n, width), (2, width, n), (2, n, width))]
    inputs = [random(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]
    got = kernels.cross_scale_attention(*inputs)
    for each, right in zip(got, reference.cross_scale_attention(*[x.double() for x in inputs]), strict=True):
        assert (each.double() - right).abs().max() <= TOLERANCES[dtype] * right.abs().max().clamp_min(1)
    assert all(map(torch.equal, got, kernels.cross_scale_attention(*inputs)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_refine_step(dtype):
    features, head = random(2, 200, 500, dtype=dtype), 0.3 * random(2, 100, 200, seed=1)
    got = kernels.head_refine_step(features, head, torch.zeros_like(head), offset=1, stride=3, lr=0.5, momentum=0.9)
    right = reference.head_refine_step(
        features.double(), head.double(), torch.zeros_like(head).double(), 1, 3, 0.5, 0.9
    )
    for each, other in zip(got[:3], right[:3], strict=True):
        assert (each.double() - other).abs().max() <= 4e-6 * other.abs().max()
    assert torch.equal(got[3], right[3])


def test_refinement_is_the_torch_loop_again_and_again():
    """The first run queues launches, the second records a graph, the third replays it."""
    features, head = random(3, 12, 9, 9, seed=3), random(6, 12, seed=4)
    features[1] = 1
    settings = RefineSettings(steps=11, stride=4, lr=0.5, head_scale=1.0, stop_labels=3)
    with kernels.using("reference"):
        expected = refine_head(features, head, settings)
    for _ in range(3):
        for got, right in zip(refine_head(features, head, settings), expected, strict=True):
            assert torch.equal(got.labels, right.labels)
            assert got.collapsed == right.collapsed
            assert [step.label_count for step in got.trace] == [step.label_count for step in right.trace]


def test_opcheck_on_cuda():
    features, head = random(2, 4, 5, 6), random(2, 3, 4)
    ops = torch.ops.msformer
    torch.library.opcheck(ops.cluster_argmax.default, (features, head))
    torch.library.opcheck(
        ops.head_refine_step.default, (features.flatten(2), head, torch.zeros_like(head), 1, 2, 0.5, 0.9)
    )
    shapes = [shape for n in (20, 6) for shape in ((2, n, 4), (2, 4, n), (2, n, 4))]
    attention = tuple(random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes))
    torch.library.opcheck(ops.cross_scale_attention.default, attention)
