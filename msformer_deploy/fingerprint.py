"""What torch made of one fixed image at export. A runtime that makes something else of it is not chosen unasked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import BackendUnavailable
from .registry import PRECISIONS, Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .backends.base import Backend

# Largest error of a feature, relative to the largest feature. A wrong graph is off by about 1. Measured on the default
# bundle and this image in ONNX Runtime and OpenVINO: fp32 1e-6, fp16 4e-4, bf16 0.014, int8 0.018.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 0.1, "int8": 0.1}
# Least share of equal labels, because rounding renames some clusters; measured as above: 1, 0.996, 0.976, 0.982.
AGREEMENT: dict[Precision, float] = {"fp32": 0.99, "fp16": 0.9, "bf16": 0.5, "int8": 0.5}

_STEP = 0.6180339887498949  # of the golden ratio: multiples of it fall evenly between 0 and 1, whatever their number


def noise(side: int) -> NDArray[np.float32]:
    """The image: uniform noise (1, 3, S, S) in 0..1, always the same."""
    import numpy as np

    return np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)


@dataclass(frozen=True)
class Fingerprint:
    """Features and labels of :func:`noise` in float32 torch, at one pixel for every channel.

    Attributes:
        features: of channel c at its pixel, (C,).
        largest: magnitude of any feature of the image.
        labels: at the same pixels, (C,).
        tolerance: by precision, how far a feature may be off, in units of ``largest``.
        agreement: by precision, the least share of equal labels.
    """

    features: list[float]
    largest: float
    labels: list[int]
    tolerance: dict[Precision, float]
    agreement: dict[Precision, float]

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: NDArray[np.integer]) -> Fingerprint:
        """Take it from features (C, S, S) and labels (S, S)."""
        import numpy as np

        return cls(
            features=[float(f"{value:.6g}") for value in _sampled(features)],
            largest=float(f"{np.abs(features).max():.6g}"),
            labels=_sampled(np.broadcast_to(labels, features.shape)).tolist(),
            tolerance=dict(TOLERANCE),
            agreement=dict(AGREEMENT),
        )

    @classmethod
    def read(cls, entry: Any) -> Fingerprint:
        """Take it from a manifest.

        Raises:
            TypeError, ValueError: it is damaged.
        """
        found = cls(**entry)
        if len(found.features) != len(found.labels):
            raise ValueError(f"a fingerprint of {len(found.features)} features and {len(found.labels)} labels")
        numbers = [found.largest, *found.features, *found.labels]
        numbers += [table[each] for table in (found.tolerance, found.agreement) for each in PRECISIONS]
        if not all(isinstance(value, int | float) for value in numbers):
            raise TypeError("a fingerprint of other things than numbers")
        return found

    def check(self, backend: Backend, side: int) -> None:
        """Run the backend once on the image and compare.

        Raises:
            BackendUnavailable: it gives something else.
        """
        import numpy as np

        image = noise(side)
        if backend.graph == "segmenter":
            labels = backend.segment(image).label_map[0]
            got = _sampled(np.broadcast_to(labels, (len(self.labels), *labels.shape)))
            share, least = float((got == self.labels).mean()), self.agreement[backend.precision]
            if share < least:
                raise BackendUnavailable(
                    f"{backend.name} gives the labels known from the export on {share:.0%} of the pixels of the test"
                    f" image, needed {least:.0%}"
                )
            return
        features = backend.encode(image).features
        on_host = np.asarray(features.cpu() if hasattr(features, "cpu") else features)
        error = float(np.abs(_sampled(on_host[0]) - self.features).max()) / self.largest
        allowed = self.tolerance[backend.precision]
        if not error <= allowed:  # written so that NaN fails
            raise BackendUnavailable(
                f"{backend.name} gives features of the test image that differ from those known from the export by"
                f" {error:.2g} of the largest, allowed {allowed:g}"
            )


def _sampled(channels: NDArray[Any]) -> NDArray[Any]:
    """One value (C,) of each of the channels (C, S, S), at pixels spread over the image."""
    import numpy as np

    count, height, width = channels.shape
    numbers = np.arange(count)
    pixels = (numbers * _STEP % 1 * height * width).astype(np.int64)
    return channels[numbers, pixels // width, pixels % width]
