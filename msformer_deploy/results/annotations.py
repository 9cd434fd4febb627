"""Masks for annotation tools: a LabelMe file for each image, and one COCO file for all.

Each connected part (four neighbours) is one polygon along the edges of its pixels, which :mod:`.annotations` reads back
to the same pixels. Polygons of both formats have no holes. Run lengths would hold them in COCO, but Label Studio's
converter does not read these, CVAT documents polygons alone, and nobody can correct them by dragging points. So a hole
is joined to the outer border by a cut without width (:meth:`.Outline.joined`), which all of these tools read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..images.outlines import Outline, outlines

COCO = "annotations.coco.json"
OBJECT = "object"  # what a mask holds when no class has a name
LABELME_VERSION = "5.5.0"  # the version of LabelMe's format that is written


@dataclass(frozen=True, eq=False)
class Shape:
    """One connected part of a class.

    Attributes:
        category: id of the class, from 1.
        name: of the class.
        outline: its borders.
    """

    category: int
    name: str
    outline: Outline


def categories_of(classes: Sequence[str]) -> dict[int, str]:
    """The names of the categories by their ids.

    Args:
        classes: names of the labels of a trained system, the background first; empty for a self-guided one.
    """
    return dict(enumerate(classes[1:], 1)) if classes else {1: OBJECT}


def shapes_of(
    mask: NDArray[np.bool_], labels: NDArray[np.integer] | None, categories: Mapping[int, str]
) -> list[Shape]:
    """The connected parts of a mask, category by category.

    Args:
        mask: bool (H, W).
        labels: (H, W) the category of each pixel in the mask; None where there is one category.
        categories: names by id.
    """
    if labels is None:
        ((category, name),) = categories.items()
        return [Shape(category, name, outline) for outline in outlines(mask)]
    return [
        Shape(category, name, outline)
        for category, name in categories.items()
        for outline in outlines(mask & (labels == category))
    ]


def write_labelme(path: Path, image: Path, size: tuple[int, int], shapes: Sequence[Shape]) -> None:
    """Write a LabelMe file, atomically. It names its image relative to itself, so that LabelMe opens both.

    Args:
        path: the file to write.
        image: the image.
        size: width and height of the image.
        shapes: in any order.

    Raises:
        OSError: the file cannot be written.
    """
    content: dict[str, Any] = {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": [
            {
                "label": each.name,
                "points": each.outline.joined().tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for each in shapes
        ],
        "imagePath": _relative(image, path.parent),
        "imageData": None,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }
    files.write_text(path, json.dumps(content) + "\n")


class CocoFile:
    """A COCO file in the making; images may be added from several threads, in any order.

    Args:
        categories: names by id.
    """

    def __init__(self, categories: Mapping[int, str]) -> None:
        self._categories = categories
        self._images: dict[str, tuple[tuple[int, int], list[dict[str, Any]]]] = {}

    def add(self, name: str, size: tuple[int, int], shapes: Sequence[Shape]) -> None:
        """Add an image, also one without objects.

        Args:
            name: path of the image relative to the folder of images, with slashes.
            size: width and height.
            shapes: its objects.
        """
        self._images[name] = (
            size,
            [
                {
                    "category_id": each.category,
                    "segmentation": [each.outline.joined().ravel().tolist()],
                    "area": each.outline.area,
                    "bbox": list(each.outline.box),
                    "iscrowd": 0,
                }
                for each in shapes
            ],
        )

    def write(self, path: Path) -> None:
        """Write the file, atomically; images are in the order of their names.

        Raises:
            OSError: the file cannot be written.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, (name, ((width, height), objects)) in enumerate(sorted(self._images.items()), 1):
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            annotations += (
                {"id": number, "image_id": image_id, **each}
                for number, each in enumerate(objects, len(annotations) + 1)
            )
        content = {
            "info": {"description": "Masks found by msformer-deploy: research software, not a medical device"},
            "licenses": [],
            "categories": [
                {"id": number, "name": name, "supercategory": ""} for number, name in self._categories.items()
            ],
            "images": images,
            "annotations": annotations,
        }
        files.write_text(path, json.dumps(content) + "\n")


def _relative(image: Path, folder: Path) -> str:
    """The path of an image from a folder, with slashes; the whole path where they are on different drives."""
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:
        return image.absolute().as_posix()
