"""Scores at the size of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from msformer_deploy.models.deployed import at_size

OBJECT = torch.tensor([[-1.0], [1.0]])


def test_one_logit_is_an_object_where_it_is_above_zero():
    scores = torch.tensor([[[-3.0, 1.0], [2.0, -1.0]]])
    labels, inside = at_size(scores, OBJECT, 2, 2)
    assert (labels.dtype, inside.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(labels, [[0, 1], [1, 0]])
    np.testing.assert_allclose(inside, 1 / (1 + np.exp(-scores[0].numpy())), rtol=1e-6)


def test_classes_compete_and_background_is_what_is_no_object():
    scores = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 5, 7)).astype(np.float32))
    labels, inside = at_size(scores, torch.eye(4), 5, 7)
    np.testing.assert_array_equal(labels, scores.numpy().argmax(axis=0))
    np.testing.assert_allclose(inside, 1 - softmax(scores.numpy(), axis=0)[0], rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (30, 10)])
def test_scores_are_resized_before_they_are_compared(height, width):
    ramp = torch.linspace(-1, 1, 4).expand(4, 4)[None]
    labels, inside = at_size(ramp, OBJECT, height, width)
    assert labels.shape == inside.shape == (height, width)
    np.testing.assert_array_equal(labels[0], np.arange(width) >= width / 2)
    assert len(np.unique(inside[0].round(5))) > 4, "no steps of the small map"
