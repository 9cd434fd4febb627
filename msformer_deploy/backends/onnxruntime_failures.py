"""What ONNX Runtime's failures on GPUs mean: its own words in, what is missing and what to do out."""

from __future__ import annotations

import re
from typing import NamedTuple


class Failure(NamedTuple):
    """A failure in the user's terms."""

    missing: str
    advice: str

    def __str__(self) -> str:
        return f"{self.missing}; {self.advice}"


WHEELS = ("onnxruntime", "onnxruntime-gpu")  # of one import name
BOTH_WHEELS = Failure(
    "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
    "uninstall both, then install exactly one of msformer-deploy[cpu] and msformer-deploy[gpu]",
)

_NOT_FOUND = r"(?::| =>| is)? (?:cannot open shared object file|not found)"
_NEWER_DRIVER = "update NVIDIA's driver, or install an onnxruntime-gpu built for an older CUDA"

# Pattern, what is missing, what to do. The first that matches counts; {cuda} is the CUDA that the wheel is built for.
_TABLE = (
    (
        rf"(?P<library>libcuda\.so[.\d]*){_NOT_FOUND}",
        "NVIDIA's driver ({library}) is not found",
        "install the driver, or give the container its GPUs",
    ),
    (
        rf"(?P<library>libcudnn\w*\.so[.\d]*){_NOT_FOUND}",
        "cuDNN ({library}) is not found",
        'pip install "onnxruntime-gpu[cuda,cudnn]", or install cuDNN for {cuda} with its folder on LD_LIBRARY_PATH',
    ),
    (
        rf"(?P<library>libnv(?:infer|onnxparser)\w*\.so\.(?P<major>\d+)[.\d]*){_NOT_FOUND}",
        "TensorRT {major} ({library}) is not found",
        "install TensorRT {major} for {cuda} (other major versions do not fit this onnxruntime)",
    ),
    (
        rf"(?P<library>lib(?:cublas|cufft|curand|cudart|nvrtc|cusparse|cusolver|nvJitLink)\w*\.so[.\d]*){_NOT_FOUND}",
        "the CUDA library {library} is not found",
        'pip install "onnxruntime-gpu[cuda,cudnn]", or install {cuda} with its folder on LD_LIBRARY_PATH',
    ),
    (
        rf"(?P<library>lib[\w.+-]+\.so[.\d]*){_NOT_FOUND}",
        "the library {library} is not found",
        "install it, or put its folder on LD_LIBRARY_PATH",
    ),
    (
        r"(?P<symbol>GLIBC\w*_[\d.]+)' not found",
        "the system's C or C++ library is too old ({symbol} is not in it)",
        "install an older onnxruntime-gpu, or run in a newer system or container",
    ),
    (
        r"undefined symbol: (?P<symbol>\w+)",
        "libraries of different CUDA, cuDNN or TensorRT versions are mixed (undefined symbol {symbol})",
        "leave one version of each on LD_LIBRARY_PATH and in the environment",
    ),
    (
        r'LoadLibrary failed with error \d+ "[^"]*" when trying to load "[^"]*?(?P<library>[\w.]+\.dll)"',
        "a library that {library} needs is not found",
        "put the folders of {cuda}, cuDNN 9 and, for TensorRT, its own on PATH",
    ),
    (
        r"CUDA driver version is insufficient|cudaErrorInsufficientDriver",
        "NVIDIA's driver is older than the {cuda} that this onnxruntime is built for, or absent",
        _NEWER_DRIVER,
    ),
    (
        r"forward compatibility was attempted|unsupported display driver / cuda driver combination",
        "the CUDA compatibility libraries and NVIDIA's driver do not fit each other",
        "take cuda-compat off LD_LIBRARY_PATH, or update the driver and reboot",
    ),
    (
        r"UnsupportedPtxVersion|unsupported toolchain",
        "NVIDIA's driver is older than the {cuda} that this onnxruntime is built for",
        _NEWER_DRIVER,
    ),
    (
        r"no CUDA-capable device is detected|cudaErrorNoDevice",
        "CUDA finds no GPU",
        "look at nvidia-smi and CUDA_VISIBLE_DEVICES, and give the container its GPUs",
    ),
    (
        r"invalid device ordinal|cudaErrorInvalidDevice",
        "there is no GPU of that number",
        "choose one that nvidia-smi lists",
    ),
    (
        r"no kernel image is available|cudaErrorNoKernelImageForDevice",
        "this onnxruntime has no code for this GPU's compute capability",
        "install an onnxruntime-gpu whose CUDA version supports the GPU, or build one for it",
    ),
    (
        r"SUBLIBRARY_VERSION_MISMATCH|SUBLIBRARY_LOADING_FAILED",
        "libraries of several cuDNN versions are mixed",
        "leave one cuDNN on LD_LIBRARY_PATH and in the environment",
    ),
    (
        r"Failed to allocate memory for requested buffer of size (?P<bytes>\d+)",
        "memory ran out (a buffer of {bytes} bytes)",
        "use a smaller --batch, or end what else uses the GPU",
    ),
    (
        r"out of memory|OutOfMemory|STATUS_ALLOC_FAILED",
        "memory ran out",
        "use a smaller --batch, or end what else uses the GPU",
    ),
    (
        r"CUDNN_STATUS_NOT_INITIALIZED|Failed to initialize CUDNN Frontend",
        "cuDNN does not start: it does not fit the driver, {cuda} or the GPU, or memory ran out",
        "install cuDNN 9 for {cuda}, and look at nvidia-smi",
    ),
    (
        r"Please install TensorRT libraries",
        "TensorRT's libraries are not found",
        "install the TensorRT for {cuda} that this onnxruntime is built with",
    ),
    (
        r"TensorRT EP (?:failed to create engine|could not build)",
        "TensorRT cannot build an engine of the graph on this GPU",
        "use --backend onnxruntime, and report it with 'msformer-deploy doctor --json'",
    ),
    (
        r"Could not find an implementation for (?P<op>\w+)\((?P<opset>\d+)\)",
        "this onnxruntime has no {op} (opset {opset}) for the graph's types there",
        "choose another --precision, --device or --backend",
    ),
    (
        r"assigned to the default CPU EP",
        "the provider has no kernel for some nodes of the graph, or did not load",
        "run 'msformer-deploy doctor'",
    ),
)


def explain(text: str, cuda: str = "") -> Failure:
    """The failure that a message of ONNX Runtime, CUDA or the dynamic loader means.

    Args:
        text: the message, of one or many lines.
        cuda: CUDA version that this ONNX Runtime is built for, such as ``13.0``; empty where it does not say.
    """
    for pattern, missing, advice in _TABLE:
        if match := re.search(pattern, text):
            values = {**match.groupdict(), "cuda": f"CUDA {cuda.partition('.')[0]}".strip()}
            return Failure(missing.format_map(values), advice.format_map(values))
    return Failure(_shortened(text), "run 'msformer-deploy doctor'")


def _shortened(text: str) -> str:
    # Where in its sources a call failed and how its template was instantiated says nothing to a user.
    line = " ".join(re.sub(r"\S*/onnxruntime(?:_src)?/\S+:\d+ .*?\) ", "", text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."
