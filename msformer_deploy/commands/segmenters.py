"""The segmenter that a command's options ask for, opened here or in a worker of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine.cores import usable_cores
from ..registry import Mode
from .bundles import open_bundle

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..refinement.options import EncoderOptions
    from ..registry import RefineSettings
    from ..segmenter import Segmenter


MOST_WRITERS = 4


@dataclass(frozen=True)
class Asked:
    """Options that decide which segmenter opens.

    Attributes:
        bundle_path, system, preset: which bundle; without a path the default one of the system and the preset.
        encoder: how its graph runs.
        mode, steps, repaired: the refinement, where it is not that of the preset or the bundle, see
            :func:`..segmenter.resolve_refinement`.
        seed: of what is learned; None for the bundle's.
        foreground: rule of the mask.
        quiet: do not say that a bundle is made.
    """

    bundle_path: Path | None
    system: str | None
    preset: str | None
    encoder: EncoderOptions
    mode: Mode | None = None
    steps: int | None = None
    repaired: bool = False
    seed: int | None = None
    foreground: str = "auto"
    quiet: bool = False


def open_segmenter(asked: Asked) -> Segmenter:
    """Open it, with a bundle that is made first if it has to be.

    Raises:
        DeployError: as :func:`.bundles.open_bundle` and :class:`..segmenter.Segmenter`.
    """
    from ..segmenter import Segmenter

    bundle, settings = find_bundle(asked)
    return Segmenter(bundle, asked.encoder, settings=settings, foreground_rule=asked.foreground, seed=asked.seed)


def find_bundle(asked: Asked) -> tuple[Bundle, RefineSettings]:
    """Its bundle and the settings of its refinement, before anything is opened.

    Raises:
        DeployError: as :func:`.bundles.open_bundle`.
    """
    from ..refinement import strategies
    from ..segmenter import resolve_refinement

    def settings(bundle: Bundle) -> RefineSettings:
        return resolve_refinement(bundle, asked.mode, asked.preset, asked.steps, repaired=asked.repaired)

    def suffices(bundle: Bundle) -> bool:
        drawn = bundle.seed if asked.seed is None else asked.seed
        of_bundle = asked.encoder.precision in (None, *bundle.precisions)
        return of_bundle and strategies.suffices(bundle, settings(bundle), drawn, asked.encoder)

    bundle = open_bundle(asked.bundle_path, asked.preset, asked.quiet, system=asked.system, suffices=suffices)
    return bundle, settings(bundle)


def learning_threads(threads: int | None) -> int:
    """Threads that learn on a CPU, at most those asked for: one core is left to those that read and write."""
    return max(min(threads or usable_cores(), usable_cores() - 1), 1)


def writing_threads() -> int:
    """Threads that draw regions and masks and write: half as many as cores, for a GPU outruns a few; at least two."""
    return min(max(usable_cores() // 2, 2), MOST_WRITERS)
