"""Which files each format adds to which results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from msformer_deploy.errors import BackendUnavailable, UsageError
from msformer_deploy.images.inputs import Item
from msformer_deploy.results.formats import Wanted, parse_formats

PICTURE = Item(Path("a.png"), Path("a.png"))


def volume(name: str) -> Item:
    return Item(Path(name), Path(name), "volume")


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("v.nii", ("nifti",)),
        ("v.nii.gz", ("nifti",)),
        ("V.NRRD", ("nrrd",)),
        ("v.nhdr", ("nrrd",)),
        ("v.mha", ("mha",)),
        ("v.mhd", ("mha",)),
        ("study/series-1", ("nifti",)),
    ],
)
def test_a_volume_keeps_its_format(name: str, formats: tuple[str, ...]) -> None:
    assert Wanted().of(volume(name)) == formats
    assert Wanted(("seg",)).of(volume(name)) == ("seg",)


def test_an_image_has_pictures() -> None:
    assert Wanted().of(PICTURE) == ("png",)
    assert list(Wanted().files(PICTURE)) == []


def test_the_files_of_every_format() -> None:
    everything = Wanted(parse_formats("png,nifti,nrrd,mha,seg,sc,sr,coco,labelme"))
    of_image, of_volume = set(everything.files(PICTURE)), set(everything.files(volume("v.nii")))
    assert of_volume - of_image == {".slices"}
    voxels = {f".{name}" for name in ("labels", "mask", "probability", *(f"candidate-{each}" for each in (1, 2, 3)))}
    assert of_image == {
        *({f"{name}{suffix}" for name in voxels for suffix in (".nii.gz", ".nrrd", ".mha")} - {".mask.nrrd"}),
        *(".seg.nrrd", ".seg.dcm", ".sc.dcm", ".sr.dcm", ".labelme.json"),
    }


@pytest.mark.parametrize(
    ("text", "formats"),
    [(None, ()), ("PNG, nifti", ("png", "nifti")), ("sr", ("sr",)), ("sc,png,png", ("png", "sc"))],
)
def test_formats_by_their_names(text: str | None, formats: tuple[str, ...]) -> None:
    assert parse_formats(text) == formats


@pytest.mark.parametrize(
    ("text", "seg", "formats"),
    [(None, True, {"nifti", "seg"}), ("sr", False, {"sr", "seg"}), ("seg,png", True, {"png", "seg"})],
)
def test_a_segmentation_comes_beside_others(text: str | None, seg: bool, formats: set[str]) -> None:
    assert set(Wanted(parse_formats(text), seg).of(volume("ct"))) == formats


@pytest.mark.parametrize(
    ("wanted", "module", "extra"),
    [
        (Wanted(), "nibabel", "volumes"),
        (Wanted(("seg",)), "highdicom", "dicom"),
        (Wanted(("mha",), seg=True), "pydicom", "dicom"),
    ],
)
def test_what_is_missing_is_said_first(
    wanted: Wanted, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=rf'{module}.*pip install "msformer-deploy\[{extra}\]"'):
        wanted.require([PICTURE, volume("a/ct")])


def test_pictures_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("nibabel", "nrrd", "pydicom", "highdicom"):
        monkeypatch.setitem(sys.modules, module, None)
    Wanted().require([PICTURE])
    Wanted(("coco", "labelme", "mha")).require([PICTURE])


@pytest.mark.parametrize("text", ["", "dicom", "png,,seg"])
def test_unknown_formats(text: str) -> None:
    with pytest.raises(UsageError, match="is unknown; choose among png, nifti"):
        parse_formats(text)
