"""Files of tensors that come with the package, and the graphs of its bundles that leave these tensors out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import DeployError, printable

if TYPE_CHECKING:
    from ..bundle.folder import LeftOut

FOLDER = Path(__file__).parent
# The prior's weights (:mod:`.prior`), and what the whole-method graphs of each system have in common.
FILES = ("prior.safetensors", "msformer.safetensors", "s3net.safetensors")


def read_packaged(name: str, sha256: str) -> dict[str, NDArray[Any]]:
    """Tensors of a file, by name. Torch is not needed.

    Args:
        name: one of :data:`FILES`.
        sha256: of the file, hexadecimal.

    Raises:
        DeployError: there is no such file, it cannot be read, or its SHA-256 is another.
    """
    from safetensors.numpy import load

    path = FOLDER / name
    if name not in FILES:
        raise DeployError(f"{printable(name)}: no such file comes with the package; upgrade msformer-deploy")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeployError(
            f"{printable(path)}: cannot be read ({error.strerror}); install msformer-deploy again"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DeployError(f"{printable(path)}: is not the one of this version; install msformer-deploy again")
    return load(content)


def packaged_bytes(left_out: Sequence[LeftOut]) -> int:
    """Size of the files that have what a graph leaves out."""
    return sum((FOLDER / each.file).stat().st_size for each in left_out if each.file in FILES)


def as_initializers(tensors: Mapping[str, NDArray[Any]], names: Sequence[str], prefix: str) -> bytes:
    """Tensors as a serialised ONNX model that holds these initializers, float32, and nothing else.

    Behind the bytes of a graph that leaves them out, they complete it: two protobuf messages one after the other are
    the two merged (protobuf.dev, "Encoding", "Last One Wins"). So a graph is put together without the package onnx,
    whose import takes longer than an image.

    Args:
        tensors: by name.
        names: of those to take.
        prefix: before each name in the graph.

    Raises:
        DeployError: there is no tensor of a name.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise DeployError(f"the package has no tensor {missing[0]!r}; install msformer-deploy again")
    graph = b"".join(_field(_INITIALIZER, _tensor(prefix + name, tensors[name].astype("<f4"))) for name in names)
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
