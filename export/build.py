"""Bundles: one from one seed, with the proof that its graphs agree with torch; and one with more in it than before."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msformer_deploy.backends import open_backend
from msformer_deploy.backends.base import Device
from msformer_deploy.bundle import engines
from msformer_deploy.bundle import folder as bundle
from msformer_deploy.bundle.draft import Draft, new_bundle
from msformer_deploy.bundle.fingerprint import Fingerprint
from msformer_deploy.errors import BundleError
from msformer_deploy.machine.versions import installed_versions
from msformer_deploy.refinement import head_file
from msformer_deploy.registry import Precision, RefineSettings, System, find_system

from . import reference, validate

if TYPE_CHECKING:
    from msformer_deploy.refinement.like import LearnedHead
    from msformer_deploy.weights.trained import Trained

    from .evidence import Evidence
    from .tensorrt import Progress
    from .variants import EnginePlan

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Additions:
    """What a bundle gets beside its fp32 graphs.

    Attributes:
        precisions: of graphs to add, and of engines to build; fp32 has its graphs already.
        plan: how to build the engines; None for no engines.
        evidence: images to calibrate and judge on; scikit-image's samples by default.
        accept_loss: keep what is judged too far from fp32.
        anew: make graphs again that the bundle has.
        progress: given a graph, what is called with the phases of its engine's build.
    """

    precisions: Sequence[Precision] = ("fp32",)
    plan: EnginePlan | None = None
    evidence: Evidence | None = None
    accept_loss: bool = False
    anew: bool = False
    progress: Callable[[bundle.Graph], Progress] = lambda _: lambda *_: None


def build_bundle(
    system: System,
    path: Path,
    *,
    seed: int = 0,
    sizes: bundle.ModelSizes | None = None,
    refinement: RefineSettings | None = None,
    additions: Additions = Additions(),
    trained: Trained | None = None,
    force: bool = False,
    say: Say = lambda _: None,
) -> bundle.Bundle:
    """Make a bundle at ``path``, every graph in it validated against torch; on any failure nothing is left there.

    Args:
        system: what to export.
        path: folder to make.
        seed: of the weights.
        sizes: of the network that the seed draws; the system's own by default.
        refinement: unrolled into ``segmenter.onnx``; the system's first preset by default.
        additions: other precisions and engines. The first precision is the one the bundle runs by default.
        trained: the network of a trained system, in place of one that the seed draws; the manifest has its provenance
            under ``training``.
        force: replace an existing bundle.
        say: called with one line before each stage.

    Raises:
        UsageError: the folder exists or cannot be written, or an engine option cannot be met.
        ValidationMismatch: a graph does not compute what torch computes, or a precision loses too much.
        BackendUnavailable: ONNX Runtime, which validates, is missing, or TensorRT cannot build here.
        ImageError: an image to calibrate or judge on cannot be read.
        DeployError: the disk is full, torch failed beside the export, or TensorRT cannot build a graph.
    """
    sizes = trained.sizes if trained is not None else sizes or bundle.ModelSizes.of(system)
    refinement = refinement or system.preset().refinement
    with new_bundle(path, force) as folder:
        weights = None
        if trained is not None:
            from msformer_deploy.weights.network import write_network

            write_network(trained.network, folder, system.name)
            weights = folder / bundle.WEIGHTS
        with reference.start(system.name, sizes, seed, refinement, weights) as expected:
            facts: dict[str, Any] = {
                "system": system.name,
                "seed": seed,
                "model": dataclasses.asdict(sizes),
                "refinement": dataclasses.asdict(refinement),
                # Of the graphs, whatever the published network takes: the rest is inside them.
                "preprocessing": {"channels": "BGR", "range": [0.0, 1.0], "resize": system.resize},
                **_export(folder, system, sizes, seed, refinement, trained, say),
            }
            if trained is not None:
                facts["training"] = trained.provenance
            draft = Draft(folder, facts)
            draft.add(*bundle.REQUIRED)
            say("validating against torch")
            draft.facts |= _validate(draft.as_bundle(), expected)
        _add(draft, additions, say)
        draft.facts["precision"] = additions.precisions[0]
        made = draft.finish()
    return dataclasses.replace(made, path=path)


def update_bundle(
    former: bundle.Bundle,
    additions: Additions,
    *,
    head: LearnedHead | None = None,
    say: Say = lambda _: None,
    warn: Say = lambda _: None,
) -> bundle.Bundle:
    """Replace a bundle by one with more precisions, engines or a head; on any failure it stays as it is.

    Engines of graphs that are made anew, and damaged ones, are left out of the new bundle; ``warn`` reports which.

    Raises:
        UsageError: the bundle has the whole method only, or as :func:`build_bundle`.
        ValidationMismatch, BackendUnavailable, ImageError, DeployError: as :func:`build_bundle`.
    """
    former.require_complete()
    with new_bundle(former.path, force=True) as folder:
        usable = _usable_engines(former, warn)
        files = {
            name: entry
            for name, entry in former.manifest["files"].items()
            if not name.startswith(f"{bundle.ENGINES}/") or str(Path(name).parent) in usable
        }
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(former.file(name), folder / name)
        draft = Draft(folder, former.facts, files)
        proofs = draft.facts.get("engines", {})
        draft.facts["engines"] = {name: proof for name, proof in proofs.items() if name in usable}
        if head is not None:
            head_file.write(folder / bundle.LEARNED_HEAD, head)
            draft.add(bundle.LEARNED_HEAD)
        _add(draft, additions, say, warn)
        made = draft.finish()
    return dataclasses.replace(made, path=former.path)


def _usable_engines(former: bundle.Bundle, warn: Say) -> set[str]:
    for folder, reason in engines.damaged(former).items():
        warn(f"left out: {former.file(folder)}: {reason}")
    usable = set()
    for folder, record in engines.records(former).items():
        try:
            engines.verified(former, folder, record)
        except BundleError as error:
            warn(f"left out: {error}")
        else:
            usable.add(folder)
    return usable


def _add(draft: Draft, additions: Additions, say: Say, warn: Say = lambda _: None) -> None:
    """Graphs of other precisions, engines, and what is known of them, into a draft."""
    lowered = [each for each in additions.precisions if each != "fp32"]
    if not lowered and additions.plan is None:
        return
    from . import variants
    from .evidence import built_in

    evidence = additions.evidence or built_in()
    judged = draft.facts.setdefault("precisions", {})
    for precision in lowered:
        if precision not in draft.as_bundle().precisions or additions.anew:
            say(f"making and judging {precision}")
            calibration = variants.add_precision(draft.as_bundle(), precision, evidence)
            draft.add(*(bundle.graph_name(graph, precision) for graph in variants.GRAPHS))
        elif additions.evidence is not None or precision not in judged:
            say(f"judging the existing {precision}; --force makes it again")
            calibration = {"calibration": judged.get(precision, {}).get("calibration", [])}
        else:
            say(f"keeping the existing {precision}; --force makes it again")
            continue
        judgement = variants.judge_precision(draft.as_bundle(), precision, evidence, additions.accept_loss)
        judged[precision] = judgement | calibration
    _drop_stale_engines(draft, warn)
    if additions.plan is not None:
        proofs = draft.facts.setdefault("engines", {})
        for wanted in additions.precisions:
            say(f"building the {wanted} engines with {additions.plan.flavour}")
            folders = variants.add_engines(draft.folder, wanted, additions.plan, additions.progress)
            draft.add(*folders)
            made = draft.as_bundle()
            proof = variants.prove_engines(made, folders, additions.plan, evidence, additions.accept_loss)
            proofs.update(dict.fromkeys(folders, proof))


def _drop_stale_engines(draft: Draft, warn: Say) -> None:
    made = draft.as_bundle()
    for folder, record in engines.records(made).items():
        if engines.is_stale(record, made):
            warn(f"left out: {folder}, because its graph has changed")
            draft.remove(folder)
            draft.facts.get("engines", {}).pop(folder, None)


def _export(
    folder: Path,
    system: System,
    sizes: bundle.ModelSizes,
    seed: int,
    refinement: RefineSettings,
    trained: Trained | None,
    say: Say,
) -> dict[str, Any]:
    """Write weights, head and graphs; return what the manifest says of them."""
    # Imported here, once the reference is on its way: this takes as long as torch takes to start.
    import onnx

    from msformer_deploy.bundle.graph_info import describe
    from msformer_deploy.weights.network import FAMILIES, new_network, write_network

    from . import graphs
    from .functions import OPSET

    family = FAMILIES[system.name]
    network = new_network(sizes, seed, system.name) if trained is None else trained.network
    head = family.head(network.requires_grad_(False)).detach()
    if trained is None:
        write_network(network, folder, system.name)
    say("exporting the encoder")
    family.settle(network)
    encoder = graphs.export_encoder(
        family.freeze(network, sizes), sizes.side, system.encoder_outputs, symbolic=system.trained
    )
    say("exporting the whole method")
    segmenter = graphs.join(
        encoder,
        graphs.refinement_graph(head, refinement, sizes.side),
        graphs.figure_graph(head.shape[1], sizes.side, trained=system.trained),
    )
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

    Returns the proof for the manifest, and the fingerprint, which is torch's of the last image.

    ``segmenter.onnx`` contains ``encoder.onnx`` node for node, which is checked; so one run of it per image, with the
    encoder's outputs made visible, gives what both compute. The last image also goes through ``encoder.onnx`` alone.
    """
    import onnx

    from . import graphs

    images = reference.validation_images(candidate.sizes.side)
    encoder, segmenter = (onnx.load(candidate.file(name)) for name in (bundle.ENCODER, bundle.SEGMENTER))
    run = validate.run_probe(graphs.probe(segmenter, encoder))
    encoded, segmented = {}, {}
    for name, image in images.items():
        encoded[name], segmented[name] = run(image)
    last, image = list(images.items())[-1]
    with open_backend("onnxruntime", candidate, Device("cpu")) as backend:
        alone = backend.encode(image)
    for ours, probed in zip(alone, encoded[last], strict=True):
        if probed is not None:
            validate.check_same(ours, probed, last)
    truth = expected.wait()
    proof = {
        "images": list(images),
        "runtime": "onnxruntime",
        "tolerance": {
            "relative": validate.MAX_FEATURE_ERROR,
            "agreement": validate.MIN_LABEL_AGREEMENT,
            "probability": validate.MAX_PROBABILITY_ERROR,
        },
        bundle.ENCODER: validate.check_encoder(encoded, truth),
        bundle.SEGMENTER: validate.check_segmenter(segmented, truth, trained=find_system(candidate.system).trained),
    }
    fingerprint = Fingerprint.of(truth.encoded["features"][-1], truth.labels[-1])
    return {"validation": proof, "fingerprint": dataclasses.asdict(fingerprint)}
