"""Run the whole method from ``segmenter.onnx`` with ONNX Runtime, NumPy and Pillow: no torch, no msformer_deploy.

The graph holds the encoder, the prior, the learning and the argmax, so this is all that another program or language has
to do. ``msformer-deploy run --whole-graph`` also reads images of more than 8 bits, fills a black frame, finds other
plausible objects and reports what DSC to expect.

    msformer-deploy export --system msformer --output bundle
    python examples/serve_from_onnx.py image.png --graph bundle/segmenter.onnx --output mask.png
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, with which ONNX Runtime begins to report to its maker
import onnxruntime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--graph", type=Path, default=Path("bundle/segmenter.onnx"))
    parser.add_argument("--output", type=Path, default=Path("mask.png"))
    options = parser.parse_args()

    session = onnxruntime.InferenceSession(options.graph, providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[-1]

    # The input: float32 (1, 3, side, side), blue-green-red, from 0 to 1, squeezed to a square.
    picture = Image.open(options.image).convert("RGB")
    pixels = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    (batch,) = session.run(["probability"], {"image": pixels[None, :, :, ::-1].transpose(0, 3, 1, 2)})
    probability = batch[0]  # float32 (side, side): that a pixel is figure

    # The threshold whose mask has the highest DSC to expect: half of that DSC, but at least 0.2.
    inside = np.cumsum(np.sort(probability, axis=None)[::-1], dtype=np.float64)
    expected = 2 * inside / (inside[-1] + np.arange(1, inside.size + 1))
    threshold = max(expected.max() / 2, 0.2)

    mask = np.asarray(Image.fromarray(probability).resize(picture.size, Image.Resampling.BILINEAR)) > threshold
    Image.fromarray(mask).convert("L").save(options.output)
    print(f"{options.output}: {mask.mean():.0%} is object")


if __name__ == "__main__":
    main()
