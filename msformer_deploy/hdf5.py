"""HDF5 files of one slice each, with data sets ``image`` and perhaps ``label``, both (H, W): as SSL4MIS keeps ACDC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .errors import BackendUnavailable, ImageError
from .inputs import printable


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, for reading.

    Raises:
        BackendUnavailable: h5py is missing.
        ImageError: it cannot be read.
    """
    try:
        import h5py
    except ImportError as error:
        raise BackendUnavailable(f"HDF5 files need h5py ({error}); pip install 'msformer-deploy[train]'") from error
    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ImageError(f"{printable(path)}: cannot be read as HDF5, damaged or cut short; copy it again") from error


def plane(file: Any, name: str, path: Path) -> NDArray[Any]:
    """A data set (H, W) of the file.

    Raises:
        ImageError: there is none of that name and shape.
    """
    if getattr(file.get(name), "ndim", None) != 2:
        raise ImageError(f"{printable(path)}: has no data set '{name}' of one slice (H, W)")
    values: NDArray[Any] = file[name][()]
    return values
