"""``msformer-deploy export``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle.sidecar import COMPATIBILITIES, PLUGINS, Compatibility, EngineOptions, Plugins
from ..errors import UsageError
from ..registry import PRECISIONS, PRESETS, TRT_FLAVOURS, VARIANTS, Precision, find_system
from .bundles import SYSTEM
from .output import PATH, SEED, conclude, judged, proved, say

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, Graph
    from ..export.tensorrt import Progress
    from ..export.variants import EnginePlan
    from ..registry import Preset, RefineSettings

ONLY_NEW = (
    "system",
    "seed",
    "preset",
    "steps",
    "variant",
    "weights",
    "side",
)  # what an existing bundle has decided already
ONLY_TENSORRT = {
    "trt_flavour",
    "trt_batch",
    "trt_workspace",
    "trt_compatibility",
    "trt_version_compatible",
    "trt_compute_capability",
    "trt_refit",
    "trt_plugins",
}


@click.command()
@click.option("--system", default="msformer", show_default=True, type=SYSTEM, help="What to export.")
@click.option("--output", required=True, type=PATH, help="Folder to make, or with --update the bundle to add to.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Draws the network's weights.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(PRECISIONS),
    help="Of the graphs, beside fp32; may be given several times, the first is what the bundle runs. Default fp32.",
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Its side, and the refinement built into the whole-method graph; the first by default.",
)
@click.option("--steps", type=click.IntRange(0), help="Override the preset's number of refinement steps.")
@click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Of the encoder, where the system has several, see 'msformer-deploy list'; its first by default.",
)
@click.option(
    "--weights",
    multiple=True,
    type=PATH,
    help="Of a trained system: what train or import-weights wrote; once for each network of the variant.",
)
@click.option(
    "--side", type=click.IntRange(1), help="Of msnet and m2snet: the images' side; that of training otherwise."
)
@click.option("--images", type=PATH, help="Images to calibrate int8 and judge precisions on; sample images by default.")
@click.option("--masks", type=PATH, help="Their ground truth, by name; without it fp32's own masks are the truth.")
@click.option("--accept-loss", is_flag=True, help="Keep a precision that is judged too far from fp32.")
@click.option("--tensorrt", is_flag=True, help="Build TensorRT engines too, of every --precision.")
@click.option(
    "--trt-flavour",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", *TRT_FLAVOURS]),
    help="NVIDIA's full TensorRT, or TensorRT for RTX, which needs no GPU to build.",
)
@click.option(
    "--trt-batch",
    nargs=3,
    default=EngineOptions.batch,
    show_default=True,
    type=click.IntRange(1),
    metavar="MIN OPT MAX",
    help="Images in one call: least, likeliest and most.",
)
@click.option("--trt-workspace", type=click.IntRange(1, 2**20), metavar="MIB", help="Most scratch memory of a layer.")
@click.option(
    "--trt-compatibility",
    default=EngineOptions.compatibility,
    show_default=True,
    type=click.Choice(COMPATIBILITIES),
    help="Other GPUs that a full TensorRT's engine also runs on.",
)
@click.option("--trt-version-compatible", is_flag=True, help="Let later versions of a full TensorRT run the engine.")
@click.option(
    "--trt-compute-capability",
    "trt_compute_capability",
    multiple=True,
    metavar="X.Y",
    help="GPUs TensorRT for RTX builds for, such as 8.9; may be given several times; all from 8.0 on by default.",
)
@click.option("--trt-refit", is_flag=True, help="Build engines whose weights can be changed.")
@click.option(
    "--trt-plugins",
    default=EngineOptions.plugins,
    show_default=True,
    type=click.Choice(PLUGINS),
    help="Whether our CUDA kernels go into the engine; auto: where TensorRT takes them.",
)
@click.option("--update", is_flag=True, help="Add precisions and engines to the bundle at --output.")
@click.option("--force", is_flag=True, help="Replace an existing bundle; with --update, make its graphs anew.")
@click.option("-q", "--quiet", is_flag=True, help="No progress lines.")
@click.pass_context
def export(
    context: click.Context,
    system: str,
    output: Path,
    seed: int,
    precisions: tuple[Precision, ...],
    preset: str | None,
    steps: int | None,
    variant: str | None,
    weights: tuple[Path, ...],
    side: int | None,
    images: Path | None,
    masks: Path | None,
    accept_loss: bool,
    tensorrt: bool,
    trt_flavour: Any,
    trt_batch: tuple[int, int, int],
    trt_workspace: int | None,
    trt_compatibility: Compatibility,
    trt_version_compatible: bool,
    trt_compute_capability: tuple[str, ...],
    trt_refit: bool,
    trt_plugins: Plugins,
    update: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Build a bundle: ONNX graphs, TensorRT engines if wanted, weights, and the proof that they agree with torch."""
    given = {
        name for name in context.params if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if not tensorrt and (unused := given & ONLY_TENSORRT):
        raise UsageError(f"--{min(unused).replace('_', '-')} is about engines; add --tensorrt")
    if masks is not None and images is None:
        raise UsageError("--masks are those of --images; give both")
    spec = find_system(system)
    refinement = _refinement(spec.preset(preset), steps)
    spec = spec.sized(preset)
    if spec.trained and not weights and not update:
        raise UsageError(
            f"system {spec.name} is trained, so its weights are needed; pass --weights with what"
            f" 'msformer-deploy {spec.commands[-1]}' wrote"
        )
    if weights and not spec.trained:
        raise UsageError(f"system {spec.name} draws its weights from --seed; drop --weights")
    if side is not None and not spec.trained:
        raise UsageError(f"the side of {spec.name} is its preset's; drop --side, or choose another --preset")
    options = EngineOptions(
        batch=trt_batch,
        workspace_mb=trt_workspace,
        compatibility=trt_compatibility,
        version_compatible=trt_version_compatible,
        compute_capabilities=trt_compute_capability,
        refit=trt_refit,
        plugins=trt_plugins,
    )
    if not tensorrt and not set(precisions) - {"fp32"} and (unused := given & {"images", "accept_loss"}):
        raise UsageError(
            f"--{min(unused).replace('_', '-')} is about other precisions and engines; add --precision or --tensorrt"
        )
    if update and (decided := [name for name in ONLY_NEW if name in given]):
        raise UsageError(f"--{decided[0]} is decided in the bundle at --output; drop it, or drop --update")
    plan = _plan(trt_flavour, options) if tensorrt else None
    from ..bundle.folder import ModelSizes
    from ..export.build import Additions, build_bundle, update_bundle
    from ..export.evidence import from_folders

    evidence = None if images is None else from_folders(images, masks, say)
    report = (lambda _: None) if quiet else say
    with _progress(quiet) as progress:

        def additions(default: Precision) -> Additions:
            wanted = tuple(dict.fromkeys(precisions)) or (default,)
            return Additions(wanted, plan, evidence, accept_loss, force, progress)

        if update:
            from ..bundle.folder import load_bundle

            former = load_bundle(output)
            wanted = additions(former.precision)
            bundle = update_bundle(former, wanted, say=report, warn=say)
        else:
            wanted = additions("fp32")
            trained, sizes = None, ModelSizes.of(spec, variant)
            if weights:
                from ..weights.trained import read_trained

                trained = read_trained(spec, weights, variant, side)
            bundle = build_bundle(
                spec,
                output,
                seed=seed,
                sizes=sizes,
                refinement=refinement,
                trained=trained,
                additions=wanted,
                force=force,
                say=report,
            )
    _tell(bundle, output, wanted.precisions)


def _refinement(preset: Preset, steps: int | None) -> RefineSettings:
    refinement = preset.refinement
    if refinement.mode == "full":
        raise UsageError("a preset of mode full trains the network, which no graph can hold; choose one of mode head")
    if steps is None:
        return refinement
    if refinement.mode == "none":
        raise UsageError("a preset of mode none makes no steps; drop --steps")
    return replace(refinement, steps=steps)


def _plan(flavour: Any, options: EngineOptions) -> EnginePlan:
    """Find TensorRT and the GPU first: an export that cannot end well should not begin."""
    from ..errors import BackendUnavailable
    from ..export.tensorrt import check_options
    from ..export.variants import EnginePlan
    from ..machine.driver import find_driver
    from ..machine.trt_flavour import find

    found = find(flavour)
    try:
        driver = find_driver()
    except BackendUnavailable:
        plan = EnginePlan(found, options, None, None)
    else:
        plan = EnginePlan(found, options, driver.devices[0], driver.version)
    check_options(found, options, plan.gpu)
    return plan


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Graph], Progress]]:
    """A bar on stderr for the phases of an engine's build; none where stderr is not a terminal."""
    from tqdm import tqdm

    with tqdm(disable=True if quiet else None, leave=False, bar_format="{desc}: {n_fmt}/{total_fmt}") as bar:

        def of(graph: Graph) -> Progress:
            def show(phase: str, done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.set_description_str(f"{graph}: {phase}", refresh=False)
                bar.update(0)

            return show

        yield of


def _tell(bundle: Bundle, output: Path, precisions: Sequence[Precision]) -> None:
    from ..bundle.engines import records
    from ..images.inputs import printable

    manifest = bundle.manifest
    proof = manifest["validation"]
    conclude(
        f"{printable(output)}: {find_system(bundle.system).title} bundle, {bundle.precision};"
        f" validated on {len(proof['images'])} images:"
        f" features within {proof['encoder.onnx']['features']['relative']:.1e} of torch,"
        f" labels agree on {proof['segmenter.onnx']['label_map']['agreement']:.2%} of the pixels"
    )
    if bundle.precision == "bf16":
        conclude("  bf16 runs with TensorRT; elsewhere pass run --precision fp32")
    for precision in precisions:
        if precision != "fp32":
            conclude(f"  {precision} beside fp32: {judged(manifest['precisions'].get(precision, {}))}")
    for folder, record in records(bundle).items():
        if record.precision in precisions:
            conclude(
                f"  {folder}: {record.bytes / 1e6:.1f} MB, {record.layers} layers, {record.build_seconds:.1f} s;"
                f" {proved(manifest['engines'].get(folder, {}))}"
            )
