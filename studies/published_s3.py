"""S3-Net's self-guided loop, arranged as its public notebooks arrange it; for measurements only.

BatchNorm in train mode, both scores turned by 90 degrees before they are compared, a forward pass after the last
update. Left out is the spatial loss, which the notebooks compute in numpy on randomly coloured labels: it has no
gradient, so that the published loop takes a little longer than this one and learns the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msformer_deploy.models.s3net import ChannelNorm, S3Net
from msformer_deploy.registry import RefineSettings


def as_published(model: S3Net) -> S3Net:
    """The network with torch's own BatchNorm in place of ours, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ChannelNorm):
                norm = nn.BatchNorm2d(child.num_features)
                norm.load_state_dict(child.state_dict())
                parent.register_module(name, norm)
    return model.train()


def refine_as_published(network: S3Net, image: Tensor, settings: RefineSettings) -> tuple[Tensor, int]:
    """Labels (S, S) of the whole published loop on one image, and the steps it took."""
    optimiser = torch.optim.SGD(network.parameters(), lr=settings.lr, momentum=settings.momentum)
    for step in range(settings.steps):
        optimiser.zero_grad()
        logits, auxiliary = network(image)
        labels = logits.argmax(dim=1)
        turned = torch.rot90(logits, 1, (2, 3)).argmax(dim=1)
        loss = settings.cross_entropy_weight * F.cross_entropy(logits, labels)
        loss = loss + settings.affine_weight * F.cross_entropy(torch.rot90(auxiliary, 1, (2, 3)), turned)
        loss.backward()
        optimiser.step()
        if len(labels.unique()) <= settings.stop_labels and step + 1 >= settings.least_steps:
            break
    with torch.no_grad():
        return network(image).logits.argmax(dim=1)[0], step + 1
