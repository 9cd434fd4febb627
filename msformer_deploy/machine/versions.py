"""Versions of the software that computes, for reports and bundles."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

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
    "cuda-core",
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


def overwrite_each_other(names: Sequence[str]) -> bool:
    """Whether packages that bring the same files are all installed in one folder.

    In two folders, such as those of an environment and of the system, the first on the path hides the others.
    """
    folders = set()
    for name in names:
        try:
            folders.add(Path(str(distribution(name).locate_file(""))).resolve())
        except PackageNotFoundError:
            return False
    return len(folders) == 1
