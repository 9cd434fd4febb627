"""The network: sizes, batches, and the two goldens of the published code."""

from __future__ import annotations

import goldens
import numpy as np
import pytest
import torch

from msformer_deploy.losses.self_guided import self_guided_losses
from msformer_deploy.models.msformer import ImageNorm, MSFormer
from msformer_deploy.refinement.full import refine_full
from msformer_deploy.registry import RefineSettings

SIZES = {"msformer_d8_s65": (65, 8), "msformer_d100_s257": (257, 100)}


def golden(name: str) -> tuple[MSFormer, dict, dict]:
    """The network filled by the rule of the goldens, the expected arrays, and the facts beside them."""
    side, width = SIZES[name]
    model = MSFormer(side, width, width, blocks=2)
    expected, facts = goldens.read(name)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == facts["state_dict_shapes"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["parameters"]
    model.load_state_dict(goldens.weights(facts["state_dict_shapes"]))
    return model, expected, facts


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("name", SIZES)
def test_golden_outputs_losses_and_gradients(name):
    model, expected, facts = golden(name)
    stride = facts["logit_stride"]
    output = model(torch.from_numpy(expected["image"]))
    labels = output.logits.argmax(dim=1)
    goldens.close(output.logits[:, :, ::stride, ::stride], expected["out"])
    goldens.close(output.attention, expected["attention"])
    goldens.close(output.context_small, expected["context_small"])
    goldens.close(output.context_large, expected["context_large"])
    assert (labels[0].numpy() == expected["labels"]).mean() > 0.9999
    losses = self_guided_losses(output.logits, labels, output.attention, output.consistency)
    np.testing.assert_allclose([loss.item() for loss in losses], expected["loss_trace"][0, :3], rtol=1e-4)
    losses.total(facts["weights"]["inter"], facts["weights"]["intra"]).backward()
    norms = {key: parameter.grad.norm().item() for key, parameter in model.named_parameters()}
    largest = max(facts["grad_norm_step0"].values())
    for key, value in facts["grad_norm_step0"].items():
        # The absolute part is for biases before a norm: their gradient is zero up to rounding.
        assert norms[key] == pytest.approx(value, rel=2e-3, abs=1e-6 * largest), key


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if SIZES[name][0] > 100 else name for name in SIZES]
)
def test_golden_loss_trace_of_full_refinement(name):
    model, expected, _ = golden(name)
    rows = expected["loss_trace"]
    settings = RefineSettings(mode="full", steps=len(rows), lr=0.1, momentum=0.9)
    trace = refine_full(model, torch.from_numpy(expected["image"]), settings).trace
    for step, (cross_entropy, inter, intra, _, label_count) in zip(trace, rows, strict=True):
        assert step.cross_entropy == pytest.approx(cross_entropy, rel=1e-3)
        assert step.inter_scale == pytest.approx(inter, rel=1e-3)
        assert step.intra_scale == pytest.approx(intra, rel=1e-3, abs=1e-6)
        assert step.label_count == label_count


def tiny(seed: int = 0, **sizes: int) -> MSFormer:
    torch.manual_seed(seed)
    return MSFormer(**{"side": 33, "width": 6, "clusters": 6, "blocks": 2} | sizes)


@pytest.mark.parametrize(
    "sizes", [{}, {"side": 65}, {"side": 97, "blocks": 1}, {"width": 5, "clusters": 9}, {"blocks": 3}]
)
def test_any_size_has_the_documented_shapes(sizes):
    model = tiny(**sizes)
    with torch.no_grad():
        output = model(torch.rand(2, 3, model.side, model.side))
        features = model.encode(torch.rand(2, 3, model.side, model.side)).features
    patches = ((model.side - 1) // 32) ** 2
    assert features.shape == (2, 2 * model.width, model.side, model.side)
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert output.logits.shape == (2, model.clusters, model.side, model.side)
    assert output.attention.shape == (2, patches, patches)
    assert output.context_small.shape == output.context_large.shape == (2, model.width, model.width)
    assert output.consistency.shape == (2,)


def test_images_of_a_batch_do_not_influence_one_another():
    model, images = tiny(), torch.rand(3, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model(images)
        for index in range(3):
            alone = model(images[index : index + 1])
            for batch, single in zip(together, alone, strict=True):
                torch.testing.assert_close(batch[index], single[0], rtol=1e-5, atol=1e-5)


def test_image_norm_is_batch_norm_in_train_mode_on_one_image():
    norm, published = ImageNorm(4), torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(4))
        norm.bias.copy_(torch.rand(4))
    published.load_state_dict(norm.state_dict())
    image = torch.randn(1, 4, 7, 9)
    channels_last = image.permute(0, 2, 3, 1)
    torch.testing.assert_close(norm(channels_last), published(image).permute(0, 2, 3, 1))
    torch.testing.assert_close(norm.eval()(channels_last), norm.train()(channels_last))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"side": 256}, "multiple of 32 plus 1"),
        ({"side": 1}, "multiple of 32 plus 1"),
        ({"clusters": 1}, "clusters"),
        ({"width": 0}, "width"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**sizes)


def test_a_wrong_image_size_is_named():
    with pytest.raises(ValueError, match=r"\(B, 3, 33, 33\)"):
        tiny().encode(torch.zeros(1, 3, 65, 65))
