"""Passes of mode ``full`` in half precision and compiled. What a GPU computes is tried on the CPU by the same code."""

from __future__ import annotations

import functools
import shutil
import sys

import pytest
import torch

from msformer_deploy import Segmenter
from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.errors import BackendUnavailable, DeployError
from msformer_deploy.measures.overlap import agreement, match_labels
from msformer_deploy.models import msformer
from msformer_deploy.models.msformer import MSFormer
from msformer_deploy.refinement import passes
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.refinement.passes import Passes
from msformer_deploy.registry import RefineSettings
from msformer_deploy.weights.network import new_network

SIZES = ModelSizes(side=33, width=6, clusters=6, blocks=1)
SETTINGS = RefineSettings(mode="full", steps=3, lr=0.1, stop_labels=0)
HALVES = list(passes.HALVES)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network takes the ways of a GPU, without strips."""
    monkeypatch.setattr(msformer, "_trains_on_cpu", lambda layer: False)


@pytest.fixture
def quick_fp16(plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled as fp16, its products in bf16, which a CPU makes ten times as fast."""
    monkeypatch.setitem(passes.HALVES, "fp16", torch.bfloat16)


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(seed))


def learned(how: Passes, model: MSFormer, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, losses and all gradients of one pass."""
    labels, losses = how.forward(model, image(seed).to(next(model.parameters()).dtype))
    torch.autograd.backward(losses.total(1.5, 1.3))
    gradients = torch.cat([each.grad.flatten() for each in model.parameters()])
    return labels, torch.stack(list(losses)).detach(), gradients


def distance(got: torch.Tensor, right: torch.Tensor) -> float:
    return float((got - right).norm() / right.norm())


@pytest.mark.slow
def test_the_ways_of_a_gpu_are_those_of_a_cpu(monkeypatch):
    expected = learned(Passes(), new_network(SIZES, 0).double())
    monkeypatch.setattr(msformer, "_trains_on_cpu", lambda layer: False)
    for got, right in zip(learned(Passes(), new_network(SIZES, 0).double()), expected, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("precision", HALVES)
def test_half_precision_is_of_the_products_alone(plain, precision):
    model, exact = new_network(SIZES, 0), learned(Passes(), new_network(SIZES, 0))
    seen: dict[str, torch.dtype] = {}
    model.block_s[0].mlp.fc2.register_forward_hook(lambda *each: seen.update(product=each[2].dtype))
    model.bn2_s[0].register_forward_hook(lambda *each: seen.update(norm=each[2].dtype))
    model.linear_down.register_forward_hook(lambda *each: seen.update(scores=each[2].dtype))
    labels, losses, gradients = learned(Passes(precision), model)
    assert seen == {"product": passes.HALVES[precision], "norm": torch.float32, "scores": torch.float32}
    assert losses.dtype == gradients.dtype == torch.float32
    tolerance = 4 * torch.finfo(passes.HALVES[precision]).eps
    assert 0 < distance(losses, exact[1]) < tolerance
    assert 0 < distance(gradients, exact[2]) < tolerance
    assert agreement(labels.numpy(), exact[0].numpy()) > 0.98


def test_the_attention_is_float32_under_autocast():
    """Also where torch runs in the kernels' place, so autocast must not reach inside."""
    from msformer_deploy.kernels import cross_scale_attention

    shapes = [shape for n in (900, 200) for shape in ((1, n, 4), (1, 4, n), (1, n, 4))]
    tensors = [torch.randn(*shape, generator=torch.Generator().manual_seed(7)) for shape in shapes]
    exact = cross_scale_attention(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        for got, right in zip(cross_scale_attention(*tensors), exact, strict=True):
            assert torch.equal(got, right)
        mixed = cross_scale_attention(tensors[0].bfloat16(), *tensors[1:])
    assert {each.dtype for each in mixed} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("precision", HALVES)
def test_learning_in_half_precision_is_near(plain, precision):
    exact = refine_full(new_network(SIZES, 0), image(), SETTINGS)
    got = refine_full(new_network(SIZES, 0), image(), SETTINGS, passes=Passes(precision))
    for step, right in zip(got.trace, exact.trace, strict=True):
        assert step.cross_entropy == pytest.approx(right.cross_entropy, rel=0.02)
    labels, right = got.labels.numpy(), exact.labels.numpy()
    assert agreement(match_labels(labels, right), right) > 0.97


@pytest.mark.slow
def test_an_update_that_overflows_is_made_again(quick_fp16, monkeypatch):
    expected = refine_full(new_network(SIZES, 0), image(), SETTINGS, passes=Passes("fp16"))
    made, update, factors = [], passes.Learner.update, iter([1.0, torch.inf])
    monkeypatch.setattr(passes.Learner, "update", lambda *each: made.append(update(*each)) or made[-1])
    told: list[tuple[int, int]] = []
    model = new_network(SIZES, 0)
    model.linear_down.weight.register_hook(lambda grad: grad * next(factors, 1.0))
    got = refine_full(model, image(), SETTINGS, lambda *step: told.append(step), passes=Passes("fp16"))
    assert made == [True, False, True, True]
    assert len(got.trace) == 3
    assert told == [(step, 3) for step in range(1, 4)]
    for step, right in zip(got.trace, expected.trace, strict=True):
        assert step.cross_entropy == pytest.approx(right.cross_entropy, rel=0.02)


@pytest.mark.slow
def test_gradients_that_are_no_numbers_end_it(quick_fp16):
    model = new_network(SIZES, 0)
    model.linear_down.weight.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(DeployError, match="NaN or infinite in fp16; pass --precision bf16"):
        refine_full(model, image(), SETTINGS, passes=Passes("fp16"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiler_sees_one_graph_for_every_image_and_copy(monkeypatch, precision):
    """Traced, forward and backward, but not translated to C++, which takes minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    how = Passes(precision, compiled=True)
    for seed in range(2):
        with torch._dynamo.config.patch(error_on_recompile=True):
            labels, losses, gradients = learned(how, new_network(SIZES, seed), seed)
        with monkeypatch.context() as patch:
            patch.setattr(msformer, "_trains_on_cpu", lambda layer: False)
            right = learned(Passes(precision), new_network(SIZES, seed), seed)
        tolerance = 1e-5 if precision == "fp32" else 4 * torch.finfo(torch.bfloat16).eps
        assert distance(losses, right[1]) < tolerance
        assert distance(gradients, right[2]) < tolerance
        assert agreement(labels.numpy(), right[0].numpy()) > 0.98
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a shell script")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_what_is_compiled_for_a_cpu_learns_the_same(monkeypatch, tmp_path):
    from torch._inductor import config as inductor

    unoptimised = tmp_path / "g++"  # in half the time
    unoptimised.write_text('#!/bin/sh\nexec g++ "$@" -O0\n', encoding="utf-8")
    unoptimised.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    exact = refine_full(new_network(SIZES, 0), image(), SETTINGS)
    # CXX is read once in a process. Without vectors, and with all kernels in one file, g++ needs a third of the time.
    quick = {"cpp.cxx": (None, str(unoptimised)), "cpp.simdlen": 1, "cpp_wrapper": True}
    with inductor.patch(quick):
        got = refine_full(new_network(SIZES, 0), image(), SETTINGS, passes=Passes(compiled=True))
    for step, right in zip(got.trace, exact.trace, strict=True):
        assert step.label_count == right.label_count
        assert step.cross_entropy == pytest.approx(right.cross_entropy, rel=1e-4)
        assert step.inter_scale == pytest.approx(right.inter_scale, rel=1e-4)
    assert agreement(got.labels.numpy(), exact.labels.numpy()) > 0.999
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("device", "compiler", "said"),
    [("cpu", "no-such-compiler", "no-such-compiler is not found"), ("cuda", "g++", "install triton")],
)
def test_without_a_compiler_it_says_so(monkeypatch, device, compiler, said):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(passes, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=said):
        passes.require_compiler(device)


def test_with_a_compiler_it_does_not(monkeypatch, tmp_path):
    (tmp_path / "mine").touch(mode=0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "mine"))
    monkeypatch.setattr(passes, "find_spec", lambda name: name)
    for device in ("cpu", "cuda"):
        passes.require_compiler(device)


def test_other_errors_are_not_the_compilers():
    with pytest.raises(ValueError, match=r"\(B, 3, 33, 33\)"):
        Passes().forward(new_network(SIZES, 0), torch.zeros(1, 3, 65, 65))
    with pytest.raises(RuntimeError, match="should be the same"):
        Passes().forward(new_network(SIZES, 0), image().double())


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", *HALVES])
def test_a_gpu_learns_what_a_cpu_does(tiny_bundle, picture, precision, compiled):
    exact = Segmenter(tiny_bundle, settings=SETTINGS, device="cpu").segment(picture)
    segmenter = Segmenter(tiny_bundle, settings=SETTINGS, device="cuda", precision=precision, compile=compiled)
    for _ in range(2):
        got = segmenter.segment(picture)
        for step, right in zip(got.trace, exact.trace, strict=True):
            assert step.cross_entropy == pytest.approx(right.cross_entropy, rel=0.02)
        assert agreement(match_labels(got.network_labels, exact.network_labels), exact.network_labels) > 0.97
