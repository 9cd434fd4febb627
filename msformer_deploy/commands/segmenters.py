"""The segmenter that the options of ``run`` ask for, opened here or in a worker of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..registry import Mode
from .bundles import open_bundle

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..refinement.options import EncoderOptions
    from ..registry import RefineSettings
    from ..segmenter import Segmenter


@dataclass(frozen=True)
class Asked:
    """Options that decide which segmenter opens.

    Attributes:
        bundle_path, system, preset: which bundle.
        encoder: how its graph runs.
        mode, steps, repaired: the refinement, where it is not that of the preset or the bundle.
        seed: of what is learned; None for the bundle's.
        foreground: rule of the mask.
        quiet: do not say that a bundle is made.
    """

    bundle_path: Path | None
    system: str | None
    preset: str | None
    encoder: EncoderOptions
    mode: Mode | None
    steps: int | None
    repaired: bool
    seed: int | None
    foreground: str
    quiet: bool


def open_segmenter(asked: Asked) -> Segmenter:
    """Open it, with a bundle that is made first if it has to be.

    Raises:
        DeployError: as :func:`.bundles.open_bundle` and :class:`..segmenter.Segmenter`.
    """
    from ..refinement import strategies
    from ..segmenter import Segmenter, resolve_refinement

    def settings(bundle: Bundle) -> RefineSettings:
        return resolve_refinement(bundle, asked.mode, asked.preset, asked.steps, repaired=asked.repaired)

    def suffices(bundle: Bundle) -> bool:
        drawn = bundle.seed if asked.seed is None else asked.seed
        of_bundle = asked.encoder.precision in (None, *bundle.precisions)
        return of_bundle and strategies.suffices(bundle, settings(bundle), drawn, asked.encoder)

    bundle = open_bundle(asked.bundle_path, asked.preset, asked.quiet, system=asked.system, suffices=suffices)
    return Segmenter(
        bundle, asked.encoder, settings=settings(bundle), foreground_rule=asked.foreground, seed=asked.seed
    )
