"""Which files each format adds to which results."""

from __future__ import annotations

from pathlib import Path

import pytest

from msformer_deploy.errors import UsageError
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
        *(f"{name}{suffix}" for name in voxels for suffix in (".nii.gz", ".nrrd", ".mha")),
        *(".seg.nrrd", ".seg.dcm", ".sc.dcm", ".sr.dcm", ".labelme.json"),
    }


@pytest.mark.parametrize(
    ("text", "seg", "formats"),
    [
        (None, False, ()),
        (None, True, ("seg",)),
        ("PNG, nifti", False, ("png", "nifti")),
        ("sr", False, ("seg", "sr")),
        ("sc,png,png", True, ("png", "seg", "sc")),
    ],
)
def test_a_report_of_measurements_has_its_segmentation(text: str | None, seg: bool, formats: tuple[str, ...]) -> None:
    assert parse_formats(text, seg=seg) == formats


@pytest.mark.parametrize("text", ["", "dicom", "png,,seg"])
def test_unknown_formats(text: str) -> None:
    with pytest.raises(UsageError, match="is unknown; choose among png, nifti"):
        parse_formats(text)
