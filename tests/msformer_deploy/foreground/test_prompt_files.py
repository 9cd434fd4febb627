"""Prompts as text: options, JSON, CSV and images of strokes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msformer_deploy.errors import UsageError
from msformer_deploy.foreground.prompt_files import (
    parse_box,
    parse_point,
    parse_volume_box,
    parse_volume_point,
    read_prompts,
    read_scribble,
    record,
)
from msformer_deploy.foreground.prompts import Box, Point, Prompts, Scribble
from msformer_deploy.foreground.volume_prompts import VolumeBox, VolumePoint, VolumePrompts

VOLUME = Path("scans/v.nii.gz")
IMAGES = [Path("scans/one/a.png"), Path("scans/two/a.png"), Path("scans/b.dcm")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("60,45", Point(60, 45)), ("60,45,1", Point(60, 45)), ("60, 45,0", Point(60, 45, inside=False))],
)
def test_a_point(text, expected):
    assert parse_point(text) == expected


def test_a_box():
    assert parse_box("20,15,70,50") == Box(20, 15, 70, 50)


@pytest.mark.parametrize("text", ["", "60", "60,", "60,45,2", "1,2,3,4", "a,b", "1.5,2", "1,nan", "1,99999999999"])
def test_what_is_no_point(text):
    with pytest.raises(UsageError, match=r"is not X,Y or X,Y,0 or X,Y,1 in whole pixels, such as 60,45$"):
        parse_point(text)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x"])
def test_what_is_no_box(text):
    with pytest.raises(UsageError, match="is not X0,Y0,X1,Y1 in whole pixels"):
        parse_box(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-12.5,40,7", VolumePoint(-12.5, 40, 7)),
        ("1,2,1", VolumePoint(1, 2, 1)),  # of a volume the third number is never 0 or 1 for outside and inside
        ("1, 2,3e1,1", VolumePoint(1, 2, 30)),
        ("1,2,3,0", VolumePoint(1, 2, 3, inside=False)),
    ],
)
def test_a_point_of_a_volume(text, expected):
    assert parse_volume_point(text) == expected


def test_a_box_of_a_volume():
    assert parse_volume_box("-30,20,0.5,5,60,25") == VolumeBox(-30, 20, 0.5, 5, 60, 25)


@pytest.mark.parametrize("text", ["", "60,45", "1,2,3,2", "1,2,3,0.5", "1,2,3,4,5", "1,2,x", "1,2,nan", "1,2,inf"])
def test_what_is_no_point_of_a_volume(text):
    with pytest.raises(UsageError, match=r"of a volume is not X,Y,Z or X,Y,Z,0 or X,Y,Z,1 in millimetres, such as"):
        parse_volume_point(text)


@pytest.mark.parametrize("text", ["", "1,2,3,4", "1,2,3,4,5,x", "1,2,3,4,5,1e99"])
def test_what_is_no_box_of_a_volume(text):
    with pytest.raises(UsageError, match="of a volume is not X0,Y0,Z0,X1,Y1,Z1 in millimetres"):
        parse_volume_box(text)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_json_file_has_the_prompts_of_images_by_the_end_of_their_paths(tmp_path):
    strokes = np.zeros((8, 9, 3), np.uint8)
    strokes[2, 3], strokes[5, 6], strokes[0, 0] = (0, 255, 0), (255, 0, 0), (0, 250, 0)
    Image.fromarray(strokes).save(tmp_path / "s.png")
    told = {"one/a.png": {"points": [[60, 45], [5, 6, 0]], "boxes": [[1, 2, 3, 4]]}, "b.dcm": {"scribbles": "s.png"}}
    found = read_prompts(written(tmp_path, "p.json", json.dumps(told)), IMAGES)
    assert list(found) == [IMAGES[0], IMAGES[2]]
    assert found[IMAGES[0]] == Prompts([Point(60, 45), Point(5, 6, inside=False)], [Box(1, 2, 3, 4)])
    (scribble,) = found[IMAGES[2]].scribbles
    assert (np.argwhere(scribble.inside).tolist(), np.argwhere(scribble.outside).tolist()) == ([[2, 3]], [[5, 6]])


def test_a_csv_file_has_a_line_for_each_prompt(tmp_path):
    lines = ["one/a.png,60,45,,,", "one/a.png,5,6,0,,", "b.dcm,1,2,,3,4", "one/a.png,7,8,1,,"]
    text = "\n".join(["\ufeffimage,x,y,inside,right,bottom", *lines])
    found = read_prompts(written(tmp_path, "p.csv", text), IMAGES)
    assert list(found[IMAGES[0]].points) == [Point(60, 45), Point(5, 6, inside=False), Point(7, 8)]
    assert found[IMAGES[2]].boxes == (Box(1, 2, 3, 4),)
    short = read_prompts(written(tmp_path, "q.csv", "image,x,y\nb.dcm,1,2\n"), IMAGES)
    assert list(short[IMAGES[2]].points) == [Point(1, 2)]


def test_files_have_prompts_of_volumes_beside_those_of_images(tmp_path):
    expected = VolumePrompts(
        [VolumePoint(-12.5, 40, 7), VolumePoint(1, 2, 3, inside=False)], [VolumeBox(-30, 20, 0, 5, 60, 25)]
    )
    told = {"v.nii.gz": {"points": [[-12.5, 40, 7], [1, 2, 3, 0]], "boxes": [[-30, 20, 0, 5, 60, 25]]}}
    told["one/a.png"] = {"points": [[60, 45]]}
    lines = [
        "image,x,y,z,inside,x1,y1,z1",
        "v.nii.gz,-12.5,40,7,,,,",
        "v.nii.gz,1,2,3,0,,,",
        "v.nii.gz,-30,20,0,,5,60,25",
        "one/a.png,60,45,,,,,",
    ]
    for path in (
        written(tmp_path, "p.json", json.dumps(told)),
        written(tmp_path, "p.csv", "\n".join(lines)),
    ):
        found = read_prompts(path, [*IMAGES, VOLUME], [VOLUME])
        assert found == {VOLUME: expected, IMAGES[0]: Prompts([Point(60, 45)], [])}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.json", '{"v.nii.gz": {"points": [[1, 2]]}}', r"a point of the volume 'v\.nii\.gz' is not \[x, y, z\]"),
        ("p.json", '{"v.nii.gz": {"points": [[1, 2, 3, true]]}}', "a point of the volume 'v.nii.gz' is not"),
        ("p.json", '{"v.nii.gz": {"boxes": [[1, 2, 3, 4]]}}', "a box of the volume 'v.nii.gz' is not"),
        ("p.json", '{"v.nii.gz": {"scribbles": "s.png"}}', "is a volume, and scribbles are for images; drop them"),
        ("p.csv", "image,x,y\nv.nii.gz,1,2\n", "line 2 is no prompt; a line of a volume has x, y and z in mill"),
        ("p.csv", "image,x,y,z,right,bottom\nv.nii.gz,1,2,3,4,5\n", "line 2 is no prompt; a line of a volume"),
        ("p.csv", "image,x,y,z,x1,y1\nv.nii.gz,1,2,3,4,5\n", "line 2 is no prompt; a line of a volume"),
        ("p.csv", "image,x,y,z\nb.dcm,1,2,3\n", "line 2 is no prompt; the heading is image,x,y,inside,right,bottom"),
    ],
)
def test_a_file_that_does_not_fit_the_kind_of_its_input_is_one_line(tmp_path, name, text, said):
    with pytest.raises(UsageError, match=said) as error:
        read_prompts(written(tmp_path, name, text), [*IMAGES, VOLUME], [VOLUME])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "", "--prompts takes a .json or .csv file"),
        ("p.json", "{", "is not valid JSON"),
        ("p.json", "[" * 100_000, "is not valid JSON"),
        ("p.json", "[]", "is not an object such as"),
        ("p.json", "{}", "has no prompts"),
        ("p.json", '{"b.dcm": {}}', "'b.dcm' needs an object with points, boxes, scribbles"),
        ("p.json", '{"b.dcm": {"point": [[1, 2]]}}', "'b.dcm' needs an object with"),
        ("p.json", '{"b.dcm": {"points": [1, 2]}}', r"a point of 'b.dcm' is not \[x, y\]"),
        ("p.json", '{"b.dcm": {"points": [[1, 2, true]]}}', "a point of 'b.dcm' is not"),
        ("p.json", '{"b.dcm": {"points": [[1, 2.5]]}}', "a point of 'b.dcm' is not"),
        ("p.json", '{"b.dcm": {"points": {}}}', "the points of 'b.dcm' are not a list"),
        ("p.json", '{"b.dcm": {"boxes": [[1, 2, 3]]}}', "a box of 'b.dcm' is not"),
        ("p.json", '{"b.dcm": {"scribbles": 3}}', "are not the name of an image"),
        ("p.json", '{"b.dcm": {"scribbles": "gone.png"}}', "gone.png"),
        ("p.json", '{"c.png": {"points": [[1, 2]]}}', "c.png names none of the inputs"),
        ("p.json", '{"a.png": {"points": [[1, 2]]}}', "a.png names 2 of the inputs; write more of its path"),
        ("p.json", '{"b.dcm": {"points": [[1, 2]]}, "scans/b.dcm": {"points": [[1, 2]]}}', "under two names"),
        ("p.csv", "image,x,y\n", "has no prompts"),
        ("p.csv", "image,x,y\nb.dcm,1\n", "line 2 is no prompt"),
        ("p.csv", "image,x,y\nb.dcm,1,2,3,4\n", "line 2 is no prompt"),
        ("p.csv", "name,x,y\nb.dcm,1,2\n", "its first line is no heading such as image,x,y,inside,right,bottom;"),
        ("p.csv", "", "its first line is no heading"),
        ("p.csv", "b.dcm,1,2\n", "its first line is no heading"),
        ("p.csv", "image;x;y\nb.dcm;1;2\n", "with commas between them"),
        ("p.csv", "image\tx\ty\nb.dcm\t1\t2\n", "with commas between them"),
        ("p.csv", "Image,X,Y\nb.dcm,1,2\n", "write these names in small letters"),
        ("p.csv", "image,x,y,x\nb.dcm,1,2,3\n", "its first line is no heading"),
        ("p.csv", "image,x,y\nb.dcm,1,2\n\n\nb.dcm,1,\n", "line 5 is no prompt"),
        ("p.csv", 'image,x,y\nb.dcm,1,2\nb.dcm,1,"2', "line 3 is not valid CSV"),
        ("p.csv", "image,x,y,inside,right,bottom\nb.dcm,1,2,0,3,4\n", "line 2 is a box with inside 0.*leave inside"),
        ("p.json", '{"b.dcm": {"points": [["1", "2"]]}}', "a point of 'b.dcm' is not"),
        ("p.json", '{"b.dcm": {"points": [[1, ' + "9" * 5000 + "]]}}", "a point of 'b.dcm' is not"),
        ("p.json", '{"b.dcm": {"points": [[1, 2]]}, "b.dcm": {"points": [[3, 4]]}}', "has 'b.dcm' twice in one object"),
        ("p.json", '{"b.dcm": {"points": [[1, 2]], "points": [[3, 4]]}}', "has 'points' twice in one object"),
        ("p.json", '{"b\\u0000": {"points": [[1, 2]]}}', "names none of the inputs"),
        ("p.csv", "image,x,y,inside\nb.dcm,1,2,\nb.dcm,1,2,yes\n", "line 3 is no prompt"),
        ("p.csv", "image,x,y,right,bottom\nb.dcm,1,2,3,\n", "line 2 is no prompt"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, name, text, said):
    with pytest.raises(UsageError, match=said) as error:
        read_prompts(written(tmp_path, name, text), IMAGES)
    assert "\n" not in str(error.value)


def test_an_image_may_be_named_from_the_root_or_through_other_folders(tmp_path, monkeypatch):
    (tmp_path / "scans").mkdir()
    monkeypatch.chdir(tmp_path)
    image = Path("scans/a.png")
    for key in (str(tmp_path / "scans" / "a.png"), "./scans/../scans/a.png"):
        path = written(tmp_path, "p.json", json.dumps({key: {"points": [[1, 2]]}}))
        assert list(read_prompts(path, [image])) == [image]
        assert list(read_prompts(path, [image.resolve()])) == [image.resolve()]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"p\.json: cannot be read"):
        read_prompts(tmp_path / "p.json", IMAGES)
    (tmp_path / "q.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"q\.csv: is not text in UTF-8"):
        read_prompts(tmp_path / "q.csv", IMAGES)


def test_an_image_without_strokes_is_refused(tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "white.png")
    with pytest.raises(UsageError, match="has no stroke; paint pure green"):
        read_scribble(tmp_path / "white.png")


@pytest.mark.parametrize(
    ("name", "options"),
    [("s.jpg", {"quality": 100}), ("s.webp", {}), ("s.jp2", {}), ("s.tif", {"compression": "jpeg"})],
)
def test_strokes_in_a_format_with_loss_are_refused(tmp_path, name, options):
    strokes = np.full((32, 32, 3), 90, np.uint8)
    strokes[8:16] = 0, 255, 0
    Image.fromarray(strokes).save(tmp_path / name, **options)
    with pytest.raises(UsageError, match=rf"{name}: is in a format that changes colours.* store them as PNG$"):
        read_scribble(tmp_path / name)
    Image.fromarray(strokes).save(tmp_path / f"{name}.png")
    assert read_scribble(tmp_path / f"{name}.png").inside.sum() == 8 * 32


def test_a_record_has_points_and_boxes_and_the_size_of_strokes():
    shown = Prompts([Point(1, 2), Point(3, 4, inside=False)], Box(0, 0, 5, 5), [Scribble(*np.ones((2, 3, 4), bool))])
    found = record(shown)
    (strokes,) = found.pop("scribbles")
    assert found == {"points": [[1, 2, 1], [3, 4, 0]], "boxes": [[0, 0, 5, 5]]}
    assert (strokes["inside"], strokes["outside"], len(strokes["sha256"])) == (12, 12, 64)
    assert record(Prompts([Point(1, 2)])) == {"points": [[1, 2, 1]]}


def test_a_record_tells_strokes_with_as_many_pixels_apart():
    first, none = np.eye(8, dtype=bool), np.zeros((8, 8), bool)
    shown = [(first, none), (first[::-1], none), (none, first), (first.reshape(4, 16), none.reshape(4, 16))]
    records = [json.dumps(record(Prompts(scribbles=[Scribble(*each)]))) for each in shown]
    assert len(set(records)) == len(records)
    assert records[0] == json.dumps(record(Prompts(scribbles=[Scribble(first.copy(), none.copy())])))


def test_a_record_has_the_millimetres_of_a_volume():
    shown = VolumePrompts([VolumePoint(-1.5, 2, 3, inside=False)], [VolumeBox(1, 2, 3, 4, 5, 6)])
    assert record(shown) == {"points": [[-1.5, 2, 3, 0]], "boxes": [[1, 2, 3, 4, 5, 6]]}
