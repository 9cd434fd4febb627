"""Every system this package knows, as pure data: the one source of CLI choices, sizes and presets. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from .errors import UsageError

Mode = Literal["head", "full", "none"]
MODES: tuple[Mode, ...] = ("head", "full", "none")
Kernels = Literal["auto", "cuda", "reference"]  # what runs the hot operations on a CUDA device
KERNELS: tuple[Kernels, ...] = ("auto", "cuda", "reference")
BACKENDS = ("onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", "torch")  # what can execute the encoder
Precision = Literal["fp32", "fp16", "bf16", "int8"]  # of the encoder's products; inputs and outputs stay float32
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
TrtFlavour = Literal["tensorrt", "rtx"]  # NVIDIA's full TensorRT, and TensorRT for RTX
TRT_FLAVOURS: tuple[TrtFlavour, ...] = ("tensorrt", "rtx")


@dataclass(frozen=True)
class RefineSettings:
    """How the self-guided learning runs on one image. Recorded in every report and bundle.

    Attributes:
        mode: ``head`` (closed form, the head alone), ``full`` (the published loop, everything learns) or ``none``.
        steps: most updates made.
        lr, momentum: SGD settings.
        stop_labels: stop once this many labels or fewer are left.
        stride: ``head`` only; every stride-th pixel is used, a different phase at each step.
        head_scale: ``head`` only; the initial head is multiplied by this. Small scores keep clusters in competition
            longer, so that fewer and larger ones are left (measured in ``docs/design.md``).
        regions: ``head`` and ``none``; so many clusters, those with most pixels after learning, share all pixels among
            them, the others are dropped. 0 keeps all.
        inter_weight, intra_weight: ``full`` only; weights of the two consistency losses beside a cross-entropy of 1.
    """

    mode: Mode = "head"
    steps: int = 15
    lr: float = 0.01
    momentum: float = 0.9
    stop_labels: int = 3
    stride: int = 8
    head_scale: float = 0.1
    regions: int = 0
    inter_weight: float = 1.5
    intra_weight: float = 1.3

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"refinement mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        whole = (self.steps, self.stop_labels, self.stride, self.regions)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in whole):
            raise UsageError(f"refinement steps, stop_labels, stride and regions must be whole numbers, got {whole}")
        if self.steps < 0 or self.stride < 1 or self.stop_labels < 0:
            raise UsageError(
                "refinement needs steps >= 0, stride >= 1 and stop_labels >= 0;"
                f" got {self.steps}, {self.stride}, {self.stop_labels}"
            )
        if self.regions < 0 or self.regions == 1:
            raise UsageError(f"refinement needs 2 regions or more, or 0 for all; got {self.regions}")
        if self.regions and self.mode == "full":
            raise UsageError("refinement mode 'full' is the published loop and keeps all clusters; regions must be 0")
        if not (self.lr > 0 and self.head_scale > 0 and 0 <= self.momentum < 1):
            raise UsageError(
                "refinement needs lr > 0, head_scale > 0 and 0 <= momentum < 1;"
                f" got {self.lr}, {self.head_scale} and {self.momentum}"
            )


@dataclass(frozen=True)
class Preset:
    """A named way to run: a point of the measured front of quality against time, see ``docs/performance.md``.

    Attributes:
        refinement: how to learn.
        side: of the network input, pixels; None where any will do.
        blocks: of each branch of the network; None where any number will do.
    """

    refinement: RefineSettings
    side: int | None = None
    blocks: int | None = None

    def fits(self, side: int, blocks: int) -> bool:
        """Whether a bundle of these sizes can be run so."""
        return self.side in (None, side) and self.blocks in (None, blocks)


@dataclass(frozen=True)
class System:
    """One segmentation system.

    Attributes:
        name: what the CLI calls it.
        state: ``ready``, or ``planned`` when it is specified but not built yet.
        side: default side of the square network input, pixels.
        width, clusters, blocks: default sizes of the network.
        channels: order of the input channels.
        presets: named ways to run; the first one is the default.
        licence: licence of the public code the system follows.
    """

    name: str
    title: str
    state: Literal["ready", "planned"]
    paper: str
    code: str
    licence: str
    regime: str
    side: int
    channels: str = "BGR"
    width: int = 0
    clusters: int = 0
    blocks: int = 0
    presets: dict[str, Preset] = field(default_factory=dict)

    def preset(self, name: str | None = None) -> Preset:
        """The preset called ``name``; the first one by default.

        Raises:
            UsageError: if the system has none of that name.
        """
        if name is None:
            return next(iter(self.presets.values()))
        if name not in self.presets:
            raise UsageError(f"preset {name!r} is unknown; choose one of {', '.join(self.presets)}")
        return self.presets[name]

    def sized(self, preset: str | None = None) -> System:
        """This system with the sizes that a preset is for as its own; the first preset by default.

        Raises:
            UsageError: if the system has no preset of that name.
        """
        chosen = self.preset(preset)
        return replace(self, side=chosen.side or self.side, blocks=chosen.blocks or self.blocks)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``list --json``."""
        return asdict(self)


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            name="msformer",
            title="MS-Former",
            state="ready",
            paper="Karimijafarbigloo et al., MS-Former, MIDL 2023, PMLR 227:680-694",
            code="xmindflow/MS-Former",
            licence="MIT",
            regime="self-guided, per image, no labels",
            side=257,
            width=100,
            clusters=100,
            blocks=2,
            presets={
                "balanced": Preset(RefineSettings(steps=4, regions=2), side=193, blocks=1),
                "fast": Preset(RefineSettings(steps=4, regions=2), side=97, blocks=1),
                # The notebook's two loops: the first printed the published scores, the second drew the figures.
                "paper": Preset(
                    RefineSettings(mode="full", steps=50, lr=0.1, inter_weight=1.5, intra_weight=1.3),
                    side=257,
                    blocks=2,
                ),
                "visualisation": Preset(
                    RefineSettings(mode="full", steps=50, lr=0.1, inter_weight=2.0, intra_weight=1.2),
                    side=257,
                    blocks=2,
                ),
                "initial": Preset(RefineSettings(mode="none", steps=0)),
            },
        ),
        System(
            name="s3net",
            title="S3-Net",
            state="planned",
            paper="Karimijafarbigloo et al., ICCVW 2023 (CVAMD), arXiv 2309.00143",
            code="xmindflow/SSCT",
            licence="see the public code",
            regime="self-guided, per image, no labels",
            side=256,
        ),
        System(
            name="msnet",
            title="MSNet",
            state="planned",
            paper="Zhao et al., MICCAI 2021, arXiv 2108.05082",
            code="Xiaoqi-Zhao-DLUT/MSNet-M2SNet",
            licence="see the public code",
            regime="supervised",
            side=352,
            channels="RGB",
        ),
        System(
            name="m2snet",
            title="M2SNet",
            state="planned",
            paper="Zhao et al., arXiv 2303.10894",
            code="Xiaoqi-Zhao-DLUT/MSNet-M2SNet",
            licence="see the public code",
            regime="supervised",
            side=352,
            channels="RGB",
        ),
        System(
            name="mcsc",
            title="MCSC",
            state="planned",
            paper="Liu et al., BMVC 2023, arXiv 2306.14293",
            code="kathyliu579/MCSC",
            licence="see the public code",
            regime="semi-supervised",
            side=224,
            channels="grey",
        ),
    )
}

PRESETS = tuple(dict.fromkeys(name for system in SYSTEMS.values() for name in system.presets))
READY = tuple(name for name, system in SYSTEMS.items() if system.state == "ready")


def ready_system(name: str) -> System:
    """The system called ``name``.

    Raises:
        UsageError: if it is unknown or not built yet.
    """
    system = SYSTEMS.get(name)
    if system is None:
        raise UsageError(f"system {name!r} is unknown; choose one of {', '.join(SYSTEMS)}")
    if system.state != "ready":
        raise UsageError(f"system {name!r} is planned, not built yet; ready: {', '.join(READY)}")
    return system
