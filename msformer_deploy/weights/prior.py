"""The prior's weights, which come with the package; ``python -m msformer_deploy.training.prior`` makes them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import DeployError, printable
from .checkpoint_import import check_weights, read_weights, write_weights

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.prior import Prior

PATH = Path(__file__).with_name("prior.safetensors")
SHA256 = "12b61e22e3080c56095e94f2c28a4694d6c3a3238e0c9c987e73d976e8c98460"  # of the file at PATH


def read_prior() -> dict[str, NDArray[Any]]:
    """The shipped weights by name: float16, but counters are int64. Torch is not needed.

    Raises:
        DeployError: the file cannot be read, or its SHA-256 is not that of this version.
    """
    from safetensors.numpy import load

    return load(_checked())


def as_initializers(names: Sequence[str], prefix: str) -> bytes:
    """Shipped weights as a serialised ONNX model that holds these initializers, float32, and nothing else.

    Behind the bytes of a graph that leaves them out, they complete it: two protobuf messages one after the other are
    the two merged (protobuf.dev, "Encoding", "Last One Wins"). So a graph is put together without the package onnx,
    whose import takes longer than an image.

    Args:
        names: of weights in the prior's file.
        prefix: before each name in the graph.

    Raises:
        DeployError: as :func:`read_prior`, or there is no weight of a name.
    """
    weights = read_prior()
    missing = [name for name in names if name not in weights]
    if missing:
        raise DeployError(f"{printable(PATH)}: has no weight {missing[0]!r}; install msformer-deploy again")
    graph = b"".join(_field(_INITIALIZER, _tensor(prefix + name, weights[name].astype("<f4"))) for name in names)
    return _field(_GRAPH, graph)


# Numbers of fields in onnx.proto, and of its type float.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT = 1


def _tensor(name: str, values: NDArray[Any]) -> bytes:
    dims = b"".join(_varint(_DIMS << 3) + _varint(size) for size in values.shape)
    kind = _varint(_DATA_TYPE << 3) + _varint(_FLOAT)
    return dims + kind + _field(_NAME, name.encode()) + _field(_RAW_DATA, values.tobytes())


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf's wire type 2: its key, its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have their highest bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def load_prior(path: Path | None = None) -> Prior:
    """The prior with the shipped weights, in evaluation mode, float32.

    Args:
        path: .safetensors file of another run; None means the shipped weights.

    Raises:
        DeployError: the shipped file cannot be read, or its SHA-256 is not that of this version.
        UsageError: the given file cannot be read or is not of the prior.
    """
    import torch

    from ..models.prior import Prior

    network = Prior()
    expected = network.state_dict()
    if path is None:
        found = {name: torch.from_numpy(values) for name, values in read_prior().items()}
    else:
        found = read_weights(path)
    check_weights(found, expected, path or PATH, "the prior")
    network.load_state_dict(found)
    return network.eval()


def write_prior(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write weights as the package ships them: floating-point numbers become float16.

    Args:
        path: .safetensors file to write; an existing file is replaced.
        weights: state dict of the prior.
        metadata: ``system``, and any other facts on the weights.

    Returns:
        the SHA-256 of the file, hexadecimal.

    Raises:
        DeployError: the file cannot be written.
    """
    stored = {name: each.half() if each.is_floating_point() else each for name, each in weights.items()}
    write_weights(path, {name: each.contiguous() for name, each in stored.items()}, metadata)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked() -> bytes:
    try:
        content = PATH.read_bytes()
    except OSError as error:
        raise DeployError(
            f"{printable(PATH)}: cannot be read ({error.strerror}); install msformer-deploy again"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DeployError(f"{printable(PATH)}: is not the prior of this version; install msformer-deploy again")
    return content
