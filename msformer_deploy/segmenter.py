"""The public way in: an image to a label map and a mask, with everything that was decided on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image as PillowImage

from .backends.base import open_backend, parse_device
from .bundle.folder import Bundle, Graph, load_bundle
from .errors import BackendUnavailable, UsageError
from .foreground import borders, rules
from .foreground.confidence import Confidence, confidence_of
from .foreground.frame import without_frame
from .foreground.view import View
from .images import read
from .images.read import InputImage
from .machine.cores import give_torch
from .machine.forks import Origin
from .refinement.stopwatch import CudaStopwatch, Stopwatch, WallStopwatch
from .registry import KERNELS, Kernels, Mode, Precision, RefineSettings, find_system

if TYPE_CHECKING:
    from torch import Tensor

    from .refinement.outcome import Refinement, Step


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
        confidence: in the mask, from 0 to 1, and why it is doubted if it is (:mod:`.confidence`).
        probability: (H, W) float32 that a pixel is anything but background, of a trained system; None where the whole
            method ran as one graph, which gives labels only, and of systems that learn on the image.
        seconds: wall-clock seconds per stage; batched stages are divided evenly among the images.
        stages: seconds of every part of the call that gave this result, all its images together: ``preprocess``,
            ``encoder``, ``sample``, ``step 1`` and so on, ``argmax``, ``foreground``; on a GPU also ``device_to_host``,
            and ``host_to_device`` in mode ``full`` (the encoder copies its own input). The whole method in one graph is
            ``whole_graph``.
    """

    image: InputImage
    labels: NDArray[np.integer]
    mask: NDArray[np.bool_]
    network_labels: NDArray[np.integer]
    counts: NDArray[np.int64]
    trace: list[Step]
    collapsed: bool
    confidence: Confidence
    seconds: dict[str, float]
    stages: dict[str, float] = field(default_factory=dict)
    probability: NDArray[np.float32] | None = None

    @property
    def label_count(self) -> int:
        """Distinct clusters in the map at network resolution."""
        return int((self.counts > 0).sum())

    def overlay(self) -> NDArray[np.uint8]:
        """The image with the mask and the cluster boundaries drawn on it, uint8 (H, W, 3)."""
        return read.overlay(self.image, self.labels, self.mask)


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
        raise UsageError(f"system {system.name} was trained and learns nothing on an image; drop --refine and --steps")
    if preset is not None:
        chosen = system.preset(preset)
        settings = chosen.refinement
        if not chosen.fits(bundle.sizes.side, bundle.sizes.blocks):
            raise UsageError(
                f"preset {preset!r} is for bundles of {_sizes(chosen.side, chosen.blocks)}, and {bundle.path} has"
                f" {_sizes(bundle.sizes.side, bundle.sizes.blocks)};"
                " drop --bundle for the preset's own, or drop --preset"
            )
        if mode is not None and mode != settings.mode:
            raise UsageError(
                f"preset {preset!r} is of refinement mode {settings.mode!r}, not {mode!r}; drop one of them"
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


class _Outcome(NamedTuple):
    """What became of one image at network resolution."""

    labels: NDArray[np.integer]  # (S, S)
    counts: NDArray[np.int64]  # (K,)
    trace: list[Step]
    collapsed: bool
    scores: Tensor | None = None  # (C, S, S), of a trained system


class Prepared(NamedTuple):
    """An image, what the network takes of it, and what its mask is chosen on.

    Attributes:
        image: as it was read.
        pixels: (3, S, S) float32, BGR in 0..1, at the network's side.
        view: of the whole image: where regions are drawn on :data:`.borders.SIDE` pixels, of so many.
        seconds: that it took to prepare.
    """

    image: InputImage
    pixels: NDArray[np.float32]
    view: View
    seconds: float


class Learned(NamedTuple):
    """What :meth:`Segmenter.finish` makes a result of: a prepared image, what became of it, and the time it took."""

    image: InputImage
    view: View
    outcome: _Outcome
    seconds: dict[str, float]  # as those of Segmentation
    stages: dict[str, float]  # likewise, of the call of the encoder


class Segmenter:
    """A bundle, loaded once, ready for any number of images.

    Args:
        bundle: a loaded bundle, or the path of one.
        backend: ``auto`` or one of :data:`.registry.BACKENDS`; executes the encoder.
        precision: of the encoder, one of those the bundle has; its own by default. In mode ``full``, which trains the
            network, ``fp32``, or on a CUDA device ``fp16`` or ``bf16`` by autocast.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: threads for one operator; None leaves it to the runtime, or gives it what a CPU quota allows.
        settings: the refinement; the bundle's by default.
        foreground_rule: label-free choice of the mask, one of :data:`.foreground.RULES`.
        seed: draws what is learned anew: the head, or in mode ``full`` the whole network. None keeps the bundle's.
        whole_graph: run encoder, learning and argmax as the bundle's one graph, without torch.
        kernels: what runs the hot operations that torch does on a CUDA device: ``auto``, ``cuda`` or ``reference``, see
            :func:`.kernels.using`.
        compile: run the training of mode ``full`` through ``torch.compile``; its first step takes long.
        learning_threads: of torch, for the closed-form learning on a CPU; all that torch has by default. They wait for
            one another at full speed, and long where other threads, that read and write say, want the same cores.

    Raises:
        BundleError: the bundle is not valid.
        UsageError: an argument is unknown, or the whole graph or the mode cannot do what is asked.
        BackendUnavailable: the backend, device or precision cannot run here, or there is no compiler.

    In a process that was forked after it was made, :meth:`learn` and all that calls it raise DeployError.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        settings: RefineSettings | None = None,
        foreground_rule: str = "auto",
        seed: int | None = None,
        whole_graph: bool = False,
        kernels: Kernels = "auto",
        precision: Precision | None = None,
        compile: bool = False,
        learning_threads: int | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.settings = settings or self.bundle.refinement
        self._system = find_system(self.bundle.system)
        if self.settings.repaired and (self.settings.mode != "full" or self.bundle.system != "s3net"):
            raise UsageError(
                f"--repaired-losses are of S3-Net's refinement mode 'full', not of {self.bundle.system}'s mode"
                f" {self.settings.mode!r}; drop it"
            )
        if self._system.trained and self.settings.mode != "none":
            raise UsageError(
                f"system {self._system.name} was trained and learns nothing on an image, so that its refinement mode is"
                f" 'none', not {self.settings.mode!r}; leave the settings to the bundle"
            )
        self.rule = rules.parse_rule(foreground_rule)
        if self._system.trained:
            self.rule = rules.of_classes(self.rule)
        if self.rule.kind == "cluster" and self.rule.cluster >= self.bundle.sizes.clusters:
            raise UsageError(f"{self.rule} is beyond the bundle's {self.bundle.sizes.clusters} clusters")
        self.seed = self.bundle.seed if seed is None else seed
        self._redrawn = seed is not None and seed != self.bundle.seed
        if self._redrawn and self._system.trained:
            raise UsageError(f"system {self._system.name} was trained, and a seed draws nothing in it; drop --seed")
        self._device, self._learning_threads = parse_device(device), learning_threads
        self.precision: Precision
        self.most: int | None  # images in one call of the encoder; None for any number
        self.whole_graph = whole_graph
        if kernels not in KERNELS:
            raise UsageError(f"kernels {kernels!r} are unknown; choose one of {', '.join(KERNELS)}")
        self._kernels: Kernels = kernels
        if whole_graph and (self._redrawn or self.settings != self.bundle.refinement):
            raise UsageError(
                "the whole-method graph has its refinement and seed built in;"
                " drop --whole-graph, or export a bundle with the settings wanted"
            )
        self.compiled = compile
        if compile and self.settings.mode != "full":
            raise UsageError(
                f"--compile is for the training of refinement mode 'full', not for mode {self.settings.mode!r}; drop it"
            )
        if self.settings.mode == "full":
            self._prepare_full(backend, threads, precision)
        else:
            graph: Graph = "segmenter" if whole_graph else "encoder"
            self._backend = open_backend(backend, self.bundle, self._device, threads, graph, precision)
            self.backend_name, self.provider = self._backend.name, self._backend.provider
            self.precision, self._learns_on = self._backend.precision, self._backend.device
            self.most = self._backend.most
            if not whole_graph:
                self._prepare_head(threads)
        if kernels == "cuda" and not self._on_cuda:
            raise BackendUnavailable(
                "kernels cuda learn on a CUDA device, this run"
                + (" learns in the graph" if whole_graph else f" is on {self.backend_name} ({self.provider})")
                + "; pass --device cuda with a --backend that works there"
            )

    @property
    def on_gpu(self) -> bool:
        """Whether the encoder runs on a GPU."""
        return self._learns_on.startswith("cuda")

    @property
    def _on_cuda(self) -> bool:
        """Whether torch learns on a GPU."""
        return self.on_gpu and not self.whole_graph

    @property
    def kernels(self) -> str:
        """What ran the hot operations so far: ``cuda``, or ``reference`` with the reason if there is one."""
        if not self._on_cuda or self._kernels == "reference":
            return "reference"
        from .kernels import fallbacks

        return f"reference: {'; '.join(fallbacks())}" if fallbacks() else "cuda"

    def _prepare_head(self, threads: int | None) -> None:
        import torch

        from .weights.network import initial_head

        give_torch(threads)
        self._head = (
            initial_head(self.bundle.sizes, self.seed, self.bundle.system)
            if self._redrawn
            else torch.from_numpy(self.bundle.head())
        )

    def _prepare_full(self, backend: str, threads: int | None, precision: Precision | None) -> None:

        from .backends.torch import torch_device
        from .refinement.passes import HALVES, Passes, require_compiler
        from .weights.network import load_network, new_network

        if backend not in ("auto", "torch"):
            raise UsageError(f"refinement mode 'full' trains the network, which needs --backend torch, not {backend}")
        if precision not in (None, "fp32", *HALVES):
            raise UsageError(
                f"refinement mode 'full' trains the network in fp32, or on a GPU in {' or '.join(HALVES)}, not in"
                f" {precision}; drop --precision"
            )
        self.precision, self.most = precision or "fp32", None
        give_torch(threads)
        target = torch_device(self._device)
        if self.precision in HALVES and target.type != "cuda":
            raise BackendUnavailable(
                f"refinement mode 'full' trains in {precision} on a CUDA device only, this run is on {target};"
                " drop --precision, or run where there is a GPU"
            )
        if self.compiled:
            require_compiler(target.type)
        self._origin = Origin()
        self._passes = Passes(self.precision, self.compiled)
        self._network: Any = (
            new_network(self.bundle.sizes, self.seed, self.bundle.system)
            if self._redrawn
            else load_network(self.bundle)
        ).to(target)
        self.backend_name = "torch"
        self.provider = self._learns_on = str(target)

    def segment(self, source: Source, progress: Callable[[int, int], None] | None = None) -> Segmentation:
        """Segment one image.

        Args:
            source: a path, an array (H, W), (H, W, 3) or (H, W, 4), an image of Pillow's, the bytes of a file, a file
                opened in binary mode, or an image read before.
            progress: called after every refinement step with the steps done and the most there can be.

        Raises:
            ImageError: the image cannot be read or used.
        """
        start = time.perf_counter()
        image = as_image(source)
        decode = time.perf_counter() - start
        result = self.segment_batch([image], progress)[0]
        return replace(result, seconds={"decode": decode, **result.seconds})

    def segment_batch(
        self, images: Sequence[InputImage], progress: Callable[[int, int], None] | None = None
    ) -> list[Segmentation]:
        """Segment several images through one encoder call; each gives what it would give alone."""
        start = time.perf_counter()
        prepared = [self.prepare(image) for image in images]
        preprocess = time.perf_counter() - start
        learned = self.learn(prepared, progress)
        start = time.perf_counter()
        results = [self.finish(each) for each in learned]
        ends = {"foreground": time.perf_counter() - start}
        return [
            replace(result, stages={"preprocess": preprocess, **each.stages, **ends})
            for each, result in zip(learned, results, strict=True)
        ]

    def prepare(self, image: InputImage) -> Prepared:
        """What the network takes of an image; any thread may do that while another learns."""
        start = time.perf_counter()
        pixels = read.network_input(image, self.bundle.sizes.side, self._system.resize)
        view = View(pixels)
        if self.settings.regions:
            view = View(read.network_input(image, borders.SIDE))
            pixels = without_frame(pixels, view)
        return Prepared(image, pixels, view, time.perf_counter() - start)

    def learn(self, prepared: Sequence[Prepared], progress: Callable[[int, int], None] | None = None) -> list[Learned]:
        """Encode images and learn on them, in one encoder call."""
        stopwatch: Stopwatch = CudaStopwatch(self._learns_on) if self._on_cuda else WallStopwatch()
        outcomes = self._learn(np.stack([each.pixels for each in prepared]), stopwatch, progress)
        stages = stopwatch.seconds()
        shared = {stage: seconds / len(prepared) for stage, seconds in _summed(stages).items()}
        return [
            Learned(each.image, each.view, outcome, {"preprocess": each.seconds, **shared}, stages)
            for each, outcome in zip(prepared, outcomes, strict=True)
        ]

    def finish(self, learned: Learned) -> Segmentation:
        """The result of an image: its regions redrawn, its mask; any thread may do that while another learns.

        ``stages`` stay empty: they are those of a whole call of :meth:`segment_batch`.
        """
        start = time.perf_counter()
        image, view, outcome = learned.image, learned.view, learned.outcome
        drawn = borders.redraw(outcome.labels, view) if self.settings.regions else outcome.labels
        mask = rules.choose(self.rule, drawn, view)
        confidence = confidence_of(mask, view)
        full_labels, probability = read.resize_nearest(drawn, image.height, image.width), None
        full_mask = read.resize_nearest(mask, image.height, image.width)
        if outcome.scores is not None:
            from .models.deployed import at_size

            full_labels, probability = at_size(outcome.scores, self._head, image.height, image.width)
            full_mask = rules.choose(self.rule, full_labels, view)
        return Segmentation(
            image,
            full_labels,
            full_mask,
            outcome.labels,
            outcome.counts,
            outcome.trace,
            # One label in all is an answer of a trained system, and no accident.
            outcome.collapsed and not self._system.trained,
            confidence,
            {**learned.seconds, "foreground": time.perf_counter() - start},
            probability=probability,
        )

    def _learn(
        self, inputs: NDArray[np.float32], stopwatch: Stopwatch, progress: Callable[[int, int], None] | None
    ) -> list[_Outcome]:
        """The outcomes of the images of inputs (B, 3, S, S)."""
        if self.whole_graph:
            got = self._backend.segment(inputs)
            stopwatch.lap("whole_graph")
            return [
                _Outcome(labels, counts, [], bool(collapsed))
                for labels, counts, collapsed in zip(got.label_map, got.counts, got.collapsed, strict=True)
            ]
        from .kernels import using

        with using(self._kernels):
            outcomes, scores = self._learn_in_torch(inputs, stopwatch, progress)
        found = [
            _Outcome(each.labels.cpu().numpy(), each.counts.cpu().numpy(), each.trace, each.collapsed, score)
            for each, score in zip(outcomes, scores, strict=True)
        ]
        if self._on_cuda:
            stopwatch.lap("device_to_host")
        return found

    def _learn_in_torch(
        self, inputs: NDArray[np.float32], stopwatch: Stopwatch, progress: Callable[[int, int], None] | None
    ) -> tuple[list[Refinement], list[Tensor] | list[None]]:
        """Refinements, and the scores (C, S, S) of a trained system."""
        nothing: list[None] = [None for _ in inputs]
        if self.settings.mode == "full":
            return [self._train(image[None], stopwatch, progress) for image in inputs], nothing
        import torch

        from .refinement.head import refine_head

        features = torch.as_tensor(self._backend.encode(inputs).features)
        stopwatch.lap("encoder")
        head = self._head.to(features.device)
        with _torch_threads(self._learning_threads):
            found = refine_head(features, head, self.settings, progress, _numbered(stopwatch))
        return found, [each.cpu() for each in features] if self._system.trained else nothing

    def _train(
        self, image: NDArray[np.float32], stopwatch: Stopwatch, progress: Callable[[int, int], None] | None
    ) -> Refinement:
        import torch

        from .refinement.full import refine_full

        self._origin.require("the network that torch trains")
        network = deepcopy(self._network)
        pixels = torch.from_numpy(image).to(self._learns_on)
        if self._on_cuda:
            stopwatch.lap("host_to_device")
        return refine_full(network, pixels, self.settings, progress, _numbered(stopwatch), self._passes)


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads when the caller's thread calls it; None leaves them."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _numbered(stopwatch: Stopwatch) -> Callable[[str], None]:
    """A lap for the refinement of one image or batch, whose steps get their number."""
    steps = count(1)
    return lambda stage: stopwatch.lap(f"step {next(steps)}" if stage == "step" else stage)


def _summed(stages: dict[str, float]) -> dict[str, float]:
    """The stages that a report tells: all of the learning is one, with the copies between memories that it needs."""
    summed: dict[str, float] = {}
    for stage, seconds in stages.items():
        name = stage if stage in ("preprocess", "encoder", "whole_graph") else "refine"
        summed[name] = summed.get(name, 0.0) + seconds
    return summed


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
