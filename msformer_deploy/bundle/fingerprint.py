"""What was computed of one fixed image at export. A runtime that computes something else is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEP = 0.6180339887498949  # of the golden ratio: multiples of it fall evenly between 0 and 1, whatever their number


def noise(side: int) -> NDArray[np.float32]:
    """The image: uniform noise (1, 3, S, S) in 0..1, always the same."""
    import numpy as np

    return np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)


class ByPrecision(TypedDict):
    """A number for each precision."""

    fp32: float
    fp16: float
    bf16: float
    int8: float


# Maximum error of a feature, relative to the largest feature; a wrong graph is off by about 1. Measured on the noise in
# ONNX Runtime and OpenVINO on a CPU with AVX2 alone, three bundles of MS-Former: fp32 1e-6 from torch; fp16 4e-4 and
# int8 1e-3 from what ONNX Runtime made of them at export, as roundings can fall the other way. int8 that saturates is
# off by 0.018 to 0.067. bf16 in OpenVINO on a CPU with bf16 was 0.014 from torch.
TOLERANCE: ByPrecision = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 0.1, "int8": 0.01}
# Minimum share of equal labels, because roundings rename some clusters; measured as above: 1, 1, 1, and 0.976 in bf16.
AGREEMENT: ByPrecision = {"fp32": 0.99, "fp16": 0.9, "bf16": 0.5, "int8": 0.9}


@dataclass(frozen=True)
class Samples:
    """Features and labels of :func:`noise`, at one pixel for every channel.

    Attributes:
        features: of channel c at its pixel, (C,).
        largest: magnitude of any feature of the image.
        labels: at the same pixels, (C,).
    """

    features: list[float]
    largest: float
    labels: list[int]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.labels):
            raise ValueError(f"a fingerprint of {len(self.features)} features and {len(self.labels)} labels")


@dataclass(frozen=True)
class Fingerprint(Samples):
    """What a runtime must compute, and how close it must come.

    Those of fp32 are float32 torch's. Another precision rounds, and learning can make other clusters of rounded
    features, so each has its own, as ONNX Runtime computed it at export (:meth:`lowered`).

    Attributes:
        tolerance: by precision, how far a feature may be off, in units of ``largest``.
        agreement: by precision, the minimum share of equal labels.
    """

    tolerance: ByPrecision
    agreement: ByPrecision

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: NDArray[np.integer]) -> Fingerprint:
        """Take it from features (C, S, S) and labels (S, S)."""
        return cls(**asdict(samples(features, labels)), tolerance=TOLERANCE, agreement=AGREEMENT)

    def lowered(self, own: Samples) -> Fingerprint:
        """That of another precision, which has samples of its own."""
        return replace(self, **asdict(own))


def samples(features: NDArray[np.float32], labels: NDArray[np.integer]) -> Samples:
    """Take them from features (C, S, S) and labels (S, S)."""
    import numpy as np

    return Samples(
        features=[float(f"{value:.6g}") for value in sampled(features)],
        largest=float(f"{np.abs(features).max():.6g}"),
        labels=sampled(np.broadcast_to(labels, features.shape)).tolist(),
    )


def sampled(channels: NDArray[Any]) -> NDArray[Any]:
    """One value (C,) of each of the channels (C, S, S), at pixels spread over the image."""
    import numpy as np

    count, height, width = channels.shape
    numbers = np.arange(count)
    pixels = (numbers * _STEP % 1 * height * width).astype(np.int64)
    return channels[numbers, pixels // width, pixels % width]
