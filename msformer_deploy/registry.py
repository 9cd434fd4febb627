"""Every system of this package, as pure data: the only source of CLI choices, sizes and presets. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .errors import UsageError

Mode = Literal["head", "full", "none"]
MODES: tuple[Mode, ...] = ("head", "full", "none")
Kernels = Literal["auto", "cuda", "reference"]  # the implementation of the hot operations on a CUDA device
KERNELS: tuple[Kernels, ...] = ("auto", "cuda", "reference")
BACKENDS = ("onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt", "torch")  # what can execute the encoder
Precision = Literal["fp32", "fp16", "bf16", "int8"]  # of the encoder's matrix products; inputs and outputs stay float32
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
TrtFlavour = Literal["tensorrt", "rtx"]  # NVIDIA's full TensorRT and TensorRT for RTX
TRT_FLAVOURS: tuple[TrtFlavour, ...] = ("tensorrt", "rtx")
TritonBackend = Literal[
    "onnxruntime", "openvino", "tensorrt"
]  # of Triton Inference Server, which serves a model with it
TRITON_BACKENDS: tuple[TritonBackend, ...] = ("onnxruntime", "openvino", "tensorrt")
Resize = Literal["bilinear", "nearest"]
Axis = Literal["axial", "coronal", "sagittal"]  # the plane of the slices of a volume
AXES: tuple[Axis, ...] = ("axial", "coronal", "sagittal")
Format = Literal["png", "nifti", "nrrd", "mha", "seg", "sc", "sr", "coco", "labelme"]  # of results
FORMATS: tuple[Format, ...] = ("png", "nifti", "nrrd", "mha", "seg", "sc", "sr", "coco", "labelme")
SegType = Literal["binary", "labelmap"]  # of a DICOM segmentation: a bit for each segment, or one number, per pixel
SEG_TYPES: tuple[SegType, ...] = ("binary", "labelmap")
DEPLOYED = ("export", "run", "benchmark", "evaluate")  # the commands that every system supports
Regime = Literal["self-guided", "supervised", "semi-supervised"]


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the self-guided learning on one image. Every report and bundle records them.

    Attributes:
        mode: ``head`` (closed form, the head alone), ``full`` (the published loop, everything learns) or ``none``.
        steps: maximum number of updates.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        stop_labels: learning stops once this many labels or fewer are left.
        stride: ``head`` only; every stride-th pixel is used, a different phase at each step.
        head_scale: ``head`` only; the initial head is multiplied by this. Small scores keep clusters in competition
            longer, so that fewer and larger ones are left (measured in ``docs/explanation/quality.md``).
        regions: ``head`` and ``none``; number of clusters that share all pixels after learning, those with most pixels.
            The others are dropped. 0 keeps all.
        least_steps: ``full`` only; number of updates before ``stop_labels`` counts.
        inter_weight: ``full`` of MS-Former only; weight of the inter-scale loss. The cross-entropy's is 1.
        intra_weight: ``full`` of MS-Former only; weight of the intra-scale loss.
        cross_entropy_weight: ``full`` of S3-Net only; weight of the cross-entropy.
        affine_weight: ``full`` of S3-Net only; weight of the affine loss.
        spatial_weight: ``full`` of S3-Net only; weight of the spatial loss.
        repaired: ``full`` of S3-Net only; affine and spatial loss as they are meant, see :mod:`.self_guided`.
    """

    mode: Mode = "head"
    steps: int = 15
    lr: float = 0.01
    momentum: float = 0.9
    stop_labels: int = 3
    stride: int = 8
    head_scale: float = 0.1
    regions: int = 0
    least_steps: int = 0
    inter_weight: float = 1.5
    intra_weight: float = 1.3
    cross_entropy_weight: float = 3.5
    affine_weight: float = 0.2
    spatial_weight: float = 4.0
    repaired: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"refinement mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        whole = (self.steps, self.stop_labels, self.stride, self.regions, self.least_steps)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in whole):
            raise UsageError(
                f"refinement steps, stop_labels, stride, regions and least_steps must be whole numbers, got {whole}"
            )
        if self.steps < 0 or self.stride < 1 or self.stop_labels < 0 or self.least_steps < 0:
            raise UsageError(
                "refinement needs steps >= 0, stride >= 1, stop_labels >= 0 and least_steps >= 0;"
                f" got {self.steps}, {self.stride}, {self.stop_labels}, {self.least_steps}"
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
class FigureSettings:
    """Settings of what is learned from the prior, in torch (:mod:`.models.figure`) and in NumPy for volumes.

    Attributes:
        grid: minimum number of pixels of the side of the grid that is learned from.
        ridge: penalty, as a part of the variance of a feature.
        steps: maximum number of steps of conjugate gradients.
        gain: logits for a learned score of 1 with R² = 1.
        clip: maximum magnitude of a learned score, of which -1 is ground and 1 figure.
        radius: of the guided filter's window, in parts of the image's side.
        contrast: variance of grey values on 0..1 above which a window counts as having an edge.
        no_weight: added to weights, so that their sum is never 0.
        no_spread: added to the deviation of a feature, so that a constant one is not divided by 0.
        no_energy: minimum of denominators of conjugate gradients, which reach 0 where they have converged.
    """

    grid: int = 48
    ridge: float = 0.1
    steps: int = 10
    gain: float = 6.0
    clip: float = 1.5
    radius: float = 6 / 257
    contrast: float = 1e-3
    no_weight: float = 1e-3
    no_spread: float = 1e-3
    no_energy: float = 1e-20


# The loop of the notebooks: xmindflow/SSCT.
S3_PUBLISHED = RefineSettings(mode="full", steps=50, lr=0.2, least_steps=6)


@dataclass(frozen=True)
class Preset:
    """A named trade-off between quality and time, measured in ``docs/explanation/performance.md``.

    Attributes:
        refinement: settings of the learning.
        side: side of the network input, pixels; None for any.
        blocks: blocks in each branch of the network; None for any number.
    """

    refinement: RefineSettings
    side: int | None = None
    blocks: int | None = None

    def fits(self, side: int, blocks: int) -> bool:
        """Whether a bundle of these sizes can run with this preset."""
        return self.side in (None, side) and self.blocks in (None, blocks)


@dataclass(frozen=True)
class System:
    """One segmentation system.

    Attributes:
        name: name of the system in the CLI.
        page: page of the documentation.
        paper, code: the publication, and the public code on GitHub that this package follows.
        licence: licence of the public code.
        regime: ``self-guided`` learns on the image that it segments; the others are trained beforehand.
        input: channels, range and interpolation of the network input in the published code.
        resize: how the image is resized here, see :func:`.read.network_input`.
        side: default side of the square network input, pixels.
        side_rule: the sides that the network accepts.
        width, clusters, blocks: default sizes of the network; trained systems have one cluster per class.
        variants: variants of the encoder; the first one is the default.
        classes: names of the labels of a trained system, in order; empty for a self-guided system.
        encoder_outputs: outputs of ``encoder.onnx``. The features of a trained system are its logits.
        commands: the commands that support the system.
        presets: presets by name; the first one is the default.
    """

    name: str
    title: str
    page: str
    paper: str
    code: str
    licence: str
    regime: Regime
    input: str
    side: int
    side_rule: str
    width: int
    clusters: int
    blocks: int
    presets: dict[str, Preset]
    commands: tuple[str, ...] = DEPLOYED
    variants: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    resize: Resize = "bilinear"
    encoder_outputs: tuple[str, ...] = ("features",)

    @property
    def trained(self) -> bool:
        """Whether the weights come from training; such a system learns nothing on the image."""
        return self.regime != "self-guided"

    def preset(self, name: str | None = None) -> Preset:
        """The preset called ``name``. Default: the first one.

        Raises:
            UsageError: the system has no preset of that name.
        """
        if name is None:
            return next(iter(self.presets.values()))
        if name not in self.presets:
            raise UsageError(f"{self.name} has no preset {name!r}; choose one of {', '.join(self.presets)}")
        return self.presets[name]

    def variant(self, name: str | None = None) -> str:
        """The variant called ``name``. Default: the first one; empty for a system without variants.

        Raises:
            UsageError: the system has no variant of that name.
        """
        if name is None:
            return next(iter(self.variants), "")
        if name not in self.variants:
            has = f"choose one of {', '.join(self.variants)}" if self.variants else "leave the variant out"
            raise UsageError(f"{self.name} has no variant {name!r}; {has}")
        return name

    def sized(self, preset: str | None = None) -> System:
        """Return this system with the sizes of a preset. Default: the first preset.

        Raises:
            UsageError: the system has no preset of that name.
        """
        chosen = self.preset(preset)
        return replace(self, side=chosen.side or self.side, blocks=chosen.blocks or self.blocks)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for ``list --json``."""
        return {**asdict(self), "trained": self.trained}


TRAINED = {"trained": Preset(RefineSettings(mode="none", steps=0))}

# What the two networks of one publication have in common.
SUBTRACTION: dict[str, Any] = {
    "code": "Xiaoqi-Zhao-DLUT/MSNet-M2SNet",
    "licence": "see the public code",
    "regime": "supervised",
    "input": "RGB, ImageNet's mean and deviation, bilinear",
    "side": 352,
    "side_rule": "a multiple of 32; that of training by default",
    "width": 64,
    "clusters": 2,
    "blocks": 3,
    "commands": (*DEPLOYED, "train", "import-weights"),
    "classes": ("background", "object"),
    "presets": TRAINED,
}

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            name="msformer",
            title="MS-Former",
            page="docs/explanation/msformer.md",
            paper="Karimijafarbigloo et al., MS-Former, MIDL 2023, PMLR 227:680-694",
            code="xmindflow/MS-Former",
            licence="MIT",
            regime="self-guided",
            input="BGR in 0..1, bilinear",
            side=257,
            side_rule="a multiple of 32 plus 1",
            width=100,
            clusters=100,
            blocks=2,
            encoder_outputs=("features", "context_small", "context_large"),
            presets={
                "fast": Preset(RefineSettings(steps=4, stride=16, regions=2), side=97, blocks=1),
                "balanced": Preset(RefineSettings(steps=4, stride=16, regions=2), side=193, blocks=1),
                # The loop of the notebook that printed the published scores; docs/how-to/python.md has its other one.
                "paper": Preset(
                    RefineSettings(mode="full", steps=50, lr=0.1, inter_weight=1.5, intra_weight=1.3),
                    side=257,
                    blocks=2,
                ),
                "initial": Preset(RefineSettings(mode="none", steps=0)),
            },
        ),
        System(
            name="s3net",
            title="S3-Net",
            page="docs/explanation/s3net.md",
            paper="Karimijafarbigloo et al., ICCVW 2023 (CVAMD), arXiv 2309.00143",
            code="xmindflow/SSCT",
            licence="see the public code",
            regime="self-guided",
            input="BGR in 0..1, bilinear",
            side=256,
            side_rule="any from 2 on",
            width=64,
            clusters=64,
            blocks=2,
            variants=("plain", "deformable"),
            presets={
                "fast": Preset(RefineSettings(steps=4, regions=2), side=96, blocks=1),
                "balanced": Preset(RefineSettings(steps=4, regions=2), side=128, blocks=1),
                "paper": Preset(S3_PUBLISHED, side=256, blocks=2),
                "initial": Preset(RefineSettings(mode="none", steps=0)),
            },
        ),
        System(
            name="msnet",
            title="MSNet",
            page="docs/explanation/m2snet.md",
            paper="Zhao et al., MICCAI 2021, arXiv 2108.05082",
            **SUBTRACTION,
        ),
        System(
            name="m2snet",
            title="M2SNet",
            page="docs/explanation/m2snet.md",
            paper="Zhao et al., arXiv 2303.10894",
            **SUBTRACTION,
        ),
        System(
            name="mcsc",
            title="MCSC",
            page="docs/explanation/mcsc.md",
            paper="Liu et al., BMVC 2023, arXiv 2306.14293",
            code="kathyliu579/MCSC",
            licence="see the public code",
            regime="semi-supervised",
            input="grey in 0..1, nearest neighbour",
            side=224,
            side_rule="that of training",
            width=16,
            clusters=4,
            blocks=1,
            commands=(*DEPLOYED, "train"),
            variants=("unet", "swin", "both"),
            resize="nearest",
            classes=("background", "right ventricle", "myocardium", "left ventricle"),
            presets=TRAINED,
        ),
    )
}

DEFAULT = next(iter(SYSTEMS))  # the system where none is named
VARIANTS = tuple(name for system in SYSTEMS.values() for name in system.variants)
PRESETS = tuple(dict.fromkeys(name for system in SYSTEMS.values() for name in system.presets))


def find_system(name: str) -> System:
    """The system called ``name``.

    Raises:
        UsageError: there is no such system.
    """
    if name not in SYSTEMS:
        raise UsageError(f"system {name!r} is unknown; choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]
