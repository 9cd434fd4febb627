"""A user's home, name and temporary folder. The user of a container may have none of them."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def user_cache() -> Path | None:
    """This program's folder in the user's cache folder; it may not exist yet. None where the user has no home.

    A container's user often has no entry in the password file and no HOME. The standard library then leaves ``~`` as it
    is, and such a relative path would put the cache into the current folder.
    """
    from platformdirs import user_cache_path  # not there while a wheel is built

    try:
        path = user_cache_path("msformer-deploy")
    except (KeyError, OSError, RuntimeError):
        return None
    return path if path.is_absolute() else None


def name_user() -> None:
    """Give a user without a name their number as name: torch and its compiler need a name when they are imported."""
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["USER"] = str(os.getuid()) if hasattr(os, "getuid") else "user"


def has_temporary_folder() -> bool:
    """Whether there is a writable folder for temporary files."""
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True
