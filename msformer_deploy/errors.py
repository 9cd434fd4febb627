"""The errors that a user can see, each with its exit code. A message is one line: what, where, what to do."""

from __future__ import annotations

import unicodedata
from pathlib import Path

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, invisible marks, undecodable bytes, line and paragraph ends


class DeployError(Exception):
    """A failure to report as one line, never as a traceback."""

    exit_code = 1


class UsageError(DeployError):
    """The request itself cannot be carried out as given."""

    exit_code = 2


class ValidationMismatch(DeployError):
    """An exported artefact does not compute what torch computes."""

    exit_code = 3


class BackendUnavailable(DeployError):
    """The backend, provider or device asked for cannot run here."""

    exit_code = 4


class ImageError(DeployError):
    """One input image cannot be read or used; the others can."""


class BundleError(DeployError):
    """A bundle is damaged, incomplete, too new or not a bundle."""


def caused_by_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C caused an error: a library that is interrupted may raise an error of its own."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (cause is not None and caused_by_interruption(cause))


def printable(path: Path | str) -> str:
    r"""Return ``path`` for a one-line message: line breaks, controls, undecodable bytes become ``\n``, ``\x1b``..."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in str(path)
    )


def why_unread(error: OSError) -> str:
    """Why the system does not read a file, and what to do, for a message that names the file."""
    match error:
        case FileNotFoundError():
            return "no such file; check the path"
        case PermissionError():
            return "permission denied; make the file readable"
    return f"cannot be read: {error.strerror}; check the path and the disk"


EXIT_SOME_FAILED = 5  # a batch in which some inputs failed
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells report it
