"""The server of the node: C-ECHO and C-STORE, for the callers that are allowed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeployError, ImageError, printable
from ..images.dicom.codecs import TRANSFER_SYNTAXES
from ..images.dicom.find import kind_of_file
from ..images.dicom.identifiers import Instance, image_in
from .callers import ANY, Caller
from .spool import OutOfResources, Spool, instance_name, series_name

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event
    from pynetdicom.transport import ThreadedAssociationServer

# Statuses of C-STORE (PS3.4, B.2.3 and PS3.7, C).
SUCCESS, OUT_OF_RESOURCES, NO_MATCH, NOT_UNDERSTOOD, NOT_SUPPORTED = 0x0000, 0xA700, 0xA900, 0xC000, 0x0122
REJECTED_BY_USER, PERMANENT, CALLER_UNKNOWN = 1, 1, 3  # of an association (PS3.8, 9.3.4)
MOST_ASSOCIATIONS = 16  # at a time
LONGEST_COMMENT = 64  # characters of an error comment (PS3.5, 6.2)
GRACE = 30.0  # seconds that senders have to end what they send when the node stops


class Receiver:
    """A server that puts instances into a spool.

    Args:
        title: AE title of the node.
        callers: who may send; of the loopback everybody may where there is none.
        spool: where instances are kept.
        log: is called with lines for people, which name nobody.
    """

    def __init__(self, title: str, callers: Sequence[Caller], spool: Spool, log: Callable[[str], None]) -> None:
        from pynetdicom import AE, AllStoragePresentationContexts
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by the module's __getattr__

        self._callers = callers or [Caller(ANY, None)]
        self._spool, self._log = spool, log
        self._server: ThreadedAssociationServer | None = None
        self._ae = AE(title)
        self._ae.maximum_associations = MOST_ASSOCIATIONS
        self._ae.add_supported_context(Verification)
        for each in AllStoragePresentationContexts:  # of all kinds: what is no image gets an answer that says so
            self._ae.add_supported_context(str(each.abstract_syntax), list(TRANSFER_SYNTAXES))

    def start(self, host: str, port: int) -> int:
        """Listen, in threads of its own, and return the port.

        Raises:
            DeployError: address or port cannot be used.
        """
        from pynetdicom import evt

        try:
            self._server = self._ae.start_server(
                (host, port),
                block=False,
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_C_ECHO, lambda _: SUCCESS),
                    (evt.EVT_C_STORE, self._stored),
                    (evt.EVT_RELEASED, lambda event: self._spool.leave(event.assoc, released=True)),
                    (evt.EVT_ABORTED, lambda event: self._spool.leave(event.assoc, released=False)),
                    (evt.EVT_CONN_CLOSE, lambda event: self._spool.leave(event.assoc, released=False)),
                ],
            )
        except OSError as error:
            raise DeployError(
                f"address {host} with port {port} cannot be used ({error.strerror}); choose others with --host and"
                " --port"
            ) from error
        assert self._server is not None  # it is None where it blocks
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Take no more associations, let senders end those that are open for half a minute, and end."""
        if self._server is None:
            return
        server, self._server = self._server, None
        associations = server.active_associations
        server.shutdown()
        end = time.monotonic() + GRACE
        while any(each.is_alive() for each in associations) and time.monotonic() < end:
            time.sleep(0.05)
        for each in associations:
            if each.is_alive():
                each.abort()

    def _requested(self, event: Event) -> None:
        """Reject a caller who is not allowed."""
        association: Association = event.assoc
        title, address = _caller(association)
        if not any(each.matches(title, address) for each in self._callers):
            self._log(f"rejected an association of {_named(association)}: not among the callers of --allow")
            association.acse.send_reject(PERMANENT, REJECTED_BY_USER, CALLER_UNKNOWN)
            association.kill()  # which waits until the answer is sent

    def _stored(self, event: Event) -> Any:
        """Answer a C-STORE: with success only when the instance is on the disk."""
        try:
            part = self._spool.write_part([event.encoded_dataset()])
        except OutOfResources as error:
            self._lack(event)
            return self._refused(event, OUT_OF_RESOURCES, str(error))
        try:
            kind = _kind(part)
            if kind is not None:
                return self._refused(event, NOT_SUPPORTED, f"is {kind}, which is no image to segment")
            instance = image_in(part)
        except _Unreadable as error:
            return self._refused(event, NOT_UNDERSTOOD, str(error))
        except ImageError as error:
            return self._refused(event, NO_MATCH, _reason(error, part))
        else:
            return self._keep(event, part, instance)
        finally:
            self._spool.drop(part)

    def _keep(self, event: Event, part: Path, instance: Instance) -> Any:
        series, name = series_name(instance.study, instance.series), instance_name(instance.instance)
        try:
            self._spool.keep(part, series, name, event.assoc)
        except OutOfResources as error:
            return self._refused(event, OUT_OF_RESOURCES, str(error))
        return SUCCESS

    def _lack(self, event: Event) -> None:
        """Note that the series of an instance that was not written lacks it, as far as its header can be read."""
        from ..images.dicom.identifiers import identified

        with suppress(ImageError):
            found = identified(event.encoded_dataset())
            self._spool.refuse(series_name(found.study, found.series), instance_name(found.instance))

    def _refused(self, event: Event, status: int, reason: str) -> Any:
        from pydicom.dataset import Dataset

        self._log(f"refused an instance of {_named(event.assoc)}: {reason} (status {status:04X})")
        answer = Dataset()
        answer.Status, answer.ErrorComment = status, reason.encode("ascii", "replace").decode()[:LONGEST_COMMENT]
        return answer


class _Unreadable(Exception):
    """An instance whose header cannot be read."""


def _kind(part: Path) -> str | None:
    try:
        return kind_of_file(part)
    except (ImageError, OSError) as error:
        raise _Unreadable("cannot be read as DICOM") from error


def _reason(error: ImageError, part: Path) -> str:
    """What the message of an error says, without the name of the file and without what to do with it."""
    return str(error).removeprefix(f"{printable(part)}: ").partition("; ")[0]


def _caller(association: Association) -> tuple[str, str]:
    """The AE title and the address of a sender."""
    request = association.requestor.primitive
    title = "" if request is None else str(request.calling_ae_title or "").strip()
    return title, str(association.requestor.address)


def _named(association: Association) -> str:
    title, address = _caller(association)
    return f"{printable(title)} at {address}"
