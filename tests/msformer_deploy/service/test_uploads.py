from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
from PIL import Image
from served import png

from msformer_deploy.errors import ImageError
from msformer_deploy.images.decoders import stored
from msformer_deploy.images.read import read_image
from msformer_deploy.service.refused import Refused
from msformer_deploy.service.uploads import read_upload

IMAGE = np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)


def test_an_image_and_its_name(tmp_path: Path) -> None:
    found = read_upload(png(IMAGE), 100, tmp_path)
    np.testing.assert_array_equal(found.pixels, IMAGE)
    assert found.name == "image"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000"])
def test_the_limit_holds_for_each_format_and_for_this_request_alone(tmp_path: Path, form: str) -> None:
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, form)
    with pytest.raises(stored.TooLarge, match=r"image: 10 x 10 pixels is over the limit of 9.9e-05 megapixels"):
        read_upload(file.getvalue(), 99, tmp_path)
    assert read_image(file.getvalue()).width == 10
    assert read_upload(file.getvalue(), 100, tmp_path).width == 10


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ImageError, "image: the file is empty"),
        (b"text", ImageError, "image: not a PNG"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), Refused, "HDF5, which this service does not take"),
        (png(IMAGE)[:60], ImageError, "image: cannot be decoded"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_upload(content, 100, tmp_path)


@pytest.mark.needs("pydicom")
def test_dicom_is_kept_in_the_folder_and_not_named_by_it(tmp_path: Path) -> None:
    from dicoms import PIXELS, image, save

    content = save(image(PIXELS), tmp_path / "source").read_bytes()
    folder = tmp_path / "request"
    folder.mkdir()
    found = read_upload(content, 1000, folder)
    assert found.source is not None
    assert [path.parent for path in found.source.files] == [folder]
    with pytest.raises(ImageError) as error:
        read_upload(content[:-9], 1000, folder)
    assert str(error.value).startswith("image: its pixels are")
    with pytest.raises(stored.TooLarge, match="image: 12 x 16 pixels"):
        read_upload(content, 100, folder)
