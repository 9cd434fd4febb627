from __future__ import annotations

import struct
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicoms import PIXELS, bomb, image, save
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate

from msformer_deploy.errors import ImageError
from msformer_deploy.images.decoders import stored
from msformer_deploy.images.read import read_image

GREY = PIXELS.astype(np.uint16)


def encoded(path: Path, syntax: uid.UID, stream: bytes) -> Path:
    found = image(GREY)
    found.file_meta.TransferSyntaxUID = syntax
    found.PixelData = encapsulate([stream])
    found["PixelData"].VR = "OB"
    return save(found, path)


STREAMS = {
    uid.JPEGLSLossless: lambda pixels: imagecodecs.jpegls_encode(pixels),
    uid.JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k"),
    uid.HTJ2KLossless: lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    uid.HTJ2KLosslessRPCL: lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    uid.JPEGLosslessSV1: lambda pixels: imagecodecs.jpeg_encode(pixels, bitspersample=16, lossless=True),
    uid.JPEGLossless: lambda pixels: imagecodecs.jpeg_encode(pixels, bitspersample=16, lossless=True, predictor=6),
}


@pytest.mark.parametrize("syntax", STREAMS, ids=lambda syntax: syntax.name)
def test_lossless_streams_are_decoded_to_the_bit(tmp_path: Path, syntax: uid.UID) -> None:
    if syntax.name.startswith("High") and not getattr(getattr(imagecodecs, "HTJ2K", None), "available", False):
        pytest.skip("imagecodecs writes no HTJ2K here")
    path = encoded(tmp_path / "a", syntax, STREAMS[syntax](GREY))
    np.testing.assert_array_equal(read_image(path).pixels, read_image(save(image(GREY), tmp_path / "b")).pixels)


DCMTK = [
    *(["dcmcjpeg", "+e1"], ["dcmcjpeg", "+el", "+sv", "2"], ["dcmcjpeg", "+el", "+sv", "7"]),
    *(["dcmcjpeg", "+eb"], ["dcmcjpeg", "+ee"], ["dcmcjpls"], ["dcmcjpls", "+en"], ["dcmcrle"]),
]


NOT_WRITTEN = (["dcmcjpls", "+en"], "signed")  # dcmtk refuses it


@pytest.mark.needs_debian("dcmtk")
@pytest.mark.parametrize(
    ("kind", "command"),
    [(kind, each) for kind in ("8", "12", "signed", "colour") for each in DCMTK if (each, kind) != NOT_WRITTEN],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_files_of_dcmtk_are_decoded_as_by_dcmtk(tmp_path: Path, command: list[str], kind: str) -> None:
    grey = PIXELS.astype(np.uint8)
    pixels = {
        "8": grey,
        "12": GREY,
        "signed": PIXELS - 700,
        "colour": np.stack([grey, grey // 2, 255 - grey], axis=2),
    }[kind]
    found = image(pixels, **({"BitsStored": 12, "HighBit": 11} if kind == "12" else {}))
    plain = save(found, tmp_path / "plain")
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    subprocess.run([*command, plain, packed], capture_output=True, check=True)
    decode = {"dcmcjpeg": "dcmdjpeg", "dcmcjpls": "dcmdjpls", "dcmcrle": "dcmdrle"}[command[0]]
    subprocess.run([decode, packed, unpacked], check=True, capture_output=True)
    assert dcmread(packed).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_image(packed).pixels, read_image(unpacked).pixels)


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        (uid.MPEG2MPML, "its pixels have the transfer syntax MPEG2 Main Profile / Main Level, which is not supported"),
        (uid.UID("1.2.3.4.5"), "its pixels have an unknown transfer syntax"),
    ],
)
def test_a_syntax_without_a_decoder_is_one_line(tmp_path: Path, syntax: uid.UID, message: str) -> None:
    path = encoded(tmp_path / "a", syntax, bytes(100))
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert "1.2.3.4.5" not in str(caught.value)


def test_a_codec_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    from msformer_deploy.images.dicom import codecs

    class Absent:
        available = False

    codecs.decoder.cache_clear()
    monkeypatch.setattr(imagecodecs, "JPEGLS", Absent)
    path = encoded(tmp_path / "a", uid.JPEGLSLossless, STREAMS[uid.JPEGLSLossless](GREY))
    with pytest.raises(ImageError, match=r"JPEG-LS Lossless.*imagecodecs is without its codec; pip install"):
        read_image(path)
    codecs.decoder.cache_clear()


def test_the_decoder_does_not_depend_on_what_is_installed(tmp_path: Path, monkeypatch: Any) -> None:
    """Other packages have plugins in pydicom's own decoders, which are not used."""
    from pydicom.pixels import get_decoder

    own = get_decoder(uid.JPEGLSLossless)
    monkeypatch.setattr(own, "_available", {})
    path = encoded(tmp_path / "a", uid.JPEGLSLossless, STREAMS[uid.JPEGLSLossless](GREY))
    assert read_image(path).pixels.shape == GREY.shape
    assert "imagecodecs" not in own._available


@pytest.mark.parametrize("kind", ["deflated", "jpeg", "jpeg 2000", "run lengths"])
def test_what_holds_far_more_than_it_states_is_refused_before_memory_is_taken(tmp_path: Path, kind: str) -> None:
    bomb(kind, tmp_path / "bomb", 64)
    tracemalloc.start()
    try:
        with stored.allowing(1_000_000), pytest.raises(ImageError):
            read_image(tmp_path / "bomb")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_deflated_content_within_the_limit_is_read(tmp_path: Path) -> None:
    found = image(GREY)
    found.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    path = save(found, tmp_path / "a")
    with path.open("ab") as file:
        file.write(bytes(2))  # some programs fill the file up
    np.testing.assert_array_equal(read_image(path).pixels, read_image(save(image(GREY), tmp_path / "b")).pixels)
    with stored.allowing(GREY.size), pytest.raises(stored.TooLarge, match="deflated content is over the limit"):
        bomb("deflated", path, 1)
        read_image(path)


@pytest.mark.parametrize("fill", [0, 1, 40])
def test_run_lengths_that_are_filled_up_are_read(tmp_path: Path, fill: int) -> None:
    grey = PIXELS.astype(np.uint8)
    packed = imagecodecs.packbits_encode(grey.tobytes() + bytes(fill))
    stream = struct.pack("<16L", 1, 64, *[0] * 14) + packed
    found = image(grey)
    found.file_meta.TransferSyntaxUID = uid.RLELossless
    found.PixelData = encapsulate([stream])
    path = save(found, tmp_path / "a")
    np.testing.assert_array_equal(read_image(path).pixels, read_image(save(image(grey), tmp_path / "b")).pixels)
