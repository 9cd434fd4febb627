"""The API key: who knows it may use the service."""

from __future__ import annotations

import hmac
from pathlib import Path

from starlette.requests import Request

from ..errors import UsageError, printable, why_unread
from .refused import Refused

VARIABLE = "MSFORMER_DEPLOY_API_KEY"
MIN_LENGTH = 16  # characters
_SCHEME = "bearer "


def read_key(file: Path | None, value: str | None) -> str | None:
    """The key in a file, or the value of the environment variable; None if there is neither.

    Raises:
        UsageError: the file cannot be read, there are both, or the key is too short or cannot be sent.
    """
    if file is not None and value is not None:
        raise UsageError(f"--api-key-file and {VARIABLE} both give a key; drop one of them")
    origin = VARIABLE
    if file is not None:
        origin = printable(file)
        try:
            value = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"{origin}: {why_unread(error)}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{origin}: is not a text file; write the key into it") from error
    if value is None:
        return None
    if len(value) < MIN_LENGTH or not (value.isascii() and value.isprintable() and " " not in value):
        raise UsageError(
            f"{origin}: the API key needs at least {MIN_LENGTH} printable ASCII characters without spaces; make one"
            " with 'openssl rand -hex 32'"
        )
    return value


def check_key(request: Request, key: str) -> None:
    """See that a request has the key, in a time that does not depend on how much of it is right.

    Raises:
        Refused: it has not.
    """
    given = request.headers.get("authorization", "")
    scheme, sent = given[: len(_SCHEME)].lower(), given[len(_SCHEME) :]
    if not (hmac.compare_digest(sent.encode(), key.encode()) and scheme == _SCHEME):
        raise Refused(
            401,
            "unauthorised",
            "the API key is missing or wrong; send the header 'Authorization: Bearer KEY'",
            {"WWW-Authenticate": "Bearer"},
        )
