"""A user's home, name and temporary folder, which the user of a container may lack."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def user_cache() -> Path | None:
    """This program's folder in the user's cache folder, which may not exist; None where there is no home to find it in.

    A container's user often has no entry in the password file and no HOME. The standard library then leaves ``~`` as it
    is, and a relative path would put the cache into whatever folder is the current one.
    """
    from platformdirs import user_cache_path  # not there while a wheel is built

    try:
        path = user_cache_path("msformer-deploy")
    except (KeyError, OSError, RuntimeError):
        return None
    return path if path.is_absolute() else None


def name_user() -> None:
    """Name a user who has no name by the number: torch and its compiler ask for one when they are imported."""
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["USER"] = str(os.getuid()) if hasattr(os, "getuid") else "user"


def has_temporary_folder() -> bool:
    """Whether there is a folder for temporary files that can be written."""
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True
