"""The probability of figure: what its parts compute, and what it does at the limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from msformer_deploy.images.read import network_input, read_image
from msformer_deploy.images.samples import sample_images
from msformer_deploy.models import figure
from msformer_deploy.models.figure import CLIP, GAIN, RIDGE, SURE, Figure, labelled, learn, resizing
from msformer_deploy.models.prior import PROMPTS, SIDE, Prior, fused
from msformer_deploy.weights.prior import load_prior

S = 65
CHANNELS = 6


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior()


@pytest.fixture(scope="module")
def found(prior: Prior) -> Figure:
    return Figure(prior, S)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """A bright disc on a gradient, (1, 3, S, S)."""
    rows, columns = np.mgrid[:S, :S] / S
    disc = (rows - 0.45) ** 2 + (columns - 0.35) ** 2 < 0.2**2
    grey = 0.2 + 0.2 * columns + 0.5 * disc + 0.02 * np.random.default_rng(0).standard_normal((S, S))
    return torch.from_numpy(np.stack([grey, 0.9 * grey, 0.8 * grey])[None].clip(0, 1).astype(np.float32))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_disc_is_found(found, image):
    probability = found(image, noise(1, CHANNELS, S, S))
    assert probability.shape == (1, S, S)
    assert probability.dtype == torch.float32
    assert 0 <= probability.min() <= probability.max() <= 1
    assert probability[0, int(0.45 * S), int(0.35 * S)] > 0.9
    assert probability[0, -5, -5] < 0.1


def test_a_mirrored_image_has_the_mirrored_figure(found, image):
    features = noise(1, CHANNELS, S, S)
    straight, mirrored = found(image, features), found(image.flip(3), features.flip(3))
    torch.testing.assert_close(mirrored, straight.flip(2), atol=1e-4, rtol=0)


def test_images_of_a_batch_do_not_influence_one_another(found, image):
    images, features = torch.cat([image, image.flip(2), 1 - image]), noise(3, CHANNELS, S, S)
    alone = torch.cat([found(images[index : index + 1], features[index : index + 1]) for index in range(3)])
    torch.testing.assert_close(found(images, features), alone, atol=1e-5, rtol=0)


def test_prompts_change_the_result_and_none_are_zeros(found, image):
    features, prompts = noise(1, CHANNELS, S, S), torch.zeros(1, PROMPTS, SIDE, SIDE)
    plain = found(image, features)
    torch.testing.assert_close(found(image, features, prompts), plain, atol=1e-5, rtol=0)
    prompts[:, 2, 60:90, 60:90] = 1
    assert (found(image, features, prompts) - plain).abs().max() > 0.1


def test_prompts_of_one_can_be_those_of_all_images_of_a_batch(found, image):
    images, features = torch.cat([image, image.flip(2), 1 - image]), noise(3, CHANNELS, S, S)
    prompts = torch.zeros(1, PROMPTS, SIDE, SIDE)
    prompts[:, 0, 30:36, 60:66] = prompts[:, 2, 20:90, 40:90] = 1
    torch.testing.assert_close(
        found(images, features, prompts), found(images, features, prompts.expand(3, -1, -1, -1)), atol=1e-5, rtol=0
    )


def test_prompts_say_what_pixels_are_to_the_learning():
    prompts, logits = torch.zeros(1, PROMPTS, 4, 4), torch.zeros(2, 1, 4, 4)
    logits[1] = 9
    prompts[:, 0, 0, 0] = prompts[:, 1, 1, 1] = 1
    got = labelled(logits, prompts)
    assert got[:, 0, 0, 0].tolist() == [SURE, 9]
    assert got[:, 0, 1, 1].tolist() == [-SURE, -SURE]
    assert got[:, 0, 2, 2].tolist() == [0, 9]
    prompts[:, 2, :2] = 1
    boxed = labelled(logits, prompts)
    assert (boxed[:, :, :2] == got[:, :, :2]).all()
    assert (boxed[:, :, 2:] == -SURE).all()


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("features", [torch.zeros(1, CHANNELS, S, S), torch.full((1, CHANNELS, S, S), 3.0)])
def test_flat_images_and_constant_features_give_numbers(found, grey, features):
    probability = found(torch.full((1, 3, S, S), grey), features)
    assert probability.isfinite().all()
    assert 0 <= probability.min() <= probability.max() <= 1


def test_constant_features_add_nothing(found, image):
    p = found.known(image).sigmoid()
    constant = torch.full((1, *p.shape[2:], CHANNELS), 3.0)
    assert learn(constant, p[:, :, ::2, ::2], 2).abs().max() < 1e-3


@pytest.mark.parametrize(("size", "wanted"), [(200, 96), (96, 64), (64, 96), (33, 96), (96, 257)])
def test_resizing_is_that_of_pillow(size, wanted):
    values = np.random.default_rng(0).random((size, size), dtype=np.float32)
    matrix = resizing(size, wanted)
    truth = np.asarray(Image.fromarray(values).resize((wanted, wanted), Image.Resampling.BILINEAR))
    np.testing.assert_allclose((matrix @ torch.from_numpy(values) @ matrix.T).numpy(), truth, atol=1e-3 / 255)


def solved(sampled: np.ndarray, p: np.ndarray, features: np.ndarray) -> np.ndarray:
    """What :func:`.learn` computes, of one image, with the normal equations solved directly in float64."""
    y = 2 * p.ravel() - 1
    weight = np.abs(y) + 1e-3
    ones, noughts = weight * p.ravel(), weight * (1 - p.ravel())
    weight = (ones / ones.sum() + noughts / noughts.sum()) / 2
    z = sampled.reshape(len(sampled), -1)
    centre = z @ weight
    spread = np.sqrt((z - centre[:, None]) ** 2 @ weight) + 1e-3
    z = (z - centre[:, None]) / spread[:, None]
    level = weight @ y
    covariance = (z * weight) @ z.T + RIDGE * np.eye(len(z))
    coefficients = np.linalg.solve(covariance, (z * weight) @ (y - level))
    missed = y - level - coefficients @ z
    explained = max(0.0, 1 - (weight @ missed**2) / (weight @ (y - level) ** 2))
    score = np.einsum("c,chw->hw", coefficients / spread, features - centre[:, None, None]) + level
    return GAIN * explained**2 * score.clip(-CLIP, CLIP)


def alike(p: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Features of which the first three know something of the figure, on other scales and off centre."""
    features = features.clone()
    features[:, :3] += torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1) * p
    return features * torch.logspace(-2, 2, features.shape[1]).view(1, -1, 1, 1) + 5


@pytest.mark.parametrize("channels", [3, 6, 10])
def test_learning_solves_the_normal_equations(found, image, channels):
    p = found.known(image).sigmoid()[:, :, ::2, ::2]
    features = alike(p, noise(1, channels, *p.shape[2:]))
    got = learn(features.permute(0, 2, 3, 1), p, 1)[0, 0].numpy()
    exact = features[0].double().numpy()
    truth = solved(exact, p[0, 0].double().numpy(), exact)
    assert np.abs(truth).max() > 0.1
    np.testing.assert_allclose(got, truth, atol=2e-3)


@pytest.mark.parametrize("path", sample_images(), ids=lambda path: path.stem)
def test_float32_learns_what_float64_learns(prior, path):
    """Features of a large network are so alike that rounding ends conjugate gradients at another place."""
    pixels = torch.from_numpy(network_input(read_image(path), S))[None]
    known = Figure(prior, S).known(pixels)
    matrix = resizing(SIDE, S)
    p = (matrix @ known @ matrix.T).sigmoid()
    mixed = torch.nn.functional.conv2d(pixels, noise(24, 3, 5, 5), padding=2).relu()
    features = torch.nn.functional.conv2d(mixed, noise(100, 24, 1, 1, seed=1))
    rows = features.permute(0, 2, 3, 1)
    exact = learn(rows.double(), p.double(), 1)
    torch.testing.assert_close(learn(rows, p, 1).double(), exact, atol=2e-3, rtol=0)


def test_the_rounding_that_orthogonal_residuals_prevent_is_there(prior, monkeypatch):
    """Of ten steps that begin alike, those of float32 end elsewhere when residuals are left as they are."""

    def plain(covariance, right):
        solution, residual, direction = 0 * right, right, right
        for _ in range(figure.STEPS):
            ahead = covariance @ direction + RIDGE * direction
            energy = (residual**2).sum(1, keepdim=True)
            length = energy / (direction * ahead).sum(1, keepdim=True)
            solution, residual = solution + length * direction, residual - length * ahead
            direction = residual + (residual**2).sum(1, keepdim=True) / energy * direction
        return solution

    values = torch.logspace(2, -4, 60, dtype=torch.float64)
    rotation = torch.linalg.qr(noise(60, 60).double())[0]
    covariance, right = (rotation * values) @ rotation.T, rotation @ noise(60, 1, seed=1).double()
    exact = plain(covariance[None], right[None])
    rounded = [solve(covariance[None].float(), right[None].float()) for solve in (figure._solve, plain)]
    errors = [float((each - exact).abs().max() / exact.abs().max()) for each in rounded]
    assert errors[0] < 1e-3
    assert errors[0] < errors[1] / 10


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_the_guided_filter_keeps_constants(found, image, value):
    guide = image.mean(dim=1, keepdim=True)
    values = torch.full((1, 1, S, S), value)
    torch.testing.assert_close(found._on_edges(values, guide), values, atol=1e-5, rtol=0)


def test_the_guided_filter_moves_a_border_to_the_edge(found):
    """The probability ends two pixels beside where the image has its edge."""
    guide, values = torch.zeros(1, 1, S, S), torch.zeros(1, 1, S, S)
    guide[..., 32:], values[..., 34:] = 1, 1
    followed = found._on_edges(values, guide)[0, 0, S // 2]
    steps = followed.diff()
    assert int(steps.argmax()) == 31


def test_fused_convolutions_give_the_same_and_leave_the_network_as_it_was(prior):
    images, prompts = noise(2, 3, 64, 64).sigmoid(), noise(2, PROMPTS, 64, 64).sigmoid()
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    plain = fused(prior)
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in plain.modules())
    torch.testing.assert_close(plain(images, prompts), prior(images, prompts), atol=1e-4, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


def test_no_prompts_are_the_prompts_that_are_zeros(prior):
    images = noise(2, 3, 64, 64).sigmoid()
    zeros = torch.zeros(2, PROMPTS, 64, 64)
    torch.testing.assert_close(prior(images), prior(images, zeros), atol=1e-5, rtol=0)
