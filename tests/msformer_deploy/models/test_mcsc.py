"""MCSC's two networks as they are deployed, and that their graph computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from msformer_deploy.models.mcsc import ANSWERS, CoTrained, SwinSegmenter, UNetSegmenter
from msformer_deploy.models.swin_unet import SwinUNet
from msformer_deploy.models.unet import UNet


def tiny(answer: str = "unet") -> CoTrained:
    torch.manual_seed(0)
    swin = SwinUNet(side=64, width=4, depths=(2, 1, 1, 1), heads=(1, 1, 2, 2), window=2)
    return CoTrained(UNetSegmenter(UNet((2, 3, 4, 5, 6))), SwinSegmenter(swin), answer).eval()


@pytest.mark.parametrize("network", [tiny().unet, tiny().swin])
def test_scores_and_maps_of_a_network(network):
    found = network(torch.rand(2, 1, 64, 64))
    assert found.logits.shape == (2, 4, 64, 64)
    assert found.full.shape[2:] == (64, 64)
    assert found.coarse.shape[2:] == (8, 8)
    torch.testing.assert_close(network.classifier(found.full), found.logits)


def test_the_coarse_map_of_the_transformer_has_its_tokens_in_their_places():
    network, images = tiny().swin, torch.rand(1, 1, 64, 64)
    tokens = network.network(images).eighth
    coarse = network(images).coarse
    torch.testing.assert_close(coarse[0, :, 3, 5], tokens[0, 3 * 8 + 5])


@torch.no_grad()
def test_answers_are_probabilities_and_both_is_their_mean():
    images = torch.rand(2, 1, 64, 64)
    found = {answer: tiny(answer)(images) for answer in ANSWERS}
    for probabilities in found.values():
        assert probabilities.shape == (2, 4, 64, 64)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 64, 64))
    assert not torch.allclose(found["unet"], found["swin"])
    torch.testing.assert_close(found["unet"], tiny().unet(images).logits.softmax(dim=1))
    torch.testing.assert_close(found["both"], (found["unet"] + found["swin"]) / 2)


def test_an_answer_that_there_is_not():
    with pytest.raises(ValueError, match="unet, swin, both"):
        CoTrained(tiny().unet, tiny().swin, "vote")


def test_the_exported_graph_computes_the_same(tmp_path: Path):
    import onnxruntime

    network, images = tiny("both"), torch.rand(1, 1, 64, 64)
    program = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
    program.save(tmp_path / "mcsc.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mcsc.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(images).numpy(), atol=1e-5)
