"""The optional parts of the installation, and the one line for each that is missing."""

from __future__ import annotations

import importlib.util
from typing import Literal

from ..errors import BackendUnavailable

Extra = Literal["torch", "samples", "export", "evaluate", "train", "dicom", "volumes", "serve", "listen", "ray"]
# What each extra of pyproject.toml brings that the code imports, the heaviest first.
MODULES: dict[Extra, tuple[str, ...]] = {
    "torch": ("torch", "threadpoolctl"),
    "samples": ("skimage",),
    "export": ("torch", "threadpoolctl", "onnxscript", "skimage"),
    "evaluate": ("scipy", "skimage"),
    "train": ("torch", "threadpoolctl", "lightning_fabric", "scipy"),
    "dicom": ("pydicom", "highdicom"),
    "volumes": ("nibabel", "nrrd"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "listen": ("pynetdicom", "requests", "pydicom", "highdicom"),
    "ray": ("ray", "pyarrow", "fsspec"),
}
_PACKAGES = {  # of another name than the module
    "lightning_fabric": "lightning-fabric",
    "nrrd": "pynrrd",
    "prometheus_client": "prometheus-client",
    "skimage": "scikit-image",
}


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # its parent is missing, or the module is marked as absent
        return False


def require_extra(extra: Extra, what: str) -> None:
    """See that the modules of an extra are installed.

    Args:
        extra: its name in ``pip install "msformer-deploy[...]"``.
        what: what needs it, to begin the message.

    Raises:
        BackendUnavailable: one is missing; the message has the command that installs it.
    """
    missing = [_PACKAGES.get(module, module) for module in MODULES[extra] if not is_installed(module)]
    if missing:
        named = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
        raise BackendUnavailable(
            f"{what} needs {named}, which {'is' if len(missing) == 1 else 'are'} not installed;"
            f' pip install "msformer-deploy[{extra}]"'
        )
