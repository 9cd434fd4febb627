"""The routes of the service, and what holds for each request: key, limits, one line for an error, metrics and log."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match, Route, Router
from starlette.types import Message, Receive, Scope, Send

from ..errors import printable
from ..machine.versions import installed_versions
from ..segmenter import Segmentation, Segmenter
from . import answers, bodies, openapi, tensors, uploads
from .admission import Admission
from .engine import Engine
from .keys import check_key
from .limits import Limits
from .log import log, place_of
from .metrics import CONTENT_TYPE, Metrics
from .refused import CLOSE, Refused, bad_request, calling, draining, refusal_of

SERVER = "msformer-deploy"
MAX_HEADERS = 100  # of a request
OPEN = ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready")  # without a key
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
# The page loads nothing: its style is in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Handler = Callable[[Request], Awaitable[Response]]


class Application:
    """The service as an application of ASGI.

    Args:
        engine: segments.
        name: of the model, which is that of its system.
        limits: of requests.
        key: that requests must have; None for none.
        metrics: of this service.
        folder: for files of requests in work.
        idle: called once the service ends and no request is in work any more.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        limits: Limits,
        key: str | None,
        metrics: Metrics,
        folder: Path,
        idle: Callable[[], None],
    ) -> None:
        self._engine, self._name, self._limits, self._key = engine, name, limits, key
        self._metrics, self._folder = metrics, folder
        self.admission = Admission(limits.in_flight, limits.queue, idle)
        metrics.watch(
            lambda: self.admission.in_work, lambda: self.admission.waiting, lambda: engine.segmenter is not None
        )
        self._document = openapi.document(name, limits, key is not None)
        # Each model may be named with its version.
        versions = ("", "/versions/{version}")
        model = "/v2/models/{model}"
        self._router = Router(
            [
                Route("/", self._page),
                Route("/openapi.json", self._openapi),
                Route("/metrics", self._prometheus),
                Route("/v2", self._server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                *(Route(f"{model}{version}", self._model) for version in versions),
                *(Route(f"{model}{version}/ready", self._model_ready) for version in versions),
                *(
                    Route(f"{model}{version}/infer", _Admitted(self, self._infer), methods=["POST"])
                    for version in versions
                ),
                Route("/segment", _Admitted(self, self._segment), methods=["POST"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, the client gets one line and the service goes on."""
        start, status, failure = time.perf_counter(), 0, None
        place: str | None = None
        identifier = uuid.uuid4().hex

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {**_HEADERS, "X-Request-Id": identifier}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.lower().encode(), value.encode()) for name, value in extra.items()),
                ]
            await send(message)

        scope["app"] = self  # Starlette then raises what it would answer in plain text
        request = Request(scope)
        try:
            _check_headers(scope)
            if self._key is not None and scope["path"] not in OPEN:
                check_key(request, self._key)
            await self._router(scope, receive, sending)
        except ClientDisconnect:
            failure = "client left"
        except (Exception, asyncio.CancelledError) as error:
            refused = _refused(error)
            failure = refused.kind
            ours = refused.status in (500, 503) and not isinstance(error, (Refused, asyncio.CancelledError))
            place = place_of(error) if ours else None
            if status == 0:
                answer = JSONResponse({"error": str(refused)}, refused.status, refused.headers)
                await answer(scope, receive, sending)
        route, seconds = self._route_of(scope), time.perf_counter() - start
        self._metrics.request(route, status, seconds, failure)
        facts: dict[str, Any] = {"request": identifier, "method": scope["method"], "route": route, "status": status}
        facts["seconds"] = round(seconds, 4)
        if failure is not None:
            facts["failure"] = failure
        if place is not None:
            facts["at"] = place
        log("error" if place else "info", "request", **facts)

    def _route_of(self, scope: Scope) -> str:
        """The template of the path, for a path may be anything."""
        for route in self._router.routes:
            if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE:
                return route.path
        return "other"

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(openapi.page(self._document), headers={"Content-Security-Policy": _POLICY})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)

    async def _prometheus(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _server(self, request: Request) -> Response:
        version = installed_versions([SERVER]).get(SERVER, "unknown")
        return JSONResponse({"name": SERVER, "version": version, "extensions": ["binary_tensor_data"]})

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        self.require_ready()
        return JSONResponse({"ready": True})

    async def _model(self, request: Request) -> Response:
        self._require_model(request)
        return JSONResponse(tensors.metadata(self._name))

    async def _model_ready(self, request: Request) -> Response:
        self._require_model(request)
        self.require_ready()
        return JSONResponse({"name": self._name, "ready": True})

    async def _infer(self, request: Request) -> Response:
        self._require_model(request)
        content = await self._received(request)
        header = request.headers.get(tensors.HEADER)
        asked: tensors.Asked | None = None

        def read() -> Any:
            nonlocal asked
            asked = tensors.parse(content, header, self._limits.pixels)
            return uploads.from_array(asked.image)

        def write(result: Segmentation) -> tuple[bytes, int | None]:
            assert asked is not None
            return tensors.answer(self._name, asked, result)

        body, json_part = await self._engine.segment(read, write)
        if json_part is None:
            return Response(body, media_type="application/json")
        return Response(body, headers={tensors.HEADER: str(json_part)}, media_type="application/octet-stream")

    async def _segment(self, request: Request) -> Response:
        answer = answers.accepted(request.headers.get("accept"))
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise Refused(415, "bad request", "forms are not taken; send the bytes of the image as the body")
        content = await self._received(request)
        if not content:
            raise bad_request("the body is empty; send the bytes of an image file")
        segmenter = self._segmenter()
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)

            def write(result: Segmentation) -> bytes:
                with calling(printable(folder / uploads.DICOM), uploads.NAME):
                    return answer.write(result, segmenter, folder)

            body = await self._engine.segment(lambda: uploads.read_upload(content, self._limits.pixels, folder), write)
        return Response(body, media_type=answer.media_type)

    async def _received(self, request: Request) -> bytes:
        start = time.perf_counter()
        content = await bodies.read(request, self._limits.body)
        request.state.received = True
        self._metrics.stage("receive", time.perf_counter() - start)
        return content

    def require_ready(self) -> None:
        """See that images are segmented.

        Raises:
            Refused: the backend is not open yet, or the service ends.
        """
        if self.admission.ending:
            raise draining()
        if self._engine.segmenter is None:
            raise Refused(503, "not ready", "the model is not loaded yet; try again later", {"Retry-After": "1"})

    def _segmenter(self) -> Segmenter:
        segmenter = self._engine.segmenter
        assert segmenter is not None  # as required before
        return segmenter

    def _require_model(self, request: Request) -> None:
        name, version = request.path_params["model"], request.path_params.get("version", tensors.VERSION)
        if (name, version) != (self._name, tensors.VERSION):
            raise Refused(404, "bad request", f"there is one model, {self._name!r}, of version {tensors.VERSION}")

    async def admitted(self, request: Request, handler: Handler, send: Send) -> None:
        """Answer a request with an image: within the limits, and in its turn.

        Raises:
            Refused: it is over a limit, or the time is over.
        """
        limit = self._limits.seconds
        until = time.perf_counter() + limit
        self.require_ready()
        bodies.check_stated(request, self._limits.body)
        start = time.perf_counter()
        since = await self.admission.enter(limit)
        self._metrics.stage("wait", since - start)

        async def work() -> None:
            response = await handler(request)
            sent = time.perf_counter()
            await response(request.scope, request.receive, send)
            self._metrics.stage("send", time.perf_counter() - sent)

        # The place is given back when the work has really ended, which may be after its time.
        task = asyncio.create_task(work())
        task.add_done_callback(lambda _: self.admission.leave(since))
        try:
            done, _ = await asyncio.wait({task}, timeout=until - time.perf_counter())
        finally:
            task.cancel()
        if done:
            task.result()
        elif getattr(request.state, "received", False):
            raise Refused(504, "timeout", f"the request was not done within {limit:g} s; send a smaller image")
        else:
            raise Refused(408, "timeout", f"the body did not come within {limit:g} s; send it faster", CLOSE)


class _Admitted:
    """An endpoint of images, as an application of ASGI."""

    def __init__(self, application: Application, handler: Handler) -> None:
        self._application, self._handler = application, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application.admitted(Request(scope, receive, send), self._handler, send)


def _check_headers(scope: Scope) -> None:
    if len(scope["headers"]) > MAX_HEADERS:
        raise Refused(431, "bad request", f"the request has more than {MAX_HEADERS} headers; send fewer", CLOSE)


def _refused(error: Exception | asyncio.CancelledError) -> Refused:
    if isinstance(error, asyncio.CancelledError):  # the loop ends, after a second signal
        return draining()
    return _of_route(error) if isinstance(error, HTTPException) else refusal_of(error)


def _of_route(error: HTTPException) -> Refused:
    """Starlette's refusals: there is no such path (404), or not with this method (405)."""
    what = "there is no such path" if error.status_code == 404 else "this path does not take this method"
    return Refused(error.status_code, "bad request", f"{what}; see /openapi.json", error.headers)
