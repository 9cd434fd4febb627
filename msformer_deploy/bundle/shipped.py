"""The default bundles that come with the package, so that a first run needs neither torch nor a cache.

Each has the whole method in one graph, and leaves the weights that another has as well to files of the package
(:mod:`msformer_deploy.weights.packaged`). ``python -m msformer_deploy.export.shipped`` makes them again.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import BundleError
from ..registry import DEFAULT, SYSTEMS, System
from .folder import MANIFEST, Bundle, load_files

FOLDER = Path(__file__).with_name("shipped")
# Systems and presets that have one.
SHIPPED = (("msformer", "fast"), ("msformer", "balanced"), ("s3net", "fast"), ("s3net", "balanced"))


def shipped_bundle(system: System) -> Bundle | None:
    """The bundle of a system in its sizes, verified; None where the package has none.

    Raises:
        BundleError: it is damaged.
    """
    folder = folder_of(system)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return load_files(folder)
    except BundleError as error:
        what, _, _ = str(error).rpartition(";")
        raise BundleError(f"{what}; install msformer-deploy again") from error


def default_bundle() -> Bundle:
    """The bundle of the default system and preset.

    Raises:
        BundleError: it is missing or damaged.
    """
    system = SYSTEMS[DEFAULT].sized()
    bundle = shipped_bundle(system)
    if bundle is None:
        raise BundleError(f"{folder_of(system)}: is missing from the package; install msformer-deploy again")
    return bundle


def folder_of(system: System) -> Path:
    """Where the bundle of a system in its sizes would be."""
    return FOLDER / f"{system.name}-{system.side}-{system.blocks}"
