"""No text of a header reaches a message, a note or a result: it may name a patient."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import affines, nifti, simpleitk_image, stored

from msformer_deploy.errors import ImageError
from msformer_deploy.images.sources import Form
from msformer_deploy.images.volume import Volume
from msformer_deploy.images.volumes.labels import labels_on, read_labels
from msformer_deploy.images.volumes.read import read_volume
from msformer_deploy.images.volumes.slicer import Segment, write_slicer_segmentation
from msformer_deploy.images.volumes.write import suffix_of, write_volume

pytestmark = [pytest.mark.needs("nibabel"), pytest.mark.needs("nrrd"), pytest.mark.needs("SimpleITK")]
MARKER = "DOE^JANE"
AFFINE = affines()[5]
FORMS: tuple[Form, ...] = ("nifti", "nrrd", "mha")


def marked_nifti(path: Path) -> Path:
    """Every text element, and extensions, which hold DICOM headers and comments."""
    import nibabel

    image = nibabel.load(nifti(path.with_name("plain.nii"), stored(), AFFINE))
    image.header.extensions.extend(
        nibabel.nifti1.Nifti1Extension(code, MARKER.encode()) for code in ("comment", "afni", "ignore")
    )
    image.to_filename(path)
    content = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        header[field] = MARKER.encode()
    header["session_error"], header["intent_code"], header["intent_p1"] = 4711, 1002, 4711
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


def marked_nrrd(path: Path) -> Path:
    import SimpleITK

    SimpleITK.WriteImage(simpleitk_image(stored(), AFFINE), str(path), useCompression=False)
    head, _, data = path.read_bytes().partition(b"\n\n")
    free = (
        *(f"content: {MARKER}", f"# {MARKER}", f'labels: "{MARKER}" "b" "c"', f"sample units: {MARKER}"),
        *(f"patient:={MARKER}", f'space units: "{MARKER}" "mm" "mm"', f"centerings: {MARKER} cell cell"),
        f"{MARKER}:=key",
    )
    path.write_bytes(head + b"\n" + "\n".join(free).encode() + b"\n\n" + data)
    return path


def marked_mha(path: Path) -> Path:
    import SimpleITK

    SimpleITK.WriteImage(simpleitk_image(stored(), AFFINE), str(path), useCompression=False)
    head, _, data = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    free = "\n".join(f"{key} = {MARKER}" for key in ("Comment", "Name", "PatientName", "AnatomicalOrientation", MARKER))
    lines = [line for line in head.decode().splitlines() if not line.startswith("AnatomicalOrientation")]
    path.write_bytes("\n".join([*lines, free, "ElementDataFile = LOCAL\n"]).encode() + data)
    return path


MAKERS = {".nii": marked_nifti, ".nrrd": marked_nrrd, ".mha": marked_mha}


def everything(value: Any) -> str:
    """All that is said of a volume, but for what the writers keep."""
    assert isinstance(value, Volume)
    return repr((value.name, value.notes, value.spacing, value.span, value.picture(0).name, value.picture(0).notes))


@pytest.mark.parametrize("suffix", MAKERS)
def test_results_and_notes_have_no_words_of_the_header(suffix: str, tmp_path: Path) -> None:
    path = MAKERS[suffix](tmp_path / f"v{suffix}")
    assert MARKER.encode() in path.read_bytes()
    volume = read_volume(path)
    assert np.array_equal(volume.arrangement.undo(volume.voxels), stored())
    assert MARKER not in everything(volume)
    contents = []
    for form in FORMS:
        result = tmp_path / f"r{suffix_of(form)}"
        write_volume(result, volume.voxels > 500, volume, form=form)
        contents.append(result.read_bytes())
    segmentation = tmp_path / "r.seg.nrrd"
    write_slicer_segmentation(segmentation, (volume.voxels > 500), volume, [Segment(1, "object", (1, 2, 3))])
    contents.append(segmentation.read_bytes())
    for content in contents:
        unpacked = [content]
        if content.startswith(b"\x1f\x8b"):
            unpacked.append(gzip.decompress(content))
        start = content.find(b"\n\n" if content.startswith(b"NRRD") else b"LOCAL\n")
        if content.startswith(b"NRRD"):
            unpacked.append(gzip.decompress(content[start + 2 :]))
        elif content.startswith(b"ObjectType"):
            unpacked.append(zlib.decompress(content[start + 6 :]))
        assert len(unpacked) == 2
        for each in unpacked:
            assert b"DOE" not in each
            assert b"4711" not in each
            assert np.array([4711], "<i2").tobytes() not in each[:348]
            assert np.array([4711], "<f4").tobytes() not in each[:348]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", MAKERS)
def test_messages_have_no_words_of_the_header(suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes of the header are damaged in turn."""
    path = MAKERS[suffix](tmp_path / f"v{suffix}")
    content = path.read_bytes()
    size = 348 if suffix == ".nii" else len(content) - stored().nbytes
    said, refused = [], 0
    volume = read_volume(path)
    for place in range(0, size, 5):
        for byte in (b"\x00", b"-", b"9", b"\xff"):
            path.write_bytes(content[:place] + byte + content[place + 1 :])
            try:
                said.append(everything(read_volume(path)))
            except ImageError as error:
                said.append(str(error))
                refused += 1
                assert "\n" not in str(error)
        for reader in (read_labels, lambda path: labels_on(volume, path)):
            try:
                reader(path)
            except ImageError as error:
                said.append(str(error))
    assert refused > 10
    out, err = capfd.readouterr()
    assert "DOE" not in "".join([*said, out, err])
    assert "JANE" not in "".join([*said, out, err])
    assert err == ""
