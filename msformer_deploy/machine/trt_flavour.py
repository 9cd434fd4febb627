"""Which TensorRT is here: NVIDIA's full one (``tensorrt``), or TensorRT for RTX (``tensorrt_rtx``). One Python API."""

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
    """A TensorRT that was imported."""

    name: TrtFlavour
    api: ModuleType

    @property
    def version(self) -> str:
        """As the package says it, such as 10.13.3.9 or 1.7.1.116."""
        return str(self.api.__version__)

    def __str__(self) -> str:
        return f"{'TensorRT' if self.name == 'tensorrt' else 'TensorRT-RTX'} {self.version}"


def installed() -> tuple[TrtFlavour, ...]:
    """The flavours whose package is here, imported or not, in the order ``auto`` prefers them."""
    return tuple(name for name in TRT_FLAVOURS if importlib.util.find_spec(MODULES[name]) is not None)


def find(choice: Literal["auto"] | TrtFlavour = "auto") -> Flavour:
    """Import the flavour asked for; ``auto`` takes the full TensorRT where both load.

    Raises:
        BackendUnavailable: it is not installed, or does not load.
    """
    return next(_loaded(installed() if choice == "auto" else (choice,)))


def find_all() -> tuple[Flavour, ...]:
    """Import every flavour that loads, in the order ``auto`` prefers them.

    Raises:
        BackendUnavailable: none is installed, or none loads.
    """
    return tuple(_loaded(installed()))


def _loaded(names: tuple[TrtFlavour, ...]) -> Iterator[Flavour]:
    """The flavours of these names that load; the error tells why if none does."""
    if not names:
        raise BackendUnavailable(f"TensorRT is not installed; install {EXTRAS['rtx']} or {EXTRAS['tensorrt']}")
    failures = []
    for name in names:
        try:
            flavour = Flavour(name, importlib.import_module(MODULES[name]))
        except ModuleNotFoundError as error:
            failures.append(f"{MODULES[name]} is not installed ({error}); install {EXTRAS[name]}")
        except Exception as error:  # a library it needs, its version and the driver each fail in their own way
            failures.append(f"{MODULES[name]} cannot be loaded ({one_line(error)}); install {EXTRAS[name]} again")
        else:
            yield flavour
    if len(failures) == len(names):
        raise BackendUnavailable("; ".join(failures))


def message_log(flavour: Flavour) -> Any:
    """A ``trt.ILogger`` that keeps its errors, in order, in the list ``errors``; what is less grave is dropped.

    TensorRT prints to stderr by default, warnings of every layer included, and says what failed only there. Its
    ``reason()`` tells the first of them, which caused the others, as one line, and forgets them all.
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
            told, self.errors = self.errors, []
            return one_line(told[0]) if told else "it gives no reason"

    return MessageLog()


def start(flavour: Flavour, kind: Literal["Builder", "Runtime"], log: Any) -> Any:
    """TensorRT's builder or runtime.

    Args:
        flavour: which TensorRT.
        kind: name of the class.
        log: a :func:`message_log` of the flavour.

    Raises:
        BackendUnavailable: it does not start, mostly for want of a driver that is new enough.
    """
    try:
        return getattr(flavour.api, kind)(log)
    except TypeError as error:  # how the bindings tell that there is none; why is in the log alone
        raise BackendUnavailable(f"{flavour} does not start: {log.reason()}") from error


def deserialize(flavour: Flavour, data: bytes | memoryview, log: Any, *, host_code: bool) -> Any:
    """Open an engine; None where TensorRT does not, and the log tells why.

    Args:
        flavour: which TensorRT.
        data: the engine, which has been checked to be the one that was built.
        log: a :func:`message_log` of the flavour.
        host_code: whether a lean runtime in the engine may run on the CPU, as version-compatible engines need it.

    Raises:
        BackendUnavailable: TensorRT does not start.
    """
    runtime = start(flavour, "Runtime", log)
    if host_code:
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(data)


def one_line(message: object) -> str:
    """A message of TensorRT's, of one or many lines, as one."""
    return " ".join(str(message).split())
