"""The bundle a command runs: the one named, the preset's own in the package, or one made in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BundleError, DeployError, UsageError
from ..registry import DEFAULT, SYSTEMS
from .output import say

if TYPE_CHECKING:
    from ..bundle.folder import Bundle


def open_bundle(
    path: Path | None,
    preset: str | None,
    quiet: bool,
    seed: int = 0,
    system: str | None = None,
    *,
    suffices: Callable[[Bundle], bool] = lambda _: False,
) -> Bundle:
    """The bundle at ``path``; without one that of the system, the preset's sizes and the seed.

    That is the package's, where it has one and that suffices, and else one in the cache, made when it is missing.

    Args:
        path: of a bundle; None for the default one.
        preset: whose sizes it has; None for the system's first.
        quiet: do not say that a bundle is made.
        seed: of its weights.
        system: its name; None for the default one.
        suffices: whether a bundle of the package, which has the whole method only, does what is asked.

    Raises:
        UsageError: the preset is unknown, or the bundle is of another system.
        BundleError: the bundle at ``path`` is not valid.
        BackendUnavailable: a bundle must be made, and what export needs is not installed.
        DeployError: as :func:`.export.build.build_bundle`.
    """
    from ..bundle.folder import load_bundle
    from ..bundle.shipped import shipped_bundle
    from ..machine.extras import require_extra

    if path is not None:
        bundle = load_bundle(path)
        if system not in (None, bundle.system):
            raise UsageError(
                f"{path}: this bundle is of system {bundle.system}, not {system}; drop --system, or drop --bundle"
            )
        return bundle

    chosen = SYSTEMS[system or DEFAULT].sized(preset)
    if chosen.trained:
        raise UsageError(
            f"system {chosen.name} has no default bundle, because its weights must be trained; make one with"
            f" 'msformer-deploy export --system {chosen.name} --weights FILE' and pass it with --bundle"
        )
    shipped = shipped_bundle(chosen) if seed == 0 else None
    if shipped is not None and suffices(shipped):
        return shipped
    name = f"{chosen.name}-{chosen.side}-{chosen.blocks}" + (f"-seed{seed}" if seed else "")
    path = _cache() / _state() / name
    if os.path.exists(path):
        try:
            return load_bundle(path)
        except BundleError as error:
            say(f"the default bundle is unusable and will be made again: {error}")
            # Without a manifest --force would take it for someone else's folder, but this place is ours.
            shutil.rmtree(path, ignore_errors=True)
    require_extra("export", "these options need a bundle of their own; making one")
    _see_to(path.parent)
    if not quiet:
        kind = f"a bundle of seed {seed}" if seed else "the default bundle"
        say(f"making {kind} in {path} (once, about 20 s)")
    from ..export.build import build_bundle

    return build_bundle(chosen, path, seed=seed, force=True)


_REMEDY = "set XDG_CACHE_HOME to a folder that can be written, or pass --bundle"


def _state() -> str:
    """Name of the folder of bundles that this very program makes: its version, and a hash of the package's own bundle.

    The package's bundle is made again whenever exports change. So a bundle that an earlier state of a version left in
    the cache, which may lack what is needed now, is not taken.
    """
    from ..bundle.folder import MANIFEST, sha256
    from ..bundle.shipped import folder_of
    from ..machine.versions import installed_versions

    made_as = sha256(folder_of(SYSTEMS[DEFAULT].sized()) / MANIFEST)
    return f"{installed_versions()['msformer-deploy']}-{made_as[:12]}"


def _cache() -> Path:
    """The folder of this program in the user's cache folder.

    Raises:
        DeployError: this user has no home, and nothing else says where it is.
    """
    from ..machine.homes import user_cache

    path = user_cache()
    if path is None:
        raise DeployError(
            f"the cache folder for the default bundle cannot be found, because this user has no home folder; {_REMEDY}"
        )
    return path


def _see_to(folder: Path) -> None:
    """Make a folder of the cache, if it is not there, and see that it can be written before a bundle is made for it.

    Raises:
        DeployError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DeployError(
            f"{folder}: the cache folder for the default bundle cannot be made or written ({error.strerror}); {_REMEDY}"
        ) from error
