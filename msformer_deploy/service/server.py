"""The server: a socket, a loop, and an end that finishes what is in work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from ..errors import DeployError, UsageError
from ..machine.addresses import is_loopback
from ..segmenter import Segmenter
from .application import Application
from .batches import Batches
from .connections import SPARE, connections
from .engine import Engine
from .limits import Limits
from .log import log, taken_over
from .metrics import Metrics

IDLE_SECONDS = 5  # that a connection is kept without a request
BACKLOG = 256  # connections that the system keeps before the server takes them


class Settings(NamedTuple):
    """How a service runs.

    Attributes:
        name: of the model.
        limits: of requests.
        key: that requests must have; None for none.
        batch: maximum number of images in one call of the network.
        delay: seconds that the first image of a batch waits for others.
        threads: that read images and finish results.
    """

    name: str
    limits: Limits
    key: str | None
    batch: int
    delay: float
    threads: int


def require_protected(host: str, key: str | None, *, insecure: bool) -> None:
    """See that nobody but this computer reaches a service without a key.

    Raises:
        UsageError: others could, or the host is no address.
    """
    if not (is_loopback(host) or key or insecure):
        raise UsageError(
            f"--host {host}: other computers could use the service without a key; pass --api-key-file FILE, or"
            " --insecure if all who reach this address may use it"
        )


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        DeployError: the address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise DeployError(
            f"{host} port {port} cannot be used ({error.strerror}); choose another --port, or 0 for a free one"
        ) from error


def address_of(listening: socket.socket) -> str:
    """Where clients find the service."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(listening: socket.socket, open_segmenter: Callable[[], Segmenter], settings: Settings) -> None:
    """Serve until a signal comes; what is in work then is finished, and the rest is refused.

    Args:
        listening: of :func:`open_socket`; it is closed at the end.
        open_segmenter: makes the segmenter, in a thread; until then the service is live and not ready.
        settings: how.

    Raises:
        DeployError: the segmenter cannot be opened.
    """
    with taken_over(), tempfile.TemporaryDirectory(prefix="msformer-deploy-") as folder:
        metrics = Metrics()
        batches = Batches(open_segmenter, settings.batch, settings.delay, metrics.batch)
        engine = Engine(batches, settings.threads, metrics)
        limits = settings.limits
        server: _Server | None = None

        def idle() -> None:
            assert server is not None
            server.should_exit = True

        application = Application(engine, settings.name, limits, settings.key, metrics, Path(folder), idle)
        config = uvicorn.Config(
            application,
            loop="asyncio",
            http=connections(limits.in_flight + limits.queue + SPARE, limits.seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
        )
        server = _Server(config, application, engine)
        try:
            asyncio.run(server.serve([listening]))
        finally:
            listening.close()
            engine.close()
        if (error := engine.opened.exception()) is not None:
            raise error
        log("info", "ended")


class _Server(uvicorn.Server):
    """uvicorn's server, which on a signal refuses new requests first and ends when nothing is in work."""

    def __init__(self, config: uvicorn.Config, application: Application, engine: Engine) -> None:
        super().__init__(config)
        self._application, self._engine = application, engine

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End by SIGTERM and SIGINT; after a second one only images that threads have begun are waited for."""
        loop = asyncio.get_running_loop()

        def signalled(*_: Any) -> None:
            loop.call_soon_threadsafe(self._end)

        def opened(found: Future[Segmenter]) -> None:
            loop.call_soon_threadsafe(self._opened, found)

        former = {each: signal.signal(each, signalled) for each in (signal.SIGTERM, signal.SIGINT)}
        self._engine.opened.add_done_callback(opened)
        self._engine.start()
        try:
            yield
        finally:
            for each, handler in former.items():
                signal.signal(each, handler)

    def _end(self) -> None:
        if self._application.admission.ending:
            self.should_exit = self.force_exit = True
            return
        log("info", "ending", in_work=self._application.admission.in_work)
        self._application.admission.end()

    def _opened(self, found: Future[Segmenter]) -> None:
        if found.exception() is not None:
            self.should_exit = True
            return
        segmenter = found.result()
        log("info", "ready", system=segmenter.bundle.system, backend=segmenter.backend_name)
