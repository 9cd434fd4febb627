"""The settings of MCSC's training, as plain data, and its schedules. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import UsageError

PUBLISHED_ITERATIONS = 40_000
STRIDE = 32  # of the deepest tokens: a side is a multiple of STRIDE times the window

_RAMP_STEPS = 200  # steps in which the weight of pseudo labels rises
_POWER = 0.9  # exponent of the falling learning rates
_COLDEST = 1e-3  # factor of the learning rate at which the transformer begins


@dataclass(frozen=True)
class SemiSupervisedSettings:
    """Settings of :class:`.recipe.SemiSupervised`; the defaults are those of the public code.

    Liu et al., BMVC 2023, arXiv 2306.14293; kathyliu579/MCSC with the values of its training script. Where that code
    differs from its description, the default follows the description, and ``published_...`` follows the code.

    ``validation_start``, ``pseudo_ramp`` and ``contrastive_start`` are for a run of 40,000 iterations. They are scaled
    down in a shorter run, and stay the same in a longer run.

    Attributes:
        iterations: number of updates; a multiple of ``validation_interval``.
        validation_interval: updates between two validations.
        validation_start: updates before the first validation.
        labelled_batch, unlabelled_batch: slices in one update, over all processes.
        unet_lr, swin_lr, projector_lr: largest learning rates of the three optimisers.
        weight_decay: weight decay of AdamW.
        warm_up: share of the run in which the Swin-UNet's learning rate rises.
        side: side of the square to which slices are resized, pixels.
        classes: number of classes, background included.
        pseudo_weight: final weight of the Dice loss against the other network's prediction on unlabelled slices.
        pseudo_ramp: updates in which this weight rises.
        contrastive_weight: weight of the contrastive losses. The published weight is 0.001 in the loss of each network,
            and the losses of both networks are summed.
        contrastive_start: updates before unlabelled slices are contrasted too.
        temperature: temperature of the contrastive losses.
        full_block, coarse_block: sides of the blocks of these losses, pixels of the map at each scale.
        most_groups: maximum number of groups of blocks in one update at each scale, drawn at random; None for all, as
            published.
        supervised_only: learn from labelled slices alone, each network by itself. This is the baseline.
        published_label_order: see :func:`.losses.contrastive.group_loss`.
        published_tiling: see :func:`.losses.contrastive.draw_groups`.
        published_eval_mode: after the first validation, the U-Net has no dropout and does not update its statistics.
        unet_widths: sizes of the U-Net.
        swin_width, swin_depths, swin_heads, window: sizes of the Swin-UNet.
        projector_hidden, projector_outputs: channels of the projectors.
        seed: draws the initial weights, the labelled and the held-out patients, and all that is random in training.
    """

    iterations: int = PUBLISHED_ITERATIONS
    validation_interval: int = 200
    validation_start: int = 1_000
    labelled_batch: int = 2
    unlabelled_batch: int = 2
    unet_lr: float = 5e-4
    swin_lr: float = 1e-4
    projector_lr: float = 5e-4
    weight_decay: float = 5e-4
    warm_up: float = 0.05
    side: int = 224
    classes: int = 4
    pseudo_weight: float = 0.1
    pseudo_ramp: int = 30_000
    contrastive_weight: float = 0.002
    contrastive_start: int = 3_000
    temperature: float = 0.1
    full_block: int = 19
    coarse_block: int = 14
    most_groups: int | None = None
    supervised_only: bool = False
    published_label_order: bool = False
    published_tiling: bool = False
    published_eval_mode: bool = False
    unet_widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    swin_width: int = 96
    swin_depths: tuple[int, ...] = (2, 2, 2, 2)
    swin_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    projector_hidden: int = 256
    projector_outputs: int = 128
    seed: int = 1337

    def __post_init__(self) -> None:
        if self.validation_interval < 1 or self.iterations < 1 or self.iterations % self.validation_interval:
            raise UsageError(
                f"{self.iterations} iterations are not a multiple of the {self.validation_interval} between two"
                " validations; change one of them"
            )
        for name, count in (("labelled", self.labelled_batch), ("unlabelled", self.unlabelled_batch)):
            if count < 1:
                raise UsageError(f"{count} {name} slices in a batch are too few; give 1 or more")
        for name, rate in (("U-Net", self.unet_lr), ("Swin-UNet", self.swin_lr), ("projectors", self.projector_lr)):
            if not 0 < rate < math.inf:  # this form rejects NaN too, here and below
                raise UsageError(f"the learning rate {rate} of the {name} is not above 0")
        for name, weight in (
            ("weight decay", self.weight_decay),
            ("weight of pseudo labels", self.pseudo_weight),
            ("weight of the contrastive loss", self.contrastive_weight),
        ):
            if not 0 <= weight < math.inf:
                raise UsageError(f"the {name} {weight} is below 0")
        if not 0 < self.temperature < math.inf:
            raise UsageError(f"the temperature {self.temperature} is not above 0; the published one is 0.1")
        if not 0 <= self.warm_up < 1:
            raise UsageError(f"the share {self.warm_up} of the run that warms up is not from 0 to below 1")
        multiple = STRIDE * self.window
        if self.side < 1 or self.window < 1 or self.side % multiple:
            raise UsageError(
                f"side {self.side} does not fit windows of {self.window}; choose a multiple of {multiple}, such as"
                f" {multiple}"
            )
        if self.classes < 2:
            raise UsageError(f"{self.classes} class is too few; background is one, so give 2 or more")
        for name, block, side in (("full", self.full_block, self.side), ("coarse", self.coarse_block, self.side // 8)):
            if not 0 < block <= side:
                raise UsageError(f"a block of {block} pixels does not fit the {side} of the {name} scale")
        if self.most_groups is not None and self.most_groups < 1:
            raise UsageError(f"{self.most_groups} groups of blocks are too few; give 1 or more")

    @property
    def proportion(self) -> float:
        """Length of this run divided by the published length; 1 for a longer run."""
        return min(self.iterations / PUBLISHED_ITERATIONS, 1.0)

    def pseudo_weight_at(self, iteration: int) -> float:
        """Weight of pseudo labels: w exp(-5 (1 - s / 200)^2); s rises to 200 in whole steps over the ramp.

        As published, after Laine and Aila, ICLR 2017. In a run of 40,000 iterations s rises every 150 iterations.
        """
        length = self.pseudo_ramp * self.proportion
        risen = min(math.floor(iteration * _RAMP_STEPS / length), _RAMP_STEPS) if length else _RAMP_STEPS
        return self.pseudo_weight * math.exp(-5 * (1 - risen / _RAMP_STEPS) ** 2)

    def contrasts_unlabelled(self, iteration: int) -> bool:
        """Whether unlabelled slices are contrasted."""
        return iteration >= self.contrastive_start * self.proportion

    def validates(self, epoch: int) -> bool:
        """Whether there is a validation after an epoch, counted from 0; there always is one after the last epoch."""
        done = (epoch + 1) * self.validation_interval
        return done > self.validation_start * self.proportion or done >= self.iterations

    def falling(self, iteration: int) -> float:
        """Factor of the learning rates of U-Net and projectors at iteration t of T: (1 - t / T)^0.9."""
        return float((1 - iteration / self.iterations) ** _POWER)

    def warmed_up(self, iteration: int) -> float:
        """Factor of the Swin-UNet's learning rate: it rises linearly from 0.001, then falls as in :meth:`falling`."""
        warm = self.warm_up * self.iterations
        if iteration < warm:
            return _COLDEST + (1 - _COLDEST) * iteration / warm
        return float((1 - (iteration - warm) / (self.iterations - warm)) ** _POWER)


# For a training of minutes on a CPU; not published.
SMALL = SemiSupervisedSettings(
    unet_widths=(8, 16, 32, 64, 128),
    swin_width=24,
    swin_depths=(1, 1, 1, 1),
    swin_heads=(1, 2, 4, 8),
    swin_lr=5e-4,  # a short training from random weights needs a rate that is too high for weights from ImageNet
    projector_hidden=64,
    projector_outputs=32,
    most_groups=2,
)
