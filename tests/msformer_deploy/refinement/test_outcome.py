"""The outcome of learning on one image, in torch and on the host."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from msformer_deploy.refinement.outcome import Refinement, Step, all_on_host


@pytest.mark.parametrize("scores", [None, torch.rand(1, 2, 2)], ids=["labels", "scores"])
def test_on_the_host_everything_is_an_array(scores):
    trace = [Step(0.5, 3)]
    made = Refinement(torch.tensor([[0, 2], [2, 2]], dtype=torch.uint8), torch.tensor([1, 0, 3]), trace, True, scores)
    found, other = all_on_host([made, replace(made, labels=made.labels + 1, figure=torch.rand(2, 2))])
    np.testing.assert_array_equal(other.labels, found.labels + 1)
    assert (found.figure is None, other.figure.dtype) == (True, np.float32)
    assert made.label_count == found.label_count == 2
    assert (found.labels.dtype, found.counts.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(found.labels, [[0, 2], [2, 2]])
    np.testing.assert_array_equal(found.counts, [1, 0, 3])
    assert (found.trace, found.collapsed) == (trace, True)
    assert (found.scores is None) == (scores is None)
    if scores is not None:
        np.testing.assert_array_equal(found.scores, scores.numpy())
