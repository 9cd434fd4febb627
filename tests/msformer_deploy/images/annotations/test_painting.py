"""COCO and LabelMe files as ground truth: what they mean, and one line on what is wrong with them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.errors import ImageError, UsageError
from msformer_deploy.images.annotations import coco, rle
from msformer_deploy.images.annotations.shapes import BadShape
from msformer_deploy.images.masks import inside, read_file
from msformer_deploy.images.pairing import pair_folders
from msformer_deploy.images.read import InputImage, image_from_array
from msformer_deploy.images.truth import read_truths
from msformer_deploy.training.supervised.pairs import check, find_pairs, read_binary_mask

SQUARE = [[2, 1], [6, 1], [6, 5], [2, 5]]
PYCOCOTOOLS = "e04600000k1"
FLAT = [2, 1, 6, 1, 6, 5, 2, 5]


def square() -> np.ndarray:
    mask = np.zeros((10, 12), bool)
    mask[1:5, 2:6] = True
    return mask


@pytest.fixture
def image() -> InputImage:
    return image_from_array(np.random.default_rng(0).integers(0, 255, (10, 12), np.uint8))


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def labelme(path: Path, *shapes: dict[str, Any], **changes: Any) -> Path:
    content = {"version": "5.5.0", "shapes": list(shapes), "imagePath": "x.png", "imageHeight": 10, "imageWidth": 12}
    path.write_text(json.dumps(content | changes))
    return path


def shape(label: str = "1", kind: str | None = "polygon", points: Any = SQUARE, **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, **more}


def coco_file(path: Path, *annotations: dict[str, Any], images: Any = None, categories: Any = None) -> Path:
    images = [{"id": 7, "file_name": "x.png", "width": 12, "height": 10}] if images is None else images
    categories = [{"id": 1, "name": "polyp"}, {"id": 3, "name": "lesion"}] if categories is None else categories
    content = {"images": images, "annotations": list(annotations), "categories": categories}
    path.write_text(json.dumps(content))
    return path


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [FLAT], "bbox": [0, 0, 1, 1]} | changes


def runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff([0, *changes, mask.size]).tolist()


class TestLabelMe:
    @pytest.mark.parametrize(
        "each",
        [
            shape(),
            shape(kind=None),
            shape(kind="oriented_rectangle"),
            shape(kind="rectangle", points=[[6, 5], [2, 1]]),
            shape(kind="mask", points=[[2, 1], [5, 4]], mask=png(np.ones((4, 4), bool))),
            shape(points=[[1.6, 0.8], [6.2, 0.9], [6.3, 5.4], [1.7, 5.2]]),
        ],
        ids=lambda each: str(each["shape_type"]),
    )
    def test_shapes(self, tmp_path: Path, image: InputImage, each: dict[str, Any]) -> None:
        assert np.array_equal(inside(read_file(labelme(tmp_path / "x.json", each), image)), square())

    def test_a_circle(self, tmp_path: Path, image: InputImage) -> None:
        found = inside(read_file(labelme(tmp_path / "x.json", shape(kind="circle", points=[[1, 5], [4, 5]])), image))
        rows, columns = np.indices((10, 12)) + 0.5
        assert np.array_equal(found, np.hypot(rows - 5, columns - 1) <= 3)

    def test_later_shapes_cover_earlier_ones_and_the_background_cuts_holes(
        self, tmp_path: Path, image: InputImage
    ) -> None:
        hole = shape("_background_", points=[[3, 2], [5, 2], [5, 4], [3, 4]])
        path = labelme(tmp_path / "x.json", shape("2"), hole, shape("5", "rectangle", [[5, 1], [8, 3]]))
        ids = read_file(path, image).ids
        assert ids is not None
        assert ids[1:5, 2:8].tolist() == [
            [2, 2, 2, 5, 5, 5],
            [2, 0, 0, 5, 5, 5],
            [2, 0, 0, 2, 0, 0],
            [2, 2, 2, 2, 0, 0],
        ]

    def test_names_of_classes_are_ids_and_others_are_not(self, tmp_path: Path, image: InputImage) -> None:
        path = labelme(tmp_path / "x.json", shape("Left Ventricle"), shape("1", "rectangle", [[8, 6], [10, 9]]))
        truths = read_truths(path, image, (1, 3))
        assert np.array_equal(truths.masks[3], square())
        path = labelme(tmp_path / "y.json", shape("polyp"))
        assert np.array_equal(read_truths(path, image).masks[None], square())
        with pytest.raises(ImageError, match=r"y\.json: the label 'polyp' is no class id; use numbers as labels"):
            read_truths(path, image, (1,))

    def test_two_names_are_two_kinds_for_training(self, tmp_path: Path, image: InputImage) -> None:
        path = labelme(tmp_path / "x.json", shape("a"), shape("b", "rectangle", [[8, 6], [10, 9]]))
        with pytest.raises(ImageError, match="the values 0, 1, 2"):
            read_binary_mask(path, image)
        assert np.array_equal(read_binary_mask(labelme(tmp_path / "x.json", shape("a")), image), square())

    def test_many_labels_are_not_soft_values(self, tmp_path: Path, image: InputImage) -> None:
        many = [shape(str(n + 110), "rectangle", [[n % 12, n // 12], [n % 12 + 1, n // 12 + 1]]) for n in range(39)]
        assert inside(read_file(labelme(tmp_path / "x.json", *many), image)).sum() == 39

    def test_an_image_without_objects_has_an_empty_mask(self, tmp_path: Path, image: InputImage) -> None:
        assert not inside(read_file(labelme(tmp_path / "x.json"), image)).any()

    def test_an_early_file_has_no_size(self, tmp_path: Path, image: InputImage) -> None:
        path = labelme(tmp_path / "x.json", shape(), imageHeight=None, imageWidth=None)
        assert np.array_equal(inside(read_file(path, image)), square())
        with pytest.raises(ImageError, match="has no width and height of its image; add them"):
            read_file(path)

    @pytest.mark.parametrize(
        ("shapes", "changes", "reason"),
        [
            ([], {"imageWidth": 24, "imageHeight": 20}, "was annotated at 24 x 20, but the image has 12 x 10"),
            ([shape(kind="line")], {}, "a shape of the type 'line' has no area; draw a polygon"),
            ([shape(kind="spline")], {}, "a shape of the type 'spline' has no area"),
            ([shape(points=SQUARE[:2])], {}, "a polygon has 2 points; draw at least 3"),
            (
                [shape(points=[[0, 0], [40, 0], [40, 5]])],
                {},
                "a point at x = 40, y = 0 is outside the image of 12 x 10",
            ),
            ([shape(points=[[0, -1e300], [4, 0], [4, 5]])], {}, "outside the image"),
            ([shape(kind="rectangle")], {}, "a rectangle has 4 points and needs 2"),
            ([shape(kind="circle", points=[[1, 1]])], {}, "a circle has 1 points and needs 2"),
            ([shape(kind="mask", mask="?")], {}, "a mask that is not a PNG in base64"),
            ([shape(kind="mask")], {}, "a mask that is not a PNG in base64"),
            ([shape(kind="mask", points=[[9, 9]], mask=png(np.ones((4, 4), bool)))], {}, "a mask of 4 x 4 at x = 9, y"),
            ([shape("__ignore__")], {}, "label __ignore__, but every pixel is judged; delete the shape"),
            ([{"points": SQUARE}], {}, "is not a LabelMe file .*missing required field `label`"),
            ([shape(points=[[1, "a"]])], {}, "is not a LabelMe file"),
            ([shape(points=[[1, 2, 3]])], {}, "is not a LabelMe file"),
            ([], {"shapes": None}, "is not a LabelMe file"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(
        self, tmp_path: Path, image: InputImage, shapes: Any, changes: Any, reason: str
    ) -> None:
        path = labelme(tmp_path / "x.json", *shapes, **changes)
        with pytest.raises(ImageError, match=reason) as failure:
            read_file(path, image)
        assert str(failure.value).startswith(f"{path}: ")
        assert "\n" not in str(failure.value)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"shapes": [', '{"shapes": [{"label": NaN}]}', "\x00", "ÿ"])
    def test_what_is_no_json_is_said_in_one_line(self, tmp_path: Path, image: InputImage, text: str) -> None:
        path = tmp_path / "x.json"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ImageError, match=r"x\.json: is not a LabelMe file"):
            read_file(path, image)
        with pytest.raises(ImageError, match=r"gone\.json: cannot be read \(No such file"):
            read_file(tmp_path / "gone.json", image)


class TestCoco:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"segmentation": [[2, 1, 6, 1, 6, 3, 2, 3], [2, 3, 6, 3, 6, 5, 2, 5]]},
            {"segmentation": {"size": [10, 12], "counts": runs(square())}, "iscrowd": 1},
            {"segmentation": {"size": [10, 12], "counts": PYCOCOTOOLS}},
            {"segmentation": [], "bbox": [2, 1, 4, 4]},
            {"segmentation": None, "bbox": [2, 1, 4, 4]},
        ],
    )
    def test_forms(self, tmp_path: Path, image: InputImage, changes: dict[str, Any]) -> None:
        path = coco_file(tmp_path / "coco.json", annotation(**changes))
        assert np.array_equal(inside(read_file(path / "x.png", image)), square())

    def test_classes_are_categories(self, tmp_path: Path, image: InputImage) -> None:
        other = annotation(category_id=3, segmentation=[[5, 1, 8, 1, 8, 3, 5, 3]])
        path = coco_file(tmp_path / "coco.json", annotation(), other)
        truths = read_truths(path / "x.png", image, (1, 2, 3))
        assert [mask.sum() for mask in truths.masks.values()] == [14, 0, 6]

    def test_a_category_0_has_no_id(self, tmp_path: Path, image: InputImage) -> None:
        categories = [{"id": 0, "name": "polyp"}, {"id": 1, "name": "lesion"}]
        path = coco_file(tmp_path / "coco.json", annotation(category_id=0), categories=categories)
        assert np.array_equal(read_truths(path / "x.png", image).masks[None], square())
        with pytest.raises(ImageError, match="the category 'polyp' has the id 0, and 0 is the background"):
            read_truths(path / "x.png", image, (1,))

    def test_an_image_without_objects_has_an_empty_mask(self, tmp_path: Path, image: InputImage) -> None:
        assert not inside(read_file(coco_file(tmp_path / "coco.json") / "x.png", image)).any()

    def test_a_file_that_changes_is_read_again(self, tmp_path: Path, image: InputImage) -> None:
        path = coco_file(tmp_path / "coco.json")
        assert not inside(read_file(path / "x.png", image)).any()
        coco_file(path, annotation())
        assert inside(read_file(path / "x.png", image)).any()

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"category_id": 2}, "the category 2, which the file does not list"),
            ({"segmentation": [[1, 2, 3]]}, "an x without a y"),
            ({"segmentation": [[1, 2, 3, 4]]}, "a polygon has 2 points"),
            ({"segmentation": [[0, 0, 50, 0, 50, 5]]}, "a point at x = 50, y = 0 is outside the image of 12 x 10"),
            ({"segmentation": [], "bbox": None}, "neither a segmentation nor a box"),
            ({"segmentation": [], "bbox": [2, 1, 40, 4]}, "a point at x = 42, y = 5 is outside"),
            ({"segmentation": {"size": [12, 10], "counts": [120]}}, "run lengths of 10 x 12 in an image of 12 x 10"),
            ({"segmentation": {"size": [10, 12], "counts": [50, 60]}}, "do not fill a mask of 12 x 10"),
            ({"segmentation": {"size": [10, 12], "counts": [150, -30]}}, "do not fill a mask of 12 x 10"),
            ({"segmentation": {"size": [10, 12], "counts": "~~"}}, "characters that COCO does not have"),
        ],
    )
    def test_what_is_wrong_with_an_image_is_said_in_one_line(
        self, tmp_path: Path, image: InputImage, changes: dict[str, Any], reason: str
    ) -> None:
        path = coco_file(tmp_path / "coco.json", annotation(**changes))
        with pytest.raises(ImageError, match=reason) as failure:
            read_file(path / "x.png", image)
        assert str(failure.value).startswith(f"{path}: x.png: ")

    def test_another_size_is_refused(self, tmp_path: Path, image: InputImage) -> None:
        images = [{"id": 7, "file_name": "x.png", "width": 24, "height": 20}]
        path = coco_file(tmp_path / "coco.json", annotation(), images=images)
        with pytest.raises(ImageError, match=r"x\.png: was annotated at 24 x 20, but the image has 12 x 10"):
            read_file(path / "x.png", image)

    def test_an_image_that_is_not_listed(self, tmp_path: Path, image: InputImage) -> None:
        with pytest.raises(ImageError, match=r"y\.png: is not among the images of this COCO file"):
            read_file(coco_file(tmp_path / "coco.json") / "y.png", image)

    @pytest.mark.parametrize(
        "name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "\\\\host\\x.png", ""]
    )
    def test_names_that_lead_out_of_the_folder_are_refused(self, tmp_path: Path, name: str) -> None:
        path = coco_file(tmp_path / "coco.json", images=[{"id": 7, "file_name": name}])
        with pytest.raises(UsageError, match="leads out of the folder of images"):
            coco.names(path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("", "is not a COCO file"),
            ("[]", "is not a COCO file"),
            ('{"images": []}', "is not a COCO file .*missing required field `annotations`"),
            ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "missing required field `file_name`"),
            (
                '{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "annotations": [],'
                ' "categories": []}',
                "names the image a twice",
            ),
            (
                '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": [],'
                ' "categories": []}',
                "two images with one id",
            ),
            (
                '{"images": [], "annotations": [{"image_id": 4, "category_id": 1}], "categories": []}',
                "annotations of an image 4, which it does not list",
            ),
        ],
    )
    def test_what_is_no_coco_file_is_refused(self, tmp_path: Path, content: str, reason: str) -> None:
        (tmp_path / "coco.json").write_text(content)
        with pytest.raises(UsageError, match=reason) as failure:
            coco.names(tmp_path / "coco.json")
        assert "\n" not in str(failure.value)


def encoded(counts: list[int]) -> str:
    """The text of run lengths, as ``rleToString`` of maskApi.c makes it."""
    text = ""
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            code = value & 31
            value >>= 5
            more = value != -1 if code & 16 else value != 0
            text += chr((code | 32 if more else code) + 48)
    return text


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_in_both_forms(seed: int) -> None:
    mask = np.random.default_rng(seed).random((40, 70)) < (0.5, 0.01, 0.99, 0.1, 0.9)[seed]
    assert np.array_equal(rle.decode(runs(mask), mask.shape), mask)
    assert np.array_equal(rle.decode(encoded(runs(mask)), mask.shape), mask)


def test_a_text_of_pycocotools() -> None:
    """``pycocotools.mask.encode`` of the square, version 2.0.11."""
    assert np.array_equal(rle.decode(PYCOCOTOOLS, (10, 12)), square())
    with pytest.raises(BadShape, match="do not fill"):
        rle.decode(PYCOCOTOOLS[:-1], (10, 12))


class TestPairs:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        folder = tmp_path / "images"
        for index, name in enumerate(("x.png", "sub/y.png", "sub/z.jpg")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 255, (10, 12), np.uint8)
            Image.fromarray(noise).save(folder / name)
        return folder

    def names(self, images: Path, masks: Path) -> dict[str, str]:
        found = pair_folders(images, masks)
        return {
            one.relative_to(images).as_posix(): two.relative_to(masks).as_posix() for one, two in found.pairs.items()
        }

    def listed(self, path: Path, *names: str) -> Path:
        return coco_file(path, images=[{"id": n, "file_name": name} for n, name in enumerate(names)])

    def test_a_coco_file_for_all(self, tmp_path: Path, images: Path) -> None:
        path = self.listed(tmp_path / "coco.json", "x.png", "sub\\y.png", "other.png")
        found = pair_folders(images, path)
        assert list(found.pairs.values()) == [path / "sub" / "y.png", path / "x.png"]
        assert found.images_without_mask == (images / "sub" / "z.jpg",)
        assert found.masks_without_image == (path / "other.png",)

    def test_names_without_folders_and_with_those_of_images(self, tmp_path: Path, images: Path) -> None:
        path = self.listed(tmp_path / "coco.json", "x.png", "y.png", "images/sub/z.jpg")
        assert set(self.names(images, path)) == {"x.png", "sub/y.png", "sub/z.jpg"}

    def test_ambiguous_names_are_refused(self, tmp_path: Path, images: Path) -> None:
        path = self.listed(tmp_path / "coco.json", "a/x.png", "b/x.png")
        with pytest.raises(UsageError, match="a second mask of"):
            pair_folders(images, path)

    def test_the_same_name_with_other_suffixes(self, tmp_path: Path, images: Path) -> None:
        Image.new("L", (12, 10)).save(images / "x.bmp")
        path = self.listed(tmp_path / "coco.json", "x.png", "x.bmp")
        assert self.names(images, path) == {"x.png": "x.png", "x.bmp": "x.bmp"}

    def test_labelme_files_in_a_folder(self, tmp_path: Path, images: Path) -> None:
        masks = tmp_path / "masks"
        (masks / "sub").mkdir(parents=True)
        labelme(masks / "x.json")
        labelme(masks / "sub" / "y.png.labelme.json")
        (masks / "sub" / "z.json").write_text('{"record": 1}')
        (masks / "report.json").write_text("{}")
        assert self.names(images, masks) == {"x.png": "x.json", "sub/y.png": "sub/y.png.labelme.json"}

    def test_labelme_files_beside_the_images(self, images: Path) -> None:
        labelme(images / "x.json")
        labelme(images / "sub" / "y.json")
        assert self.names(images, images) == {"x.png": "x.json", "sub/y.png": "sub/y.json"}

    def test_labelme_files_beside_copies_of_the_images(self, tmp_path: Path, images: Path) -> None:
        masks = tmp_path / "masks"
        masks.mkdir()
        (masks / "x.png").write_bytes((images / "x.png").read_bytes())
        labelme(masks / "x.json")
        assert self.names(images, masks) == {"x.png": "x.json"}

    def test_a_labelme_file_beside_a_mask_of_run_is_ambiguous(self, tmp_path: Path, images: Path) -> None:
        results = tmp_path / "results"
        results.mkdir()
        Image.new("L", (12, 10)).save(results / "x.png.mask.png")
        labelme(results / "x.png.labelme.json")
        with pytest.raises(UsageError, match="a second mask of"):
            pair_folders(images, results)

    def test_training_reads_both(self, tmp_path: Path) -> None:
        images = tmp_path / "images"
        images.mkdir()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 12), np.uint8)).save(images / "x.png")
        path = coco_file(tmp_path / "coco.json", annotation())
        (pair,) = find_pairs(images, path)
        assert np.array_equal(
            read_binary_mask(pair.mask, image_from_array(np.asarray(Image.open(pair.image)))), square()
        )
        before = check([pair], lambda: None)
        coco_file(path, annotation(segmentation=[[2, 1, 6, 1, 6, 4, 2, 4]]))
        assert check([pair], lambda: None) != before
