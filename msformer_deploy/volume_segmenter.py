"""A volume to a label map and a mask in which a cluster means the same in every slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backends.base import Backend, parse_device
from .backends.choose import open_backend
from .backends.graph_content import initial_head
from .errors import UsageError
from .foreground import borders, rules
from .foreground.candidates import VolumeCandidate, take, volume_candidates
from .foreground.confidence import Confidence, confidence_of, nothing_found
from .foreground.morphology import field_of_view
from .foreground.obeyed import obeyed
from .foreground.prompts import Mask, Prompts
from .foreground.view import View
from .foreground.volume_prompts import Placed, VolumePrompts
from .images import draw, read
from .images.volume import Volume
from .machine.extras import require_extra
from .refinement.carried import carried
from .refinement.stopwatch import WallStopwatch
from .refinement.strategies import Prepared
from .refinement.volume import Learner, SliceResult
from .registry import find_system
from .segmenter import Segmenter

if TYPE_CHECKING:
    from .refinement.outcome import Progress

FEATURE_BYTES = 512 * 2**20  # of features that are kept from the first pass over the slices to the second
Features = tuple[NDArray[np.float32], NDArray[np.float32]]  # (C, S, S), and the prior's logits (N, N)


@dataclass(frozen=True, eq=False)
class VolumeSegmentation:
    """The result for one volume; arrays (N, H, W) are arranged as the volume's voxels are.

    Attributes:
        volume: what was segmented.
        labels: (N, H, W) cluster ids, uint8 (uint16 over 256 clusters); a cluster means the same in every slice.
        mask: (N, H, W) bool, the label-free foreground.
        probability: (N, S, S) float32 at network resolution, that a voxel is figure; of a trained system, that it is
            anything but background. :meth:`probability_of` has it at the volume's size.
        counts: (K,) voxels per cluster at network resolution.
        collapsed: whether learning fell to a single label and was set back.
        confidence: the DSC to expect of the mask of the whole volume. None for a mask that is not the figure: of
            ``largest``, ``all``, ``lung-ct`` and ``cluster:ID``, where it is neither empty nor everything.
        slices: the DSC to expect of the mask in each slice; None where it is empty there, or not the figure.
        seconds: wall-clock seconds per stage.
        candidates: plausible objects; the first is the mask of ``auto``. Empty for a trained system.
        prompts: what was shown in the volume; None if nothing was.
    """

    volume: Volume
    labels: NDArray[np.integer]
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    counts: NDArray[np.int64]
    collapsed: bool
    confidence: Confidence | None
    slices: Sequence[Confidence | None]
    seconds: dict[str, float]
    candidates: Sequence[VolumeCandidate] = ()
    prompts: VolumePrompts | None = None

    @property
    def label_count(self) -> int:
        """Distinct clusters in the map at network resolution."""
        return int((self.counts > 0).sum())

    def probability_of(self, index: int) -> NDArray[np.float32]:
        """The probability in a slice at the volume's size, float32 (H, W)."""
        _, height, width = self.volume.shape
        return read.resize_linear(self.probability[index], height, width)

    def overlay(self, index: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """A slice with the mask and the cluster boundaries drawn on it, uint8 (H, W, 3).

        Args:
            index: of the slice, from 0.
            size: height and width at which it is drawn; the slice's own by default. Lines are equally wide in it.
        """
        picture = self.volume.picture(index)
        if size is None:
            return draw.overlay(picture, self.labels[index], self.mask[index])
        shown = Image.fromarray(picture.display()).resize(size[::-1], Image.Resampling.BILINEAR)
        labels, mask = (read.resize_nearest(each[index], *size) for each in (self.labels, self.mask))
        return draw.overlay(replace(picture, pixels=np.asarray(shown)), labels, mask)


class VolumeSegmenter:
    """Segments volumes as a :class:`.segmenter.Segmenter` segments images: with its bundle, rule and settings.

    Args:
        segmenter: gives all of them.
        batch: number of slices per encoder call. Results on a CPU do not depend on it; a GPU may round otherwise.

    Raises:
        UsageError: the batch is not at least 1.
    """

    def __init__(self, segmenter: Segmenter, batch: int = 1) -> None:
        if batch < 1:
            raise UsageError(f"a batch of {batch} slices; pass 1 or more")
        self._segmenter, self._batch = segmenter, batch

    @cached_property
    def _backend(self) -> Backend:
        """What computes features and the prior; opened for the first volume."""
        asked = self._segmenter.options
        device = parse_device(asked.device)
        return open_backend(asked.backend, self._segmenter.bundle, device, asked.threads, "volume", asked.precision)

    def open(self) -> None:
        """Open what segments volumes, where that was not done before.

        Raises:
            UsageError: mode ``full`` or a backend was asked for that cannot do this.
            BackendUnavailable: the backend or device cannot run here.
            BundleError: the bundle's graph is of an older version.
        """
        if find_system(self._segmenter.bundle.system).trained:
            return
        if self._segmenter.settings.mode == "full":
            raise UsageError("volumes are learned in closed form; drop --refine full, or choose another preset")
        _ = self._backend

    @cached_property
    def _for_prompts(self) -> Backend:
        """What finds the figure with prompts, on what runs the rest; opened for the first volume with prompts."""
        asked, first = self._segmenter.options, self._backend
        device = parse_device(asked.device)
        return open_backend(first.name, self._segmenter.bundle, device, asked.threads, "figure", first.precision)

    def open_for_prompts(self) -> None:
        """Open what takes prompts, where that was not done before.

        Raises:
            UsageError: the system or the rule takes none, or as :meth:`open`.
            BackendUnavailable: as :meth:`open`.
            BundleError: the bundle was exported by a version whose graphs take none.
        """
        self._segmenter.require_prompts()
        self.open()
        _ = self._for_prompts

    def segment(
        self, volume: Volume, progress: Progress | None = None, *, prompts: VolumePrompts | None = None
    ) -> VolumeSegmentation:
        """Segment a volume slice by slice, with one head and one figure learned on pixels of all slices.

        Features of all slices do not fit into memory: :data:`FEATURE_BYTES` of them are kept from the learning, and the
        other slices go through the encoder once more. Slices of a trained system are segmented each by itself.

        Args:
            volume: as a reader of :mod:`.images.volumes` or :mod:`.images.dicom` gives it.
            progress: called with the slices done and their number; every slice counts once for each pass.
            prompts: what a person shows in the volume, in millimetres, for the rules ``auto`` and ``candidate:N``.
                :mod:`.refinement.carried` says what they do in other slices than their own.

        Raises:
            ImageError: the rule is ``candidate:N``, and the volume has fewer candidates.
            UsageError: as :meth:`open`; or there are prompts, and the system or the rule takes none, the volume does
                not say where it is, or they do not fit it or one another.
            BackendUnavailable, BundleError: as :meth:`open` and :meth:`open_for_prompts`, or another seed was asked for
                without torch.
        """
        segmenter = self._segmenter
        placed = None
        if prompts is not None:
            self.open_for_prompts()
            placed = Placed(prompts, volume)
        self.open()
        if find_system(segmenter.bundle.system).trained:
            return self._segment_classes(volume, progress)
        watch = WallStopwatch()
        slices, total = len(volume), 2 * len(volume)
        learner = Learner(self._initial_head(), segmenter.settings, slices, segmenter.bundle.sizes.side)
        kept: dict[int, Features] = {}
        for index, (_, features, logits) in enumerate(self._encoded(volume, kept, learning=True)):
            learner.see(features, logits)
            _report(progress, index + 1, total)
        learner.learn()
        watch.lap("learn")
        found = _Slices(volume, segmenter.bundle.sizes.clusters, redrawn=segmenter.settings.regions > 0)
        for index, (prepared, features, logits) in enumerate(
            self._encoded(volume, kept if placed is None else dict(kept), learning=False)
        ):
            found.add(learner.apply(features, logits, prepared.pixels), prepared.view)
            _report(progress, slices + index + 1, total)
        watch.lap("segment")
        if placed is not None:
            found.show(
                placed, *self._prompted(volume, kept), lambda index: segmenter.prepare(volume.picture(index)).pixels
            )
            kept.clear()
            watch.lap("prompts")
        result = found.chosen(segmenter.rule, learner)
        watch.lap("foreground")
        return replace(result, seconds=watch.seconds(), prompts=prompts)

    def _encoded(
        self, volume: Volume, kept: dict[int, Features], *, learning: bool
    ) -> Iterator[tuple[Prepared, NDArray[np.float32], NDArray[np.float32]]]:
        """Every slice with its features and the prior's logits, those that are kept or new ones.

        The next batch of slices is prepared meanwhile.

        Args:
            volume: which is segmented.
            kept: what was kept, by index of the slice; what is used is taken out.
            learning: keep what is new while there is room.
        """
        with ThreadPoolExecutor(1, "prepare") as ahead:
            upcoming = ahead.submit(self._prepared, volume, 0, self._batch)
            for first in range(0, len(volume), self._batch):
                group = upcoming.result()
                if first + self._batch < len(volume):
                    upcoming = ahead.submit(self._prepared, volume, first + self._batch, first + 2 * self._batch)
                found = {index: kept.pop(index) for index in group if index in kept}
                new = [index for index in group if index not in found]
                if new:
                    encoded = self._backend.volume_features(np.stack([group[index].pixels for index in new]))
                    for place, index in enumerate(new):
                        found[index] = known = encoded.features[place], encoded.prior[place, 0]
                        if learning and (len(kept) + 1) * known[0].nbytes <= FEATURE_BYTES:
                            kept[index] = known
                    del encoded
                for index, prepared in group.items():
                    yield prepared, *found.pop(index)

    def _prepared(self, volume: Volume, first: int, last: int) -> dict[int, Prepared]:
        """What the network takes of slices, by their index; those that the volume does not have are left out."""
        indices = range(first, min(last, len(volume)))
        return {index: self._segmenter.prepare(volume.picture(index)) for index in indices}

    def _prompted(
        self, volume: Volume, kept: dict[int, Features]
    ) -> tuple[Callable[[int], NDArray[np.float32]], Callable[[int, Prompts], NDArray[np.float32]]]:
        """What :func:`.refinement.carried.carried` calls: features of a slice, and its probability with prompts.

        Args:
            volume: which is segmented.
            kept: what was kept, by index of the slice; other slices go through the encoder again, one at a time.
        """
        height, width = volume.shape[1:]

        @lru_cache(maxsize=1)
        def of(index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            (prepared,) = self._prepared(volume, index, index + 1).values()
            if index in kept:
                return prepared.pixels, kept[index][0]
            return prepared.pixels, self._backend.volume_features(prepared.pixels[None]).features[0]

        def figure(index: int, shown: Prompts) -> NDArray[np.float32]:
            pixels, features = of(index)
            return self._for_prompts.figure(pixels[None], features[None], shown.channels(height, width)[None])

        return lambda index: of(index)[1], figure

    def _initial_head(self) -> NDArray[np.float32]:
        bundle, seed = self._segmenter.bundle, self._segmenter.seed
        if seed == bundle.seed:
            return initial_head(bundle)
        require_extra("torch", "another seed for volumes")
        from .weights.network import initial_head as drawn

        return np.asarray(drawn(bundle.sizes, seed, bundle.system).numpy())

    def _segment_classes(self, volume: Volume, progress: Progress | None) -> VolumeSegmentation:
        """The volume by a trained system."""
        watch = WallStopwatch()
        _, height, width = volume.shape
        segmenter = self._segmenter
        side = segmenter.bundle.sizes.side
        labels = np.empty(volume.shape, np.uint8)
        probability = np.empty((len(volume), side, side), np.float32)
        counts = np.zeros(segmenter.bundle.sizes.clusters, np.int64)
        for first in range(0, len(volume), self._batch):
            indices = range(first, min(first + self._batch, len(volume)))
            results = segmenter.segment_batch([volume.picture(index) for index in indices])
            for index, result in zip(indices, results, strict=True):
                labels[index] = result.labels
                probability[index] = read.resize_linear(result.probability, side, side)
                counts += result.counts
                _report(progress, index + 1, len(volume))
        mask = rules.choose_in_volume(segmenter.rule, labels, np.ones((0, height, width), bool), np.zeros(0))
        watch.lap("segment")
        small = np.stack([read.resize_nearest(each, side, side) for each in mask])
        return VolumeSegmentation(
            volume,
            labels,
            mask,
            probability,
            counts,
            False,
            *_expected(segmenter.rule, small, probability),
            watch.seconds(),
        )


class _Slices:
    """The results of slices as they come, and then the mask of their volume.

    Args:
        volume: which is segmented.
        clusters: K, number of them.
        redrawn: whether regions are drawn where the image has its edges.
    """

    def __init__(self, volume: Volume, clusters: int, *, redrawn: bool) -> None:
        self._volume, self._redrawn = volume, redrawn
        self._sizes, self._light = np.zeros(clusters, np.int64), np.zeros(clusters)
        self._drawn: list[NDArray[np.integer]] = []
        self._fields: list[NDArray[np.bool_]] = []
        self._probability: list[NDArray[np.float32]] = []
        self._settle: Callable[[int, Mask], Mask] | None = None

    def add(self, found: SliceResult, view: View) -> None:
        """Take the next slice."""
        drawn = borders.redraw(found.labels, view) if self._redrawn else found.labels
        self._drawn.append(drawn)
        self._sizes += np.bincount(drawn.ravel(), minlength=self._sizes.size)
        self._light += np.bincount(drawn.ravel(), view.brightness.ravel(), self._light.size)
        self._fields.append(field_of_view(view.brightness))
        self._probability.append(found.probability)

    def show(
        self,
        placed: Placed,
        features: Callable[[int], NDArray[np.float32]],
        figure: Callable[[int, Prompts], NDArray[np.float32]],
        guide: Callable[[int], NDArray[np.float32]],
    ) -> None:
        """Take prompts, when all slices are there; other arguments as for :func:`.refinement.carried.carried`.

        Args:
            placed: the prompts.
            features: of a slice.
            figure: of a slice with prompts.
            guide: (3, S, S) of a slice, whose edges the regions follow that obey.
        """
        size = self._volume.shape[1:]
        before = np.stack(self._probability)
        self._probability.clear()  # so that all of them are not held twice
        self._probability.extend(carried(placed, before, size, features, figure))

        def settle(index: int, mask: Mask) -> Mask:
            shown = placed.of(index) if placed.settles(index) else None
            return placed.bounds(index) & (mask if shown is None else obeyed(mask, guide(index), shown))

        self._settle = settle

    def chosen(self, rule: rules.ForegroundRule, learner: Learner) -> VolumeSegmentation:
        """The result, without its times.

        Raises:
            ImageError: the rule is ``candidate:N``, and the volume has fewer candidates.
        """
        volume, probability = self._volume, np.stack(self._probability)
        _, height, width = volume.shape
        plausible = volume_candidates(probability, self._settle)
        mask = np.empty(volume.shape, bool)
        if rule.candidate is not None:
            taken = take(plausible, rule.candidate, volume.name)
            small = taken.mask
            for index in range(len(mask)):
                mask[index] = taken.at_size(index, height, width)
        else:
            # A redrawn map is a little larger than the network's.
            drawn = np.stack([_of_size(each, self._fields[0].shape) for each in self._drawn])
            shades = self._light / np.maximum(self._sizes, 1)
            on_drawn = rules.choose_in_volume(rule, drawn, np.stack(self._fields), shades)
            small = np.stack([_of_size(each, probability.shape[1:]) for each in on_drawn])
            for index, each in enumerate(on_drawn):
                mask[index] = _of_size(each, (height, width))
        labels = np.empty(volume.shape, self._drawn[0].dtype)
        for index, each in enumerate(self._drawn):
            labels[index] = _of_size(each, (height, width))
        confidence, slices = _expected(rule, small, probability)
        return VolumeSegmentation(
            volume, labels, mask, probability, learner.counts, learner.collapsed, confidence, slices, {}, plausible
        )


def _of_size(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Ids or flags (h, w) at a size."""
    return array if array.shape == shape else read.resize_nearest(array, *shape)


def _expected(
    rule: rules.ForegroundRule, mask: NDArray[np.bool_], probability: NDArray[np.float32]
) -> tuple[Confidence | None, list[Confidence | None]]:
    """What to expect of a mask (N, S, S), as a whole and in each slice where there is something."""
    if not rule.of_figure:
        return nothing_found(mask), [None] * len(mask)
    pairs = zip(mask, probability, strict=True)
    return confidence_of(mask, probability), [confidence_of(*each) if each[0].any() else None for each in pairs]


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
