"""The CPU's in-place update, argmax and samples against the reference, in every layout and however it is cut up."""

from __future__ import annotations

import pytest
import torch

from msformer_deploy.kernels import cpu, reference

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=[7, cpu.PIXELS_PER_CHUNK])
def chunk(request, monkeypatch) -> int:
    monkeypatch.setattr(cpu, "PIXELS_PER_CHUNK", request.param)
    return request.param


def channels_last(features: torch.Tensor) -> torch.Tensor:
    return features.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "clusters"), [(1, 4, 1, 1, 1), (2, 5, 3, 11, 7), (3, 2, 5, 4, 300)]
)
def test_cluster_argmax_is_the_references(chunk, layout, dtype, batch, channels, height, width, clusters):
    features = layout(random(batch, channels, height, width, dtype=dtype))
    for heads in (1, batch):
        head = random(heads, clusters, channels, seed=1, dtype=dtype)
        for got, expected in zip(
            cpu.cluster_argmax(features, head), reference.cluster_argmax(features, head), strict=True
        ):
            assert got.dtype == expected.dtype
            assert torch.equal(got, expected)


def test_more_ids_than_bfloat16_holds_go_the_references_way(monkeypatch):
    """Torch may be set to make float32 products in bfloat16, whose whole numbers end at 256."""
    asked: list[int] = []
    monkeypatch.setattr(reference, "cluster_argmax", lambda _, head: asked.append(head.shape[1]))
    for clusters in (256, 257):
        cpu.cluster_argmax(random(1, 2, 3, 3), random(1, clusters, 2))
    assert asked == [257]


def test_cluster_argmax_of_ties_and_nan_is_the_references(chunk):
    features, head = random(2, 3, 4, 5), random(1, 6, 3, seed=1)
    head[0, 4] = head[0, 2]  # a tie on every pixel that either wins
    features[0, :, 1, 2] = 0  # a tie of all
    features[1, 1, 3, 3] = float("nan")
    labels, counts = cpu.cluster_argmax(features, head)
    expected, expected_counts = reference.cluster_argmax(features, head)
    assert 2 in expected
    assert 4 not in expected
    assert torch.equal(labels, expected)
    assert torch.equal(counts, expected_counts)


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(("stride", "phases"), [(1, 1), (4, 4), (4, 2), (5, 5), (7, 1), (40, 40)])
def test_samples_are_every_stride_th_pixel(layout, dtype, stride, phases):
    features = layout(random(2, 3, 6, 7, dtype=dtype))
    wide = reference.sum_dtype(dtype)
    samples = cpu.gather(features, stride, phases, wide)
    assert len(samples) == phases
    for phase, sample in enumerate(samples):
        assert sample.dtype == wide
        assert torch.equal(sample, features.flatten(2)[:, :, phase::stride].to(wide))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("stride", [1, 3])
def test_learning_is_the_references_step_after_step(chunk, layout, dtype, batch, stride):
    features, lr, momentum = layout(random(batch, 5, 7, 9, dtype=dtype)), 0.3, 0.9
    head = random(batch, 6, 5, seed=1, dtype=dtype)
    expected_head, expected_velocity = head.clone(), torch.zeros_like(head)
    velocity, samples = torch.zeros_like(head), cpu.gather(features, stride, stride, dtype)
    learner = cpu.HeadLearner(head, samples[0].shape[2])
    for step in range(6):
        expected_head, expected_velocity, expected_loss, counts = reference.head_refine_step(
            features.flatten(2), expected_head, expected_velocity, step % stride, stride, lr, momentum
        )
        loss, label_count = learner.accumulate(samples[step % stride], head, velocity, momentum)
        head.add_(velocity, alpha=-lr)
        close = {"rtol": 0, "atol": TOLERANCE[dtype]}
        torch.testing.assert_close(velocity, expected_velocity, **close)
        torch.testing.assert_close(head, expected_head, **close)
        torch.testing.assert_close(torch.tensor(loss, dtype=dtype), expected_loss, **close)
        assert label_count == (counts > 0).sum(dim=1).tolist()


@pytest.mark.parametrize("spoilt", ["tie", "tie of all", "nan", "nan beside a tie", "infinite"])
def test_learning_on_ties_and_nan_is_the_references(chunk, spoilt):
    """Two images, one with ties, NaN or infinity: both results are those of the reference."""
    features, head = random(2, 4, 20), random(2, 6, 4, seed=1)
    if "tie" in spoilt:
        head[0, 3] = head[0, 1]
    if "all" in spoilt:
        features[0, :, 5] = 0
    if "nan" in spoilt:
        features[0, 1, 9] = float("nan")
    if spoilt == "infinite":
        features[0, :, 9] = float("inf")
    velocity = torch.zeros_like(head)
    _, expected, expected_loss, counts = reference.head_refine_step(features, head, velocity, 0, 1, 0.1, 0.5)
    loss, label_count = cpu.HeadLearner(head, 20).accumulate(features, head, velocity, 0.5)
    torch.testing.assert_close(velocity, expected, equal_nan=True)
    torch.testing.assert_close(torch.tensor(loss, dtype=head.dtype), expected_loss, equal_nan=True)
    assert label_count == (counts > 0).sum(dim=1).tolist()


def test_learning_finds_a_tie_that_a_nan_hides(chunk):
    """One pixel with two winners and one with none give as many marks as there are pixels."""
    features, head = random(2, 4, 20).abs(), random(2, 6, 4, seed=1)
    head[0, 3], head[0, 1, 1:] = head[0, 1], 10
    head[0, 3, 1:], head[0, 3, 0] = 10, head[0, 1, 0] - 100  # cluster 3 wins only where channel 0 is 0: level with 1
    head[0, 0] = 20  # cluster 0 wins the others
    features[0, 0, 2], features[0, :, 2] = 0, torch.tensor([0, 1, 1, 1])
    head[0, 0, 1:] = 9
    features[0, 1, 3] = float("nan")
    _, _, _, counts = reference.head_refine_step(features, head, torch.zeros_like(head), 0, 1, 0.1, 0.5)
    assert counts[0].tolist() == [19, 1, 0, 0, 0, 0]
    _, label_count = cpu.HeadLearner(head, 20).accumulate(features, head, torch.zeros_like(head), 0.5)
    assert label_count == (counts > 0).sum(dim=1).tolist()


def test_any_number_of_samples_up_to_the_most_fits(monkeypatch):
    """Fewer samples can be cut into longer chunks: 12 into two of 6, 14 into three of 5, with seven at most in one."""
    monkeypatch.setattr(cpu, "PIXELS_PER_CHUNK", 7)
    head = random(1, 3, 2)
    learner = cpu.HeadLearner(head, 15)
    for pixels in range(1, 16):
        samples, velocity = random(1, 2, pixels, seed=pixels), torch.zeros_like(head)
        _, expected, _, _ = reference.head_refine_step(samples, head, velocity, 0, 1, 0.1, 0.9)
        learner.accumulate(samples, head, velocity, 0.9)
        torch.testing.assert_close(velocity, expected)
