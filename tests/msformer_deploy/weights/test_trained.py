"""Files of weights to networks, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import trained_weights
from safetensors.torch import load_file

from msformer_deploy.bundle.folder import sha256
from msformer_deploy.errors import UsageError
from msformer_deploy.models.mcsc import SwinSegmenter, UNetSegmenter
from msformer_deploy.models.normalise import IMAGENET_MEAN, IMAGENET_STD
from msformer_deploy.models.subtraction import M2SNet, MSNet
from msformer_deploy.models.swin_unet import SwinUNet
from msformer_deploy.models.unet import UNet
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.weights.checkpoint_import import write_weights
from msformer_deploy.weights.trained import read_trained


@pytest.mark.parametrize(("system", "network"), [("msnet", MSNet), ("m2snet", M2SNet)])
def test_an_object_network_is_the_one_that_was_trained(system, network, tmp_path):
    path = trained_weights.objects(tmp_path / "best.safetensors", system)
    trained = read_trained(SYSTEMS[system], [path])
    assert (trained.sizes.side, trained.sizes.width, trained.sizes.clusters, trained.sizes.blocks) == (64, 8, 2, 1)
    assert trained.provenance["weights"]["best.safetensors"]["sha256"] == sha256(path)
    plain = network(8, trained_weights.LAYERS).eval()
    plain.load_state_dict(load_file(path))
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = (images.flip(1) - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(trained.network(images).features, plain(normalised))


@pytest.mark.parametrize("variant", ["unet", "swin", "both"])
def test_a_slice_network_is_those_that_were_trained(variant, tmp_path):
    paths = {name: trained_weights.slices(tmp_path / f"best-{name}.safetensors", name) for name in ("unet", "swin")}
    wanted = ("unet", "swin") if variant == "both" else (variant,)
    trained = read_trained(SYSTEMS["mcsc"], [paths[name] for name in wanted], variant)
    assert (trained.sizes.side, trained.sizes.clusters, trained.sizes.variant) == (32, 4, variant)
    assert trained.sizes.width == (trained_weights.SWIN["width"] if variant == "swin" else trained_weights.WIDTHS[0])
    plain = {
        "unet": UNetSegmenter(UNet(trained_weights.WIDTHS)),
        "swin": SwinSegmenter(SwinUNet(32, **trained_weights.SWIN)),
    }
    grey = torch.rand(2, 1, 32, 32)
    shares = []
    for name in wanted:
        plain[name].load_state_dict(load_file(paths[name]))
        with torch.no_grad():
            shares.append(plain[name].eval()(grey).logits.softmax(dim=1))
    with torch.no_grad():
        got = trained.network(grey.expand(-1, 3, -1, -1)).features
    torch.testing.assert_close(got.exp(), torch.stack(shares).mean(dim=0))
    assert torch.equal(trained.network.head(), torch.eye(4))


def test_colours_become_grey_by_their_brightness(tmp_path):
    trained = read_trained(SYSTEMS["mcsc"], [trained_weights.slices(tmp_path / "unet.safetensors")])
    colours = torch.rand(1, 3, 32, 32)
    grey = (0.114 * colours[:, :1] + 0.587 * colours[:, 1:2] + 0.299 * colours[:, 2:]).expand(-1, 3, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(trained.network(colours).features, trained.network(grey).features)


def test_the_published_side_is_that_of_weights_that_name_none(tmp_path):
    weights = load_file(trained_weights.objects(tmp_path / "a.safetensors"))
    write_weights(tmp_path / "imported.safetensors", weights, {"system": "m2snet"})
    assert read_trained(SYSTEMS["m2snet"], [tmp_path / "imported.safetensors"]).sizes.side == 352


def test_another_side_needs_no_other_weights(tmp_path):
    path = trained_weights.objects(tmp_path / "a.safetensors")
    assert read_trained(SYSTEMS["m2snet"], [path], side=96).sizes.side == 96
    with pytest.raises(UsageError, match="side 100 does not fit m2snet; choose a multiple of 32"):
        read_trained(SYSTEMS["m2snet"], [path], side=100)
    with pytest.raises(UsageError, match="mcsc is exported at the side of its training"):
        read_trained(SYSTEMS["mcsc"], [trained_weights.slices(tmp_path / "b.safetensors")], side=64)


def changed(path: Path, **told: str) -> Path:
    """The same weights with other things told of them."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = dict(file.metadata())
    write_weights(path, load_file(path), said | told)
    return path


def file_of_torch(folder: Path) -> list[Path]:
    torch.save({"a": torch.zeros(1)}, folder / "x.pth")
    return [folder / "x.pth"]


@pytest.mark.parametrize(
    ("system", "variant", "make", "told"),
    [
        ("m2snet", None, lambda folder: [folder / "none.safetensors"], ["none.safetensors", "cannot be read"]),
        ("m2snet", None, file_of_torch, ["x.pth", "import-weights"]),
        ("mcsc", None, file_of_torch, ["x.pth", "'msformer-deploy train'"]),
        ("msnet", None, lambda folder: [trained_weights.objects(folder / "a.safetensors")], ["m2snet", "not to msnet"]),
        (
            "m2snet",
            None,
            lambda folder: [changed(trained_weights.slices(folder / "a.safetensors"), system="m2snet")],
            ["does not fit m2snet"],
        ),
        (
            "m2snet",
            None,
            lambda folder: 2 * [trained_weights.objects(folder / "a.safetensors")],
            ["one network", "--weights once"],
        ),
        (
            "m2snet",
            None,
            lambda folder: [changed(trained_weights.objects(folder / "a.safetensors"), side="wide")],
            ["'wide'", "not a size"],
        ),
        ("mcsc", "swin", lambda folder: [trained_weights.slices(folder / "a.safetensors")], ["(unet)", "swin"]),
        ("mcsc", "both", lambda folder: [trained_weights.slices(folder / "a.safetensors")], ["unet and swin"]),
        (
            "mcsc",
            None,
            lambda folder: [changed(trained_weights.slices(folder / "a.safetensors"), sizes="{")],
            ["sizes are damaged"],
        ),
        (
            "mcsc",
            None,
            lambda folder: [changed(trained_weights.slices(folder / "a.safetensors"), sizes='{"depth": 3}')],
            ["sizes are damaged"],
        ),
        (
            "mcsc",
            None,
            lambda folder: [
                changed(trained_weights.slices(folder / "a.safetensors"), sizes=json.dumps({"widths": [4, 8, 8, 8, 9]}))
            ],
            ["does not fit mcsc's unet", "of another shape"],
        ),
        (
            "mcsc",
            "both",
            lambda folder: [
                trained_weights.slices(folder / "a.safetensors"),
                trained_weights.slices(folder / "b.safetensors", "swin", 64),
            ],
            ["differ in side"],
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(system, variant, make, told, tmp_path):
    with pytest.raises(UsageError) as refused:
        read_trained(SYSTEMS[system], make(tmp_path), variant)
    assert all(each in str(refused.value) for each in told), str(refused.value)
    assert "\n" not in str(refused.value)
