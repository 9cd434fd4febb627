"""``msformer-deploy run``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, UsageError
from ..registry import BACKENDS, FORMATS, KERNELS, MODES, Axis, Kernels, Mode, Precision, SegType
from . import corrected, here, on_ray, options, watched
from .here import Work
from .on_ray import Ended
from .options import PATH, REQUIRED, SEED, Argument, Command, example, option, under
from .output import conclude, say, say_passed_over
from .segmenters import Asked, learning_threads

if TYPE_CHECKING:
    from ..cluster.shards import Shard
    from ..foreground.prompts import Prompts
    from ..foreground.volume_prompts import VolumePrompts
    from ..images.inputs import Item


@click.command(
    cls=Command,
    params=[
        *under(
            REQUIRED,
            Argument(
                ["inputs"],
                nargs=-1,
                required=True,
                type=PATH,
                metavar="INPUT...",
                help="Image files, or folders of images. Subfolders are included.",
            ),
            option(
                "--output",
                required=True,
                type=options.Place(),
                metavar="DIR",
                help="Folder for the results. With --ray also an address such as s3://bucket/results.",
            ),
        ),
        *under(
            "Existing results",
            options.force("Replace results that exist."),
            option("--skip-existing", is_flag=True, help="Keep results that exist and segment the other images."),
        ),
        *under(
            "Folders that fill",
            option(
                "--watch",
                "watching",
                is_flag=True,
                help="Go on after the images that are there: segment each file that comes into the folders, when it is"
                " complete. Ctrl+C ends it.",
            ),
        ),
        *under(
            "Several machines",
            option(
                "--shard",
                metavar="I/N",
                help="Segment part I of N only, such as 3/8. 'msformer-deploy report merge' joins the"
                " reports of all parts.",
            ),
            option(
                "--ray",
                metavar="local|HOST:PORT",
                help="Segment on the workers of a Ray cluster, or of one that is started on this machine (local). Each"
                " worker takes as many CPUs as --threads says, or 1.",
            ),
            option(
                "--ray-gpus",
                type=click.FloatRange(0, min_open=True),
                metavar="N",
                help="GPUs that each worker takes, such as 0.25.",
                unset="1 with --device cuda, or none",
            ),
        ),
        *under("Bundle", options.bundle(), options.system(), options.preset()),
        *under(
            "Encoder",
            options.backend(),
            options.precision("Mode full trains in fp32, on a GPU also in fp16 or bf16."),
            options.device(),
            option(
                "--kernels",
                type=click.Choice(KERNELS),
                default="auto",
                help="What runs the hot operations of backend torch on a GPU: our kernels (cuda), torch itself"
                " (reference), or our kernels if they work (auto).",
            ),
            options.threads(),
            option(
                "--batch",
                default=1,
                type=click.IntRange(1),
                metavar="N",
                help="Number of images, or of slices of a volume, per encoder call.",
            ),
        ),
        *under(
            "Learning on the image",
            option(
                "--refine",
                "mode",
                type=click.Choice(MODES),
                help="What learns on each image: the cluster head (head), the whole network (full) or nothing (none).",
                unset="the bundle's",
            ),
            option(
                "--steps",
                type=click.IntRange(0),
                metavar="N",
                help="Maximum number of refinement steps.",
                unset="the preset's or the bundle's",
            ),
            option(
                "--seed", type=SEED, metavar="N", help="Seed for the weights learned per image.", unset="the bundle's"
            ),
            option(
                "--whole-graph/--no-whole-graph",
                default=None,
                help="Run encoder, learning and argmax as one ONNX graph, without torch; or learn in torch, which adds"
                " a trace of the steps to the records.",
                unset="the graph where it can do what the other options ask, torch for trained systems and on a GPU",
            ),
            option("--compile", is_flag=True, help="Run the training of mode full through torch.compile."),
            option(
                "--repaired-losses",
                is_flag=True,
                help="Use the losses that the paper of S3-Net describes, not those of its code. Only for mode full.",
            ),
        ),
        *under(
            "Reading",
            options.window(),
            options.axis(),
        ),
        *under("Mask", options.foreground()),
        *under(
            "Prompts",
            option(
                "--point",
                "points",
                multiple=True,
                metavar="X,Y[,0|1]",
                help="Pixel of the image that is inside the object (1), or outside (0). Without 0 or 1, it is inside."
                " For a volume X,Y,Z[,0|1] in millimetres.",
            ),
            option(
                "--box",
                "boxes",
                multiple=True,
                metavar="X0,Y0,X1,Y1",
                help="Left, top, right and bottom pixel around the object. Nothing of the mask is outside."
                " For a volume two corners, X0,Y0,Z0,X1,Y1,Z1 in millimetres.",
            ),
            option(
                "--scribbles",
                type=PATH,
                metavar="FILE",
                help="Image with strokes, of the size of the input: pure green inside the object, pure red outside.",
            ),
            option(
                "--prompts",
                "prompt_file",
                type=PATH,
                metavar="FILE",
                help="Prompts for several images or volumes: a .json or .csv file.",
            ),
        ),
        *under(
            "Corrected images",
            option(
                "--like",
                type=PATH,
                metavar="DIR",
                help="Folder with masks that somebody corrected for some of the images, matched by name: image files,"
                " DICOM segmentations, LabelMe files. Or a COCO file. The other images are segmented like these.",
            ),
        ),
        *under(
            "Results",
            option(
                "--format",
                "formats",
                metavar="NAMES",
                help=f"Formats of the results, with commas between them: {', '.join(FORMATS)}.",
                unset="png for images; for volumes the format that they came in, nifti for DICOM",
            ),
            option("--seg", is_flag=True, help="Also write a DICOM segmentation. Only for DICOM images."),
            options.seg_type(),
            options.structure(),
            option(
                "--with-identifiers",
                is_flag=True,
                help="Copy the identifiers of patient, study and series from DICOM into records and measurements.csv.",
            ),
        ),
        options.quiet(),
    ],
    epilog=example(
        "msformer-deploy run scans/ --output results",
        "msformer-deploy run photo.jpg --output results --preset fast --threads 2",
        "msformer-deploy run photo.jpg --output results --point 120,80 --point 9,9,0",
        "msformer-deploy run scans/ --output better --like corrected/",
        "msformer-deploy run inbox/ --output results --watch",
        "msformer-deploy run scans/ --output results --shard 3/8",
        "msformer-deploy run scans/ --output s3://bucket/results --ray head:6379",
    ),
)
@click.pass_context
def run(
    context: click.Context,
    inputs: tuple[Path, ...],
    output: Path | str,
    bundle_path: Path | None,
    system: str | None,
    backend: str,
    precision: Precision | None,
    device: str,
    kernels: Kernels,
    threads: int | None,
    mode: Mode | None,
    preset: str | None,
    steps: int | None,
    seed: int | None,
    foreground: str,
    window: str | None,
    axis: Axis | None,
    points: tuple[str, ...],
    boxes: tuple[str, ...],
    scribbles: Path | None,
    prompt_file: Path | None,
    like: Path | None,
    formats: str | None,
    seg: bool,
    seg_type: SegType | None,
    structure: str,
    with_identifiers: bool,
    batch: int,
    whole_graph: bool | None,
    compile: bool,
    repaired_losses: bool,
    shard: str | None,
    ray: str | None,
    ray_gpus: float | None,
    force: bool,
    skip_existing: bool,
    watching: bool,
    quiet: bool,
) -> None:
    """Segment images without labels.

    For each image, run writes the label map, the mask, an overlay and a record. At the end it writes report.json,
    measurements.csv, and index.html, a gallery that opens offline.
    """
    from ..cluster.shards import parse_shard
    from ..images.inputs import PassedOver, collisions, discover, walk
    from ..images.items import Reading
    from ..images.watching import Watcher
    from ..images.windows import parse_window
    from ..results.formats import Wanted, parse_formats

    shown = {"--like": like, "--point": points, "--box": boxes, "--scribbles": scribbles, "--prompts": prompt_file}
    of_one_run = {**shown, "--shard": shard}
    if ray is not None:
        on_ray.require_fit(output, device, parse_formats(formats), {**of_one_run, "--watch": watching})
    elif ray_gpus is not None:
        raise UsageError("--ray-gpus is for the workers of --ray; drop it, or add --ray")
    elif isinstance(output, str):
        raise UsageError(
            f"--output {output}: is an address, which only --ray can write to; name a folder, or add --ray"
        )
    if force and skip_existing:
        raise UsageError("--force replaces existing results and --skip-existing keeps them; choose one")
    from ..backends.base import parse_device
    from ..foreground.rules import parse_rule

    reading = Reading(None if window is None else parse_window(window), axis)
    wanted = Wanted(parse_formats(formats), seg, structure, reading, with_identifiers, seg_type or "binary")
    if seg_type is not None and not wanted.segmentation:
        raise UsageError("--seg-type only affects DICOM segmentations, and none is written; add --seg, or drop it")
    rule, _ = parse_rule(foreground), parse_device(device)  # a slip in an option is told before anything is made
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"backend {backend!r} is unknown; choose one of auto, {', '.join(BACKENDS)}")
    part = None if shard is None else parse_shard(shard)
    passed_over = PassedOver()
    folder = Path(output)  # of an address one that does not exist
    if watching:
        watched.require_watchable(inputs, [name for name, value in of_one_run.items() if value])
        items = [item for each in inputs for item in walk(each, folder, passed_over, volumes=True)]
    else:
        items = discover(inputs, folder, passed_over, volumes=True)
    say_passed_over(passed_over)
    items, masks = (items, {}) if like is None else corrected.corrected_masks(items, like, folder)
    _say_masks(items)
    _say_series(inputs)
    no_volumes = not watching and not any(item.kind == "volume" for item in items)
    if axis is not None and no_volumes:
        raise UsageError("--axis only affects volumes, and there are none; drop it")
    if rule.for_volumes and no_volumes:
        raise UsageError(f"--foreground {rule} is for volumes, and there are none; choose another rule")
    wanted.require(items)
    prompts = _prompts(items, points, boxes, scribbles, prompt_file)
    corrections = corrected.read_corrections(masks, reading, prompts)
    clashes, of_shard = collisions(items), None
    if part is not None:
        of_shard = part.record(items)
        items = [items[position] for position in of_shard["positions"]]
    once = _once(folder, taught=bool(corrections), part=part)
    keep = force or skip_existing
    from ..refinement.options import EncoderOptions

    if ray is not None:
        threads = threads or 1  # those that Ray gives a worker
    encoder = EncoderOptions(
        backend, device, threads, precision, whole_graph, kernels, compile, learning_threads(threads)
    )
    asked = Asked(
        bundle_path, system, preset, encoder, mode, steps, repaired_losses, seed, foreground, quiet or ray is not None
    )
    if ray is not None:
        from ..cluster.destination import Destination
        from ..machine.extras import require_extra

        require_extra("ray", "--ray")
        destination = Destination(output)
        if isinstance(output, Path):
            _prepare(output, items, once, keep)
            corrected.keep_head(output, items, None, skip_existing)
        elif not keep:
            on_ray.require_free(destination, items, once)
        ended = on_ray.segment(
            ray,
            on_ray.size_of(threads, device, ray_gpus),
            asked,
            items,
            destination,
            wanted=wanted,
            batch=batch,
            skip_existing=skip_existing,
            force=force,
            clashes=clashes,
            passed_over=passed_over.counts,
            quiet=quiet,
        )
        on_ray.write_report(destination, lambda place: _write_report(place, ended.report), force)
        _conclude(context, output, ended)
        return
    _prepare(folder, items, once, keep)
    work = Work(
        asked=asked,
        items=items,
        folder=folder,
        batch=batch,
        wanted=wanted,
        prompts=prompts,
        corrections=corrections,
        clashes=clashes,
        passed_over=passed_over,
        part=part,
        of_shard=of_shard,
        watcher=Watcher(inputs, folder) if watching else None,
        force=force,
        skip_existing=skip_existing,
        quiet=quiet,
    )
    ended, taught = here.segment(work, lambda content: _write_report(folder, content))
    _conclude(context, output, ended, taught, part)


def _write_report(folder: Path, content: dict[str, Any]) -> None:
    from ..results import merge, report
    from ..results.annotations import COCO
    from ..results.clinical import write_coco

    report.write(folder, content)
    merge.remove_shards(folder)
    if "coco" in content["formats"] or (folder / COCO).exists():  # an old one would not be of these masks
        write_coco(folder, ((folder, entry) for entry in content["images"]), content["settings"])


def _conclude(
    context: click.Context, output: Path | str, ended: Ended, taught: str = "", part: Shard | None = None
) -> None:
    """Say what was made, and end with the exit code for it.

    Args:
        context: of the command.
        output: where the results are.
        ended: what was made.
        taught: what corrected images have taught, in words.
        part: of a run, which has no gallery yet.

    Raises:
        DeployError: what ended the run before its end.
    """
    from ..errors import printable
    from ..foreground.confidence import LOW
    from ..results import report

    content = ended.report
    counts = content["summary"]
    images = any(entry.get("kind") != "volume" for entry in content["images"])
    conclude(
        f"{counts['done']} of {ended.total} images segmented"
        + (f", {counts['skipped']} skipped" if counts["skipped"] else "")
        + (f", {counts['failed']} failed" if counts["failed"] else "")
        + f" in {counts['seconds']:.1f} s on {content['backend']} ({content['provider']}"
        + (", the whole method as one graph);" if content["settings"]["whole_graph"] and images else ");")
        + (taught if images else "")
        + (f" masks in doubt (expected DSC below {LOW:g}): {counts['doubted']};" if counts["doubted"] else "")
        + (
            f" look at {printable(f'{output}/{report.GALLERY}')}"
            if part is None
            else f" when all {part.count} shards are done, run 'msformer-deploy report merge'"
        )
    )
    if ended.interrupted:
        say("interrupted; run the same command with --skip-existing to continue")
        context.exit(EXIT_INTERRUPTED)
    if ended.given_up is not None:
        raise ended.given_up
    if counts["failed"]:
        context.exit(EXIT_SOME_FAILED)


def _prompts(
    items: Sequence[Item],
    points: Sequence[str],
    boxes: Sequence[str],
    scribbles: Path | None,
    file: Path | None,
) -> dict[Path, Prompts | VolumePrompts]:
    """What is shown on each image and in each volume, by its path.

    Raises:
        UsageError: an option cannot be read, it is not clear on which image something is shown, or it is strokes in a
            volume.
    """
    if not points and not boxes and scribbles is None and file is None:
        return {}
    from ..errors import printable
    from ..foreground import prompt_files
    from ..foreground.prompts import Prompts
    from ..foreground.volume_prompts import VolumePrompts

    volumes = [each.path for each in items if each.kind == "volume"]
    shown: Prompts | VolumePrompts
    if volumes and len(volumes) == len(items):
        if scribbles is not None:
            raise UsageError(f"{printable(volumes[0])}: is a volume, and --scribbles is for images; drop it")
        places = [prompt_files.parse_volume_point(each) for each in points]
        shown = VolumePrompts(places, [prompt_files.parse_volume_box(each) for each in boxes])
    else:
        pixels = [prompt_files.parse_point(each) for each in points]
        shown = Prompts(pixels, [prompt_files.parse_box(each) for each in boxes])
        if scribbles is not None:
            shown = shown.and_also(prompt_files.read_scribble(scribbles))
    of_one = bool(points or boxes or scribbles is not None)
    if of_one and file is not None:
        raise UsageError("--prompts has the prompts of all images; write --point, --box and --scribbles into its file")
    if of_one and len(items) != 1:
        raise UsageError(
            f"--point, --box and --scribbles are for one image, and there are {len(items)}; name one image, or pass"
            " --prompts FILE"
        )
    if file is None:
        return {items[0].path: shown}
    return prompt_files.read_prompts(file, [each.path for each in items], volumes)


def _say_masks(items: Sequence[Item]) -> None:
    """Say that files are masks by their names: run segments all that is there, and guesses no more."""
    from ..errors import printable
    from ..images.pairing import masks_among

    masks = masks_among(items)
    if masks:
        say(
            f"inputs whose names are those of masks: {len(masks)} ({printable(masks[0].path.name)}"
            f"{', ...' if len(masks) > 1 else ''}); run segments them too; move masks to another folder"
        )


def _say_series(inputs: Sequence[Path]) -> None:
    """Say that files which were named one by one are slices of a volume."""
    from ..images.inputs import series_among

    for count in series_among(inputs):
        say(
            f"{count} of the files that you named are slices of one DICOM series; run segments each as an image; to"
            " segment the series as one volume, give its folder"
        )


def _once(folder: Path, taught: bool, part: Shard | None) -> list[str]:
    """Names of the files of a run that are of all its images, and that must not be there from another run."""
    from ..refinement import head_file
    from ..results import merge

    if part is not None:  # all shards learn the same head, and the first writes it
        return [merge.shard_file(part.number, part.count), *([] if taught else [head_file.FILE]), *merge.WHOLE]
    return [*merge.WHOLE, head_file.FILE, *merge.shard_reports(folder)]


def _prepare(output: Path, items: Sequence[Item], once: Sequence[str], keep: bool) -> None:
    """Make the output folder and see that it can be written and holds nothing that would be lost.

    Args:
        output: the folder.
        items: whose results are written.
        once: names of the files that are written for all of them.
        keep: whether what exists is replaced or kept.
    """
    from ..errors import printable
    from ..results import report

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{printable(output)}: this folder cannot be created ({error.strerror}); choose another --output"
        ) from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise UsageError(f"{printable(output)}: is not writable; choose another --output")
    if keep:
        return
    for path in (*report.all_files(items, output), *(output / name for name in once)):
        if os.path.lexists(path):  # unlike Path.exists, no error for a name too long: that fails its image only
            raise UsageError(
                f"{printable(path)}: exists already; pass --force to replace results or --skip-existing to keep them"
            )
