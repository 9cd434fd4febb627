"""The four ways from prepared images to label maps, each with what it refuses.

``WholeGraph`` runs encoder and learning as one graph, ``Head`` and ``Trained`` run the bundle's encoder, and ``Full``
trains the network on the image. The last three import torch when they are made; the module itself does not.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from itertools import count, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.base import parse_device
from ..backends.choose import ON_GPU_ONLY, RUNTIMES, may_use_gpu, open_backend
from ..errors import BackendUnavailable, DeployError, UsageError
from ..foreground.boxes import window_around
from ..foreground.prompts import Prompts
from ..images.read import network_input, resize_linear, resize_nearest
from ..machine.cores import give_torch
from ..machine.extras import is_installed, require_extra
from ..machine.forks import Origin
from ..registry import Precision, RefineSettings, find_system
from .options import EncoderOptions
from .outcome import Progress, Refinement, all_on_host
from .stopwatch import CudaStopwatch, Stopwatch, WallStopwatch

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends.base import Backend, Part
    from ..bundle.folder import Bundle, Graph
    from ..foreground.view import View
    from ..images.read import InputImage
    from ..models.figure import Figure

Inputs = NDArray[np.float32]  # (B, 3, S, S), BGR in 0..1
Labels = NDArray[np.integer]
HostRefinement = Refinement[NDArray[Any]]
_ELSEWHERE = "the network is in the process that loaded the bundle; learn there, or load the bundle here"


class Prepared(NamedTuple):
    """An image, what the network takes of it, and what its mask is chosen on.

    Attributes:
        image: as it was read.
        pixels: (3, S, S) float32, BGR in 0..1, at the network's side.
        view: of the whole image; where regions are drawn, with :data:`.borders.SIDE` pixels a side.
        seconds: that it took to prepare.
        prompts: shown on the image; None for none.
    """

    image: InputImage
    pixels: NDArray[np.float32]
    view: View
    seconds: float
    prompts: Prompts | None = None


class Learned(NamedTuple):
    """A prepared image, what was learned on it, and the time that took.

    Attributes:
        prepared: the image.
        refinement: its outcome at the network's side.
        seconds, stages: see :class:`.segmenter.Segmentation`; stages are those of the call of the encoder.
    """

    prepared: Prepared
    refinement: HostRefinement
    seconds: dict[str, float]
    stages: dict[str, float]


class Strategy(ABC):
    """One way to learn on images. In a process that was forked after it was made, :meth:`learn` raises DeployError.

    Attributes:
        backend_name: of what executes the network.
        provider: what really executes it, read back after loading.
        device: where it leaves what torch learns on, in torch's words: ``cpu`` or ``cuda:N``.
        precision: of the network.
        max_batch: maximum number of images in one call; None for any number.
    """

    backend_name: str
    provider: str
    device: str
    precision: Precision
    max_batch: int | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return self.device.startswith("cuda")

    @property
    def on_cuda(self) -> bool:
        """Whether torch learns on a GPU."""
        return False

    @property
    def kernels(self) -> str:
        """What ran the hot operations so far: ``cuda``, or ``reference`` with the reason if there is one."""
        return "reference"

    def learn(
        self, prepared: Sequence[Prepared], progress: Progress | None = None, *, keep: bool = False
    ) -> list[Learned]:
        """Learn on images, in one call of the encoder where there is one.

        Args:
            prepared: the images; they do not influence one another.
            progress: called after every step with the steps done and the maximum.
            keep: keep the features of the images, which :meth:`figure` takes.

        Raises:
            UsageError: features are wanted, for prompts or to be kept, and the backend gives none.
            BundleError: so they are, and the bundle was exported by an older version.
        """
        stopwatch: Stopwatch = CudaStopwatch(self.device) if self.on_cuda else WallStopwatch()
        prompted = any(each.prompts is not None for each in prepared)
        found = self._learn(np.stack([each.pixels for each in prepared]), keep or prompted, stopwatch, progress)
        if prompted:
            found = [self._prompted(*each) for each in zip(prepared, found, strict=True)]
            stopwatch.lap("prompts")
        if not keep:
            found = [replace(each, features=None) for each in found]
        stages = stopwatch.seconds()
        shared = {stage: seconds / len(prepared) for stage, seconds in _summed(stages).items()}
        return [
            Learned(each, refinement, {"preprocess": each.seconds, **shared}, stages)
            for each, refinement in zip(prepared, found, strict=True)
        ]

    def at_size(
        self, refinement: HostRefinement, labels: Labels, height: int, width: int
    ) -> tuple[Labels, NDArray[np.float32]]:
        """Labels at an image's size, and the probability that a pixel is figure, or not background.

        Args:
            refinement: what :meth:`learn` gave.
            labels: its label map, or what was drawn of it.
            height, width: of the image.
        """
        assert refinement.figure is not None
        return resize_nearest(labels, height, width), resize_linear(refinement.figure, height, width)

    def open_for_prompts(self) -> None:  # noqa: B027  (torch has it)
        """Open what :meth:`figure` needs, where that was not done before.

        Raises:
            UsageError: the backend cannot do this.
            BundleError: the bundle was exported by an older version.
        """

    @abstractmethod
    def figure(self, pixels: NDArray[np.float32], features: Any, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability (S, S) that a pixel is figure, with prompts; not for trained systems.

        Args:
            pixels: (3, S, S) of the image.
            features: that :meth:`learn` kept.
            channels: (3, 96, 96) of the prompts, see :meth:`.prompts.Prompts.channels`.
        """

    def shown(self, prepared: Prepared, features: Any, prompts: Prompts) -> NDArray[np.float32]:
        """The probability (S, S) that a pixel is figure, with prompts; of what boxes are far from, it is 0.

        Args:
            prepared: the image.
            features: that :meth:`learn` kept of it.
            prompts: that fit the image.
        """
        image = prepared.image
        if not prompts.boxes:
            return self.figure(prepared.pixels, features, prompts.channels(image.height, image.width))
        side = prepared.pixels.shape[1]
        window = window_around(prompts.boxes, image.height, image.width, side)
        part = window.part(image.height, image.width)
        channels = prompts.channels(image.height, image.width, part=part)
        pixels = network_input(image, side, part=part)
        return window.placed(self.figure(pixels, window.enlarged(features, self._kept), channels))

    @cached_property
    def _kept(self) -> threading.local:
        return threading.local()

    def _prompted(self, prepared: Prepared, found: HostRefinement) -> HostRefinement:
        if prepared.prompts is None:
            return found
        figure = self.shown(prepared, found.features, prepared.prompts)
        return replace(found, figure=figure, unprompted=found.figure)

    @abstractmethod
    def _learn(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[HostRefinement]:
        """The outcome of each image, with its features if they are to be kept."""

    def _run_on(self, backend: Backend) -> None:
        self._backend = backend
        self.backend_name, self.provider, self.device = backend.name, backend.provider, backend.device
        self.precision, self.max_batch = backend.precision, backend.max_batch


class WholeGraph(Strategy):
    """Encoder, learning and argmax as the bundle's one graph."""

    def __init__(self, bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> None:
        if seed != bundle.seed or settings != bundle.refinement:
            raise UsageError(
                "the whole-method graph has its refinement and seed built in;"
                " drop --whole-graph, or export a bundle with these settings"
            )
        self._trained = find_system(bundle.system).trained
        self._bundle, self._options = bundle, options
        self._run_on(_open(bundle, "segmenter", options))

    def figure(self, pixels: NDArray[np.float32], features: Any, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._for_prompts.figure(pixels[None], features[None], channels[None])

    def open_for_prompts(self) -> None:
        _ = self._for_prompts
        if self._backend.graph != "prompted":
            self._backend = self._part("prompted")  # does all that the whole graph does

    @cached_property
    def _for_prompts(self) -> Backend:
        """The part of the graph that finds the figure; opened for the first prompt."""
        return self._part("figure")

    def _part(self, part: Part) -> Backend:
        """A part of the graph, on what runs the whole of it."""
        device = parse_device(self.device if self.on_gpu else "cpu")
        return open_backend(self.backend_name, self._bundle, device, self._options.threads, part, self.precision)

    def _learn(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[HostRefinement]:
        features: Iterable[Any] = repeat(None)
        if keep:
            self.open_for_prompts()
        if self._backend.graph == "prompted":
            *got, found = self._backend.prompted(inputs)
            if keep:  # channels last in memory, as the figure reads them
                features = np.ascontiguousarray(found.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        else:
            got = list(self._backend.segment(inputs))
        stopwatch.lap("whole_graph")
        return [
            Refinement(labels, counts, collapsed=bool(collapsed) and not self._trained, figure=figure, features=own)
            for labels, counts, collapsed, figure, own in zip(*got, features, strict=False)
        ]


class _InTorch(Strategy):
    """What torch does after the encoder, or all of it."""

    _figure: Any  # :class:`.models.figure.Figure`; None of a trained system

    def __init__(self, settings: RefineSettings, options: EncoderOptions) -> None:
        self._settings, self._kernels = settings, options.kernels
        self._learning_threads = options.learning_threads

    @property
    def on_cuda(self) -> bool:
        return self.on_gpu

    @property
    def kernels(self) -> str:
        if not self.on_cuda or self._kernels == "reference":
            return "reference"
        from ..kernels import fallbacks

        return f"reference: {'; '.join(fallbacks())}" if fallbacks() else "cuda"

    def figure(self, pixels: NDArray[np.float32], features: Any, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        inputs, shown = (torch.from_numpy(each[None]).to(features.device) for each in (pixels, channels))
        with torch.inference_mode(), _torch_threads(self._learning_threads):
            (probability,) = self._figure(inputs, features[None], shown)
        return np.asarray(probability.cpu().numpy())

    def _learn(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[HostRefinement]:
        from ..kernels import using

        with using(self._kernels):
            found = self._refine(inputs, keep, stopwatch, progress)
        on_host = [
            replace(each, features=former.features) for each, former in zip(all_on_host(found), found, strict=True)
        ]
        if self.on_cuda:
            stopwatch.lap("device_to_host")
        return on_host

    @abstractmethod
    def _refine(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[Refinement[Tensor]]:
        """The outcome of each image, where torch has it, with its features if they are to be kept."""


class Head(_InTorch):
    """A frozen encoder on a backend, and the closed-form learning of the head; modes ``head`` and ``none``."""

    def __init__(self, bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> None:
        super().__init__(settings, options)
        bundle.require_complete()
        require_extra("torch", "learning in torch (for --seed, --steps, --refine or --no-whole-graph)")
        self._run_on(_open(bundle, "encoder", options))
        import torch

        from ..weights.network import initial_head

        give_torch(options.threads)
        self._head = (
            torch.from_numpy(bundle.head()) if seed == bundle.seed else initial_head(bundle.sizes, seed, bundle.system)
        )
        self._figure = None if find_system(bundle.system).trained else _figure(bundle.sizes.side, self.device)

    def _refine(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[Refinement[Tensor]]:
        import torch

        features = torch.as_tensor(self._backend.encode(inputs).features)
        stopwatch.lap("encoder")
        with _torch_threads(self._learning_threads):
            found = self._apply(features, stopwatch, progress)
            if self._figure is None:
                return found
            found = _with_figures(found, self._figure, inputs, features, stopwatch)
        if not keep:
            return found
        return [replace(each, features=own) for each, own in zip(found, features, strict=True)]

    def _apply(self, features: Tensor, stopwatch: Stopwatch, progress: Progress | None) -> list[Refinement[Tensor]]:
        from .head import refine_head

        head = self._head.to(features.device)
        return refine_head(features, head, self._settings, progress, _numbered(stopwatch))


class Trained(Head):
    """A network that was trained before: its scores are the features, and it learns nothing on an image."""

    def _apply(self, features: Tensor, stopwatch: Stopwatch, progress: Progress | None) -> list[Refinement[Tensor]]:
        # One label in all is an answer of a trained system, and no accident.
        return [
            replace(each, collapsed=False, scores=scores)
            for each, scores in zip(super()._apply(features, stopwatch, progress), features, strict=True)
        ]

    def at_size(
        self, refinement: HostRefinement, labels: Labels, height: int, width: int
    ) -> tuple[Labels, NDArray[np.float32]]:
        import torch

        from ..models.deployed import at_size

        return at_size(torch.from_numpy(refinement.scores), self._head, height, width)


class Full(_InTorch):
    """The whole network is trained on its image, as published; mode ``full``."""

    def __init__(self, bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> None:
        super().__init__(settings, options)
        bundle.require_complete()
        require_extra("torch", "refinement mode 'full'")
        from ..backends.torch import torch_device
        from ..weights.network import load_network, new_network
        from .passes import HALVES, Passes, require_compiler

        if options.backend not in ("auto", "torch"):
            raise UsageError(
                f"refinement mode 'full' trains the network, which needs --backend torch, not {options.backend}"
            )
        if options.precision not in (None, "fp32", *HALVES):
            raise UsageError(
                f"refinement mode 'full' trains the network in fp32, or on a GPU in {' or '.join(HALVES)}, not in"
                f" {options.precision}; drop --precision"
            )
        self.precision = options.precision or "fp32"
        give_torch(options.threads)
        target = torch_device(parse_device(options.device))
        if self.precision in HALVES and target.type != "cuda":
            raise BackendUnavailable(
                f"refinement mode 'full' trains in {self.precision} only on a CUDA device, but this run is on {target};"
                " drop --precision, or run where there is a GPU"
            )
        if options.compile:
            require_compiler(target.type)
        self._origin = Origin()
        self._passes = Passes(self.precision, options.compile)
        self._network: Any = (
            load_network(bundle) if seed == bundle.seed else new_network(bundle.sizes, seed, bundle.system)
        ).to(target)
        self.backend_name, self.provider, self.device = "torch", str(target), str(target)
        self._figure = _figure(bundle.sizes.side, self.device)

    def _refine(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[Refinement[Tensor]]:
        return [self._train(inputs[[index]], keep, stopwatch, progress) for index in range(len(inputs))]

    def _train(self, image: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None) -> Refinement[Tensor]:
        import torch

        from .full import refine_full

        self._origin.require("the network that torch trains")
        network = deepcopy(self._network)
        pixels = torch.from_numpy(image).to(self.device)
        if self.on_cuda:
            stopwatch.lap("host_to_device")
        found = refine_full(network, pixels, self._settings, progress, _numbered(stopwatch), self._passes)
        assert found.scores is not None
        features = found.scores
        (found,) = _with_figures([found], self._figure, image, features[None], stopwatch)
        return replace(found, scores=None, features=features if keep else None)


class NoNetwork(Strategy):
    """What is left of a strategy in a process that has not its network: facts, and results at an image's size."""

    def __init__(self, strategy: Strategy) -> None:
        self.backend_name, self.provider, self.device = strategy.backend_name, strategy.provider, strategy.device
        self.precision, self.max_batch = strategy.precision, strategy.max_batch

    def figure(self, pixels: NDArray[np.float32], features: Any, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        raise DeployError(_ELSEWHERE)

    def _learn(
        self, inputs: Inputs, keep: bool, stopwatch: Stopwatch, progress: Progress | None
    ) -> list[HostRefinement]:
        raise DeployError(_ELSEWHERE)


def open_strategy(bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> Strategy:
    """The strategy that a request means, ready to learn.

    Args:
        bundle: a verified bundle.
        settings: of the learning.
        seed: draws what is learned anew: the head, or in mode ``full`` the whole network.
        options: what runs it.

    Raises:
        UsageError: the request contradicts itself, or the bundle.
        BackendUnavailable: the backend, device or precision cannot run here, or there is no compiler.
    """
    trained = _refuse_contradictions(bundle, settings, seed, options)
    whole = runs_whole(bundle, settings, seed, options)
    strategy: Strategy
    if whole:
        strategy = WholeGraph(bundle, settings, seed, options)
    elif settings.mode == "full":
        strategy = Full(bundle, settings, seed, options)
    else:
        strategy = (Trained if trained else Head)(bundle, settings, seed, options)
    if options.kernels == "cuda" and not strategy.on_cuda:
        where = "learns in the graph" if whole else f"is on {strategy.backend_name} ({strategy.provider})"
        raise BackendUnavailable(
            f"kernels cuda need a CUDA device, but this run {where};"
            " pass --device cuda with a --backend that works there"
        )
    return strategy


def runs_whole(bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> bool:
    """Whether a request runs as the bundle's one graph: as it says, or where that is as good as torch."""
    if options.whole_graph is not None:
        return options.whole_graph
    return _in_graph(bundle, settings, seed, options) and (not bundle.complete or _graph_is_as_good(bundle, options))


def suffices(bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> bool:
    """Whether a bundle with the whole method only will do: where that is as good as torch, or no other can be made."""
    if options.whole_graph is not None:
        return options.whole_graph
    return _in_graph(bundle, settings, seed, options) and (
        _graph_is_as_good(bundle, options) or not is_installed("onnxscript")
    )


def _graph_is_as_good(bundle: Bundle, options: EncoderOptions) -> bool:
    if not is_installed("torch"):
        return True
    if not any(map(is_installed, RUNTIMES)):
        return False
    # On a GPU torch has our kernels, and the graph many small operators.
    on_gpu = options.backend in ON_GPU_ONLY or may_use_gpu(parse_device(options.device))
    return not on_gpu and not find_system(bundle.system).trained


def _in_graph(bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> bool:
    """Whether the bundle's whole-method graph does what is asked."""
    return (
        settings == bundle.refinement
        and seed == bundle.seed
        and options.backend != "torch"
        and options.kernels != "cuda"
        and not options.compile
    )


def _refuse_contradictions(bundle: Bundle, settings: RefineSettings, seed: int, options: EncoderOptions) -> bool:
    """Whether the system was trained.

    Raises:
        UsageError: settings, seed, options and bundle do not fit together.
    """
    system = find_system(bundle.system)
    if settings.repaired and (settings.mode != "full" or system.name != "s3net"):
        raise UsageError(
            f"--repaired-losses only affects S3-Net's refinement mode 'full', not {system.name}'s mode"
            f" {settings.mode!r}; drop it"
        )
    if system.trained and settings.mode != "none":
        raise UsageError(
            f"system {system.name} is trained and does not learn on the image, so its refinement mode is"
            f" 'none', not {settings.mode!r}; leave the settings to the bundle"
        )
    if system.trained and seed != bundle.seed:
        raise UsageError(f"system {system.name} is trained and uses no seed; drop --seed")
    if options.compile and settings.mode != "full":
        raise UsageError(f"--compile only affects refinement mode 'full', not mode {settings.mode!r}; drop it")
    return system.trained


def _figure(side: int, device: str) -> Figure:
    """What finds the figure in images of a side, with the prior's weights."""
    from ..models.figure import Figure
    from ..models.prior import fused
    from ..weights.prior import load_prior

    return Figure(fused(load_prior()), side).to(device)


def _with_figures(
    found: list[Refinement[Tensor]],
    figure: Figure,
    inputs: Inputs,
    features: Tensor,
    stopwatch: Stopwatch,
) -> list[Refinement[Tensor]]:
    """Outcomes with the probability of figure, learned on features (B, C, S, S)."""
    import torch

    from ..backends.transfers import uploaded

    with torch.inference_mode():
        figures = figure(uploaded(inputs, features.device), features)
    stopwatch.lap("figure")
    return [replace(each, figure=probability) for each, probability in zip(found, figures, strict=True)]


def _open(bundle: Bundle, graph: Graph, options: EncoderOptions) -> Backend:
    device = parse_device(options.device)
    return open_backend(options.backend, bundle, device, options.threads, graph, options.precision)


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
    """The stages that a report shows: all of the learning is one, with the copies between memories that it needs."""
    summed: dict[str, float] = {}
    for stage, seconds in stages.items():
        name = stage if stage in ("encoder", "whole_graph") else "refine"
        summed[name] = summed.get(name, 0.0) + seconds
    return summed
