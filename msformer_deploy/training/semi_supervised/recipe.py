"""MCSC: a U-Net and a Swin-UNet learn from few labelled slices, and from each other on unlabelled slices.

Liu et al., BMVC 2023, arXiv 2306.14293; losses, optimisers and augmentation as in kathyliu579/MCSC, except where
:class:`.settings.SemiSupervisedSettings` says otherwise. Cross pseudo supervision between a CNN and a transformer
is that of Luo et al., MIDL 2022.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...images.inputs import PassedOver
from ...images.read import resize_nearest
from ...images.slice_names import NAMES
from ...losses.contrastive import contrastive_loss, draw_groups
from ...losses.overlap import soft_dice_loss
from ...measures.volumes import score_volume
from ...models.mcsc import Segmented, SwinSegmenter, UNetSegmenter
from ...models.projectors import Projectors
from ...models.swin_unet import SwinUNet
from ...models.unet import UNet
from ..loop.recipe import Kept, Learner, Losses, Place, Recipe
from .augment import vary
from .settings import SemiSupervisedSettings
from .slices import Choice, Slice, Split, check, find_slices, read_labels, read_slice, split, volumes

UNET, SWIN, PROJECTORS = "unet", "swin", "projectors"
NETWORKS = (UNET, SWIN)
COARSE = 8  # side of a pixel of the coarse map, in pixels of the image

_LABELLED, _UNLABELLED, _VARIATION = range(3)  # the separate random streams of a seed


class Batch(NamedTuple):
    """Augmented slices of one update.

    Attributes:
        labelled: float32 (L, 1, S, S) in 0..1.
        labels: int64 (L, S, S), class ids.
        unlabelled: float32 (U, 1, S, S) in 0..1; U is 0 if only labelled slices are used.
    """

    labelled: Tensor
    labels: Tensor
    unlabelled: Tensor


def recipe(
    folder: Path,
    settings: SemiSupervisedSettings,
    labelled: Choice,
    held_out: Choice,
    *,
    masks: Path | None = None,
    values: Sequence[int] | None = None,
    names: str = NAMES,
    step: Callable[[], object] = lambda: None,
    passed_over: PassedOver | None = None,
) -> SemiSupervised:
    """Create the training on a folder of slices; every file is read once.

    Args:
        folder: as in :func:`.slices.find_slices`.
        settings: settings of the training; the seed draws the patients too.
        labelled, held_out: patients, see :func:`.slices.split` and :func:`.slices.choice`.
        masks: folder of masks, for a folder of images.
        values: stored value of each class, background first. Default: 0, 1, 2, ...
        names: pattern of file names, see :func:`.slices.find_slices`.
        step: called after each slice that was read.
        passed_over: collects files that are neither slices nor masks.

    Raises:
        UsageError: as :func:`.slices.find_slices`, :func:`.slices.split` and :class:`SemiSupervised`.
        ImageError: a slice or its truth cannot be used.
        BackendUnavailable: h5py is missing.
    """
    stored = tuple(range(settings.classes)) if values is None else tuple(values)
    if len(stored) != settings.classes or len(set(stored)) != len(stored):
        raise UsageError(
            f"{len(set(stored))} different values for {settings.classes} classes; give each class one, background first"
        )
    data = split(find_slices(folder, masks, names, passed_over), labelled, held_out, settings.seed)
    return SemiSupervised(settings, data, check(data, stored, step), stored)


class SemiSupervised(Recipe):
    """Training of both networks on slices.

    Args:
        settings: settings of the training.
        data: result of :func:`.slices.split`.
        digest: result of :func:`.slices.check`.
        values: stored value of each class, background first.

    Raises:
        UsageError: there are no unlabelled slices, and ``settings.supervised_only`` is not set.
    """

    def __init__(
        self, settings: SemiSupervisedSettings, data: Split, digest: str, values: Sequence[int] = (0, 1, 2, 3)
    ) -> None:
        if not (data.unlabelled or settings.supervised_only):
            raise UsageError("all patients are labelled or held out, and none is left unlabelled; label fewer of them")
        self._settings, self._data, self._values = settings, data, tuple(values)
        self.epochs, self.steps = settings.iterations // settings.validation_interval, settings.validation_interval
        self.seed = settings.seed
        foreground = range(1, settings.classes)
        self.scores = [
            *(f"{name}_dice" for name in NETWORKS),
            *(f"{name}_dice_{class_id}" for name in NETWORKS for class_id in foreground),
        ]
        self.kept = {name: Kept(name, f"{name}_dice") for name in NETWORKS}
        self.record = {
            "system": "mcsc",
            "settings": asdict(settings),
            "data": {
                **{f"{part}_slices": len(slices) for part, slices in vars(data).items()},
                "labelled_patients": _patients(data.labelled),
                "held_out_patients": _patients(data.held_out),
                "values": self._values,
                "sha256": digest,
            },
        }

    def modules(self) -> dict[str, nn.Module]:
        settings = self._settings
        modules = {UNET: new_unet(settings), SWIN: new_swin(settings)}
        if settings.supervised_only:
            return modules
        unet_widths, swin_width = settings.unet_widths, settings.swin_width
        projectors = Projectors(
            (unet_widths[0], unet_widths[3]),
            (swin_width, 2 * swin_width),
            settings.projector_hidden,
            settings.projector_outputs,
        )
        return modules | {PROJECTORS: projectors}

    def learners(self, modules: Mapping[str, nn.Module]) -> dict[str, Learner]:
        settings = self._settings
        rates = {UNET: settings.unet_lr, SWIN: settings.swin_lr, PROJECTORS: settings.projector_lr}
        factors = {name: settings.warmed_up if name == SWIN else settings.falling for name in rates}

        def learner(name: str, module: nn.Module) -> Learner:
            optimiser = torch.optim.AdamW(module.parameters(), lr=rates[name], weight_decay=settings.weight_decay)
            return Learner(optimiser, lambda _, iteration: factors[name](iteration))

        return {name: learner(name, module) for name, module in modules.items()}

    def batch(self, epoch: int, step: int, place: Place) -> Batch:
        settings, iteration = self._settings, epoch * self.steps + step
        streams = [(self._data.labelled, settings.labelled_batch, _LABELLED)]
        if not settings.supervised_only:
            streams.append((self._data.unlabelled, settings.unlabelled_batch, _UNLABELLED))
        pictures: list[list[NDArray[Any]]] = []
        labels = []
        for slices, count, stream in streams:
            if count < place.world:
                raise UsageError(f"{place.world} processes cannot share a batch with {count} slices of a kind")
            pictures.append([])
            drawn = _endless(len(slices), iteration * count, count, (settings.seed, stream))
            for position, index in place.share(list(enumerate(drawn))):
                planes: list[NDArray[Any]] = [read_slice(slices[index])]
                if stream == _LABELLED:
                    planes.append(read_labels(slices[index], self._values))
                rng = np.random.default_rng((settings.seed, _VARIATION, stream, iteration, position))
                picture, *truth = vary(planes, settings.side, rng)
                pictures[-1].append(picture)
                labels += truth
        labelled, unlabelled = (_stacked(each, settings.side) for each in (*pictures, [])[:2])
        return Batch(labelled, torch.from_numpy(np.stack(labels).astype(np.int64)), unlabelled)

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, epoch: int, iteration: int) -> Losses:
        settings, count = self._settings, len(batch.labels)
        if settings.published_eval_mode and epoch > 0 and settings.validates(epoch - 1):
            modules[UNET].eval()
        images = torch.cat([batch.labelled, batch.unlabelled])
        found: dict[str, Segmented] = {name: modules[name](images) for name in NETWORKS}
        parts = {f"supervised_{name}": _supervised(found[name].logits[:count], batch.labels) for name in NETWORKS}
        total = parts["supervised_unet"] + parts["supervised_swin"]
        if settings.supervised_only:
            return Losses(total, parts)
        answers = {name: found[name].logits[count:].argmax(dim=1) for name in NETWORKS}
        for name, other in ((UNET, SWIN), (SWIN, UNET)):
            parts[f"pseudo_{name}"] = soft_dice_loss(found[name].logits[count:].float().softmax(dim=1), answers[other])
        total = total + settings.pseudo_weight_at(iteration) * (parts["pseudo_unet"] + parts["pseudo_swin"])
        parts["contrastive_full"], parts["contrastive_coarse"] = self._contrastive(
            modules[PROJECTORS], found, batch.labels, answers, settings.contrasts_unlabelled(iteration)
        )
        contrastive = parts["contrastive_full"] + parts["contrastive_coarse"]
        return Losses(total + settings.contrastive_weight * contrastive, parts)

    def validate(self, modules: Mapping[str, nn.Module], epoch: int, place: Place) -> Iterator[Mapping[str, float]]:
        if not self._settings.validates(epoch):
            return
        for slices in place.share(list(volumes(self._data.held_out).values())):
            truth = read_truth(slices, self._values)
            found: dict[str, float] = {}
            for name in NETWORKS:
                predicted = predict_volume(modules[name], slices, self._settings.side)
                scores = score_volume(slices[0].volume, predicted, truth, self._settings.classes, distances=False)
                dice = {each.class_id: each.dice for each in scores if not math.isnan(each.dice)}
                found |= {f"{name}_dice_{class_id}": value for class_id, value in dice.items()}
                found |= {f"{name}_dice": sum(dice.values()) / len(dice)} if dice else {}
            yield found

    def metadata(self, kept: str) -> dict[str, str]:
        settings = self._settings
        sizes: dict[str, Any] = {"widths": settings.unet_widths}
        if kept == SWIN:
            sizes = {
                "width": settings.swin_width,
                "depths": settings.swin_depths,
                "heads": settings.swin_heads,
                "window": settings.window,
            }
        return {
            "system": "mcsc",
            "network": kept,
            "sizes": json.dumps(sizes),
            "side": str(settings.side),
            "classes": str(settings.classes),
            "channels": "grey",
        }

    def _contrastive(
        self,
        projectors: nn.Module,
        found: Mapping[str, Segmented],
        labels: Tensor,
        answers: Mapping[str, Tensor],
        everything: bool,
    ) -> list[Tensor]:
        """The contrastive losses at both scales, of the labelled slices or of all slices."""
        settings = self._settings
        count = None if everything else len(labels)
        # The features of each network get the labels that the other network predicts.
        at_full = torch.cat([torch.cat([labels, answers[other]])[:count] for other in (SWIN, UNET)])
        at_coarse = at_full[:, COARSE // 2 :: COARSE, COARSE // 2 :: COARSE]  # at the centres of its pixels
        groups = [
            draw_groups(classes, block, max_groups=settings.most_groups, published_tiling=settings.published_tiling)
            for classes, block in ((at_full, settings.full_block), (at_coarse, settings.coarse_block))
        ]
        # Projectors work pixel by pixel, so only the contrasted pixels are projected.
        picked = [
            tuple(each.pick(maps[:count], first) for each, maps in zip(groups, found[name][1:], strict=True))
            for name, first in ((UNET, 0), (SWIN, len(at_full) // 2))
        ]
        return [
            contrastive_loss(features, each, settings.temperature, settings.published_label_order)
            for features, each in zip(projectors(*picked), groups, strict=True)
        ]


def new_unet(settings: SemiSupervisedSettings) -> UNetSegmenter:
    """The U-Net and its classifier, with the sizes of ``settings`` and random weights."""
    return UNetSegmenter(UNet(settings.unet_widths), settings.classes)


def new_swin(settings: SemiSupervisedSettings) -> SwinSegmenter:
    """The Swin-UNet and its classifier, with the sizes of ``settings`` and random weights."""
    network = SwinUNet(
        settings.side, settings.swin_width, settings.swin_depths, settings.swin_heads, window=settings.window
    )
    return SwinSegmenter(network, settings.classes)


@torch.no_grad()
def predict_volume(network: nn.Module, slices: Sequence[Slice], side: int) -> NDArray[np.uint8]:
    """Predict the class ids (S, H, W) of a volume, slice by slice, in the size of the slices.

    Args:
        network: a :class:`.models.mcsc.UNetSegmenter` or :class:`.models.mcsc.SwinSegmenter`, in evaluation mode.
        slices: slices of one size.
        side: side of the network input, pixels.
    """
    device = next(network.parameters()).device
    found = []
    for each in slices:
        image = read_slice(each)
        pixels = torch.from_numpy(resize_nearest(image, side, side))[None, None].to(device)
        answer = network(pixels).logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        found.append(resize_nearest(answer, *image.shape))
    return np.stack(found)


def read_truth(slices: Sequence[Slice], values: Sequence[int]) -> NDArray[np.uint8]:
    """Class ids (S, H, W) of a volume, see :func:`.slices.read_labels`."""
    return np.stack([read_labels(each, values) for each in slices])


def _supervised(logits: Tensor, labels: Tensor) -> Tensor:
    scores = logits.float()
    return (F.cross_entropy(scores, labels) + soft_dice_loss(scores.softmax(dim=1), labels)) / 2


def _endless(length: int, first: int, count: int, seed: tuple[int, ...]) -> list[int]:
    """Indices ``first`` to ``first + count`` - 1 of an endless sequence of random orders of ``length`` items."""
    orders: dict[int, NDArray[np.intp]] = {}
    found = []
    for place in range(first, first + count):
        turn, within = divmod(place, length)
        if turn not in orders:
            orders[turn] = np.random.default_rng((*seed, turn)).permutation(length)
        found.append(int(orders[turn][within]))
    return found


def _stacked(pictures: Sequence[NDArray[Any]], side: int) -> Tensor:
    """Pictures as one float32 tensor (B, 1, side, side)."""
    return torch.from_numpy(np.stack(pictures)[:, None]) if pictures else torch.empty(0, 1, side, side)


def _patients(slices: Sequence[Slice]) -> tuple[str, ...]:
    return tuple(sorted({each.patient for each in slices}))
