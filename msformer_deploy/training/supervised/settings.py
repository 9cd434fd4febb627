"""How MSNet and M2SNet are trained, as plain data. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import UsageError

STRIDE = 32  # of the deepest features: sides are multiples of it
LEAST_SIDE = 64  # at 32 the deepest features are one pixel, over which a single image cannot be normalised
LARGEST_SIDE = 1024
MOST_ZOOM = 4
_SCALES = 5  # sides that batches are drawn at, as published


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of :class:`.supervised.Supervised`; the defaults are those of the public code for polyps.

    Public code: Xiaoqi-Zhao-DLUT/MSNet-M2SNet. Where that code does not do what it says, the intention is the default.

    Attributes:
        epochs: passes over the images.
        batch: most images in one update, all processes together.
        lr: the largest learning rate, in the middle of training.
        backbone_lr_factor: of the backbone's learning rate to ``lr``; the public code means 0.1 and has 1.
        momentum, weight_decay: of SGD.
        side: of the square to which images are resized, pixels; validation is at this side too.
        scales: sides, one of which each batch is drawn at; of one element for a single scale.
        flip: probability of a horizontal flip.
        rotation: largest angle in either direction, degrees.
        zoom: largest factor by which pictures are enlarged or reduced, at a random place; 1 for none, as published.
        colour: how far light is varied: the logarithms of gamma and of brightness up to this in either direction, that
            of each channel up to half of it; 0 for none, as published.
        published_bce: a plain mean in place of the weighted cross-entropy, which is what the public code computes.
        lossnet_weight: of the loss on features of a classifier, where its weights are given.
        validation: share of the images that is not learned from; 0 for none, as published.
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
            if not LEAST_SIDE <= side <= LARGEST_SIDE or side % STRIDE:
                raise UsageError(
                    f"side {side} does not fit the network; choose a multiple of {STRIDE} from {LEAST_SIDE} to"
                    f" {LARGEST_SIDE}, such as 224 or 352"
                )
        if not self.scales:
            raise UsageError("there is no side to train at; give one scale or more")
        # Written so that NaN fails.
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
        if not 1 <= self.zoom <= MOST_ZOOM:
            raise UsageError(f"the zoom {self.zoom} is not from 1, which is none, to {MOST_ZOOM}")
        if not 0 <= self.colour <= 1:
            raise UsageError(f"the change of colour {self.colour} is not from 0, which is none, to 1")


def scales_up_to(side: int) -> tuple[int, ...]:
    """The five sides in steps of 32 that end with ``side``, those that the network has; as published for side 352."""
    return tuple(
        each for each in range(side - (_SCALES - 1) * STRIDE, side + 1, STRIDE) if each >= min(side, LEAST_SIDE)
    )


def triangular(epoch: int, epochs: int) -> float:
    """Share of the largest learning rate in an epoch, counted from 0: up in a line, then down, never quite 0.

    1 - |2 (e + 1) / (E + 1) - 1|, as in the public code of MSNet (Xiaoqi-Zhao-DLUT/MSNet-M2SNet).
    """
    return 1 - abs(2 * (epoch + 1) / (epochs + 1) - 1)
