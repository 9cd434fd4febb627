"""The CUDA sources, run on the CPU through the very host code that launches them on a GPU, against the reference.

Not a run on a GPU: ``emulation.py`` says what is like one. ``test_gpu.py`` holds what needs one.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from emulation import CSRC, EmulatedLauncher, EmulationError, needs_compiler
from refinements import check_loop
from torch import Tensor

from msformer_deploy.kernels import cuda, geometry, launch, reference
from msformer_deploy.kernels.compile import SOURCES
from msformer_deploy.kernels.errors import KernelsUnavailable

pytestmark = needs_compiler

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of the largest value. Worst seen here: 7.8e-7, 8.5e-4, 5.8e-3.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
CAPABILITIES = (75, 80)  # plain FMA, tensor cores
# Plain, bfloat16 differs from float16 in nothing but the conversion, which 80 covers.
PATHS = [(75, torch.float32), (75, torch.float16), *((80, dtype) for dtype in DTYPES)]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def emulate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EmulatedLauncher]]:
    """Puts an emulator in the launcher's place; memory that nothing wrote holds NaN or the largest integer."""

    def put(*arguments: Any, **settings: Any) -> EmulatedLauncher:
        launcher = EmulatedLauncher(*arguments, **settings)
        monkeypatch.setattr(launch, "launcher", lambda: launcher)
        monkeypatch.setattr(cuda, "_capability", lambda device: launcher.capability)
        return launcher

    monkeypatch.setattr(cuda, "_multiprocessors", lambda device: 3)
    torch.use_deterministic_algorithms(True)
    yield put
    torch.use_deterministic_algorithms(False)


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.isfinite().all()
    error = (got.double() - expected.double()).abs().max()
    largest = 1.0 if expected.dim() == 1 else expected.abs().max()  # losses and cosines are measured against 1
    assert error <= tolerance * largest, f"off by {error}, of {largest}"


def assert_labels(features: Tensor, head: Tensor, labels: Tensor, counts: Tensor) -> None:
    """Every label's score is the best there is, to rounding; the counts are those of the labels."""
    scores = torch.einsum("bkc,bchw->bkhw", head.double().expand(len(features), -1, -1), features.double())
    assert labels.long().max() < head.shape[1]
    chosen = scores.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    assert (scores.amax(dim=1) - chosen).max() <= 1e-5 * scores.abs().max()
    expected = torch.stack([torch.bincount(image.flatten().long(), minlength=head.shape[1]) for image in labels])
    assert torch.equal(counts, expected)


# batch, channels, height, width, clusters, one head for all: one pixel; a prime number of them; one cluster; the
# default 100; 256; more than a byte holds and one pass covers; several tiles of pixels
ARGMAX_SHAPES = [
    (1, 1, 1, 1, 1, True),
    (2, 37, 1, 257, 100, True),
    (3, 5, 97, 1, 256, False),
    (1, 33, 6, 10, 300, True),
    (1, 200, 13, 10, 7, False),
]


@pytest.mark.parametrize(("capability", "dtype"), PATHS)
@pytest.mark.parametrize(("batch", "channels", "height", "width", "clusters", "shared"), ARGMAX_SHAPES)
def test_cluster_argmax(emulate, capability, dtype, batch, channels, height, width, clusters, shared):
    emulate(capability)
    features = random(batch, channels, height, width, dtype=dtype)
    head = random(1 if shared else batch, clusters, channels, seed=1, dtype=dtype)
    labels, counts = cuda.cluster_argmax(features, head)
    assert labels.dtype == (torch.uint8 if clusters <= 256 else torch.uint16)
    assert_labels(features, head, labels, counts)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_cluster_argmax_breaks_ties_to_the_lowest_id(emulate, capability):
    emulate(capability)
    features, head = torch.ones(1, 2, 3, 3), torch.ones(1, 5, 2)
    labels, counts = cuda.cluster_argmax(features, head)
    assert labels.eq(0).all()
    assert counts.tolist() == [[9, 0, 0, 0, 0]]
    head[:, :3] = 0  # 3 and 4 are best and equal
    assert cuda.cluster_argmax(features, head)[0].eq(3).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cluster_argmax_of_nan_is_what_torch_says(emulate, capability, dtype):
    emulate(capability)
    features, head = random(1, 4, 3, 3, dtype=dtype), random(1, 20, 4, seed=1, dtype=dtype)
    features[0, 2, 1, 1] = float("nan")
    labels, _ = cuda.cluster_argmax(features, head)
    assert labels[0, 1, 1] == 0
    assert torch.equal(labels, reference.cluster_argmax(features, head)[0])
    head[0, 7, 1] = float("nan")  # now one cluster is NaN for every pixel, and NaN is above all
    features[0, 2, 1, 1] = 0
    assert cuda.cluster_argmax(features, head)[0].eq(7).all()


def test_infinite_float32_features_count_as_nan_on_tensor_cores(emulate):
    emulate(80)
    features, head = random(1, 4, 3, 3), random(1, 20, 4, seed=1)
    features[0, 2, 1, 1] = torch.inf
    labels, counts = cuda.cluster_argmax(features, head)
    assert labels[0, 1, 1] == 0
    features[0, 2, 1, 1] = torch.nan
    assert torch.equal(labels, reference.cluster_argmax(features, head)[0])
    assert counts.sum() == 9


def test_cluster_argmax_of_strided_tensors(emulate):
    emulate()
    features, head = random(2, 9, 5, 12)[:, ::2, :, ::3], random(9, 3, 10, seed=1).permute(1, 2, 0)[:1, :, ::2]
    labels, counts = cuda.cluster_argmax(features, head)
    assert_labels(features, head, labels, counts)


def test_a_float32_head_of_half_features_is_rounded_to_them(emulate):
    emulate()
    features, head = random(1, 4, 5, 5, dtype=torch.float16), random(1, 6, 4, seed=1)
    labels, counts = cuda.cluster_argmax(features, head)
    assert_labels(features, head.half(), labels, counts)


def attention_inputs(
    batch: int, width: int, fine: int, coarse: int, dtype: torch.dtype, scale: float = 2
) -> list[Tensor]:
    shapes = [shape for n in (fine, coarse) for shape in ((batch, n, width), (batch, width, n), (batch, n, width))]
    return [(scale * random(*shape, seed=seed)).to(dtype) for seed, shape in enumerate(shapes)]


# batch, channels, fine and coarse positions: one position, the default width over several parts, the last width of the
# small variant, one that needs several tiles of the context, the most channels
ATTENTION_SHAPES = [(2, 5, 1, 1), (1, 100, 607, 97), (2, 31, 300, 64), (1, 130, 97, 33), (1, 256, 41, 37)]


@pytest.mark.parametrize(("capability", "dtype"), PATHS)
@pytest.mark.parametrize(("batch", "width", "fine", "coarse"), ATTENTION_SHAPES)
def test_cross_scale_attention(emulate, capability, dtype, batch, width, fine, coarse):
    emulate(capability)
    inputs = attention_inputs(batch, width, fine, coarse, dtype)
    for got, expected in zip(
        cuda.cross_scale_attention(*inputs),
        reference.cross_scale_attention(*[each.double() for each in inputs]),
        strict=True,
    ):
        assert got.shape == expected.shape
        assert got.dtype == dtype
        assert_close(got, expected, TOLERANCES[dtype])


def test_cross_scale_attention_with_keys_far_apart(emulate):
    """The weights' reference must follow keys that grow by hundreds, and keys of minus infinity weigh nothing."""
    emulate()
    inputs = attention_inputs(1, 12, 600, 70, torch.float32)
    inputs[1] += torch.linspace(0, 400, 600)
    inputs[4][:, :, 10:40] = -torch.inf
    got = cuda.cross_scale_attention(*inputs)
    for each, expected in zip(got, reference.cross_scale_attention(*[x.double() for x in inputs]), strict=True):
        assert_close(each, expected, TOLERANCES[torch.float32])


def test_cross_scale_attention_is_the_same_in_every_run(emulate):
    """Results are equal to the last bit for any order of threads and blocks."""
    inputs = attention_inputs(1, 10, 900, 300, torch.float32)
    runs = []
    for seed in range(3):
        emulate(seed=1000 * seed)
        runs.append(cuda.cross_scale_attention(*inputs))
    for run in runs[1:]:
        assert all(map(torch.equal, runs[0], run))


# batch, channels, pixels, clusters, offset, stride
REFINE_SHAPES = [(2, 37, 257, 100, 1, 3), (1, 3, 1, 1, 0, 1), (3, 70, 97, 256, 0, 1), (1, 130, 61, 7, 2, 4)]


def check_step(dtype, batch, channels, pixels, clusters, offset, stride):
    features = random(batch, channels, pixels, dtype=dtype)
    head, velocity = 0.3 * random(batch, clusters, channels, seed=1), 0.1 * random(batch, clusters, channels, seed=2)
    got = cuda.head_refine_step(features, head, velocity, offset, stride, 0.5, 0.9)
    expected = reference.head_refine_step(features.double(), head.double(), velocity.double(), offset, stride, 0.5, 0.9)
    for each, right in zip(got[:3], expected[:3], strict=True):
        assert each.dtype == torch.float32
        assert_close(each, right, 2e-6)
    assert torch.equal(got[3], expected[3])


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("batch", "channels", "pixels", "clusters", "offset", "stride"), REFINE_SHAPES)
def test_head_refine_step(emulate, capability, batch, channels, pixels, clusters, offset, stride):
    emulate(capability)
    check_step(torch.float32, batch, channels, pixels, clusters, offset, stride)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_head_refine_step_of_half_features(emulate, dtype):
    """Half features are converted when the samples are gathered; everything else is float32."""
    emulate()
    check_step(dtype, 2, 9, 41, 5, 1, 3)


def test_head_refine_step_of_nan_ends_and_is_nan(emulate):
    emulate()
    features = random(1, 4, 70)
    features[0, 1, 3] = float("nan")
    head, _, loss, counts = cuda.head_refine_step(features, random(1, 5, 4), torch.zeros(1, 5, 4), 0, 1, 0.5, 0.9)
    assert head.isnan().all()
    assert loss.isnan().all()
    assert counts.sum() == 70


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("stop_labels", [3, 5])
@pytest.mark.parametrize("steps", [1, 11])
def test_head_refine_loop_does_what_the_torch_loop_does(emulate, monkeypatch, capability, steps, stop_labels):
    emulate(capability)
    monkeypatch.setattr(cuda, "_loops", type(cuda._loops)())
    check_loop(monkeypatch, cuda.head_refine_loop, steps, stop_labels)


def test_head_refine_loop_keeps_few_loops(emulate, monkeypatch):
    launcher = emulate()
    monkeypatch.setattr(cuda, "_loops", type(cuda._loops)())
    settings = {"stride": 2, "lr": 0.1, "momentum": 0.9, "stop_labels": 1}
    features, head = random(1, 4, 20), random(1, 3, 4)
    for steps in (1, 2, 3):
        cuda.head_refine_loop(features, head, steps=steps, **settings)
    assert len(cuda._loops) == cuda.MAX_LOOPS
    kept = cuda._loops[next(reversed(cuda._loops))]
    cuda.head_refine_loop(features, head, steps=3, **settings)
    assert cuda._loops[next(reversed(cuda._loops))] is kept
    assert launcher.launched[-7:] == ["sample_phases_f32", *["head_gradient_n4", "head_update_guarded"] * 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cuda.cluster_argmax(random(1, 1, 2, 2), random(1, 4097, 1)),
            "cluster_argmax takes up to 4096 clusters",
        ),
        (
            lambda: cuda.head_refine_step(random(1, 1, 4), random(1, 257, 1), random(1, 257, 1), 0, 1, 0.1, 0.9),
            "head_refine_step takes up to 256 clusters, got 257",
        ),
        (
            lambda: cuda.cross_scale_attention(*attention_inputs(1, 257, 3, 3, torch.float32)),
            "cross_scale_attention takes up to 256 channels, got 257",
        ),
        (
            lambda: cuda.cluster_argmax(random(1, 1, 2, 2).double(), random(1, 2, 1).double()),
            "no CUDA kernel for float64",
        ),
    ],
    ids=["clusters", "learnt clusters", "channels", "dtype"],
)
def test_what_the_kernels_do_not_take(emulate, call, message):
    emulate()
    with pytest.raises(KernelsUnavailable, match=message):
        call()


def run_argmax() -> None:
    features, head = random(2, 40, 1, 150), random(1, 100, 40, seed=1)
    features[1] = -features[1].abs()
    for each in (head, head.abs()):  # the latter scores the second image below zero throughout
        assert_labels(features, each, *cuda.cluster_argmax(features, each))


def run_passes() -> None:
    """More clusters than one pass takes."""
    features, head = random(1, 40, 1, 40), random(1, 140, 40, seed=1)
    assert_labels(features, head, *cuda.cluster_argmax(features, head))


def run_attention(width: int = 20) -> None:
    inputs = attention_inputs(1, width, 300, 70, torch.float32)
    inputs[1] += torch.linspace(0, 100, 300)
    got = cuda.cross_scale_attention(*inputs)
    for each, right in zip(got, reference.cross_scale_attention(*[x.double() for x in inputs]), strict=True):
        assert_close(each, right, TOLERANCES[torch.float32])


def run_step() -> None:
    features, head, velocity = random(2, 70, 100), 0.3 * random(2, 40, 70, seed=1), random(2, 40, 70, seed=2)
    got = cuda.head_refine_step(features, head, velocity, 0, 1, 0.5, 0.9)
    right = reference.head_refine_step(features.double(), head.double(), velocity.double(), 0, 1, 0.5, 0.9)
    for each, other in zip(got[:3], right[:3], strict=True):
        assert_close(each, other, 2e-6)
    assert torch.equal(got[3], right[3])


def run_long_sums() -> None:
    """Contexts of 4,000 positions in one block each: tensor cores round toward zero, so no long sum stays in them."""
    inputs = attention_inputs(1, 12, 4000, 4000, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_multiprocessors", lambda device: 1)
        got = cuda.cross_scale_attention(*inputs)[2:4]
    expected = reference.cross_scale_attention(*[each.double() for each in inputs])[2:4]
    for each, right in zip(got, expected, strict=True):
        assert (each - right).norm() <= 2e-6 * right.norm()


def run_wide_attention() -> None:
    """So many channels that the kernels have one buffer and not two."""
    run_attention(110)


RUNS = {
    "cluster_argmax": run_argmax,
    "passes": run_passes,
    "wide attention": run_wide_attention,
    "cross_scale_attention": run_attention,
    "head_refine_step": run_step,
    "long sums": run_long_sums,
}
LAUNCHED = {
    "cluster_argmax": ["cluster_argmax_f32_n13"],
    "cross_scale_attention": ["attention_context_f32_n4", "attention_merge_f32", "attention_apply_f32_n4"],
    "head_refine_step": ["sample_phases_f32", "head_gradient_n8", "head_update"],
}
LAUNCHED["long sums"] = LAUNCHED["cross_scale_attention"]
LAUNCHED["passes"] = ["cluster_argmax_f32_n16"]
LAUNCHED["wide attention"] = ["attention_context_f32_n17", "attention_merge_f32", "attention_apply_f32_n16"]


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_long_sums_lose_no_bits(emulate, capability):
    emulate(capability, "none", only=LAUNCHED["cross_scale_attention"])
    run_long_sums()


@pytest.mark.parametrize("run", [*SOURCES, "passes", "wide attention"])
def test_no_data_races(emulate, run):
    """Barriers order every access to shared memory, and blocks share no global memory but by atomics."""
    launcher = emulate(80, "thread", only=LAUNCHED[run])
    RUNS[run]()
    assert set(launcher.launched) == set(LAUNCHED[run])


# What must not go unnoticed: source or header, what is replaced, by what, and the sanitiser that it takes to notice.
MUTATIONS = {
    "chunks: no wait for the copies": (
        "warp_tile.cuh:cluster_argmax",
        "        wait_for_copies();\n",
        "",
        "none",
    ),
    "chunks: a wait after the barrier": (
        "warp_tile.cuh:cluster_argmax",
        "wait_for_copies();\n        __syncthreads();",
        "__syncthreads();\n        wait_for_copies();",
        "thread",
    ),
    "chunks: no barrier before a chunk is used": (
        "warp_tile.cuh:cluster_argmax",
        "wait_for_copies();\n        __syncthreads();",
        "wait_for_copies();",
        "thread",
    ),
    "chunks: the next one replaces the one that is used": (
        "warp_tile.cuh:cluster_argmax",
        "load(chunk + 1, (chunk + 1) % 2);",
        "load(chunk + 1, chunk % 2);",
        "none",
    ),
    "chunks: no barrier before the first": (
        "warp_tile.cuh:passes",
        "    __syncthreads();  // what was in the buffers",
        "    // what was in the buffers",
        "thread",
    ),
    "chunks: no barrier before the only buffer is filled again": (
        "warp_tile.cuh:wide attention",
        "            if (chunk > 0) __syncthreads();\n",
        "",
        "thread",
    ),
    "argmax: no barrier before the histogram replaces the operands": (
        "cluster_argmax",
        "    __syncthreads();\n    for (int cluster = threadIdx.x; cluster < clusters; cluster += 32 * WARPS)"
        " histogram",
        "    for (int cluster = threadIdx.x; cluster < clusters; cluster += 32 * WARPS) histogram",
        "thread",
    ),
    "argmax: no barrier before the labels are counted": (
        "cluster_argmax",
        "histogram[cluster] = 0;\n    __syncthreads();",
        "histogram[cluster] = 0;",
        "thread",
    ),
    "argmax: no barrier before the histogram is read": (
        "cluster_argmax",
        "    __syncthreads();\n    for (int cluster = threadIdx.x; cluster < clusters; cluster += 32 * WARPS) {\n"
        "        counts",
        "    for (int cluster = threadIdx.x; cluster < clusters; cluster += 32 * WARPS) {\n        counts",
        "thread",
    ),
    "argmax: pixels are not masked": (
        "cluster_argmax",
        "pixel < pixels ? channels - channel : 0",
        "channels - channel",
        "address",
    ),
    "argmax: channels are not masked": (
        "cluster_argmax",
        "cluster < clusters ? channels - channel : 0",
        "cluster < clusters",
        "address",
    ),
    "argmax: an index is off by one": (
        "cluster_argmax",
        "to_features + word * PIXEL_STEP,",
        "to_features + (word + 1) * PIXEL_STEP,",
        "address",
    ),
    "argmax: clusters beyond the head take part": ("cluster_argmax", "if (cluster < clusters) best", "best", "none"),
    "products: the low halves are left out": (
        "warp_tile.cuh:cross_scale_attention",
        "mma(type, target, a[m], b_low);",
        "",
        "none",
    ),
    "products: a long sum stays in the tensor cores": (
        "warp_tile.cuh:long sums",
        "= LONG ? products : sums[m][n];",
        "= sums[m][n];",
        "none",
    ),
    "attention: no barrier of the warp before its weights are used": (
        "cross_scale_attention",
        "        __syncwarp();\n        if (rescaled) {",
        "        if (rescaled) {",
        "thread",
    ),
    "attention: the keys are those of the chunk before": (
        "cross_scale_attention",
        "read_keys(begin + (chunk + 1) *",
        "read_keys(begin + chunk *",
        "none",
    ),
    "attention: no barrier of the warp before the reference moves": (
        "cross_scale_attention",
        "            __syncwarp();\n            if (lane == 0) {\n                reference",
        "            if (lane == 0) {\n                reference",
        "thread",
    ),
    "attention: sums are not rescaled": ("cross_scale_attention", "if (rescaled) {", "if (false) {", "none"),
    "attention: positions are not masked": (
        "cross_scale_attention",
        "position + v < end && r < rows",
        "r < rows",
        "none",
    ),
    "attention: no barrier between the sums of a block": (
        "cross_scale_attention",
        "    value = warp_sum(value);\n    __syncthreads();",
        "    value = warp_sum(value);",
        "thread",
    ),
    "step: no barrier before scores give way to residuals": (
        "head_refine_step",
        "load_for_scores, add_to_scores);\n    __syncthreads();",
        "load_for_scores, add_to_scores);",
        "thread",
    ),
    "step: pixels beyond the sample are counted": (
        "head_refine_step",
        "if (inside) atomicAdd",
        "atomicAdd",
        "none",
    ),
    "step: pixels beyond the sample have a loss": (
        "head_refine_step",
        "inside ? logf(total) : 0",
        "logf(total)",
        "none",
    ),
    "step: one tile of gradients is left out": (
        "head_refine_step",
        "for (int tile = 0; tile < sums.tiles",
        "for (int tile = 1; tile < sums.tiles",
        "none",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_kernel_is_found(emulate, tmp_path: Path, mutation: str):
    """The tests of this file can fail: each line broken on purpose is found by the run that checks its source."""
    place, old, new, sanitizer = MUTATIONS[mutation]
    name, _, source = place.partition(":")
    shutil.copytree(CSRC, tmp_path / "csrc")
    path = tmp_path / "csrc" / (name if name.endswith(".cuh") else f"{name}.cu")
    text = path.read_text()
    assert text.count(old) == 1, "the mutation no longer fits the source"
    path.write_text(text.replace(old, new))
    emulate(80, sanitizer, csrc=tmp_path / "csrc", only=LAUNCHED[source or name])
    with pytest.raises((AssertionError, EmulationError)):
        RUNS[source or name]()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([None] * 9, "an integer was expected"),
        ([None], "another number of arguments"),
        ([ctypes.c_int64(1)] * 9, "a pointer was expected, got int64"),
    ],
    ids=["null for an integer", "too few", "integer for a pointer"],
)
def test_the_emulator_checks_arguments_as_no_driver_does(emulate, arguments, message):
    with pytest.raises(EmulationError, match=message):
        emulate().launch("cluster_argmax", "cluster_argmax_f32_n4", (1, 1, 1), 128, 0, arguments)


def test_the_emulator_checks_the_size_of_shared_memory(emulate, monkeypatch):
    emulate()
    monkeypatch.setattr(geometry, "_bytes", lambda *counts: 16)
    with pytest.raises(EmulationError, match="the launch gives 16 bytes of shared memory, the kernel takes"):
        run_argmax()
