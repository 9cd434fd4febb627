"""``msformer-deploy evaluate``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import EXIT_SOME_FAILED, DeployError, UsageError
from ..evaluation import BASELINES, LABEL_FREE, OF_VOLUMES, PROMPTS, PROTOCOLS
from ..machine.extras import require_extra
from ..registry import BACKENDS, DEFAULT
from . import options
from .bundles import open_bundle
from .options import PATH, REQUIRED, Command, example, option, under
from .output import complain, say, say_passed_over
from .reports import check_files, write_files

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..evaluation.joined import Joined
    from ..evaluation.runner import Evaluation, Request
    from ..images.pairing import Pairing
    from ..measures.volumes import VoxelSize
    from ..refinement.options import EncoderOptions
    from ..registry import Axis, Precision

MOST_NAMED = 5  # files of one kind in one line
SPACINGS = (1e-6, 1e3)  # millimetres; what is beyond is a slip


def _spacing(context: click.Context, parameter: click.Parameter, value: str | None) -> VoxelSize | None:
    if value is None:
        return None
    least, most = SPACINGS
    try:
        slices, rows, columns = (float(each) for each in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not three numbers; give millimetres such as 10,1.25,1.25") from error
    # Written so that NaN fails.
    if not all(least <= each <= most for each in (slices, rows, columns)):
        raise click.BadParameter(
            f"{value!r} is not a spacing; give three lengths from {least:g} to {most:g} millimetres"
        )
    return slices, rows, columns


@click.command(
    cls=Command,
    params=[
        *under(
            REQUIRED,
            option(
                "--images",
                required=True,
                type=PATH,
                metavar="DIR",
                help="Folder of images and volumes. Subfolders are included.",
            ),
            option(
                "--masks",
                required=True,
                type=PATH,
                metavar="PATH",
                help="Folder of ground-truth masks, matched to the images by name: image files, NIfTI, NRRD, MetaImage,"
                " DICOM segmentations or LabelMe files. Or a COCO file.",
            ),
        ),
        *under(
            "Bundle",
            options.bundle(),
            options.system(),
            options.preset(),
            option(
                "--seeds",
                default=1,
                type=click.IntRange(1, 100),
                metavar="N",
                help="Number of networks to judge, with seeds 0 to N-1.",
            ),
        ),
        *under("Encoder", options.backend(), options.precision(), options.device(), options.threads()),
        *under("Reading", options.window(), options.axis()),
        *under(
            "What is judged",
            options.foreground(),
            option(
                "--protocol",
                "protocols",
                multiple=True,
                type=click.Choice(PROTOCOLS),
                help="Protocol to judge by.",
                unset="all",
            ),
            option(
                "--baseline",
                "baselines",
                multiple=True,
                type=click.Choice([*BASELINES, "none"]),
                help="Simple method to compare with.",
                unset="both",
            ),
            option(
                "--class",
                "classes",
                multiple=True,
                type=click.IntRange(0, 65535),
                metavar="ID",
                help="Pixel value in the masks to judge as a class.",
                unset="everything but the background is one class",
            ),
            option(
                "--prompt",
                type=click.Choice(PROMPTS),
                default="none",
                help="Prompts for the label-free mask of images, drawn from the truth: its deepest point (click), its"
                " box (box), or a click and then one more at the deepest point that the mask has wrong (click2).",
            ),
            option(
                "--corrected",
                multiple=True,
                type=click.IntRange(1, 1000),
                metavar="K",
                help="Also judge what K corrected images are worth, such as 10: the truths of K images teach 'run"
                " --like', and all other images are judged. Several draws are made.",
                unset="none",
            ),
            option("--limit", type=click.IntRange(1), metavar="N", help="Maximum number of images, evenly spread."),
            option(
                "--tolerance",
                default=2.0,
                type=click.FloatRange(0, 1e6),
                metavar="PIXELS",
                help="Tolerance of the surface Dice in pixels.",
            ),
        ),
        *under(
            "Volumes of slices",
            option("--volumes", is_flag=True, help="Also join slices to volumes by their names and score the volumes."),
            option(
                "--spacing",
                callback=_spacing,
                metavar="Z,Y,X",
                help="Distance in millimetres between slices, rows and columns. Without it, HD95 is in voxels.",
            ),
        ),
        *under(
            "Report",
            options.file("json", "the whole report"),
            options.file("csv", "one line per score"),
            options.file("markdown", "the table as Markdown"),
            options.file("sheet", "pictures of the ten worst label-free masks (.png)"),
            options.force(),
        ),
        options.quiet(),
    ],
    epilog=example(
        "msformer-deploy evaluate --images scans/ --masks truth/ --json scores.json",
    ),
)
@click.pass_context
def evaluate(
    context: click.Context,
    images: Path,
    masks: Path,
    bundle_path: Path | None,
    system: str | None,
    preset: str | None,
    foreground: str,
    window: str | None,
    axis: Axis | None,
    backend: str,
    precision: Precision | None,
    device: str,
    threads: int | None,
    seeds: int,
    protocols: tuple[str, ...],
    baselines: tuple[str, ...],
    classes: tuple[int, ...],
    prompt: str,
    corrected: tuple[int, ...],
    tolerance: float,
    volumes: bool,
    spacing: VoxelSize | None,
    limit: int | None,
    json_file: Path | None,
    csv_file: Path | None,
    markdown_file: Path | None,
    sheet_file: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Compare masks with ground truth.

    Volumes are scored in three dimensions. The table also shows two simple methods, Otsu's threshold and k-means.
    """
    chosen = [each for each in PROTOCOLS if each in protocols or not protocols]
    beside = [each for each in BASELINES if each in baselines or not baselines]
    if "none" in baselines and beside:
        raise UsageError("--baseline none excludes all other baselines; drop one")
    if bundle_path is not None and seeds > 1:
        raise UsageError("--seeds judges several networks, but --bundle holds only one; drop --bundle, or drop --seeds")
    if sheet_file is not None and LABEL_FREE not in chosen:
        raise UsageError("--sheet shows label-free masks; drop it, or add --protocol label-free")
    if sheet_file is not None and sheet_file.suffix.lower() != ".png":
        raise UsageError(f"{sheet_file}: --sheet must end in .png")
    if math.isnan(tolerance):  # within any range, for click
        raise UsageError("--tolerance nan is not a distance; give a number of pixels")
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"backend {backend!r} is unknown; choose one of auto, {', '.join(BACKENDS)}")
    if spacing is not None and not volumes:
        raise UsageError("--spacing only affects volumes; add --volumes, or drop --spacing")
    if volumes and limit is not None:
        raise UsageError("--limit would remove slices from volumes; drop --limit, or drop --volumes")
    if prompt != "none" and LABEL_FREE not in chosen:
        raise UsageError("--prompt only affects label-free masks; drop it, or add --protocol label-free")
    if corrected and (prompt != "none" or seeds > 1 or len(set(classes)) > 1):
        other = "--prompt" if prompt != "none" else "--seeds" if seeds > 1 else "several classes"
        raise UsageError(f"--corrected judges one network and one class without prompts; drop it, or drop {other}")
    check_files([path for path in (json_file, csv_file, markdown_file, sheet_file) if path is not None], force)
    require_extra("evaluate", "evaluate")
    from ..backends.base import parse_device
    from ..foreground.rules import parse_rule
    from ..images.items import Reading
    from ..images.windows import parse_window

    reading = Reading(None if window is None else parse_window(window), axis)
    parse_rule(foreground), parse_device(device)  # a slip in an option is told before anything is made
    if volumes and bundle_path is None:
        from ..evaluation.joined import require_classes

        require_classes(system or DEFAULT)  # before a default bundle is made
    from ..images.inputs import PassedOver
    from ..images.pairing import pair_folders

    passed_over = PassedOver()
    # Slices that are joined by their names are images, also those of a DICOM series.
    pairing = pair_folders(images, masks, limit, passed_over, series=not volumes)
    say_passed_over(passed_over)
    _tell_left_over(pairing)
    _check_volumes(pairing, volumes, chosen, beside, sheet_file)
    if prompt != "none" and pairing.volumes:
        raise UsageError("--prompt draws prompts on images, and there are volumes; drop it, or give images alone")
    if corrected and pairing.volumes:
        raise UsageError("--corrected is for images, and there are volumes; drop it, or give images alone")
    if corrected and max(corrected) >= len(pairing.pairs):
        raise UsageError(
            f"--corrected {max(corrected)} leaves no image to judge, for there are {len(pairing.pairs)}; pass a smaller"
            " number"
        )
    from ..measures import scores

    missing = scores.surfaces_missing()
    if missing is not None:
        say(missing)
    from ..refinement.options import EncoderOptions

    encoder = EncoderOptions(backend, device, threads, precision)
    bundles = _bundles(bundle_path, system, preset, seeds, encoder, quiet)
    if corrected:
        _require_untaught(bundles[0])
    from ..doctor import environment
    from ..evaluation.runner import Evaluation, Request
    from ..evaluation.sheet import ContactSheet

    request = Request(
        tuple(chosen),
        tuple(beside),
        tuple(dict.fromkeys(classes)),
        None if missing else tolerance,
        reading,
        prompt,
        tuple(dict.fromkeys(corrected)),
    )
    sheet = ContactSheet()
    joined = _joined(bundles[0], pairing, request, spacing) if volumes else None
    evaluation = Evaluation(
        request, pairing.pairs, complain, sheet if sheet_file is not None else None, joined, pairing.volumes
    )
    # Read now: hours of work are not to be lost to a bundle that is replaced or gone at their end.
    around = environment.describe(bundles, threads)
    used = _judge(evaluation, bundles, encoder, preset, foreground, quiet)
    if not evaluation.judged:
        raise DeployError(f"none of the {len(pairing.pairs)} images could be judged; nothing is written")
    if joined is not None:
        joined.require_any()
    _tell_oddities(evaluation)
    from ..evaluation import report, table
    from ..files import write_text

    settings = {
        "bundle": None if bundle_path is None else str(bundle_path),
        "preset": preset,
        "foreground": foreground,
        "device": device,
        "threads": threads,
        "seeds": [bundle.seed for bundle in bundles],
        "limit": limit,
        **used,
    }
    told = report.build(evaluation, request, pairing, around, settings, passed_over)
    writers = {
        json_file: lambda path: write_text(path, json.dumps(told, indent=1, allow_nan=False) + "\n"),
        csv_file: lambda path: write_text(path, table.csv_text(told)),
        markdown_file: lambda path: write_text(path, table.markdown(told)),
        sheet_file: sheet.write,
    }
    try:
        click.echo(table.terminal(told), nl=False)
    finally:  # hours of work are not lost to an output that is full
        write_files({path: writer for path, writer in writers.items() if path is not None})
    if evaluation.failed or (joined is not None and joined.left_out):
        context.exit(EXIT_SOME_FAILED)


def _bundles(
    path: Path | None, system: str | None, preset: str | None, seeds: int, encoder: EncoderOptions, quiet: bool
) -> list[Bundle]:
    """The bundle named, or those of the seeds; all before anything is judged, as making one may fail."""
    if path is not None:
        return [open_bundle(path, None, quiet, system=system)]
    from ..refinement import strategies

    def suffices(bundle: Bundle) -> bool:
        of_bundle = encoder.precision in (None, *bundle.precisions)
        return of_bundle and strategies.suffices(bundle, bundle.refinement, bundle.seed, encoder)

    return [open_bundle(None, preset, quiet, seed, system, suffices=suffices) for seed in range(seeds)]


def _require_untaught(bundle: Bundle) -> None:
    """See that nothing was learned before what --corrected judges.

    Raises:
        UsageError: the bundle has a head.
    """
    from ..errors import printable
    from ..measures.tables import counted
    from ..refinement import head_file

    head = head_file.of_bundle(bundle)
    if head is not None:
        raise UsageError(
            f"{printable(bundle.path)}: already segments like {counted(head.images, 'corrected image')}, and"
            " --corrected judges what these add to label-free masks; choose another bundle, or drop --corrected"
        )


def _joined(bundle: Bundle, pairing: Pairing, request: Request, spacing: VoxelSize | None) -> Joined:
    from ..evaluation.joined import Joined, classes_of

    return Joined(
        pairing,
        classes_of(bundle, request.classes),
        spacing,
        distances=request.tolerance is not None,
        tell=lambda name, reason: say(f"volume {name} is left out: {reason}"),
    )


def _judge(
    evaluation: Evaluation,
    bundles: Sequence[Bundle],
    encoder: EncoderOptions,
    preset: str | None,
    foreground: str,
    quiet: bool,
) -> dict[str, Any]:
    """Judge with every bundle, its encoder run with these options; return what ran."""
    from tqdm import tqdm

    from ..results.report import head_of
    from ..segmenter import Segmenter, resolve_refinement

    used: dict[str, Any] = {}
    # disable=None: off when stderr is not a terminal.
    with tqdm(total=evaluation.size * len(bundles), unit="image", disable=True if quiet else None) as bar:
        for bundle in bundles:
            settings = resolve_refinement(bundle, None, preset, None)
            segmenter = Segmenter(bundle, encoder, settings=settings, foreground_rule=foreground)
            if evaluation.prompted:
                segmenter.open_for_prompts()
            if evaluation.teaching:
                segmenter.require_learning()
            evaluation.run(segmenter, with_baselines=not used, step=bar.update)
            used = {
                "backend": segmenter.backend_name,
                "provider": segmenter.provider,
                "precision": segmenter.precision,
                "side": bundle.sizes.side,
                "refinement": asdict(settings),
                "head": head_of(segmenter),
            }
    return used


def _check_volumes(
    pairing: Pairing, joining: bool, protocols: Sequence[str], baselines: Sequence[str], sheet: Path | None
) -> None:
    """Say what is for images alone, where there are volumes.

    Raises:
        UsageError: slices are to be joined, but these are volumes already; or nothing would be judged.
    """
    volumes = [path for path in pairing.pairs if path in pairing.volumes]
    if not volumes:
        return
    if joining:
        raise UsageError(
            f"--volumes joins slices, but there are volumes already: {len(volumes)} ({_named(volumes)}); drop --volumes"
        )
    left_out = [each for each in protocols if each not in OF_VOLUMES]
    if len(left_out) == len(protocols) and len(volumes) == len(pairing.pairs):
        raise UsageError(
            f"volumes are not judged by the protocol {' or '.join(left_out)}; add --protocol {' or '.join(OF_VOLUMES)}"
        )
    parts = [f"protocol {each}" for each in left_out] + [f"baseline {each}" for each in baselines]
    parts += ["surface Dice", *(["--sheet"] if sheet is not None else [])]
    say(f"volumes: {len(volumes)} ({_named(volumes)}); for images only, left out for volumes: {', '.join(parts)}")


def _tell_left_over(pairing: Pairing) -> None:
    for kind, paths in (
        ("images without a mask", pairing.images_without_mask),
        ("masks without an image", pairing.masks_without_image),
        ("passed over as masks by their names", pairing.masks_among_images),
    ):
        if paths:
            say(f"{kind}: {len(paths)} ({_named(paths)})")


def _tell_oddities(evaluation: Evaluation) -> None:
    """Warnings mask by mask, choices in reading by kind."""
    for path, warnings in evaluation.warnings.items():
        for warning in warnings:
            say(f"{_named([path])}: {warning}")
    kinds: dict[str, list[Path]] = {}
    for path, notes in evaluation.notes.items():
        for note in notes:
            kinds.setdefault(note, []).append(path)
    for note, paths in kinds.items():
        say(f"masks {note}: {len(paths)} ({_named(paths)})")
    for class_id in evaluation.absent_classes:
        say(f"no mask contains class {class_id}")
    if evaluation.volumes is not None:
        for class_id in sorted(set(evaluation.volumes.absent_classes) - set(evaluation.absent_classes)):
            say(f"no mask of the scored volumes contains class {class_id}")


def _named(paths: Sequence[Path]) -> str:
    """The first of them by name."""
    from ..errors import printable

    names = [printable(path.name) for path in paths[:MOST_NAMED]]
    return ", ".join([*names, "..."] if len(paths) > MOST_NAMED else names)
