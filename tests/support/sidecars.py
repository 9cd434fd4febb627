"""A sidecar of an engine that is bytes which no TensorRT is given."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from msformer_deploy.bundle.sidecar import EngineOptions, Record, this_platform

DATA = b"an engine" * 100


def record(**changes: Any) -> Record:
    """Of an engine of the full TensorRT, built on an A10 for it alone."""
    made = Record(
        graph="encoder",
        precision="fp32",
        flavour="tensorrt",
        flavour_version="10.13.3.9",
        platform=this_platform(),
        gpu="NVIDIA A10",
        compute_capabilities=("8.6",),
        cuda="13",
        driver="13.0",
        onnx_sha256="0" * 64,
        options=EngineOptions(),
        kernels="plugins",
        inputs=[{"name": "image", "dtype": "FLOAT", "shape": [-1, 3, 33, 33]}],
        outputs=[{"name": "features", "dtype": "FLOAT", "shape": [-1, 16, 33, 33]}],
        layers=1,
        precisions={"CONVOLUTION": {"FLOAT": 1}},
        precisions_of="engine",
        sha256=hashlib.sha256(DATA).hexdigest(),
        bytes=len(DATA),
        build_seconds=1.5,
    )
    return replace(made, **changes)
