"""Run the whole method from ``segmenter.onnx`` with ONNX Runtime, NumPy and Pillow: no torch, no msformer_deploy.

The graph holds the encoder, the learning and the argmax, so this is all that another program or language has to do. It
gives the regions as the network draws them. ``msformer-deploy run --whole-graph`` also redraws their borders at a
higher resolution and chooses the object by rules of the domain.

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
    (label_map,) = session.run(["label_map"], {"image": pixels[None, :, :, ::-1].transpose(0, 3, 1, 2)})
    labels = label_map[0]  # (side, side) region ids

    # The simplest rule: the region with most of the rim is the background.
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    mask = labels != np.bincount(rim).argmax()
    Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST).convert("L").save(options.output)
    print(f"{options.output}: regions {', '.join(map(str, np.unique(labels)))}; {mask.mean():.0%} is object")


if __name__ == "__main__":
    main()
