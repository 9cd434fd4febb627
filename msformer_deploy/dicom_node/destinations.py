"""Where answers are sent: an application entity by C-STORE, or a web server by DICOMweb's STOW-RS."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..errors import UsageError
from ..images.quiet import silent
from .callers import parse_title

SECONDS = 30.0  # to connect, and for each answer
WARNINGS = (0x0001, 0xB000, 0xB006, 0xB007)  # statuses of C-STORE with which an object is stored
PROCESSING_FAILURE = 0x0110
DUPLICATE = 0x0111  # it has an object with this UID (PS3.7, C); UIDs are derived, so it is this object
OF_OTHER_KIND = "it does not take objects of this kind"
# Answers that another try may change: no right yet, too early, too many requests.
_PASSING = (401, 403, 404, 408, 425, 429)


class Unavailable(Exception):
    """The destination does not take anything now; the message is a reason, the end of a line for people."""


class Refused(Exception):
    """The destination will not take this object; the message is a reason."""


class Destination(Protocol):
    """Takes objects, and names itself for people."""

    def send(self, files: Sequence[Path]) -> None:
        """Send DICOM files.

        Raises:
            Unavailable: not all were taken, and another try may help.
            Refused: one was refused for good.
        """


class StoreDestination:
    """An application entity that takes objects by C-STORE.

    Args:
        title: its AE title.
        host, port: its address.
        calling: AE title of this node.
    """

    def __init__(self, title: str, host: str, port: int, calling: str) -> None:
        self._title, self._host, self._port, self._calling = title, host, port, calling

    def __str__(self) -> str:
        return f"{self._title}@{self._host}:{self._port}"

    def send(self, files: Sequence[Path]) -> None:
        """Send DICOM files in one association; raises as :class:`Destination` says."""
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
        from pynetdicom import AE

        entity = AE(self._calling)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = SECONDS
        for sop_class in {_sop_class(path) for path in files}:
            entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        association = entity.associate(self._host, self._port, ae_title=self._title)
        if not association.is_established and association.rejected_contexts:
            raise Refused(OF_OTHER_KIND)
        if not association.is_established:
            raise Unavailable("it rejects the association" if association.is_rejected else "it cannot be reached")
        try:
            for path in files:
                with silent():
                    try:
                        answer = association.send_c_store(path)
                    except ValueError as error:  # no presentation context
                        raise Refused(OF_OTHER_KIND) from error
                    except RuntimeError as error:
                        raise Unavailable("it ended the association") from error
                _check(answer.get("Status"))
        finally:
            if association.is_established:
                association.release()


class WebDestination:
    """A web server that takes objects by STOW-RS.

    Credentials come from the user's ``.netrc``.

    Args:
        url: of its DICOMweb service, which ends before ``/studies``.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def send(self, files: Sequence[Path]) -> None:
        """Send DICOM files in one request; raises as :class:`Destination` says."""
        import requests

        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        try:
            answer = requests.post(
                f"{self._url}/studies",
                data=_Multipart(boundary, files),
                headers=headers,
                timeout=SECONDS,
                allow_redirects=False,  # another server is not the one that was named
            )
        except requests.RequestException as error:
            raise Unavailable(f"it cannot be reached ({type(error).__name__})") from error
        if answer.status_code >= 500 or answer.status_code in _PASSING:
            raise Unavailable(f"it answers with HTTP status {answer.status_code}")
        if answer.status_code not in (200, 202, 409):  # 202: some were stored; 409: none was, each for a reason
            raise Refused(f"it answers with HTTP status {answer.status_code}")
        _check_stored(answer, len(files))


class _Multipart:
    """The body of a request, read file by file: requests takes its length first, and then its parts."""

    def __init__(self, boundary: str, files: Sequence[Path]) -> None:
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end, self._files = f"--{boundary}--\r\n".encode(), files

    def __len__(self) -> int:
        each = len(self._head) + len(b"\r\n")
        return sum(each + path.stat().st_size for path in self._files) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for path in self._files:
            yield self._head
            yield path.read_bytes()
            yield b"\r\n"
        yield self._end


def parse_destination(text: str, calling: str) -> Destination:
    """Read ``--send-to``: ``AE@HOST:PORT``, or the URL of a DICOMweb service.

    Args:
        text: of the option.
        calling: AE title of this node.

    Raises:
        UsageError: it is of another form.
    """
    if text.lower().startswith(("http://", "https://")):
        parts = urlsplit(text)
        if parts.username or parts.password:
            raise UsageError("--send-to: a password in an address is seen by others; write it into ~/.netrc instead")
        if not parts.hostname or parts.query or parts.fragment:
            raise UsageError(
                f"--send-to {text!r} is not the address of a DICOMweb service, such as https://pacs/dicom-web"
            )
        return WebDestination(text)
    title, separator, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not separator or not colon or not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--send-to {text!r} is neither AE@HOST:PORT, such as ORTHANC@127.0.0.1:4242, nor the URL of a DICOMweb"
            " service"
        )
    return StoreDestination(parse_title(title, "--send-to"), host.strip("[]"), int(port), calling)


def _sop_class(path: Path) -> str:
    from pydicom import dcmread

    with silent():
        return str(dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID)


def _check(status: int | None) -> None:
    """See that the destination has an object, by the status of C-STORE; None is no answer."""
    if status is None:
        raise Unavailable("it gives no answer")
    if status >> 8 == 0xA7:
        raise Unavailable(f"it is out of resources (status {status:04X})")
    if status not in (0, DUPLICATE, *WARNINGS):
        raise Refused(f"it answers with status {status:04X}")


def _check_stored(answer: Any, sent: int) -> None:
    """See that the destination has all objects, by the answer of STOW-RS (PS3.18, 10.5.3 and I.2).

    Args:
        answer: with HTTP status 200, 202 or 409.
        sent: number of objects.

    Raises:
        Unavailable, Refused: it has not all.
    """
    try:
        failed = answer.json().get("00081198", {}).get("Value") or [] if answer.content else []
        reasons = [int(each["00081197"]["Value"][0]) for each in failed]
    except (AttributeError, LookupError, TypeError, ValueError):
        raise Refused(f"its answer with HTTP status {answer.status_code} cannot be read") from None
    for reason in reasons:
        _check(reason or PROCESSING_FAILURE)
    if len(reasons) < {200: 0, 202: 1, 409: sent}[answer.status_code]:
        raise Refused(f"it answers with HTTP status {answer.status_code} and does not say why")
