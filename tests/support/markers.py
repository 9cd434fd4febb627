"""Files of every format that is read, with markers in all places for text, and the search for these in what is written.

No value of a header may leave it: it may say who the patient is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from dicom_files import ct, place
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

TEXT, DATE, TIME, AGE, NUMBER, ROOT = "QQMARK", "19130517", "030507.131313", "077Y", "27182818", "2.25.471147114711"
MARKERS = (TEXT, DATE, TIME, AGE, NUMBER, ROOT)

# What a text element of each representation holds.
_PLANTED = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT", "UR"), TEXT),
    "PN": f"{TEXT}^{TEXT}",
    "DA": DATE,
    "DT": f"{DATE}030507",
    "TM": TIME,
    "AS": AGE,
    "UI": f"{ROOT}.1",
}
_NUMBERED = ("SeriesNumber", "InstanceNumber", "AcquisitionNumber", "PatientWeight", "PatientSize", "AccessionNumber")
# These say how the file and its pixels are read, so they cannot be free text.
_KEPT = ("SpecificCharacterSet", "PhotometricInterpretation", "PresentationLUTShape", "VOILUTFunction", "SOPClassUID")
_STREAM = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")  # begins what gzip or zlib packed


def _texts() -> Iterator[DataElement]:
    """An element for each text that the standard knows, some 1,800."""
    for tag, (representation, _, _, _, keyword) in DicomDictionary.items():
        if representation in _PLANTED and keyword not in _KEPT and Tag(tag).group > 2:
            yield DataElement(tag, representation, _PLANTED[representation])


def marked_slice(number: int, pixels: NDArray[np.int16], elements: Iterable[DataElement]) -> Dataset:
    """A slice of a CT series with markers in all text elements, nested and private ones too.

    Args:
        number: of the slice, from 1.
        pixels: (H, W), in Hounsfield units.
        elements: that are planted.
    """
    rows, columns = pixels.shape
    found = Dataset()
    size = {"Rows": rows, "Columns": columns, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    stored = {**size, "PixelRepresentation": 1, "PixelData": (pixels + 1024).astype("<i2").tobytes()}
    known = {element.tag: element for element in elements}
    found.update(ct(number, **place(number, spacing=(0.9, 0.7), step=3.0), **stored))
    found.update(known)
    nested = Dataset()
    nested.update({each.tag: each for each in {each.VR: each for each in elements}.values()})  # one of each kind
    inner = Dataset()
    inner.RequestAttributesSequence = [nested]
    found.SOPInstanceUID, found.SeriesInstanceUID = UID(f"{ROOT}.2.{number}"), UID(f"{ROOT}.3")
    for keyword in _NUMBERED:
        setattr(found, keyword, NUMBER)
    found.OtherPatientIDsSequence = [inner, nested]
    block = found.private_block(0x0011, TEXT, create=True)
    for offset, (representation, value) in enumerate(_PLANTED.items()):
        block.add_new(offset, representation, value)
    block.add_new(0x80, "UN", TEXT.encode())
    block.add_new(0x81, "OB", TEXT.encode())
    block.add_new(0x82, "SQ", Sequence([nested]))
    meta = found.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = found.SOPClassUID, found.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = TEXT
    meta.ReceivingApplicationEntityTitle = meta.ImplementationVersionName = TEXT
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = UID(f"{ROOT}.4"), TEXT.encode()
    found.preamble = TEXT.encode().ljust(128, b"\0")
    return found


def write_series(folder: Path, voxels: NDArray[np.int16]) -> None:
    """Write a marked series, one file for each slice."""
    folder.mkdir(parents=True)
    elements = list(_texts())
    for number, pixels in enumerate(voxels, 1):
        marked_slice(number, pixels, elements).save_as(folder / f"{number}.dcm", enforce_file_format=True)


def write_nifti(path: Path, voxels: NDArray[np.int16]) -> None:
    image = nibabel.Nifti1Image(voxels.T, np.diag([0.7, 0.9, 3, 1]))
    image.header.set_xyzt_units("mm")
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        image.header[field] = TEXT
    image.header.extensions.extend(
        nibabel.nifti1.Nifti1Extension(code, TEXT.encode()) for code in ("comment", "afni", "ignore")
    )
    nibabel.save(image, path)


def write_nrrd(path: Path, voxels: NDArray[np.int16]) -> None:
    head = (
        *("NRRD0004", f"# {TEXT}", "type: short", "dimension: 3", "space: left-posterior-superior"),
        *(f"sizes: {' '.join(map(str, voxels.shape[::-1]))}", "space directions: (0.7,0,0) (0,0.9,0) (0,0,3)"),
        *("kinds: domain domain domain", "endian: little", "encoding: raw", "space origin: (0,0,0)"),
        *(f"content: {TEXT}", f"sample units: {TEXT}", f'labels: "{TEXT}" "{TEXT}" "{TEXT}"'),
        *(f"{TEXT}:={TEXT}", f"DICOM_0010_0010:={TEXT}"),
    )
    path.write_bytes("\n".join(head).encode() + b"\n\n" + voxels.astype("<i2").tobytes())


def write_mha(path: Path, voxels: NDArray[np.int16]) -> None:
    head = (
        *("ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"),
        *(f"Comment = {TEXT}", f"Name = {TEXT}", f"0010|0010 = {TEXT}", f"{TEXT} = {TEXT}", "CompressedData = False"),
        *("TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 0.7 0.9 3"),
        *(f"DimSize = {' '.join(map(str, voxels.shape[::-1]))}", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"),
    )
    path.write_bytes("\n".join(head).encode() + b"\n" + voxels.astype("<i2").tobytes())


def write_pictures(folder: Path, picture: NDArray[np.uint8]) -> None:
    """Write PNG with text chunks and EXIF, TIFF with text tags, and JPEG with a comment and EXIF."""
    image, exif, chunks = Image.fromarray(picture), Image.Exif(), PngImagePlugin.PngInfo()
    texts = {0x010E: TEXT, 0x010F: TEXT, 0x0110: TEXT, 0x0131: TEXT, 0x013B: TEXT, 0x8298: TEXT, 0x0132: DATE}
    exif.update({**texts, 0x9C9D: TEXT.encode("utf-16-le")})
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + TEXT.encode()
    chunks.add_text("Author", TEXT)
    chunks.add_text(TEXT, TEXT, zip=True)
    chunks.add_itxt("XML:com.adobe.xmp", TEXT, zip=True)
    image.save(folder / "a.png", pnginfo=chunks, exif=exif)
    image.save(folder / "b.tif", tiffinfo={**texts, 269: TEXT, 285: TEXT, 316: TEXT, 700: TEXT.encode()})
    image.save(folder / "c.jpg", comment=TEXT, exif=exif)


def found_in(*texts: bytes) -> set[str]:
    """The markers that are in texts or in what is packed in them."""
    return {
        marker
        for text in texts
        for each in (text, *_unpacked(text))
        for marker in MARKERS
        if marker.encode() in each or marker.encode("utf-16-le") in each
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Names of all files and folders, relative to ``folder``, and what the files hold."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }


def _unpacked(content: bytes) -> Iterator[bytes]:
    for start in (match.start() for match in _STREAM.finditer(content)):
        stream: Any = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            yield stream.decompress(content[start:])
        except zlib.error:  # these bytes are not the beginning of a stream
            continue
