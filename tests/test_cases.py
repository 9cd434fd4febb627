"""Images from the field that were read wrongly once: masks of the default bundle against the true ones."""

from __future__ import annotations

import pytest
import shared
from locations import CASES

from msformer_deploy import Segmenter
from msformer_deploy.export.build import build_bundle
from msformer_deploy.images.masks import read_mask
from msformer_deploy.images.read import read_image
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.registry import SYSTEMS

pytestmark = [pytest.mark.data, pytest.mark.slow, pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """The default bundle at its full size."""
    path = shared.once(tmp_path_factory, "default", lambda path: build_bundle(SYSTEMS["msformer"].sized(), path))
    return Segmenter(path)


@pytest.mark.parametrize(
    ("image", "truth"),
    [
        ("broken-exif/wrong_exif.png", "broken-exif/truth.png"),
        ("png-large-profile/scanner.png", "png-large-profile/truth.png"),
        ("planar-16-bit/planar16.tif", "planar-16-bit/truth.png"),
        ("deep-colour/twelve_bits_in_sixteen.tif", "deep-colour/truth.png"),
        ("mask-with-orientation/images/p.jpg", "mask-with-orientation/masks/p.png"),
        ("padding-outside-the-field-of-view/ct_padded.tif", "padding-outside-the-field-of-view/truth.png"),
        ("padding-outside-the-field-of-view/ct_padded2000.tif", "padding-outside-the-field-of-view/truth.png"),
    ],
)
def test_the_mask_is_the_true_one(segmenter, image, truth):
    picture = read_image(CASES / image)
    expected = read_mask(CASES / truth, picture, (picture.height, picture.width))
    dsc = overlap(segmenter.segment(picture).mask, expected).dsc
    print(f"{image}: DSC {dsc:.3f}")
    assert dsc >= 0.85


@pytest.mark.parametrize("name", ["ct_padded.tif", "ct_padded2000.tif"])
def test_padding_changes_no_mask(segmenter, name):
    folder = CASES / "padding-outside-the-field-of-view"
    plain, padded = (segmenter.segment(folder / each).mask for each in ("ct_plain.tif", name))
    dsc = overlap(padded, plain).dsc
    print(f"{name}: DSC {dsc:.3f} with the slice without padding")
    assert dsc >= 0.95
