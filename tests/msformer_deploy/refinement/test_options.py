"""What chooses and runs the encoder: one object, or keyword arguments of a segmenter."""

from __future__ import annotations

from dataclasses import fields

import pytest

from msformer_deploy import EncoderOptions, Segmenter, UsageError
from msformer_deploy.refinement.options import EncoderKeywords


def test_the_keywords_of_a_segmenter_are_the_options():
    assert list(EncoderKeywords.__annotations__) == [each.name for each in fields(EncoderOptions)]


def test_options_may_be_made_before_and_a_keyword_goes_first(tiny_bundle, picture):
    options = EncoderOptions(backend="torch", device="cpu", threads=1)
    plain, other = Segmenter(tiny_bundle, options), Segmenter(tiny_bundle, options, backend="onnxruntime")
    assert (plain.backend_name, other.backend_name) == ("torch", "onnxruntime")
    assert plain.segment(picture).mask.shape == other.segment(picture).mask.shape


def test_a_keyword_that_no_option_has_is_an_error_as_of_any_function(tiny_bundle):
    with pytest.raises(TypeError, match="unexpected keyword argument 'backends'"):
        Segmenter(tiny_bundle, backends="torch")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"kernels": "fast"}, "kernels 'fast' are unknown; choose one of"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_loaded(options, said):
    with pytest.raises(UsageError, match=said):
        Segmenter("no-such-bundle", **options)
