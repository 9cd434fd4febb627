"""``msformer-deploy listen``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import click

from ..errors import UsageError, printable
from ..registry import Axis, SegType
from . import options
from .options import PATH, REQUIRED, Command, example, option, under
from .output import say
from .segmenters import Asked, learning_threads, open_segmenter

PORT, TITLE = 11112, "MSFORMER"
HOUR = 3600.0


@click.command(
    cls=Command,
    params=[
        *under(
            REQUIRED,
            option(
                "--spool",
                required=True,
                type=PATH,
                metavar="DIR",
                help="Folder for series until their results are sent. It is made if it is not there.",
            ),
            option(
                "--send-to",
                required=True,
                metavar="AE@HOST:PORT|URL",
                help="Where results are sent: an AE title with its host and port (C-STORE), or the URL of a DICOMweb"
                " service (STOW-RS).",
            ),
        ),
        *under(
            "Network",
            option("--aet", default=TITLE, metavar="AE", help="AE title of this node."),
            options.host(),
            options.port(PORT),
            option(
                "--allow",
                "allowed",
                multiple=True,
                metavar="AE@ADDRESS",
                help="Caller that may send, such as SCANNER@192.168.1.20. AE and ADDRESS can be *, and ADDRESS can be a"
                " network such as 10.0.0.0/8.",
                unset="on the loopback everybody; on another address the option is required",
            ),
        ),
        *under(
            "Series",
            option(
                "--quiet-seconds",
                type=click.FloatRange(0),
                default=30.0,
                metavar="SECONDS",
                help="A series is complete when no image of it has come for so long.",
            ),
            option(
                "--complete-on-release",
                is_flag=True,
                help="A series is complete too when its sender ends the association. Only for senders that use one"
                " association for a whole series.",
            ),
            option(
                "--keep-hours",
                type=click.FloatRange(0),
                default=24.0,
                metavar="HOURS",
                help="How long the spool keeps a series that is done, so that late images can join it.",
            ),
        ),
        *under(
            "Limits",
            option(
                "--max-instances",
                type=click.IntRange(1),
                default=10000,
                metavar="N",
                help="Maximum number of instances in a series.",
            ),
            option(
                "--max-size",
                type=click.IntRange(1),
                default=8192,
                metavar="MIB",
                help="Maximum size of a series.",
            ),
            option(
                "--min-free",
                type=click.IntRange(0),
                default=1024,
                metavar="MIB",
                help="Space that the spool leaves free on its disk.",
            ),
        ),
        *under("Bundle", options.bundle(), options.system(), options.preset()),
        *under("Encoder", options.backend(), options.device(), options.threads()),
        *under("Reading", options.window(), options.axis()),
        *under("Mask", options.foreground()),
        *under(
            "Results",
            option("--overlays", is_flag=True, help="Also send overlays, as secondary captures."),
            options.seg_type(),
            options.structure(),
        ),
    ],
    epilog=example(
        "msformer-deploy listen --spool spool --send-to ORTHANC@127.0.0.1:4242",
        "msformer-deploy listen --spool spool --send-to https://pacs.example/dicomweb",
        "msformer-deploy listen --spool spool --send-to PACS@10.1.2.3:104 \\",
        "    --host 10.1.2.9 --allow PACS@10.1.2.3",
    ),
)
def listen(
    spool: Path,
    send_to: str,
    aet: str,
    host: str,
    port: int,
    allowed: tuple[str, ...],
    quiet_seconds: float,
    complete_on_release: bool,
    keep_hours: float,
    max_instances: int,
    max_size: int,
    min_free: int,
    bundle_path: Path | None,
    system: str | None,
    preset: str | None,
    backend: str,
    device: str,
    threads: int | None,
    window: str | None,
    axis: Axis | None,
    foreground: str,
    overlays: bool,
    seg_type: SegType | None,
    structure: str,
) -> None:
    """Segment DICOM series that a PACS sends, and answer it.

    The node takes C-STORE and C-ECHO. It segments each series as 'run FOLDER --seg' does, until SIGTERM or Ctrl+C.
    """
    from ..machine.extras import require_extra

    require_extra("listen", "a DICOM node")
    from ..dicom_node import spool as spools
    from ..dicom_node.answer import Answerer
    from ..dicom_node.callers import parse_caller, parse_title
    from ..dicom_node.destinations import parse_destination
    from ..dicom_node.node import Completion, Node
    from ..dicom_node.receiver import Receiver
    from ..images.items import Reading
    from ..images.windows import parse_window
    from ..machine.addresses import is_loopback
    from ..refinement.options import EncoderOptions
    from ..results.formats import Wanted
    from ..service.limits import MEBIBYTE

    title = parse_title(aet, "--aet")
    callers = [parse_caller(each) for each in allowed]
    if not callers and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached by other computers; name those that may send with --allow AE@ADDRESS"
            " (--allow '*@*' lets everybody send)"
        )
    destination = parse_destination(send_to, title)
    reading = Reading(None if window is None else parse_window(window), axis)
    wanted = Wanted(("seg", "sc") if overlays else ("seg",), True, structure, reading, seg_type=seg_type or "binary")
    limits = spools.Limits(max_instances, max_size * MEBIBYTE, min_free * MEBIBYTE)
    encoder = EncoderOptions(backend, device, threads, learning_threads=learning_threads(threads))
    answer = Answerer(open_segmenter(Asked(bundle_path, system, preset, encoder, foreground=foreground)), wanted)
    with spools.opened(spool, limits) as kept:
        completion = Completion(quiet_seconds, complete_on_release, keep_hours * HOUR)
        receiver = Receiver(title, callers, kept, _log)
        node = Node(kept, answer, destination, completion, _log)
        with _signals() as ended:
            taken = receiver.start(host, port)
            _log(
                f"{title} listens on {host} port {taken}, keeps series in {printable(spool)}, and sends results to"
                f" {destination}"
            )
            if any(each.everybody for each in callers):
                _log("every caller may send; --allow AE@ADDRESS names those that may")
            node.start()
            ended.wait()
        _log("ending: what is in hand is finished; a second signal ends at once")
        receiver.stop()
        node.stop()
        waiting = ", ".join(f"{count} {state}" for state, count in kept.counts().items())
        _log(f"ended; series in the spool: {waiting}")


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """What SIGTERM and Ctrl+C set, so that they end nothing in the midst of its work."""
    ended = threading.Event()
    before = [(each, signal.signal(each, lambda *_: ended.set())) for each in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield ended
    finally:
        for each, handler in before:
            signal.signal(each, handler)


def _log(line: str) -> None:
    """Write a line with the time, in UTC, on stderr."""
    say(f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {' '.join(line.split())}")
