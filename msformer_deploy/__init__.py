"""Self-guided medical image segmentation, deployed: no labels, no training set.

>>> from msformer_deploy import Segmenter
>>> result = Segmenter().segment("image.png")
>>> result.mask  # bool (H, W); result.labels holds the cluster ids
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import BackendUnavailable, BundleError, DeployError, ImageError, UsageError, ValidationMismatch
from .machine import silence as silence  # first: no runtime is imported before it

if TYPE_CHECKING:
    from .bundle.folder import Bundle, load_bundle
    from .foreground.prompts import Box, Point, Prompts, Scribble
    from .foreground.volume_prompts import VolumeBox, VolumePoint, VolumePrompts
    from .images.items import read_volume
    from .images.read import InputImage, read_image
    from .images.volume import Volume
    from .refinement.options import EncoderOptions
    from .registry import RefineSettings
    from .segmenter import Segmentation, Segmenter, Session
    from .volume_segmenter import VolumeSegmentation, VolumeSegmenter

__all__ = [
    "BackendUnavailable",
    "Box",
    "Bundle",
    "BundleError",
    "DeployError",
    "EncoderOptions",
    "ImageError",
    "InputImage",
    "Point",
    "Prompts",
    "RefineSettings",
    "Scribble",
    "Segmentation",
    "Segmenter",
    "Session",
    "UsageError",
    "ValidationMismatch",
    "Volume",
    "VolumeBox",
    "VolumePoint",
    "VolumePrompts",
    "VolumeSegmentation",
    "VolumeSegmenter",
    "load_bundle",
    "read_image",
    "read_volume",
]

_HOMES = {
    "Bundle": "bundle.folder",
    "load_bundle": "bundle.folder",
    "Box": "foreground.prompts",
    "Point": "foreground.prompts",
    "Prompts": "foreground.prompts",
    "Scribble": "foreground.prompts",
    "VolumeBox": "foreground.volume_prompts",
    "VolumePoint": "foreground.volume_prompts",
    "VolumePrompts": "foreground.volume_prompts",
    "InputImage": "images.read",
    "read_image": "images.read",
    "read_volume": "images.items",
    "Volume": "images.volume",
    "EncoderOptions": "refinement.options",
    "RefineSettings": "registry",
    "Segmentation": "segmenter",
    "Segmenter": "segmenter",
    "Session": "segmenter",
    "VolumeSegmentation": "volume_segmenter",
    "VolumeSegmenter": "volume_segmenter",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line must start without numpy and Pillow."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
