"""The public way in: an image to a label map and a mask, with everything that was decided on the way."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PillowImage

from .bundle.folder import Bundle, load_bundle
from .bundle.shipped import default_bundle
from .errors import ImageError, UsageError
from .foreground import borders, rules
from .foreground.boxes import reaching
from .foreground.candidates import Candidate, candidates, take
from .foreground.confidence import Confidence, confidence_of, nothing_found
from .foreground.frame import without_frame
from .foreground.obeyed import obeyed
from .foreground.prompts import Box, Point, Prompts, Scribble
from .foreground.threshold import threshold_of
from .foreground.view import View
from .images import draw, read
from .images.read import InputImage
from .refinement import head_file, like
from .refinement.like import Example, LearnedHead
from .refinement.options import EncoderOptions
from .refinement.strategies import HostRefinement, NoNetwork, WholeGraph, open_strategy
from .refinement.strategies import Learned as Learned
from .refinement.strategies import Prepared as Prepared
from .registry import Mode, RefineSettings, find_system

if TYPE_CHECKING:
    from typing_extensions import Unpack  # known to type checkers, and not needed to run

    from .refinement.options import EncoderKeywords
    from .refinement.outcome import Progress, Step


class Array(Protocol):
    """What NumPy can take, such as a tensor on the CPU."""

    def __array__(self) -> NDArray[Any]: ...


Source = InputImage | NDArray[Any] | Array | PillowImage | bytes | BinaryIO | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one image, at the image's own size.

    Attributes:
        image: what was segmented.
        labels: (H, W) cluster ids, uint8 (uint16 over 256 clusters).
        mask: (H, W) bool, the label-free foreground.
        network_labels: (S, S) cluster ids at network resolution. ``labels`` is their nearest-neighbour resize; where
            few regions are kept, they were redrawn by the image's colours and edges before (:mod:`.borders`).
        counts: (K,) pixels per cluster at network resolution.
        trace: one entry per update; empty when the whole method ran as one graph, which does not report its steps.
        collapsed: whether learning fell to a single label and was set back.
        confidence: the DSC to expect of the mask, and the reason if it is low (:mod:`.confidence`). None for a mask
            that is not the figure: of ``largest``, ``all`` and ``cluster:ID``, if it is neither empty nor the whole
            image.
        probability: (H, W) float32 that a pixel is figure; of a trained system, that it is anything but background.
        seconds: wall-clock seconds per stage; batched stages are divided evenly among the images.
        stages: seconds of every part of the call that gave this result, all its images together: ``preprocess``,
            ``whole_graph`` and ``foreground``. Where torch learns, ``encoder``, ``sample``, ``step 1`` and so on,
            ``argmax`` and ``figure`` are in place of the second; on a GPU also ``device_to_host``, and
            ``host_to_device`` in mode ``full`` (the encoder copies its own input).
        candidates: plausible objects, each with a mask and a confidence (:mod:`.candidates`); the first is the mask of
            ``auto``. Empty for a trained system, whose classes are known.
        prompts: what was shown on the image; None if nothing was.
        corrected: whether the mask is one that a person has corrected, as it was given.
    """

    image: InputImage
    labels: NDArray[np.integer]
    mask: NDArray[np.bool_]
    network_labels: NDArray[np.integer]
    counts: NDArray[np.int64]
    trace: list[Step]
    collapsed: bool
    probability: NDArray[np.float32]
    confidence: Confidence | None
    seconds: dict[str, float]
    stages: dict[str, float] = field(default_factory=dict)
    candidates: Sequence[Candidate] = ()
    prompts: Prompts | None = None
    corrected: bool = False

    @property
    def label_count(self) -> int:
        """Distinct clusters in the map at network resolution."""
        return int((self.counts > 0).sum())

    def overlay(self) -> NDArray[np.uint8]:
        """The image with the mask and the cluster boundaries drawn on it, uint8 (H, W, 3)."""
        return draw.overlay(self.image, self.labels, self.mask)


def resolve_refinement(
    bundle: Bundle,
    mode: Mode | None = None,
    preset: str | None = None,
    steps: int | None = None,
    *,
    repaired: bool = False,
) -> RefineSettings:
    """The settings a request means: a preset or the default of a mode, on which the number of steps may be overridden.

    Raises:
        UsageError: the preset is unknown, is for another side, or is not one of the mode asked for.
    """
    system = find_system(bundle.system)
    if system.trained and (mode not in (None, "none") or steps is not None):
        raise UsageError(f"system {system.name} is trained and does not learn on the image; drop --refine and --steps")
    if preset is not None:
        chosen = system.preset(preset)
        settings = chosen.refinement
        if not chosen.fits(bundle.sizes.side, bundle.sizes.blocks):
            raise UsageError(
                f"preset {preset!r} needs a bundle of {_sizes(chosen.side, chosen.blocks)}, but {bundle.path} has"
                f" {_sizes(bundle.sizes.side, bundle.sizes.blocks)}; drop --bundle to use the preset's own, or drop"
                " --preset"
            )
        if mode is not None and mode != settings.mode:
            raise UsageError(
                f"preset {preset!r} uses refinement mode {settings.mode!r}, not {mode!r}; drop --preset or --refine"
            )
    elif mode is None or mode == bundle.refinement.mode:
        settings = bundle.refinement
    else:
        of_mode = (value.refinement for value in system.presets.values() if value.refinement.mode == mode)
        settings = next(of_mode, None) or RefineSettings(mode=mode)
    if steps is not None:
        if settings.mode == "none":
            raise UsageError("refinement mode 'none' makes no steps; drop --steps")
        settings = replace(settings, steps=steps)
    return replace(settings, repaired=True) if repaired else settings


def _sizes(side: int | None, blocks: int | None) -> str:
    return " and ".join(f"{name} {value}" for name, value in (("side", side), ("blocks", blocks)) if value is not None)


class Segmenter:
    """A bundle, loaded once, ready for any number of images.

    Args:
        bundle: a loaded bundle, or the path of one; None means the default one, which the package has.
        encoder: what chooses and runs the encoder: backend, device, threads, precision and more.
        settings: the refinement; the bundle's by default.
        foreground_rule: label-free choice of the mask, one of :data:`.foreground.rules.RULES`.
        seed: draws what is learned anew: the head, or in mode ``full`` the whole network. None keeps the bundle's.
        options: any field of :class:`.refinement.options.EncoderOptions` by its name, as in
            ``Segmenter("bundle", backend="torch", threads=2)``; goes before the same field of ``encoder``.

    Attributes:
        bundle, settings, seed: see above.
        options: what was asked of the encoder.
        rule: how the mask is chosen.
        backend_name, provider: what executes the graph.
        precision: of the graph.
        max_batch: maximum number of images in one call of the graph; None for any number.
        whole_graph, compiled: whether it runs so.
        head: what corrected images have taught, see :meth:`like`; the bundle's own, or None.

    Raises:
        BundleError: the bundle is not valid.
        UsageError: an argument is unknown, or the whole graph or the mode cannot do what is asked.
        BackendUnavailable: the backend, device or precision cannot run here, or there is no compiler.

    In a process that was forked after it was made, :meth:`learn` and all that calls it raise DeployError.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str] | None = None,
        encoder: EncoderOptions | None = None,
        *,
        settings: RefineSettings | None = None,
        foreground_rule: str = "auto",
        seed: int | None = None,
        **options: Unpack[EncoderKeywords],
    ) -> None:
        self.options = asked = replace(encoder or EncoderOptions(), **options)
        bundle = default_bundle() if bundle is None else bundle
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.settings = settings or self.bundle.refinement
        self.rule = _rule_for(self.bundle, foreground_rule)
        self.seed = self.bundle.seed if seed is None else seed
        self.compiled = asked.compile
        self._strategy = open_strategy(self.bundle, self.settings, self.seed, asked)
        self.whole_graph = isinstance(self._strategy, WholeGraph)
        self.backend_name, self.provider = self._strategy.backend_name, self._strategy.provider
        self.precision, self.max_batch = self._strategy.precision, self._strategy.max_batch
        self.head: LearnedHead | None = head_file.of_bundle(self.bundle)

    def require_batch(self, batch: int) -> None:
        """See that one call of the graph takes this many images.

        Raises:
            UsageError: the engine takes fewer.
        """
        if self.max_batch is not None and batch > self.max_batch:
            raise UsageError(
                f"--batch {batch} is above the engine's maximum of {self.max_batch}; pass a smaller --batch, or export"
                " the engine with a larger --trt-batch"
            )

    @property
    def on_gpu(self) -> bool:
        """Whether the encoder runs on a GPU."""
        return self._strategy.on_gpu

    @property
    def kernels(self) -> str:
        """What ran the hot operations so far: ``cuda``, or ``reference`` with the reason if there is one."""
        return self._strategy.kernels

    def segment(
        self, source: Source, progress: Progress | None = None, *, prompts: Prompts | None = None
    ) -> Segmentation:
        """Segment one image.

        Args:
            source: a path, an array (H, W), (H, W, 3) or (H, W, 4), an image of Pillow's, the bytes of a file, a file
                opened in binary mode, or an image read before.
            progress: called after every refinement step with the steps done and the maximum.
            prompts: what a person shows on the image, for the rules ``auto`` and ``candidate:N``.

        Raises:
            ImageError: the image cannot be read or used, or has fewer candidates than the rule asks for.
            UsageError: the prompts do not fit the image or one another, or the system, rule or backend takes none.
            BundleError: there are prompts, and the bundle was exported by a version whose graphs take none.
        """
        start = time.perf_counter()
        image = as_image(source)
        decode = time.perf_counter() - start
        result = self.segment_batch([image], progress, prompts=[prompts])[0]
        return replace(result, seconds={"decode": decode, **result.seconds})

    def segment_batch(
        self,
        images: Sequence[InputImage],
        progress: Progress | None = None,
        *,
        prompts: Sequence[Prompts | None] | None = None,
    ) -> list[Segmentation]:
        """Segment several images through one call of the graph; each gives what it would give alone."""
        start = time.perf_counter()
        shown = prompts or [None] * len(images)
        prepared = [self.prepare(*each) for each in zip(images, shown, strict=True)]
        preprocess = time.perf_counter() - start
        learned = self.learn(prepared, progress)
        start = time.perf_counter()
        results = [self.finish(each) for each in learned]
        ends = {"foreground": time.perf_counter() - start}
        return [
            replace(result, stages={"preprocess": preprocess, **each.stages, **ends})
            for each, result in zip(learned, results, strict=True)
        ]

    def like(self, images: Sequence[Source], masks: Sequence[NDArray[Any]]) -> Segmenter:
        """A segmenter that has learned from corrected images; images like these get masks like these.

        Args:
            images: one or more, as :meth:`segment` takes them.
            masks: of each image its corrected mask, (H, W); all that is not 0 is object.

        Raises:
            ImageError: an image cannot be read or used.
            UsageError: there are no images, or not as many masks; a mask does not fit its image, is empty or covers all
                of it; or the system or the rule takes no corrected images.
        """
        if not len(images) or len(images) != len(masks):
            raise UsageError(f"{len(images)} images and {len(masks)} masks; give one mask for each image")
        return self.taught([self.example(as_image(image), mask) for image, mask in zip(images, masks, strict=True)])

    def taught(self, examples: Sequence[Example]) -> Segmenter:
        """A segmenter that has learned from what :meth:`example` gave of one or more images."""
        return self.with_head(like.learn(examples, head_file.identity_of(self.bundle)))

    def example(self, image: InputImage, mask: NDArray[Any]) -> Example:
        """What a head learns from one corrected image; arguments and errors as for :meth:`like`."""
        self.require_learning()
        try:
            numbers = np.asarray(mask)
        except ValueError as error:  # rows of different lengths
            raise UsageError(f"{image.name}: the rows of its mask differ in length; give an array (H, W)") from error
        if numbers.dtype.kind not in "buif":
            raise UsageError(f"{image.name}: its mask is no array of numbers; give its pixels, (H, W), not its file")
        mask = numbers != 0
        if mask.shape != (image.height, image.width):
            size = " x ".join(map(str, mask.shape[::-1]))
            raise UsageError(
                f"{image.name}: a mask of {size} pixels for an image of {image.width} x {image.height}; give one of"
                " the image's size"
            )
        if mask.all() or not mask.any():
            what = "covers the whole image" if mask.all() else "is empty"
            raise UsageError(f"{image.name}: its corrected mask {what}, and nothing is learned from that; leave it out")
        (learned,) = self._strategy.learn([self.prepare(image)])
        assert learned.refinement.figure is not None  # only trained systems in torch have none
        return Example(learned.prepared.pixels, learned.refinement.figure, mask)

    def with_head(self, head: LearnedHead | None) -> Segmenter:
        """A segmenter with another head and all else of this one, whose graph it shares.

        Raises:
            UsageError: the head is of another system, side or encoder, or the system or the rule takes none.
        """
        if head is not None:
            self.require_learning()
            head_file.require_fit(head, self.bundle)
        other = copy.copy(self)
        other.head = head
        return other

    def without_network(self) -> Segmenter:
        """A copy for another process, which prepares images and finishes what was learned elsewhere.

        Raises:
            UsageError: the system is trained; its network's head finishes too.
        """
        if find_system(self.bundle.system).trained:
            raise UsageError(f"system {self.bundle.system} is trained, and its results need its network's head")
        other = copy.copy(self)
        other._strategy = NoNetwork(self._strategy)
        return other

    def require_learning(self) -> None:
        """See that corrected images can teach here.

        Raises:
            UsageError: the system is trained, or the rule takes its mask from the label map.
        """
        if find_system(self.bundle.system).trained:
            raise UsageError(f"system {self.bundle.system} is trained and learns nothing from corrected images")
        if self.rule.candidate is None:
            raise UsageError(
                f"foreground {self.rule} has masks of the label map, which learn nothing from corrected images; choose"
                " auto or candidate:N"
            )

    def open(self, source: Source) -> Session:
        """Open an image to which prompts are then added one by one; each takes milliseconds, for no network runs again.

        Args:
            source: as for :meth:`segment`.

        Raises:
            ImageError, BundleError: as :meth:`segment`.
            UsageError: the system, rule or backend takes no prompts.
        """
        self.open_for_prompts()
        (learned,) = self._strategy.learn([self.prepare(as_image(source))], keep=True)
        return Session(self, learned)

    def open_for_prompts(self) -> None:
        """Open what takes prompts, where that was not done before; the first prompt does so too.

        Raises:
            UsageError: the system, rule or backend takes none.
            BundleError: the bundle was exported by a version whose graphs take none.
        """
        self.require_prompts()
        self._strategy.open_for_prompts()

    def require_prompts(self) -> None:
        """See that system and rule take prompts.

        Raises:
            UsageError: they take none.
        """
        if find_system(self.bundle.system).trained:
            raise UsageError(f"system {self.bundle.system} is trained and takes no prompts; drop them")
        if self.rule.candidate is None:
            raise UsageError(f"foreground {self.rule} takes no prompts; choose auto or candidate:N")

    def prepare(self, image: InputImage, prompts: Prompts | None = None) -> Prepared:
        """What the network takes of an image; any thread may do that while another learns.

        Raises:
            UsageError: there are prompts, and the system or the rule takes none, or they do not fit the image.
        """
        start = time.perf_counter()
        system = find_system(self.bundle.system)
        if prompts is not None:
            self.require_prompts()
            if not isinstance(prompts, Prompts):
                raise UsageError(f"a {type(prompts).__name__} is no Prompts; pass Prompts([Point(60, 45)])")
            prompts.require_fit(image.height, image.width)
        pixels = read.network_input(image, self.bundle.sizes.side, system.resize)
        view = View(pixels)
        if self.settings.regions:
            view = View(read.network_input(image, borders.SIDE))
            pixels = without_frame(pixels, view)
        return Prepared(image, pixels, view, time.perf_counter() - start, prompts)

    def learn(self, prepared: Sequence[Prepared], progress: Progress | None = None) -> list[Learned]:
        """Encode images and learn on them, in one call of the graph.

        Raises:
            UsageError: there are prompts, and the backend takes none.
            BundleError: there are prompts, and the bundle was exported by a version whose graphs take none.
        """
        return self._strategy.learn(prepared, progress)

    def finish(self, learned: Learned) -> Segmentation:
        """The result of an image: its regions redrawn, its mask; any thread may do that while another learns.

        ``stages`` stay empty: they are those of a whole call of :meth:`segment_batch`.

        Raises:
            ImageError: the rule is ``candidate:N``, and the image has fewer candidates; or it is ``lung-ct``.
        """
        start = time.perf_counter()
        if self.rule.for_volumes:
            raise ImageError(
                f"{learned.prepared.image.name}: is an image, and foreground {self.rule} is for volumes; choose another"
                " rule"
            )
        image, view = learned.prepared.image, learned.prepared.view
        found = self._with_head(learned)
        drawn = borders.redraw(found.labels, view) if self.settings.regions else found.labels
        labels, probability = self._strategy.at_size(found, drawn, image.height, image.width)
        trained = find_system(self.bundle.system).trained
        small = found.figure
        plausible: list[Candidate] = []
        if not trained and small is not None:
            plausible, probability = _with_prompts(learned.prepared, small, probability)
        if self.rule.candidate is not None:
            taken = take(plausible, self.rule.candidate, image.name)
            mask = taken.mask
            confidence: Confidence | None = taken.confidence
        else:
            # Clusters are chosen where they were found; classes at the image's size, which leaves no steps.
            mask = rules.choose(self.rule, labels if trained else drawn, view)
            mask = mask if trained else read.resize_nearest(mask, image.height, image.width)
            confidence = confidence_of(mask, probability) if self.rule.of_figure else nothing_found(mask)
        return Segmentation(
            image,
            labels,
            mask,
            found.labels,
            found.counts,
            found.trace,
            found.collapsed,
            probability,
            confidence,
            {**learned.seconds, "foreground": time.perf_counter() - start},
            candidates=plausible,
            prompts=learned.prepared.prompts,
        )

    def _with_head(self, learned: Learned) -> HostRefinement:
        """The outcome with the head's probability of figure in place of the label-free one, where there is a head."""
        found = learned.refinement
        if self.head is None or found.figure is None:
            return found
        pixels = learned.prepared.pixels
        if found.unprompted is None:
            return replace(found, figure=self.head.apply(pixels, found.figure))
        return replace(found, figure=self.head.apply(pixels, found.unprompted, found.figure))

    def shown(self, learned: Learned, former: Segmentation, prompts: Prompts) -> Segmentation:
        """The result of an image with other prompts than before; only its mask, probability and candidates change.

        Args:
            learned: of the image, with its features.
            former: a result of it.
            prompts: what is shown now.

        Raises:
            UsageError: the prompts do not fit the image or one another.
        """
        start = time.perf_counter()
        image = learned.prepared.image
        prompts.require_fit(image.height, image.width)
        pixels, alone = learned.prepared.pixels, learned.refinement.figure
        small = self._strategy.shown(learned.prepared, learned.refinement.features, prompts)
        if self.head is not None and alone is not None:
            small = self.head.apply(pixels, alone, small)
        found = time.perf_counter()
        at_size = read.resize_linear(small, image.height, image.width)
        plausible, probability = _with_prompts(learned.prepared._replace(prompts=prompts), small, at_size)
        assert self.rule.candidate is not None  # prompts are taken by such rules alone
        taken = take(plausible, self.rule.candidate, image.name)
        seconds = {"prompts": found - start, "foreground": time.perf_counter() - found}
        return replace(
            former,
            mask=taken.mask,
            confidence=taken.confidence,
            probability=probability,
            candidates=plausible,
            seconds=seconds,
            stages={},
            prompts=prompts,
        )


class Session:
    """One image whose mask follows prompts, see :meth:`Segmenter.open`. It keeps the features of the image."""

    def __init__(self, segmenter: Segmenter, learned: Learned) -> None:
        self._segmenter, self._learned = segmenter, learned
        self._plain = self._now = segmenter.finish(learned)
        # Results are not kept, for each has a probability and candidates at the image's size.
        self._former: list[Prompts | None] = []

    @property
    def prompts(self) -> Prompts | None:
        """What is shown now; None before the first prompt."""
        return self._now.prompts

    @property
    def segmentation(self) -> Segmentation:
        """The result with these prompts."""
        return self._now

    def add(self, prompt: Point | Box | Scribble) -> Segmentation:
        """Show something more; the result with it.

        Raises:
            UsageError: it is no prompt, or does not fit the image or what was shown before; nothing changes then.
        """
        former = self.prompts
        self._now = self._with((former or Prompts()).and_also(prompt))
        self._former.append(former)
        return self._now

    def undo(self) -> Segmentation:
        """Take the last prompt back; the result without it, which is computed again.

        Raises:
            UsageError: there is no prompt.
        """
        if not self._former:
            raise UsageError("there is no prompt to take back")
        prompts = self._former[-1]
        self._now = self._plain if prompts is None else self._with(prompts)
        self._former.pop()
        return self._now

    def _with(self, prompts: Prompts) -> Segmentation:
        return self._segmenter.shown(self._learned, self._plain, prompts)


def _with_prompts(
    prepared: Prepared, small: NDArray[np.float32], probability: NDArray[np.float32]
) -> tuple[list[Candidate], NDArray[np.float32]]:
    """Plausible objects that obey the image's prompts, and the probability at its size within them.

    Args:
        prepared: the image.
        small: (S, S), the probability of figure at the network's side.
        probability: (H, W), the same at the image's size.
    """
    prompts, image = prepared.prompts, prepared.image
    if prompts is None:
        return candidates(small, probability), probability
    small, probability = (prompts.within(each, image.height, image.width) for each in (small, probability))
    if prompts.boxes:
        probability = reaching(probability, threshold_of(small), prompts.boxes)
        small = read.resize_linear(probability, *small.shape)
    return candidates(small, probability, lambda mask: obeyed(mask, prepared.pixels, prompts)), probability


def _rule_for(bundle: Bundle, text: str) -> rules.ForegroundRule:
    """The rule for the mask on the labels of a bundle.

    Raises:
        UsageError: it is unknown, or the labels do not have what it chooses among.
    """
    rule = rules.parse_rule(text)
    if find_system(bundle.system).trained:
        rule = rules.of_classes(rule)
    if rule.kind == "cluster" and rule.number >= bundle.sizes.clusters:
        raise UsageError(
            f"{rule} does not exist in this bundle, which has {bundle.sizes.clusters} clusters from 0 on; choose one of"
            " them"
        )
    return rule


def as_image(source: Source) -> InputImage:
    """Take an image that was read before, an array or an image of Pillow's, or read a path, bytes or a binary file.

    Raises:
        ImageError: the image cannot be read or used.
        UsageError: the source is none of these, or an array that NumPy cannot take, such as a tensor on a GPU.
    """
    if isinstance(source, InputImage):
        return source
    if isinstance(source, PillowImage):
        return read.image_from_pillow(source)
    if isinstance(source, (str, os.PathLike, bytes)):
        return read.read_image(source)
    if not isinstance(source, np.ndarray) and hasattr(source, "read"):
        return read.read_image(cast("BinaryIO", source))
    try:
        array = source if isinstance(source, np.ndarray) else np.asarray(source)
    except Exception as error:  # torch's, of tensors on a GPU or with a gradient
        reason = str(error).splitlines()[0]
        raise UsageError(f"{type(source).__name__}: is not an array ({reason}); pass a NumPy array") from error
    return read.image_from_array(array)
