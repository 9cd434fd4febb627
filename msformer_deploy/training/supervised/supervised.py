"""Training of MSNet and M2SNet with labels: Zhao et al., MICCAI 2021 (arXiv 2108.05082) and arXiv 2303.10894.

Losses, optimiser and augmentation are those of the public code, Xiaoqi-Zhao-DLUT/MSNet-M2SNet, except where
:class:`.settings.SupervisedSettings` says otherwise. Two more things differ: training normalises by ImageNet's mean and
deviation, as only inference does in the public code, and there is a validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import UsageError
from ...losses.structure import weighted_bce, weighted_iou
from ...models.normalise import IMAGENET_MEAN, IMAGENET_STD
from ...models.subtraction import M2SNet, MSNet
from ..loop.recipe import Kept, Learner, Losses, Place, Recipe
from .augment import Views, recolour, warp
from .pairs import Pair, Reader, Split
from .settings import SupervisedSettings, triangular

if TYPE_CHECKING:
    from ...losses.lossnet import LossNet

SupervisedSystem = Literal["msnet", "m2snet"]

NETWORK, BACKBONE = "network", "resnet."  # name of the module, and prefix of its backbone's weights
_ORDER, _IMAGE, _SCALE = range(3)  # the separate random streams of a seed
_DRAWS = 10  # per image: flip, rotation, zoom, shift of columns and rows, gamma, gain, gains of three channels


class Start(NamedTuple):
    """Initial weights.

    Attributes:
        weights: weights of the whole network, of its backbone alone, or none.
        origin: description of the weights, for the record.
    """

    weights: Mapping[str, Tensor]
    origin: str


SCRATCH = Start({}, "random")


class Batch(NamedTuple):
    """Pictures of one update, before their geometric transform, and the transform.

    Attributes:
        images: float32 (B, 3, S, S), RGB, normalised.
        masks: float32 (B, 1, S, S) in 0..1.
        views: the transform of each picture.
        side: side after the transform, pixels.
    """

    images: Tensor
    masks: Tensor
    views: Views
    side: int


def new_network(system: SupervisedSystem) -> nn.Module:
    """The network of a system, with torch's default initialisation."""
    return MSNet() if system == "msnet" else M2SNet()


class Supervised(Recipe):
    """Training of one network on images with masks.

    Args:
        system: the network to train.
        settings: settings of the training.
        data: pairs that :func:`.pairs.check` has checked.
        digest: result of that check.
        start: initial weights.
        lossnet: the loss on features. Default: none.

    Raises:
        UsageError: the initial weights do not belong to the network.
    """

    def __init__(
        self,
        system: SupervisedSystem,
        settings: SupervisedSettings,
        data: Split,
        digest: str,
        start: Start = SCRATCH,
        lossnet: LossNet | None = None,
    ) -> None:
        self._system, self._settings, self._data, self._start, self._lossnet = system, settings, data, start, lossnet
        self._read = Reader(settings.side)
        self.epochs, self.seed = settings.epochs, settings.seed
        self.steps = -(-len(data.training) // settings.batch)
        self.scores = ("dice", "iou") if data.validation else ()
        self.kept = {"": Kept(NETWORK, "dice")}
        self.record = {
            "system": system,
            "settings": asdict(settings) | {"scales": list(settings.scales)},
            "start": start.origin,
            "lossnet": lossnet is not None,
            "data": {"training": len(data.training), "validation": len(data.validation), "sha256": digest},
        }

    def modules(self) -> dict[str, nn.Module]:
        network = new_network(self._system)
        unknown = network.load_state_dict(dict(self._start.weights), strict=False).unexpected_keys
        if unknown:
            raise UsageError(f"the initial weights are not those of {self._system}: {', '.join(unknown[:3])}")
        return {NETWORK: network}

    def learners(self, modules: Mapping[str, nn.Module]) -> dict[str, Learner]:
        settings = self._settings
        named = list(modules[NETWORK].named_parameters())
        groups: list[dict[str, Any]] = [
            {
                "name": "backbone",
                "params": [each for name, each in named if name.startswith(BACKBONE)],
                "lr": settings.lr * settings.backbone_lr_factor,
            },
            {"name": "decoder", "params": [each for name, each in named if not name.startswith(BACKBONE)]},
        ]
        sgd = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        return {"sgd": Learner(sgd, lambda epoch, _: triangular(epoch, settings.epochs))}

    def prepare(self, device: torch.device) -> None:
        if self._lossnet is not None:
            self._lossnet.to(device)

    def batch(self, epoch: int, step: int, place: Place) -> Batch:
        settings, training = self._settings, self._data.training
        order = np.random.default_rng((settings.seed, _ORDER, epoch)).permutation(len(training))
        # Batches of equal size, up to one image: a small last batch would be normalised over too few images.
        indices = place.share(np.array_split(order, self.steps)[step].tolist())
        images, masks = read_batch([training[index] for index in indices], self._read)
        draws = np.array([self._drawn(epoch, index) for index in indices], np.float32)
        flips, turns, zooms, across, down, gamma, gain, *balance = torch.from_numpy(draws).unbind(dim=1)
        if settings.colour:
            gains = gain[:, None] + torch.stack(balance, dim=1) / 2
            images = recolour(images, (settings.colour * gamma).exp(), (settings.colour * gains).exp())
        views = Views(
            (flips + 1) / 2 < settings.flip,
            settings.rotation * turns,
            settings.zoom**zooms,
            torch.stack([across, down], dim=1),
        )
        side = int(np.random.default_rng((settings.seed, _SCALE, epoch, step)).choice(settings.scales))
        return Batch(normalised(images), masks, views, side)

    def _drawn(self, epoch: int, index: int) -> NDArray[np.float64]:
        """Random numbers in -1..1 for the augmentation of an image in an epoch."""
        return 2 * np.random.default_rng((self._settings.seed, _IMAGE, epoch, index)).random(_DRAWS) - 1

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, epoch: int, iteration: int) -> Losses:
        images, masks = (warp(each, batch.views, batch.side) for each in (batch.images, batch.masks))
        logits = modules[NETWORK](images)
        parts = {
            "wbce": weighted_bce(logits, masks, published=self._settings.published_bce),
            "wiou": weighted_iou(logits, masks),
        }
        total = parts["wbce"] + parts["wiou"]
        if self._lossnet is not None:
            parts["lossnet"] = self._lossnet(logits, masks)
            total = total + self._settings.lossnet_weight * parts["lossnet"]
        return Losses(total, parts)

    def validate(self, modules: Mapping[str, nn.Module], epoch: int, place: Place) -> Iterator[Mapping[str, float]]:
        pairs = place.share(self._data.validation)
        device = next(modules[NETWORK].parameters()).device
        for first in range(0, len(pairs), self._settings.batch):
            images, masks = read_batch(pairs[first : first + self._settings.batch], self._read)
            logits = modules[NETWORK](normalised(images).to(device))
            predicted = logits >= 0  # a probability of 0.5
            for inside, truth in zip(predicted.cpu(), masks >= 0.5, strict=True):
                yield overlap(inside, truth)

    def metadata(self, kept: str) -> dict[str, str]:
        return {
            "system": self._system,
            "side": str(self._settings.side),
            "channels": "RGB",
            "mean": ", ".join(map(str, IMAGENET_MEAN)),
            "std": ", ".join(map(str, IMAGENET_STD)),
        }


def read_batch(pairs: Sequence[Pair], read: Reader) -> tuple[Tensor, Tensor]:
    """Read images (B, 3, side, side), RGB in 0..1, and masks (B, 1, side, side) in 0..1, all float32.

    Raises:
        ImageError: a file can no longer be read.
    """
    images, masks = zip(*map(read, pairs), strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def normalised(images: Tensor) -> Tensor:
    """Normalise images (B, 3, S, S) in 0..1 by ImageNet's mean and deviation."""
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def overlap(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Dice and IoU of two bool masks of one shape; both are 1 if both masks are empty."""
    both, either = int((predicted & truth).sum()), int((predicted | truth).sum())
    return {"dice": 2 * both / (both + either), "iou": both / either} if either else {"dice": 1.0, "iou": 1.0}
