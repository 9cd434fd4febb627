"""Slices of patients: found, named, split by patient, checked and read; what is wrong with a file is one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from locations import DATA
from PIL import Image

from msformer_deploy.errors import BackendUnavailable, ImageError, UsageError
from msformer_deploy.training.semi_supervised.slices import (
    Slice,
    Split,
    check,
    choice,
    find_slices,
    read_labels,
    read_slice,
    split,
    volumes,
)

h5py = pytest.importorskip("h5py")
CLASSES = range(4)


def write(folder: Path, name: str, **sets: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        for key, value in sets.items():
            file[key] = value
    return folder / f"{name}.h5"


def plane(seed: int = 0, shape: tuple[int, int] = (20, 16)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def labels(seed: int = 0, shape: tuple[int, int] = (20, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five patients with two volumes of two slices; the last one's second volume has no labels."""
    for patient in range(5):
        for frame in (1, 12):
            for index in (9, 10):
                sets = {"image": plane(patient + frame + index)}
                if (patient, frame) != (4, 12):
                    sets["label"] = labels(index)
                write(tmp_path / "slices", f"patient{patient:03}_frame{frame:02}_slice_{index}", **sets)
    return tmp_path / "slices"


def patients(part: tuple[Slice, ...]) -> set[str]:
    return {each.patient for each in part}


def test_names_tell_patient_volume_and_place(folder):
    found = find_slices(folder)
    assert len(found) == 20
    first = found[0]
    assert (first.patient, first.volume, first.index, first.labelled) == ("patient000", "patient000_frame01", 9, True)
    assert [each.index for each in found[:4]] == [9, 10, 9, 10]
    assert [each.labelled for each in found[-4:]] == [True, True, False, False]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("patient001_frame01_slice_0", ("patient001", "patient001_frame01", 0)),
        ("case_7_slice12", ("case_7", "case_7", 12)),
        ("A_frameED", ("A", "A_frameED", 0)),
        ("IMD004", ("IMD004", "IMD004", 0)),
    ],
)
def test_other_names(tmp_path, stem, expected):
    write(tmp_path, stem, image=plane())
    (found,) = find_slices(tmp_path)
    assert (found.patient, found.volume, found.index) == expected


def test_names_of_another_kind(tmp_path):
    write(tmp_path, "s3-p17", image=plane())
    (found,) = find_slices(tmp_path, names=r"s(?P<index>\d+)-(?P<patient>p\d+)")
    assert (found.patient, found.volume, found.index) == ("p17", "p17", 3)
    with pytest.raises(UsageError, match=r"s3-p17\.h5: the name has no patient in it"):
        find_slices(tmp_path, names=r"(?P<patient>q\d+)")


class TestImages:
    @pytest.fixture
    def pictures(self, tmp_path: Path) -> tuple[Path, Path]:
        images, masks = tmp_path / "images", tmp_path / "masks"
        images.mkdir()
        masks.mkdir()
        for index in range(4):
            grey = (plane(index) * 255).astype(np.uint8)
            Image.fromarray(grey).save(images / f"p{index}_slice_0.png")
            if index < 3:
                Image.fromarray(labels(index) * np.uint8(85)).save(masks / f"p{index}_slice_0.png")
        return images, masks

    def test_masks_of_some(self, pictures):
        found = find_slices(*pictures)
        assert [each.labelled for each in found] == [True, True, True, False]
        np.testing.assert_allclose(read_slice(found[0]), np.floor(plane(0) * 255) / 255, atol=1e-6)
        np.testing.assert_array_equal(read_labels(found[1], (0, 85, 170, 255)), labels(1))

    def test_without_masks_nothing_is_labelled(self, pictures):
        assert not any(each.labelled for each in find_slices(pictures[0]))

    def test_a_deep_picture_and_one_in_colours(self, tmp_path):
        deep = (plane() * 65535).astype(np.uint16)
        Image.fromarray(deep).save(tmp_path / "a.png")
        Image.fromarray(np.stack([np.full((20, 16), 255, np.uint8), *[np.eye(20, 16, dtype=np.uint8)] * 2], 2)).save(
            tmp_path / "b.png"
        )
        one, other = find_slices(tmp_path)
        np.testing.assert_allclose(read_slice(one), deep / 65535, atol=1e-6)
        assert read_slice(other)[0, 1] == pytest.approx(0.299, abs=1e-3)
        assert read_slice(other).dtype == np.float32

    def test_a_mask_of_another_size_and_one_without_classes(self, pictures):
        images, masks = pictures
        Image.fromarray(labels(0, (40, 32))).save(masks / "p0_slice_0.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 16, 3), np.uint8)).save(masks / "p1_slice_0.png")
        found = find_slices(images, masks)
        with pytest.raises(ImageError, match=r"p0_slice_0\.png: labels and image are 32 x 40 and 16 x 20 pixels"):
            read_labels(found[0], CLASSES)
        with pytest.raises(ImageError, match=r"p1_slice_0\.png: a coloured or lossily compressed mask"):
            read_labels(found[1], CLASSES)


class TestSplit:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(("labelled", "held_out", "counts"), [(1, 1, (1, 3, 1)), (0.4, 0.2, (2, 2, 1))])
    def test_no_patient_is_in_two_parts_and_none_is_lost(self, folder, seed, labelled, held_out, counts):
        parts = split(find_slices(folder), labelled, held_out, seed)
        found = [patients(part) for part in (parts.labelled, parts.unlabelled, parts.held_out)]
        assert tuple(map(len, found)) == counts
        assert len(set.union(*found)) == 5
        assert sum(map(len, (parts.labelled, parts.unlabelled, parts.held_out))) == 20
        assert "patient004" in found[1], "one whose slices are not all labelled can neither teach nor judge"

    def test_the_seed_decides(self, folder):
        found = find_slices(folder)
        drawn = {(parts.labelled, parts.held_out) for parts in (split(found, 1, 1, seed) for seed in (0, 0, 1, 2, 3))}
        assert 2 <= len(drawn) <= 4

    def test_who_is_named_is_taken(self, folder):
        found = find_slices(folder)
        parts = split(found, ("patient002", "patient000"), ("patient003",), 0)
        assert patients(parts.labelled) == {"patient000", "patient002"}
        assert patients(parts.held_out) == {"patient003"}
        for seed in range(5):
            assert patients(split(found, ("patient002",), 2, seed).held_out).isdisjoint({"patient002", "patient004"})

    @pytest.mark.parametrize(
        ("labelled", "held_out", "part"),
        [
            (4, 1, "cannot draw 4 labelled patients; 3 others of 5 have a truth for every slice"),
            (0, 1, "cannot draw 0 labelled patients"),
            (1, 9, "cannot draw 9 held out patients"),
            (("patient009",), 1, "patient009: labelled by the list, but no slice has this patient's name"),
            (("patient004",), 1, "patient004: labelled by the list, but 2 of 4 slices have no truth"),
            (("patient001",), ("patient001",), "patient001: both labelled and held out"),
        ],
    )
    def test_what_cannot_be_done(self, folder, labelled, held_out, part):
        with pytest.raises(UsageError, match=part):
            split(find_slices(folder), labelled, held_out, 0)

    def test_one_patient_is_too_few(self, tmp_path):
        write(tmp_path, "patient001_frame01_slice_0", image=plane(), label=labels())
        with pytest.raises(UsageError, match="1 slices of 1 patient: too few; give at least 2 patients"):
            split(find_slices(tmp_path), 1, 1, 0)


def test_choices(tmp_path):
    assert (choice("3"), choice("0.1"), choice(".5")) == (3, 0.1, 0.5)
    path = tmp_path / "list.txt"
    path.write_text("patient002\n\n patient001 \npatient002\n")
    assert choice(str(path)) == ("patient002", "patient001")
    path.write_text("\n")
    with pytest.raises(UsageError, match="lists no patient"):
        choice(str(path))
    for text in (str(tmp_path / "nowhere"), "-1", "1.5", str(tmp_path)):
        with pytest.raises(UsageError, match=r"is not a number of patients, a share such as .*, or a file"):
            choice(text)


def test_volumes_are_in_order(folder):
    found = volumes(find_slices(folder)[::-1])
    assert list(found)[:2] == [("patient000", "patient000_frame01"), ("patient000", "patient000_frame12")]
    assert [each.index for each in found["patient000", "patient000_frame01"]] == [9, 10]


class TestCheck:
    def test_everything_is_read_and_the_digest_tells_data_and_split_apart(self, folder):
        found = find_slices(folder)
        seen: list[int] = []
        parts = split(found, 1, 1, 0)
        digest = check(parts, CLASSES, lambda: seen.append(1))
        assert len(seen) == 20
        assert check(parts, CLASSES) == digest
        assert check(Split(parts.held_out, parts.unlabelled, parts.labelled), CLASSES) != digest
        write(folder, parts.unlabelled[0].path.stem, image=plane(99), label=labels())
        assert check(parts, CLASSES) != digest

    def test_truth_of_unlabelled_slices_is_never_looked_at(self, folder):
        parts = split(find_slices(folder), 1, 1, 0)
        write(folder, parts.unlabelled[0].path.stem, image=plane(), label=labels() + 77)
        check(parts, CLASSES)
        write(folder, parts.labelled[0].path.stem, image=plane(), label=labels() + 77)
        with pytest.raises(ImageError, match="unknown class 77, 78, 79, "):
            check(parts, CLASSES)

    def test_slices_of_a_held_out_volume_have_one_size(self, folder):
        parts = split(find_slices(folder), 1, 1, 0)
        write(folder, parts.held_out[1].path.stem, image=plane(0, (22, 16)), label=labels(0, (22, 16)))
        with pytest.raises(ImageError, match="differs in size from other slices of its volume"):
            check(parts, CLASSES)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("image", "part"),
        [
            (plane() * 255, "values outside of 0..1"),
            (plane() - 1, "values outside of 0..1"),
            (np.where(plane() > 0.5, np.nan, 0), "values outside of 0..1"),
            (np.full((3, 3), 1j), "values outside of 0..1"),
        ],
    )
    def test_values_that_are_no_intensities(self, tmp_path, image, part):
        write(tmp_path, "a", image=image)
        with pytest.raises(ImageError, match=part):
            read_slice(find_slices(tmp_path)[0])

    @pytest.mark.parametrize(
        ("sets", "part"),
        [
            ({"label": labels()}, r"a\.h5: has no data set 'image'"),
            ({"image": np.zeros((4, 9, 9))}, r"a\.h5: 'image' is not one slice \(H, W\)"),
            ({"image/inner": plane()}, r"a\.h5: 'image' is not one slice"),
        ],
    )
    def test_what_is_no_slice_is_refused_at_once(self, tmp_path, sets, part):
        write(tmp_path, "a", **sets)
        with pytest.raises(ImageError, match=part):
            find_slices(tmp_path)

    def test_labels_of_another_size(self, tmp_path):
        write(tmp_path, "a", image=plane(), label=labels(0, (20, 20)))
        with pytest.raises(ImageError, match=r"a\.h5: labels and image are 20 x 20 and 16 x 20 pixels"):
            read_labels(find_slices(tmp_path)[0], CLASSES)

    @pytest.mark.parametrize("kept", [0, 100, -600])
    def test_damaged_files(self, tmp_path, kept):
        path = write(tmp_path, "a", image=plane(), label=labels())
        found = find_slices(tmp_path)[0]
        path.write_bytes(path.read_bytes()[:kept] if kept >= 0 else b"no HDF5")
        for read in (lambda: find_slices(tmp_path), lambda: read_slice(found)):
            with pytest.raises(ImageError, match=r"a\.h5: cannot be read as HDF5, damaged or cut short"):
                read()

    @pytest.mark.parametrize(
        ("names", "part"),
        [
            ((), "no images .*, h5, hdf5, DICOM\\) in it$"),
            (("notes.txt",), "no images .*, h5, hdf5, DICOM\\) in it; passed over: 1 .txt$"),
            (("one/a.h5", "other/a.h5"), "other/a.h5: has the same name as .*one/a.h5"),
            (("a.h5", "b.png"), "holds both HDF5 files and images"),
        ],
    )
    def test_folders_with_nothing_or_too_much(self, tmp_path, names, part):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(UsageError, match=part):
            find_slices(tmp_path)

    def test_no_folder_and_masks_beside_hdf5(self, folder, tmp_path):
        with pytest.raises(UsageError, match="nowhere: no such folder"):
            find_slices(tmp_path / "nowhere")
        with pytest.raises(UsageError, match="HDF5 files hold their labels themselves"):
            find_slices(folder, tmp_path)

    def test_without_h5py_one_line_says_what_to_install(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(BackendUnavailable, match=r"msformer-deploy\[train\]") as caught:
            find_slices(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.data
def test_the_development_slices():
    found = find_slices(DATA / "acdc" / "slices")
    assert (len(found), len(patients(found)), len(volumes(found))) == (202, 10, 20)
    parts = split(found, 2, 2, 0)
    assert [len(patients(part)) for part in (parts.labelled, parts.unlabelled, parts.held_out)] == [2, 6, 2]
    classes = {each for one in parts.labelled for each in np.unique(read_labels(one, CLASSES)).tolist()}
    assert classes == {0, 1, 2, 3}
