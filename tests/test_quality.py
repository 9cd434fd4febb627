"""Quality on the development images, so that a change of settings cannot lose it unnoticed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import shared
from locations import DATA, ROOT

from msformer_deploy import Segmenter
from msformer_deploy.evaluation.baselines import baseline
from msformer_deploy.export.build import build_bundle
from msformer_deploy.images.read import resize_nearest
from msformer_deploy.images.truth import published_truth
from msformer_deploy.measures.overlap import overlap, published_mask
from msformer_deploy.registry import SYSTEMS

SCRIPT = ROOT / "studies" / "published_protocol.py"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """The default bundle at its full size."""
    path = shared.once(tmp_path_factory, "default", lambda path: build_bundle(SYSTEMS["msformer"].sized(), path))
    return Segmenter(path)


@pytest.fixture(scope="module")
def protocol():
    spec = importlib.util.spec_from_file_location("published_protocol", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_set", "least_published", "least_label_free"), [("ph2", 0.92, 0.89), ("lung_ct", 0.955, 0.94)]
)
def test_dsc_of_the_default_preset(segmenter, protocol, data_set, least_published, least_label_free):
    published, label_free = [], []
    for image, mask in protocol.pairs(DATA / data_set):
        expected, result = published_truth(mask), segmenter.segment(image)
        labels = resize_nearest(result.labels, *expected.shape)
        published.append(overlap(published_mask(labels, expected), expected).dsc)
        label_free.append(overlap(result.mask, published_truth(mask, None)).dsc)
    assert np.mean(published) >= least_published
    assert np.mean(label_free) >= least_label_free


@pytest.mark.data
@pytest.mark.slow
def test_dsc_of_polyps_is_well_above_that_of_the_threshold(segmenter, protocol):
    gains = []
    for image, mask in protocol.pairs(DATA / "polyp"):
        expected, result = published_truth(mask, None), segmenter.segment(image)
        gains.append(overlap(result.mask, expected).dsc - overlap(baseline("otsu", result.image), expected).dsc)
    assert np.mean(gains) >= 0.15


@pytest.mark.data
@pytest.mark.slow
def test_dsc_of_kinds_that_no_rule_was_made_for(segmenter, protocol):
    """The mean over the kinds of the zoo, each of which counts the same."""
    means = []
    for folder in sorted(each for each in (DATA / "zoo").iterdir() if each.is_dir()):
        found = [
            overlap(segmenter.segment(image).mask, published_truth(mask, None)).dsc
            for image, mask in protocol.pairs(folder)
        ]
        means.append(np.mean(found))
    assert len(means) == 18
    assert np.mean(means) >= 0.70
