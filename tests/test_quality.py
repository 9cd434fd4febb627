"""Quality on the development images, so that a change of settings cannot lose it unnoticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from locations import DATA

from msformer_deploy import Segmenter
from msformer_deploy.evaluation.truth import published_truth
from msformer_deploy.export.build import build_bundle
from msformer_deploy.metrics import overlap, published_mask
from msformer_deploy.registry import SYSTEMS

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "published_protocol.py"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """The default bundle at its full size."""
    return Segmenter(build_bundle(SYSTEMS["msformer"], tmp_path_factory.mktemp("default") / "bundle"))


@pytest.fixture(scope="module")
def protocol():
    spec = importlib.util.spec_from_file_location("published_protocol", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("data_set", "least"), [("ph2", 0.89), ("lung_ct", 0.94)])
def test_published_protocol(segmenter, protocol, data_set, least):
    scores = []
    for image, mask in protocol.pairs(DATA / data_set):
        expected = published_truth(mask, segmenter.bundle.sizes.side)
        labels = segmenter.segment(image).network_labels
        scores.append(overlap(published_mask(labels, expected), expected).dsc)
    assert np.mean(scores) >= least
