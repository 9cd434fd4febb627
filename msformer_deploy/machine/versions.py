"""Versions of the software that computes, for reports and bundles."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "msformer-deploy",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "pycuda",
    "lightning-fabric",
    "numpy",
    "pillow",
    "scikit-image",
)


def installed_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that are installed; by default those that affect results or times."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
