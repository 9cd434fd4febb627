"""The prior's weights, which come with the package; ``python -m msformer_deploy.training.prior`` makes them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from .checkpoint_import import check_weights, read_weights, write_weights
from .packaged import FOLDER, read_packaged

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.prior import Prior

PATH = FOLDER / "prior.safetensors"
SHA256 = "12b61e22e3080c56095e94f2c28a4694d6c3a3238e0c9c987e73d976e8c98460"  # of the file at PATH


def read_prior() -> dict[str, NDArray[Any]]:
    """The shipped weights by name: float16, but counters are int64. Torch is not needed.

    Raises:
        DeployError: the file cannot be read, or its SHA-256 is not that of this version.
    """
    return read_packaged(PATH.name, SHA256)


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
