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
from ..machine.extras import require_extra
from ..registry import (
    DEFAULT,
    PRECISIONS,
    PRESETS,
    SYSTEMS,
    TRITON_BACKENDS,
    TRT_FLAVOURS,
    VARIANTS,
    Precision,
    TritonBackend,
    find_system,
)
from . import options
from .options import PATH, REQUIRED, SEED, Command, example, option, under
from .output import conclude, judged, proved, say

if TYPE_CHECKING:
    from ..bundle.folder import Bundle, Graph
    from ..export.build import Additions
    from ..export.tensorrt import Progress
    from ..export.variants import EnginePlan
    from ..registry import Preset, RefineSettings

ONLY_NEW = ("system", "seed", "preset", "steps", "variant", "weights", "side")  # an existing bundle has them already
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


@click.command(
    cls=Command,
    params=[
        *under(
            REQUIRED,
            option(
                "--output",
                required=True,
                type=PATH,
                metavar="DIR",
                help="Folder to make; with --update, the bundle to add to.",
            ),
        ),
        *under(
            "Network",
            option(
                "--system",
                default=DEFAULT,
                type=click.Choice(list(SYSTEMS)),
                help="System to export.",
            ),
            option(
                "--preset",
                type=click.Choice(PRESETS),
                help="Preset that sets the image size and the refinement in the whole-method graph.",
                unset="the system's first",
            ),
            option(
                "--steps",
                type=click.IntRange(0),
                metavar="N",
                help="Number of refinement steps in the whole-method graph.",
                unset="the preset's",
            ),
            option(
                "--variant",
                type=click.Choice(VARIANTS),
                help="Encoder variant; 'msformer-deploy list' shows them.",
                unset="the system's first",
            ),
            option("--seed", default=0, type=SEED, metavar="N", help="Seed for the network's weights."),
        ),
        *under(
            "Trained systems",
            option(
                "--weights",
                multiple=True,
                type=PATH,
                metavar="FILE",
                help="Weights that train or import-weights wrote. Give one file for each network of the variant.",
            ),
            option(
                "--side",
                type=click.IntRange(1),
                metavar="N",
                help="Side of the input square in pixels, for msnet and m2snet.",
                unset="that of the training",
            ),
        ),
        *under(
            "Precisions",
            option(
                "--precision",
                "precisions",
                multiple=True,
                type=click.Choice(PRECISIONS),
                help="Precision to add to fp32. The first one becomes the bundle's default.",
                unset="fp32",
            ),
            option(
                "--images",
                type=PATH,
                metavar="PATH",
                help="Images to calibrate int8 with and to judge precisions on.",
                unset="sample images",
            ),
            option(
                "--masks",
                type=PATH,
                metavar="DIR",
                help="Ground-truth masks of --images, matched by name.",
                unset="the masks that fp32 finds",
            ),
            option(
                "--accept-loss", is_flag=True, help="Keep a precision even if its results differ too much from fp32."
            ),
        ),
        *under(
            "TensorRT",
            option("--tensorrt", is_flag=True, help="Also build a TensorRT engine for each precision."),
            option(
                "--trt-flavour",
                default="auto",
                type=click.Choice(["auto", *TRT_FLAVOURS]),
                help="The full TensorRT, or TensorRT for RTX, which builds engines without a GPU.",
            ),
            option(
                "--trt-batch",
                nargs=3,
                default=EngineOptions.batch,
                type=click.IntRange(1),
                metavar="MIN OPT MAX",
                help="Minimum, most likely and maximum number of images per call.",
            ),
            option(
                "--trt-workspace",
                type=click.IntRange(1, 2**20),
                metavar="MIB",
                help="Maximum scratch memory per layer in MiB.",
                unset="TensorRT decides",
            ),
            option(
                "--trt-compatibility",
                default=EngineOptions.compatibility,
                type=click.Choice(COMPATIBILITIES),
                help="Other GPUs that may run an engine of the full TensorRT.",
            ),
            option(
                "--trt-version-compatible",
                is_flag=True,
                help="Let later versions of the full TensorRT run the engine.",
            ),
            option(
                "--trt-compute-capability",
                multiple=True,
                metavar="X.Y",
                help="Compute capability that TensorRT for RTX builds for, such as 8.9.",
                unset="all from 8.0 on",
            ),
            option("--trt-refit", is_flag=True, help="Build engines whose weights can be changed later."),
            option(
                "--trt-plugins",
                default=EngineOptions.plugins,
                type=click.Choice(PLUGINS),
                help="Whether the engine contains our CUDA kernels; auto: if this TensorRT accepts them.",
            ),
        ),
        *under(
            "Triton Inference Server",
            option(
                "--triton",
                type=PATH,
                metavar="DIR",
                help="Also write the whole method as a model of the Triton model repository DIR. The model has the"
                " system's name and the first --precision.",
            ),
            option(
                "--triton-backend",
                default=TRITON_BACKENDS[0],
                type=click.Choice(TRITON_BACKENDS),
                help="Backend of Triton that runs the model; tensorrt needs an engine of the full TensorRT.",
            ),
        ),
        *under(
            "Existing bundles",
            option("--update", is_flag=True, help="Add precisions, engines and --head to the bundle at --output."),
            option(
                "--head",
                type=PATH,
                metavar="FILE",
                help="With --update: put head.safetensors, which 'run --like' wrote, into the bundle. It then segments"
                " like the corrected images.",
            ),
            options.force(
                "Replace an existing bundle, and the model in --triton; with --update, make the bundle's graphs again."
            ),
        ),
        options.quiet(),
    ],
    epilog=example(
        "msformer-deploy export --output bundle",
        "msformer-deploy export --output edge --precision fp16 --tensorrt",
        "msformer-deploy export --output bundle --triton models",
    ),
)
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
    triton: Path | None,
    triton_backend: TritonBackend,
    update: bool,
    head: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Build a bundle, the folder that a device runs.

    A bundle holds ONNX graphs, weights and, with --tensorrt, engines. Every graph is compared with torch first, and the
    bundle holds the results of that comparison.
    """
    given = {
        name for name in context.params if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if not tensorrt and (unused := given & ONLY_TENSORRT):
        raise UsageError(f"--{min(unused).replace('_', '-')} only affects TensorRT engines; add --tensorrt")
    if masks is not None and images is None:
        raise UsageError("--masks belongs to --images; pass both")
    spec = find_system(system)
    refinement = _refinement(spec.preset(preset), steps)
    spec = spec.sized(preset)
    if spec.trained and not weights and not update:
        raise UsageError(
            f"system {spec.name} needs trained weights; pass the file that 'msformer-deploy {spec.commands[-1]}' wrote"
            " with --weights"
        )
    if weights and not spec.trained:
        raise UsageError(f"system {spec.name} draws its weights from --seed and takes no file; drop --weights")
    if side is not None and not spec.trained:
        raise UsageError(f"the preset of {spec.name} sets the side; drop --side, or choose another --preset")
    engine = EngineOptions(
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
            f"--{min(unused).replace('_', '-')} only affects engines and precisions other than fp32; add --precision"
            " or --tensorrt"
        )
    if update and (decided := [name for name in ONLY_NEW if name in given]):
        raise UsageError(f"the bundle at --output already sets --{decided[0]}; drop it, or drop --update")
    if head is not None and not update:
        raise UsageError("--head puts a head into a bundle that exists; add --update")
    if triton is None and "triton_backend" in given:
        raise UsageError("--triton-backend only affects a model of Triton; add --triton")
    if triton is not None and triton_backend == "tensorrt" and not tensorrt and not update:
        raise UsageError("--triton-backend tensorrt runs an engine, and none is built; add --tensorrt")
    require_extra("export", "export")
    plan = _plan(trt_flavour, engine) if tensorrt else None
    from ..bundle.folder import LEARNED_HEAD, ModelSizes
    from ..export.build import Additions, build_bundle, update_bundle
    from ..export.evidence import from_folders

    if triton is not None and triton_backend == "tensorrt" and plan is not None and plan.flavour.name == "rtx":
        raise UsageError("Triton runs no engines of TensorRT for RTX; build with the full one, --trt-flavour tensorrt")
    evidence = None if images is None else from_folders(images, masks, say)
    report = (lambda _: None) if quiet else say
    with _progress(quiet) as progress:

        def additions(default: Precision) -> Additions:
            wanted = tuple(dict.fromkeys(precisions)) or (default,)
            return Additions(wanted, plan, evidence, accept_loss, force, progress)

        if update:
            from ..bundle.folder import load_bundle

            former = load_bundle(output)
            learned = None
            if head is not None:
                from ..refinement import head_file

                learned = head_file.read(head)
                head_file.require_fit(learned, former)
            wanted = additions(former.precision)
            has_head = learned is not None or LEARNED_HEAD in former.manifest["files"]
            _require_triton(triton, triton_backend, former.system, output, wanted, learned=has_head)
            if triton is not None and triton_backend == "tensorrt" and plan is None:
                from ..export.triton import require_engine

                require_engine(former, wanted.precisions[0])
            bundle = update_bundle(former, wanted, head=learned, say=report, warn=say)
        else:
            wanted = additions("fp32")
            _require_triton(triton, triton_backend, spec.name, output, wanted, learned=False)
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
    if update and learned is not None:
        count = learned.images
        conclude(f"  runs segment like {count} corrected {'image' if count == 1 else 'images'}, by {LEARNED_HEAD}")
    if triton is not None:
        _write_triton(bundle, triton, triton_backend, wanted)


def _require_triton(
    repository: Path | None, backend: TritonBackend, system: str, output: Path, wanted: Additions, *, learned: bool
) -> None:
    """See that a model of Triton can be written, before an export takes its time."""
    if repository is not None:
        from ..export.triton import require_place, require_runnable

        require_place(system, repository, output, wanted.anew)
        require_runnable(wanted.precisions[0], backend, learned)


def _write_triton(bundle: Bundle, repository: Path, backend: TritonBackend, wanted: Additions) -> None:
    from ..errors import printable
    from ..export.triton import write_model

    place, model = write_model(bundle, repository, backend, wanted.precisions[0], wanted.anew)
    conclude(
        f"{printable(place)}: model of Triton for its backend {backend}, {wanted.precisions[0]},"
        f" {f'up to {model.max_batch} images' if model.max_batch > 1 else 'one image'} in a call; not run on Triton"
        + (f"; {model.note}" if model.note else "")
    )


def _refinement(preset: Preset, steps: int | None) -> RefineSettings:
    refinement = preset.refinement
    if refinement.mode == "full":
        raise UsageError(
            "a preset of mode full trains the network, and a graph cannot do that; choose a preset of mode head"
        )
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
    from ..errors import printable

    manifest = bundle.manifest
    proof = manifest["validation"]
    conclude(
        f"{printable(output)}: {find_system(bundle.system).title} bundle, {bundle.precision}; validated on"
        f" {len(proof['images'])} images: features within {proof['encoder.onnx']['features']['relative']:.1e} of"
        f" torch, labels agree on {proof['segmenter.onnx']['label_map']['agreement']:.2%} of the pixels"
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
