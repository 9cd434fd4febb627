"""The segmenter of a command: its bundle, opened with the settings that the options ask for."""

from __future__ import annotations

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


def open_segmenter(
    path: Path | None,
    system: str | None,
    preset: str | None,
    encoder: EncoderOptions,
    foreground: str,
    *,
    mode: Mode | None = None,
    steps: int | None = None,
    seed: int | None = None,
    repaired: bool = False,
    quiet: bool = False,
) -> Segmenter:
    """A segmenter with the bundle at ``path``, or the default one of a system and a preset.

    Args:
        path: of the bundle; None for a default one.
        system: its name; None for the default one.
        preset: named sizes and settings; None for the bundle's.
        encoder: what runs the encoder.
        foreground: rule that chooses the mask.
        mode, steps, repaired: of the refinement, as of :func:`..segmenter.resolve_refinement`.
        seed: of the weights that are learned on each image; None for the bundle's.
        quiet: do not say that a bundle is made.

    Raises:
        DeployError: what :func:`.open_bundle` and :class:`.Segmenter` raise.
    """
    from ..segmenter import Segmenter

    bundle, settings = find_bundle(
        path, system, preset, encoder, mode=mode, steps=steps, seed=seed, repaired=repaired, quiet=quiet
    )
    return Segmenter(bundle, encoder, settings=settings, foreground_rule=foreground, seed=seed)


def find_bundle(
    path: Path | None,
    system: str | None,
    preset: str | None,
    encoder: EncoderOptions,
    *,
    mode: Mode | None = None,
    steps: int | None = None,
    seed: int | None = None,
    repaired: bool = False,
    quiet: bool = False,
) -> tuple[Bundle, RefineSettings]:
    """The bundle of :func:`open_segmenter` and the settings of its refinement, before anything is opened.

    Raises:
        DeployError: what :func:`.open_bundle` raises.
    """
    from ..refinement import strategies
    from ..segmenter import resolve_refinement

    def settings(bundle: Bundle) -> RefineSettings:
        return resolve_refinement(bundle, mode, preset, steps, repaired=repaired)

    def suffices(bundle: Bundle) -> bool:
        drawn = bundle.seed if seed is None else seed
        of_bundle = encoder.precision in (None, *bundle.precisions)
        return of_bundle and strategies.suffices(bundle, settings(bundle), drawn, encoder)

    bundle = open_bundle(path, preset, quiet, system=system, suffices=suffices)
    return bundle, settings(bundle)


def learning_threads(threads: int | None) -> int:
    """Threads that learn on a CPU, at most those asked for: one core is left to those that read and write."""
    return max(min(threads or usable_cores(), usable_cores() - 1), 1)
