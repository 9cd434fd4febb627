"""What keeps the clusters apart while a network learns from its own answers on image after image.

The published objective rewards agreement with the network's own argmax. On one image it is stopped before few clusters
are left; continued over images it ends with one cluster for everything, its global minimum. Maximising the mutual
information of pixel and cluster instead, I = H(mean p) - mean H(p), has no such minimum (Bridle et al., "Unsupervised
classifiers, mutual information and 'phantom targets'", NIPS 1991; Krause et al., "Discriminative clustering by
regularized information maximization", NIPS 2010; for segmentation Ji et al., "Invariant information clustering", ICCV
2019). The cross-entropy against the own argmax already stands for the second part, low entropy of each pixel; here is
the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def imbalance(logits: Tensor) -> Tensor:
    """How unevenly the clusters share the pixels of an image: log K - H(mean p), the mean p over its pixels.

    This is the divergence KL(mean p || uniform): 0 where all K clusters have an equal share, log K where one has all.
    By image, because a batch of few images would be even if each had a cluster of its own.

    Args:
        logits: cluster scores (B, K, S, S).

    Returns:
        scalar in nats, the mean over the batch.
    """
    shares = logits.softmax(dim=1).mean(dim=(2, 3))
    # The logarithm's slope at 0 is infinite, and a share that is lost altogether has none to give back.
    logarithms = shares.clamp_min(torch.finfo(shares.dtype).tiny).log()
    return math.log(logits.shape[1]) + (shares * logarithms).sum(dim=1).mean()
