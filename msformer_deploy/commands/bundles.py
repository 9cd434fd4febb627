"""The bundle a command runs: the one named, or the preset's own in the user's cache folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BundleError
from ..registry import SYSTEMS
from .output import say

if TYPE_CHECKING:
    from ..bundle import Bundle


def open_bundle(path: Path | None, preset: str | None, quiet: bool, seed: int = 0) -> Bundle:
    """The bundle at ``path``; without one that of the preset's sizes and the seed, made when it is not there yet.

    Raises:
        UsageError: the preset is unknown.
        BundleError: the bundle at ``path`` is not valid.
        DeployError: as :func:`.export.build.build_bundle`.
    """
    from ..bundle import load_bundle

    if path is not None:
        return load_bundle(path)
    from platformdirs import user_cache_path

    from ..versions import installed_versions

    system = SYSTEMS["msformer"].sized(preset)
    name = f"{system.name}-{system.side}-{system.blocks}" + (f"-seed{seed}" if seed else "")
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

    return build_bundle(system, path, seed=seed, force=True)
