"""What is written for annotation tools, and that it comes back as the same masks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msformer_deploy.images.masks import inside, read_file
from msformer_deploy.registry import SYSTEMS
from msformer_deploy.results.annotations import CocoFile, Shape, categories_of, shapes_of, write_labelme


def masks() -> list[np.ndarray]:
    """With holes, parts that touch by corners, objects at the border; and an empty one."""
    rng = np.random.default_rng(0)
    return [np.zeros((9, 12), bool), *(rng.random((9, 12)) < share for share in (0.2, 0.5, 0.8, 1.0))]


def objects(mask: np.ndarray) -> list[Shape]:
    return shapes_of(mask, None, categories_of(()))


def load(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


@pytest.mark.parametrize("mask", masks())
def test_a_mask_comes_back_from_labelme(tmp_path: Path, mask: np.ndarray) -> None:
    path = tmp_path / "a.png.labelme.json"
    write_labelme(path, tmp_path / "a.png", (12, 9), objects(mask))
    found = read_file(path)
    assert np.array_equal(inside(found), mask)
    assert np.array_equal(found.ids, mask)
    assert not list(tmp_path.glob(".*"))


def test_masks_come_back_from_coco(tmp_path: Path) -> None:
    file = CocoFile(categories_of(()))
    for index, mask in reversed(list(enumerate(masks()))):
        file.add(f"sub/{index}.png", (12, 9), objects(mask))
    file.write(tmp_path / "a.json")
    for index, mask in enumerate(masks()):
        assert np.array_equal(inside(read_file(tmp_path / "a.json" / "sub" / f"{index}.png")), mask)


@pytest.mark.parametrize("system", ["mcsc", "msnet"])
def test_classes_of_trained_systems_come_back(tmp_path: Path, system: str) -> None:
    names = SYSTEMS[system].classes
    labels = np.random.default_rng(1).integers(0, len(names), (9, 12))
    shapes = shapes_of(labels > 0, labels, categories_of(names))
    write_labelme(tmp_path / "a.json", tmp_path / "a.png", (12, 9), shapes)
    file = CocoFile(categories_of(names))
    file.add("a.png", (12, 9), shapes)
    file.write(tmp_path / "coco.json")
    for path in (tmp_path / "a.json", tmp_path / "coco.json" / "a.png"):
        assert np.array_equal(read_file(path).ids, labels)
    assert {each["name"] for each in load(tmp_path / "coco.json")["categories"]} == set(names[1:])


def test_labelme_opens_the_image_beside_its_file(tmp_path: Path) -> None:
    path, image = tmp_path / "out" / "sub" / "ä.png.labelme.json", tmp_path / "in" / "sub" / "ä.png"
    path.parent.mkdir(parents=True)
    write_labelme(path, image, (12, 9), objects(masks()[2]))
    data = load(path)
    assert data["imagePath"] == "../../in/sub/ä.png"
    assert os.path.normpath(path.parent / data["imagePath"]) == str(image)
    assert (data["imageWidth"], data["imageHeight"], data["imageData"]) == (12, 9, None)
    assert data.keys() == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    for each in data["shapes"]:
        assert (each["label"], each["shape_type"], each["mask"]) == ("object", "polygon", None)
        assert len(each["points"]) >= 4


def test_coco_has_what_its_format_asks_for(tmp_path: Path) -> None:
    file, mask = CocoFile({1: "object"}), np.zeros((9, 12), bool)
    mask[2:5, 3:9] = True
    mask[3, 4] = False
    mask[7:, 10:] = True
    file.add("b.png", (12, 9), objects(mask))
    file.add("a.png", (12, 9), [])
    file.write(tmp_path / "a.json")
    data = load(tmp_path / "a.json")
    assert [(each["id"], each["file_name"]) for each in data["images"]] == [(1, "a.png"), (2, "b.png")]
    assert [each["id"] for each in data["annotations"]] == [1, 2]
    first, second = data["annotations"]
    assert (first["bbox"], first["area"], first["image_id"], first["category_id"]) == ([3, 2, 6, 3], 17, 2, 1)
    assert (second["bbox"], second["area"], second["iscrowd"]) == ([10, 7, 2, 2], 4, 0)
    assert second["segmentation"] == [[10, 7, 12, 7, 12, 9, 10, 9]]
    assert data.keys() == {"info", "licenses", "categories", "images", "annotations"}


def test_the_order_of_adding_changes_nothing(tmp_path: Path) -> None:
    written = []
    for order in ((0, 1, 2), (2, 0, 1)):
        file = CocoFile({1: "object"})
        for index in order:
            file.add(f"{index}.png", (12, 9), objects(masks()[index]))
        file.write(tmp_path / "a.json")
        written.append((tmp_path / "a.json").read_bytes())
    assert written[0] == written[1]
