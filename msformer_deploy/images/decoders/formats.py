"""The format of a file by its content; the suffix may be wrong."""

from __future__ import annotations

from typing import Literal, NamedTuple

SUPPORTED = ("PNG", "JPEG", "BMP", "TIFF", "WebP", "GIF", "JPEG 2000", "AVIF")
HEAD = 4096  # first bytes of a file that decide its format

_TO_PICTURE = "export the picture as PNG or TIFF"
_TO_VOLUME = "convert it to NIfTI, or export the slice as PNG or TIFF"
_TO_FRAME = "export the frame as PNG"
_UNPACK = "unpack it and name the image files in it"


class Format(NamedTuple):
    """A file format.

    Attributes:
        name: name in messages.
        advice: what to do with a file of an unsupported format; None for a supported format.
        is_volume: whether :mod:`..volumes` reads it. The suffix says that a file is a volume, before it is opened.
    """

    name: str
    advice: str | None = None
    is_volume: bool = False


def _volume(name: str, suffixes: str) -> Format:
    return Format(name, f"run and read_volume read it if its name ends with {suffixes}", is_volume=True)


DICOM = Format("a DICOM file", f"pass its path to run, which reads it, or {_TO_PICTURE}")

# Value representations (DICOM PS3.5, section 6.2) with which files without a preamble begin.
_BEGINNINGS = (b"UL", b"OB", b"UI", b"CS", b"SH", b"DA", b"TM", b"LO")
_MAX_FIRST = 256  # bytes of the first element of such a file

# Position of a signature, the signature, and the format; the first match counts.
_MARKS = [
    (0, b"\x89PNG\r\n\x1a\n", Format("PNG")),
    (0, b"\xff\xd8\xff", Format("JPEG")),
    (0, b"BM", Format("BMP")),
    (0, b"GIF87a", Format("GIF")),
    (0, b"GIF89a", Format("GIF")),
    (8, b"CR\x02", Format("a Canon CR2 file, a camera's raw data", _TO_PICTURE)),
    (0, b"II*\0", Format("TIFF")),
    (0, b"MM\0*", Format("TIFF")),
    (0, b"II+\0", Format("TIFF")),
    (0, b"MM\0+", Format("TIFF")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Format("JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", Format("JPEG 2000")),
    (0, b"\x89HDF\r\n\x1a\n", Format("HDF5")),
    (344, b"n+1\0", _volume("a NIfTI file", ".nii or .nii.gz")),
    (344, b"ni1\0", Format("a NIfTI header without its image", "save both as one file, .nii or .nii.gz")),
    (4, b"n+2\0\r\n\x1a\n", _volume("a NIfTI file", ".nii or .nii.gz")),
    (4, b"ni2\0\r\n\x1a\n", Format("a NIfTI header without its image", "save both as one file, .nii or .nii.gz")),
    (0, b"\x5c\x01\0\0", Format("an Analyze or NIfTI header", _TO_VOLUME)),
    (0, b"\0\0\x01\x5c", Format("an Analyze or NIfTI header", _TO_VOLUME)),
    (0, b"NRRD", _volume("an NRRD file", ".nrrd or .nhdr")),
    (0, b"ObjectType =", _volume("a MetaImage file", ".mha or .mhd")),
    (0, b"CDF\x01", Format("a NetCDF or MINC file", _TO_VOLUME)),
    (0, b"CDF\x02", Format("a NetCDF or MINC file", _TO_VOLUME)),
    (0, b"SIMPLE  =", Format("a FITS file", _TO_PICTURE)),
    (0, b"8BPS", Format("a Photoshop file", _TO_PICTURE)),
    (0, b"gimp xcf", Format("a GIMP file", _TO_PICTURE)),
    (0, b"\x76\x2f\x31\x01", Format("an OpenEXR file", _TO_PICTURE)),
    (0, b"#?RADIANCE", Format("a Radiance HDR file", _TO_PICTURE)),
    (0, b"#?RGBE", Format("a Radiance HDR file", _TO_PICTURE)),
    (0, b"\xff\x0a", Format("a JPEG XL file", _TO_PICTURE)),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", Format("a JPEG XL file", _TO_PICTURE)),
    (0, b"II\xbc", Format("a JPEG XR file", _TO_PICTURE)),
    (0, b"%PDF", Format("a PDF document", _TO_PICTURE)),
    (0, b"%!PS", Format("a PostScript file", _TO_PICTURE)),
    (0, b"\xc5\xd0\xd3\xc6", Format("a PostScript file", _TO_PICTURE)),
    (0, b"AT&TFORM", Format("a DjVu file", _TO_PICTURE)),
    (40, b" EMF", Format("a Windows metafile", _TO_PICTURE)),
    (0, b"\xd7\xcd\xc6\x9a", Format("a Windows metafile", _TO_PICTURE)),
    (0, b"FUJIFILMCCD-RAW", Format("a camera's raw file", _TO_PICTURE)),
    (0, b"IIRO", Format("a camera's raw file", _TO_PICTURE)),
    (0, b"IIRS", Format("a camera's raw file", _TO_PICTURE)),
    (0, b"MMOR", Format("a camera's raw file", _TO_PICTURE)),
    (0, b"IIU\0", Format("a camera's raw file", _TO_PICTURE)),
    (0, b"FOVb", Format("a camera's raw file", _TO_PICTURE)),
    (0, b"\0\0\x01\0", Format("a Windows icon", _TO_PICTURE)),
    (0, b"\0\0\x02\0", Format("a Windows cursor or a TGA file", _TO_PICTURE)),
    (0, b"icns", Format("an Apple icon", _TO_PICTURE)),
    (0, b"DDS ", Format("a DDS texture", _TO_PICTURE)),
    (0, b"\xabKTX", Format("a KTX texture", _TO_PICTURE)),
    (0, b"qoif", Format("a QOI file", _TO_PICTURE)),
    (0, b"BPG\xfb", Format("a BPG file", _TO_PICTURE)),
    (0, b"FLIF", Format("a FLIF file", _TO_PICTURE)),
    (0, b"\x59\xa6\x6a\x95", Format("a Sun raster file", _TO_PICTURE)),
    (0, b"\x01\xda", Format("an SGI file", _TO_PICTURE)),
    (0, b"farbfeld", Format("a farbfeld file", _TO_PICTURE)),
    (0, b"ZISRAWFILE", Format("a Zeiss CZI file", _TO_PICTURE)),
    (0, b"\x70\0\0\0", Format("a Leica LIF file", _TO_PICTURE)),
    (0, b"\xda\xce\xbe\x0a", Format("a Nikon ND2 file", _TO_PICTURE)),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format("a compound document of Microsoft's kind", _TO_PICTURE)),
    (0, b"\x1a\x45\xdf\xa3", Format("a video", _TO_FRAME)),
    (0, b"\0\0\x01\xba", Format("a video", _TO_FRAME)),
    (0, b"\0\0\x01\xb3", Format("a video", _TO_FRAME)),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("a video", _TO_FRAME)),
    (0, b"FLV\x01", Format("a video", _TO_FRAME)),
    (0, b"OggS", Format("an Ogg file", _TO_FRAME)),
    (0, b"\x93NUMPY", Format("a NumPy array", "load it and pass it to Segmenter.segment")),
    (0, b"MATLAB ", Format("a MATLAB file", _TO_PICTURE)),
    (0, b"PK\x03\x04", Format("a ZIP archive or an office document", _UNPACK)),
    (0, b"PK\x05\x06", Format("a ZIP archive or an office document", _UNPACK)),
    (
        0,
        b"\x1f\x8b",
        Format(
            "a gzip archive", "if it holds NIfTI, run and read_volume read it by the suffix .nii.gz; else unpack it"
        ),
    ),
    (0, b"BZh", Format("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\0", Format("an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Format("a Zstandard archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Format("a 7-Zip archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Format("a RAR archive", _UNPACK)),
    (257, b"ustar", Format("a tar archive", _UNPACK)),
    (0, b"\0\x05\x16\x07", Format("an AppleDouble file of macOS, which holds no picture", "copy the image itself")),
    (0, b"version https://git-lfs", Format("a pointer of Git LFS", "fetch the image itself with git lfs pull")),
]

_BRANDS = {
    b"heic": "a HEIC file",
    b"heix": "a HEIC file",
    b"hevc": "a HEIC file",
    b"heim": "a HEIC file",
    b"heis": "a HEIC file",
    b"mif1": "a HEIF file",
    b"msf1": "a HEIF file",
    b"crx ": "a Canon CR3 file, a camera's raw data",
    b"jxl ": "a JPEG XL file",
}


def identify(head: bytes) -> Format | None:
    """Return the format of a file from its first ``HEAD`` bytes; None if it is unknown."""
    if head[128:132] == b"DICM":  # whatever is before it: the preamble may be a TIFF header (PS3.10, section 7.1)
        return DICOM
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:4] == b"RIFF":
        return Format("WebP") if head[8:12] == b"WEBP" else Format("a video or sound", _TO_FRAME)
    for place, mark, found in _MARKS:
        if head[place : place + len(mark)] == mark:
            return found
    return DICOM if _is_bare_dicom(head) else _of_text(head)


def _is_bare_dicom(head: bytes) -> bool:
    """Whether a file without a preamble begins with a DICOM element of group 0002 or 0008 (PS3.5, section 7.1)."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group = int.from_bytes(head[:2], order)
        if len(head) < 8 or group not in (0x0002, 0x0008):
            continue
        explicit = head[4:6] in _BEGINNINGS
        length = int.from_bytes(head[6:8] if explicit else head[4:8], order)
        if length <= _MAX_FIRST and (explicit or (group == 0x0008 and length % 2 == 0)):
            return head[2:4] != b"\xff\xff"
    return False


def _of_brands(head: bytes) -> Format:
    """The format of an ISO base media file (ISO/IEC 14496-12), by the brands of its first box."""
    length = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[place : place + 4] for place in range(16, min(length, len(head)), 4))]
    if b"avif" in brands or b"avis" in brands:
        return Format("AVIF")
    for brand in brands:
        if brand in _BRANDS:
            return Format(_BRANDS[brand], _TO_PICTURE)
    return Format("a video", _TO_FRAME)


def _of_text(head: bytes) -> Format | None:
    """The format of a drawing, a page or a grey map that is written as text."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if b"<svg" in head and start.startswith(b"<"):
        return Format("an SVG drawing", _TO_PICTURE)
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return Format("a web page", "download the image itself")
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"1234567fF" and head[2:3].isspace():
        return Format("a PNM file", _TO_PICTURE)
    return None
