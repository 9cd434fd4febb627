"""``msformer-deploy export``."""

from __future__ import annotations

from pathlib import Path

import click

from ..registry import PRESETS, READY, ready_system
from .output import PATH, SEED, say


@click.command()
@click.option("--system", default="msformer", show_default=True, type=click.Choice(READY), help="What to export.")
@click.option("--output", required=True, type=PATH, help="Folder to make.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Draws the network's weights.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32"]), help="Of the graphs.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Refinement built into the whole-method graph; the system's first by default.",
)
@click.option("--steps", type=click.IntRange(0), help="Override the preset's number of refinement steps.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("-q", "--quiet", is_flag=True, help="No progress lines.")
def export(
    system: str,
    output: Path,
    seed: int,
    precision: str,
    preset: str | None,
    steps: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Build a bundle: ONNX graphs, weights and the proof that they compute what torch computes."""
    from dataclasses import replace

    from ..errors import UsageError
    from ..inputs import printable

    spec = ready_system(system)
    name = preset or next(iter(spec.presets))
    if name not in spec.presets:
        raise UsageError(f"preset {name!r} is unknown; choose one of {', '.join(spec.presets)}")
    refinement = spec.presets[name]
    if refinement.mode == "full":
        raise UsageError(
            f"preset {name!r} trains the network, which no graph can hold; choose one of mode head or none"
        )
    if steps is not None:
        if refinement.mode == "none":
            raise UsageError(f"preset {name!r} makes no steps; drop --steps")
        refinement = replace(refinement, steps=steps)
    from ..export.build import build_bundle

    bundle = build_bundle(
        spec, output, seed=seed, refinement=refinement, force=force, say=(lambda _: None) if quiet else say
    )
    proof = bundle.manifest["validation"]
    click.echo(
        f"{printable(output)}: {spec.title} bundle, {precision}; validated on {len(proof['images'])} images:"
        f" features within {proof['encoder.onnx']['features']['relative']:.1e} of torch,"
        f" labels agree on {proof['segmenter.onnx']['label_map']['agreement']:.2%} of the pixels"
    )
