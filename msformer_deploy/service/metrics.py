"""What Prometheus reads: how long requests take and where, how many wait, what fails, how many masks are in doubt."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGES = ("wait", "receive", "read", "collect", "learn", "finish", "send")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "msformer_requests", "Requests answered, by route and status.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "msformer_request_seconds",
            "Seconds from the headers of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "msformer_stage_seconds",
            "Seconds of each stage of a request with an image.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        for stage in STAGES:  # all are there from the first scrape on
            self._stages.labels(stage)
        self._failures = Counter("msformer_failures", "Requests that failed, by kind.", ("kind",), registry=registry)
        self._masks = Counter("msformer_masks", "Masks found.", registry=registry)
        self._doubtful = Counter("msformer_doubtful_masks", "Masks in doubt.", registry=registry)
        self._batch = Histogram(
            "msformer_batch_images", "Images in one call of the network.", buckets=_IMAGES, registry=registry
        )

    def watch(self, in_flight: Callable[[], int], queue: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Read these whenever the metrics are asked for."""
        for name, help_, value in (
            ("msformer_in_flight", "Requests in work.", in_flight),
            ("msformer_queue_length", "Requests that wait.", queue),
            ("msformer_ready", "Whether images are segmented.", ready),
        ):
            Gauge(name, help_, registry=self._registry).set_function(value)

    def stage(self, name: str, seconds: float) -> None:
        """Observe a stage."""
        self._stages.labels(name).observe(seconds)

    def mask(self, *, doubtful: bool) -> None:
        """Count a mask."""
        self._masks.inc()
        if doubtful:
            self._doubtful.inc()

    def batch(self, images: int) -> None:
        """Observe a call of the network."""
        self._batch.observe(images)

    def request(self, route: str, status: int, seconds: float, failure: str | None) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if failure is not None:
            self._failures.labels(failure).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)
