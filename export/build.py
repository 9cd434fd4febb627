"""One bundle from one seed: weights, graphs, the proof that they agree, the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from safetensors.torch import save_file

from msformer_deploy import bundle
from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.graph_info import describe
from msformer_deploy.network import new_network, tie_upsampling
from msformer_deploy.registry import RefineSettings, System
from msformer_deploy.versions import installed_versions

from . import graphs, validate
from .functions import OPSET

CPU = Device("cpu")


def build_bundle(
    system: System,
    path: Path,
    *,
    seed: int = 0,
    sizes: bundle.ModelSizes | None = None,
    refinement: RefineSettings | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> bundle.Bundle:
    """Make a bundle at ``path``, every graph in it validated against torch; on any failure nothing is left there.

    Args:
        system: what to export.
        path: folder to make.
        seed: of the weights.
        sizes: of the network; the system's own by default.
        refinement: unrolled into ``segmenter.onnx``; the system's first preset by default.
        force: replace an existing bundle.
        say: called with one line before each stage.

    Raises:
        UsageError: the folder exists or cannot be written.
        ValidationMismatch: a graph does not compute what torch computes.
        BackendUnavailable: ONNX Runtime, which validates, is missing.
    """
    sizes = sizes or bundle.ModelSizes(system.side, system.width, system.clusters, system.blocks)
    refinement = refinement or next(iter(system.presets.values()))
    with bundle.new_bundle(path, force) as folder:
        network = new_network(sizes, seed).eval().requires_grad_(False)
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        save_file(weights, folder / bundle.WEIGHTS)
        model = tie_upsampling(network)
        say("exporting the encoder")
        encoder = graphs.export_encoder(model)
        say("exporting the whole method")
        segmenter = graphs.export_segmenter(encoder, model, refinement)
        described = {}
        for name, graph in ((bundle.ENCODER, encoder), (bundle.SEGMENTER, segmenter)):
            graphs.check(graph)
            onnx.save(graph, folder / name)
            described[name] = describe(graph)
        save_file({"head": model.linear_down.weight.detach().contiguous()}, folder / bundle.HEAD)
        say("validating against torch")
        facts: dict[str, Any] = {
            "preprocessing": {"channels": system.channels, "range": [0.0, 1.0], "resize": "bilinear, antialiased"},
            "onnx": {"opset": OPSET, "ir": encoder.ir_version, "graphs": described},
            "precision": "fp32",
            "versions": installed_versions(),
        }
        written: dict[str, Any] = {"system": system.name, "seed": seed, "sizes": sizes, "refinement": refinement}
        # Backends open verified bundles only, so a manifest comes before the proof that is added to it.
        bundle.write_manifest(folder, **written, **facts)
        facts["validation"] = _validate(bundle.load_bundle(folder), validate.reference(model, refinement))
        bundle.write_manifest(folder, **written, **facts)
        bundle.load_bundle(folder)
    return bundle.load_bundle(path)


def _validate(candidate: bundle.Bundle, expected: validate.Reference) -> dict[str, Any]:
    with open_backend("onnxruntime", candidate, CPU) as backend:
        encoder = validate.check_encoder(backend, expected)
    with open_backend("onnxruntime", candidate, CPU, graph="segmenter") as backend:
        segmenter = validate.check_segmenter(backend, expected)
    return {
        "images": expected.names,
        "runtime": "onnxruntime",
        "tolerance": {"relative": validate.MAX_FEATURE_ERROR, "agreement": validate.MIN_LABEL_AGREEMENT},
        bundle.ENCODER: encoder,
        bundle.SEGMENTER: segmenter,
    }
