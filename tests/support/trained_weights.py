"""Small networks of the trained systems, with random weights in files as training writes them, and their bundles."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import shared
import torch

from msformer_deploy.models.mcsc import SwinSegmenter, UNetSegmenter
from msformer_deploy.models.subtraction import M2SNet, MSNet
from msformer_deploy.models.swin_unet import SwinUNet
from msformer_deploy.models.unet import UNet
from msformer_deploy.weights.checkpoint_import import write_weights

WIDTHS = (4, 8, 8, 8, 8)
SWIN = {"width": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 1}
LAYERS = (1, 1, 2, 1)


def objects(path: Path, system: str = "m2snet", side: int = 64) -> Path:
    """Weights of MSNet or M2SNet, 8 channels, whose logits have both signs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (MSNet if system == "msnet" else M2SNet)(8, LAYERS).eval()
        with torch.no_grad():
            gradient = torch.linspace(0, 1, side).expand(1, 3, side, side)
            network.output1[0].bias -= network(gradient).median()
    write_weights(path, network.state_dict(), {"system": system, "side": str(side)})
    return path


def slices(path: Path, network: str = "unet", side: int = 32) -> Path:
    """Weights of one of MCSC's two networks, on four classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: torch.nn.Module
        if network == "unet":
            built, sizes = UNetSegmenter(UNet(WIDTHS)), {"widths": list(WIDTHS)}
        else:
            built, sizes = SwinSegmenter(SwinUNet(side, **SWIN)), SWIN
    told = {"system": "mcsc", "network": network, "side": str(side), "classes": "4", "sizes": json.dumps(sizes)}
    write_weights(path, built.state_dict(), told)
    return path


def of_each_system(folder: Path) -> dict[str, list[Path]]:
    """Files of weights: M2SNet's, and both networks of MCSC."""
    return {
        "m2snet": [objects(folder / "m2snet.safetensors")],
        "mcsc": [slices(folder / f"{name}.safetensors", name) for name in ("unet", "swin")],
    }


def bundles(weights: dict[str, list[Path]], factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each system, made by the command once for all tests that ask."""
    from msformer_deploy import cli

    def export(system: str, path: Path) -> None:
        named = [option for file in weights[system] for option in ("--weights", str(file))]
        variant = ["--variant", "both"] if system == "mcsc" else []
        assert cli.call(["export", "--system", system, "--output", str(path), "-q", *named, *variant]) == 0

    return {system: shared.once(factory, f"trained-{system}", functools.partial(export, system)) for system in weights}
