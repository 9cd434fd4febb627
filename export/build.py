"""One bundle from one seed: weights, graphs, the proof that they agree, the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msformer_deploy import bundle
from msformer_deploy.backends import Encoded, Segmented, open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.backends.onnxruntime import open_session
from msformer_deploy.registry import RefineSettings, System
from msformer_deploy.versions import installed_versions

from . import reference, validate

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
        DeployError: the disk is full, or torch failed beside the export.
    """
    sizes = sizes or bundle.ModelSizes(system.side, system.width, system.clusters, system.blocks)
    refinement = refinement or next(iter(system.presets.values()))
    with bundle.new_bundle(path, force) as folder, reference.start(sizes, seed, refinement) as expected:
        facts: dict[str, Any] = {
            "system": system.name,
            "seed": seed,
            "model": dataclasses.asdict(sizes),
            "refinement": dataclasses.asdict(refinement),
            "preprocessing": {"channels": system.channels, "range": [0.0, 1.0], "resize": "bilinear, antialiased"},
            **_export(folder, sizes, seed, refinement, say),
        }
        say("validating against torch")
        # Backends open verified bundles only, so a manifest comes before the proof that is added to it.
        bundle.write_manifest(folder, facts)
        bundle.write_manifest(folder, facts | {"validation": _validate(bundle.load_bundle(folder), expected)})
        made = bundle.load_bundle(folder)
    return dataclasses.replace(made, path=path)


def _export(
    folder: Path, sizes: bundle.ModelSizes, seed: int, refinement: RefineSettings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write weights, head and graphs; return what the manifest says of them."""
    # Imported here, once the reference is on its way: this takes as long as torch takes to start.
    import onnx
    from safetensors.torch import save_file

    from msformer_deploy.graph_info import describe
    from msformer_deploy.network import new_network, tie_upsampling

    from . import graphs
    from .functions import OPSET

    network = new_network(sizes, seed).requires_grad_(False)
    head = network.linear_down.weight.detach()
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, folder / bundle.WEIGHTS)
    save_file({"head": head.contiguous()}, folder / bundle.HEAD)
    say("exporting the encoder")
    encoder = graphs.export_encoder(tie_upsampling(network))
    say("exporting the whole method")
    segmenter = graphs.join(encoder, graphs.refinement_graph(head, refinement, sizes.side))
    described = {}
    for name, graph in ((bundle.ENCODER, encoder), (bundle.SEGMENTER, segmenter)):
        graphs.check(graph)
        onnx.save(graph, folder / name)
        described[name] = describe(graph)
    return {
        "onnx": {"opset": OPSET, "ir": encoder.ir_version, "graphs": described},
        "precision": "fp32",
        "versions": installed_versions(),
    }


def _validate(candidate: bundle.Bundle, expected: reference.Computation) -> dict[str, Any]:
    """Run the saved graphs on every validation image and compare with torch, which may finish later than they do.

    ``segmenter.onnx`` contains ``encoder.onnx`` node for node, which is checked; so one run of it per image, with the
    encoder's outputs made visible, gives what both compute. The last image also goes through ``encoder.onnx`` alone.
    """
    import onnx

    from . import graphs

    images = reference.validation_images(candidate.sizes.side)
    encoder, segmenter = (onnx.load(candidate.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    session = open_session(graphs.probe(segmenter, encoder).SerializeToString(), CPU)
    encoded, segmented = {}, {}
    for name, image in images.items():
        outputs = session.run([*Encoded._fields, *Segmented._fields], {"image": image})
        encoded[name], segmented[name] = Encoded(*outputs[:3]), Segmented(*outputs[3:])
    last, image = list(images.items())[-1]
    with open_backend("onnxruntime", candidate, CPU) as backend:
        alone = backend.encode(image)
    for ours, probed in zip(alone, encoded[last], strict=True):
        validate.check_same(ours, probed, last)
    truth = expected.wait()
    return {
        "images": list(images),
        "runtime": "onnxruntime",
        "tolerance": {"relative": validate.MAX_FEATURE_ERROR, "agreement": validate.MIN_LABEL_AGREEMENT},
        bundle.ENCODER: validate.check_encoder(encoded, truth),
        bundle.SEGMENTER: validate.check_segmenter(segmented, truth),
    }
