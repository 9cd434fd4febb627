"""The interface every backend implements, and the values that pass through it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from ..errors import BackendUnavailable, UsageError
from ..machine.forks import Origin
from ..registry import Precision

if TYPE_CHECKING:
    import numpy as np


class Device(NamedTuple):
    """Where to run: ``auto`` takes a GPU when one works, the other two never fall back."""

    kind: Literal["auto", "cpu", "cuda"]
    ordinal: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.ordinal}" if self.kind == "cuda" else self.kind


_NAMED = {"auto": Device("auto"), "cpu": Device("cpu"), "cuda": Device("cuda")}


def parse_device(text: str) -> Device:
    """Read ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: for anything else.
    """
    if text in _NAMED:
        return _NAMED[text]
    match = re.fullmatch(r"cuda:(\d+)", text)
    if match is None:
        raise UsageError(f"device {text!r} is unknown; choose auto, cpu, cuda or cuda:N")
    return Device("cuda", int(match[1]))


# What a backend opens: a graph of a bundle, or a part of ``segmenter``: ``volume``, what comes before the learning;
# ``prompted``, all of it with the features as an output more; ``figure``, from features and prompts to the probability.
Part = Literal["encoder", "segmenter", "volume", "prompted", "figure"]


class Encoded(NamedTuple):
    """Encoder outputs as arrays that torch can take without a copy (numpy arrays or tensors).

    A system has those that the registry names.
    """

    features: Any  # (B, C, S, S) float32; in memory channels come first or last
    context_small: Any = None  # (B, D, D) float32
    context_large: Any = None  # (B, D, D) float32


class VolumeFeatures(NamedTuple):
    """What slices of a volume are learned from: the outputs of part ``volume``."""

    features: np.ndarray  # (B, C, S, S) float32; in memory channels come first or last
    prior: np.ndarray  # (B, 1, N, N) float32, the prior's logits that a pixel is figure


class Segmented(NamedTuple):
    """Outputs of the whole method in one graph."""

    label_map: np.ndarray  # (B, S, S) uint8, uint16 over 256 clusters
    counts: np.ndarray  # (B, K) int64
    collapsed: np.ndarray  # (B,) bool
    probability: np.ndarray  # (B, S, S) float32, that a pixel is figure, or of a trained system not background


class Prompted(NamedTuple):
    """Outputs of part ``prompted``: those of the whole method, and what part ``figure`` takes."""

    label_map: np.ndarray
    counts: np.ndarray
    collapsed: np.ndarray
    probability: np.ndarray
    features: np.ndarray  # (B, C, S, S) float32; in memory channels come first or last


_Backend = TypeVar("_Backend", bound="Backend")


class Backend(ABC):
    """A loaded graph, ready to run. Use as a context manager, or call :meth:`close`.

    Attributes:
        name: the backend's name.
        provider: what really executes, read back after loading.
        device: where :meth:`encode` leaves its outputs, in torch's words: ``cpu`` or ``cuda:N``.
        graph: which of the bundle's graphs is loaded, or which part.
        precision: of that graph.
        max_batch: maximum number of images in one call; None for any number.
    """

    name: ClassVar[str]
    _origin: Origin
    provider: str
    device: str
    graph: Part
    precision: Precision
    max_batch: int | None = None

    def __new__(cls: type[_Backend], *_: Any, **__: Any) -> _Backend:
        backend = super().__new__(cls)
        backend._origin = Origin()
        return backend

    def require_origin(self) -> None:
        """See that this process is the one that loaded the graph.

        Raises:
            DeployError: it was forked from that one.
        """
        self._origin.require(f"the graph that {self.name} runs")

    @property
    def arithmetic(self) -> Precision:
        """The precision whose roundings results may have: that of the graph, where the runtime does not round more."""
        return self.precision

    @abstractmethod
    def encode(self, images: np.ndarray) -> Encoded:
        """Run the encoder on images (B, 3, S, S), float32, in the bundle's channel order, 0..1."""

    def segment(self, images: np.ndarray) -> Segmented:
        """Run the whole method on images (B, 3, S, S), learning included.

        Raises:
            BackendUnavailable: if this backend has no such graph.
        """
        raise BackendUnavailable(f"backend {self.name} has no whole-method graph; use --backend onnxruntime")

    def volume_features(self, images: np.ndarray) -> VolumeFeatures:
        """What comes before the learning, of slices (B, 3, S, S); only where part ``volume`` is loaded.

        Raises:
            BackendUnavailable: if this backend has no such part.
        """
        raise BackendUnavailable(f"backend {self.name} cannot segment volumes; use --backend onnxruntime")

    def prompted(self, images: np.ndarray) -> Prompted:
        """The whole method on images (B, 3, S, S), and the features; only where part ``prompted`` is loaded.

        Raises:
            BackendUnavailable: if this backend has no such part.
        """
        raise BackendUnavailable(f"backend {self.name} takes no prompts in its graph; use --backend onnxruntime")

    def figure(self, image: np.ndarray, features: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        """The probability (S, S) that a pixel is figure, float32; only where part ``figure`` is loaded.

        Args:
            image: (1, 3, S, S) float32, in the bundle's channel order, 0..1.
            features: (1, C, S, S) float32, of the encoder.
            prompts: (1, 3, 96, 96) float32 in 0..1, see :class:`.models.prior.Prior`.

        Raises:
            BackendUnavailable: if this backend has no such part.
        """
        raise BackendUnavailable(f"backend {self.name} takes no prompts in its graph; use --backend onnxruntime")

    @abstractmethod
    def close(self) -> None:
        """Free what the backend holds."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def image_by_image(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], images: np.ndarray, *, channels_last: bool
) -> list[np.ndarray]:
    """Outputs for images (B, 3, S, S) of a graph that is given one at a time: a CPU gains nothing from more.

    Args:
        run: from one image (1, 3, S, S) to the graph's outputs, which are not copied where there is one image only.
        channels_last: an output (1, H, W, C) is given as (B, C, H, W), its channels last in memory.
    """
    import numpy as np

    joined: list[np.ndarray] = []
    for index in range(len(images)):
        outputs = list(run(images[index : index + 1]))
        if len(images) == 1:
            joined = outputs
            break
        joined = joined or [np.empty((len(images), *output.shape[1:]), output.dtype) for output in outputs]
        for whole, output in zip(joined, outputs, strict=True):
            whole[index] = output[0]
    return [each.transpose(0, 3, 1, 2) if channels_last and each.ndim == 4 else each for each in joined]
