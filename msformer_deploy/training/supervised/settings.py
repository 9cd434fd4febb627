"""The settings of the training of MSNet and M2SNet, as plain data. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import UsageError

STRIDE = 32  # of the deepest features: sides are multiples of STRIDE
MIN_SIDE = 64  # at 32 the deepest features are one pixel, and a single image cannot be normalised over one pixel
LARGEST_SIDE = 1024
MAX_ZOOM = 4
_SCALES = 5  # number of sides at which batches are drawn, as published


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of :class:`.supervised.Supervised`; the defaults are those of the public code for polyps.

    Public code: Xiaoqi-Zhao-DLUT/MSNet-M2SNet. Where that code differs from its description, the default follows the
    description.

    Attributes:
        epochs: passes over the images.
        batch: maximum number of images in one update, over all processes.
        lr: largest learning rate, in the middle of training.
        backbone_lr_factor: learning rate of the backbone divided by ``lr``. The public code intends 0.1 but computes
            with 1.
        momentum, weight_decay: settings of SGD.
        side: side of the square to which images are resized, pixels; validation uses this side too.
        scales: sides in pixels; each batch is drawn at one of them. Give one element for a single scale.
        flip: probability of a horizontal flip.
        rotation: largest angle in either direction, degrees.
        zoom: largest factor by which pictures are enlarged or reduced, at a random position; 1 for none, as published.
        colour: strength of the colour changes: the logarithms of gamma and of brightness vary by up to this in either
            direction, that of each channel by up to half of it; 0 for none, as published.
        published_bce: use the plain mean that the public code computes, in place of the weighted cross-entropy.
        lossnet_weight: weight of the loss on VGG-16's features, if its weights are given.
        validation: share of the images that are used for validation only; 0 for none, as published.
        seed: draws the initial weights, the validation images, and all that is random in training.
    """

    epochs: int = 50
    batch: int = 16
    lr: float = 0.05
    backbone_lr_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    side: int = 352
    scales: tuple[int, ...] = (224, 256, 288, 320, 352)
    flip: float = 0.5
    rotation: float = 10.0
    zoom: float = 1.0
    colour: float = 0.0
    published_bce: bool = False
    lossnet_weight: float = 0.1
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, count in (("epochs", self.epochs), ("batch", self.batch)):
            if count < 1:
                raise UsageError(f"{name} {count} is too few; give 1 or more")
        for side in (self.side, *self.scales):
            if not MIN_SIDE <= side <= LARGEST_SIDE or side % STRIDE:
                raise UsageError(
                    f"side {side} does not fit the network; choose a multiple of {STRIDE} from {MIN_SIDE} to"
                    f" {LARGEST_SIDE}, such as 224 or 352"
                )
        if not self.scales:
            raise UsageError("no side for training; give one scale or more")
        # This form rejects NaN too.
        if not 0 < self.lr < math.inf:
            raise UsageError(f"the learning rate {self.lr} is not above 0; the published one is 0.05")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"the weight decay {self.weight_decay} is below 0; the published one is 0.0005")
        if not 0 <= self.lossnet_weight < math.inf:
            raise UsageError(
                f"the weight {self.lossnet_weight} of the feature loss is below 0; the published one is 0.1"
            )
        for name, value in (("momentum", self.momentum), ("share of validation images", self.validation)):
            if not 0 <= value < 1:
                raise UsageError(f"the {name} {value} is not from 0 to below 1")
        for name, value in (("factor of the backbone's learning rate", self.backbone_lr_factor), ("flip", self.flip)):
            if not 0 <= value <= 1:
                raise UsageError(f"the {name} {value} is not from 0 to 1")
        if not 0 <= self.rotation <= 180:
            raise UsageError(f"the rotation of {self.rotation} degrees is not from 0 to 180")
        if not 1 <= self.zoom <= MAX_ZOOM:
            raise UsageError(f"the zoom {self.zoom} is not from 1, for none, to {MAX_ZOOM}")
        if not 0 <= self.colour <= 1:
            raise UsageError(f"the change of colour {self.colour} is not from 0, for none, to 1")


def scales_up_to(side: int) -> tuple[int, ...]:
    """The up to five sides, in steps of 32 and valid for the network, that end with ``side``; published for 352."""
    return tuple(each for each in range(side - (_SCALES - 1) * STRIDE, side + 1, STRIDE) if each >= min(side, MIN_SIDE))


def triangular(epoch: int, epochs: int) -> float:
    """Factor of the largest learning rate in an epoch, counted from 0: it rises linearly, then falls, and is never 0.

    1 - |2 (e + 1) / (E + 1) - 1|, as in the public code of MSNet (Xiaoqi-Zhao-DLUT/MSNet-M2SNet).
    """
    return 1 - abs(2 * (epoch + 1) / (epochs + 1) - 1)
