"""The installed TensorRT: NVIDIA's full one (``tensorrt``) or TensorRT for RTX (``tensorrt_rtx``), with one API."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from ..errors import BackendUnavailable
from ..registry import TRT_FLAVOURS, TrtFlavour

MODULES: dict[TrtFlavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
EXTRAS: dict[TrtFlavour, str] = {"tensorrt": "msformer-deploy[tensorrt]", "rtx": "msformer-deploy[tensorrt-rtx]"}


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT."""

    name: TrtFlavour
    api: ModuleType

    @property
    def version(self) -> str:
        """Version of the package, such as 10.13.3.9 or 1.7.1.116."""
        return str(self.api.__version__)

    def __str__(self) -> str:
        return f"{'TensorRT' if self.name == 'tensorrt' else 'TensorRT-RTX'} {self.version}"


def installed() -> tuple[TrtFlavour, ...]:
    """The flavours whose package is installed, imported or not, in the order in which ``auto`` prefers them."""
    return tuple(name for name in TRT_FLAVOURS if importlib.util.find_spec(MODULES[name]) is not None)


def find(choice: Literal["auto"] | TrtFlavour = "auto") -> Flavour:
    """Import a flavour; ``auto`` takes the full TensorRT where both load.

    Raises:
        BackendUnavailable: it is not installed, or does not load.
    """
    return next(_loaded(installed() if choice == "auto" else (choice,)))


def find_all() -> tuple[Flavour, ...]:
    """Import every flavour that loads, in the order in which ``auto`` prefers them.

    Raises:
        BackendUnavailable: no flavour is installed, or none loads.
    """
    return tuple(_loaded(installed()))


def _loaded(names: tuple[TrtFlavour, ...]) -> Iterator[Flavour]:
    """The flavours of these names that load; the error says why none does."""
    if not names:
        raise BackendUnavailable(f"TensorRT is not installed; install {EXTRAS['rtx']} or {EXTRAS['tensorrt']}")
    failures = []
    for name in names:
        try:
            flavour = Flavour(name, importlib.import_module(MODULES[name]))
        except ModuleNotFoundError as error:
            failures.append(f"{MODULES[name]} is not installed ({error}); install {EXTRAS[name]}")
        except Exception as error:  # a missing library, a wrong version and the driver raise different errors
            failures.append(f"{MODULES[name]} cannot be loaded ({one_line(error)}); install {EXTRAS[name]} again")
        else:
            yield flavour
    if len(failures) == len(names):
        raise BackendUnavailable("; ".join(failures))


def message_log(flavour: Flavour) -> Any:
    """A ``trt.ILogger`` that keeps errors, in order, in the list ``errors`` and drops warnings and notes.

    TensorRT's own logger prints to stderr, with warnings for every layer, and gives the reason of a failure only there.
    ``reason()`` of this logger returns the first error, which caused the others, as one line, and clears the list.
    """
    api: Any = flavour.api
    grave = (api.ILogger.Severity.INTERNAL_ERROR, api.ILogger.Severity.ERROR)

    class MessageLog(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in grave:
                self.errors.append(message)

        def reason(self) -> str:
            errors, self.errors = self.errors, []
            return one_line(errors[0]) if errors else "it gives no reason"

    return MessageLog()


def start(flavour: Flavour, kind: Literal["Builder", "Runtime"], log: Any) -> Any:
    """TensorRT's builder or runtime.

    Args:
        flavour: the TensorRT to use.
        kind: name of the class.
        log: a :func:`message_log` of the flavour.

    Raises:
        BackendUnavailable: it does not start, mostly because the driver is missing or too old.
    """
    try:
        return getattr(flavour.api, kind)(log)
    except TypeError as error:  # the bindings got no object; only the log says why
        raise BackendUnavailable(f"{flavour} does not start: {log.reason()}") from error


def deserialize(flavour: Flavour, data: bytes | memoryview, log: Any, *, host_code: bool) -> Any:
    """Open an engine; None where TensorRT cannot open it, and the log says why.

    Args:
        flavour: the TensorRT to use.
        data: the engine; the caller checks that it is the one that was built.
        log: a :func:`message_log` of the flavour.
        host_code: whether a lean runtime inside the engine may run on the CPU; version-compatible engines need it.

    Raises:
        BackendUnavailable: TensorRT does not start.
    """
    runtime = start(flavour, "Runtime", log)
    if host_code:
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(data)


def one_line(message: object) -> str:
    """A message of TensorRT as one line."""
    return " ".join(str(message).split())
