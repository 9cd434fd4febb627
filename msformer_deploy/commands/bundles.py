"""The bundle a command runs: the one named, or the preset's own in the user's cache folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import BundleError, UsageError
from ..registry import DEFAULT, SYSTEMS
from .output import say

if TYPE_CHECKING:
    from ..bundle import Bundle


SYSTEM = click.Choice(list(SYSTEMS))


def open_bundle(path: Path | None, preset: str | None, quiet: bool, seed: int = 0, system: str | None = None) -> Bundle:
    """The bundle at ``path``; without one that of the system, the preset's sizes and the seed, made when it is missing.

    Raises:
        UsageError: the preset is unknown, or the bundle is of another system.
        BundleError: the bundle at ``path`` is not valid.
        DeployError: as :func:`.export.build.build_bundle`.
    """
    from ..bundle import load_bundle

    if path is not None:
        bundle = load_bundle(path)
        if system not in (None, bundle.system):
            raise UsageError(f"{path}: is of system {bundle.system}, not {system}; drop --system, or drop --bundle")
        return bundle
    from platformdirs import user_cache_path

    from ..versions import installed_versions

    chosen = SYSTEMS[system or DEFAULT].sized(preset)
    if chosen.trained:
        raise UsageError(
            f"system {chosen.name} has no default bundle, for its weights come from training; make one with"
            f" 'msformer-deploy export --system {chosen.name} --weights FILE', and pass --bundle"
        )
    name = f"{chosen.name}-{chosen.side}-{chosen.blocks}" + (f"-seed{seed}" if seed else "")
    path = user_cache_path("msformer-deploy") / installed_versions()["msformer-deploy"] / name
    if path.exists():
        try:
            return load_bundle(path)
        except BundleError as error:
            say(f"the default bundle is unusable and will be made again: {error}")
            # Without a manifest --force would take it for someone else's folder, but this place is ours.
            shutil.rmtree(path, ignore_errors=True)
    if not quiet:
        kind = f"a bundle of seed {seed}" if seed else "the default bundle"
        say(f"making {kind} in {path} (once, about 20 s)")
    from ..export.build import build_bundle

    return build_bundle(chosen, path, seed=seed, force=True)
