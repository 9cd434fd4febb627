"""Segment one image with the Python API and write its mask as a PNG file, 255 inside the object and 0 outside.

Make a bundle once, then segment with it. Without an image, the script takes a sample image.

    msformer-deploy export --system msformer --output bundle
    python examples/segment_an_image.py image.png --bundle bundle --output mask.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from msformer_deploy import DeployError, Segmenter
from msformer_deploy.images.samples import shown_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, default=shown_images()[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundle"))
    parser.add_argument("--output", type=Path, default=Path("mask.png"))
    options = parser.parse_args()

    try:
        # Loading a bundle takes longer than one image: keep the segmenter for all images.
        result = Segmenter(options.bundle).segment(options.image)
    except DeployError as error:  # its message is one line: what is wrong, and what to do
        sys.exit(f"error: {error}")
    Image.fromarray(result.mask).convert("L").save(options.output)

    print(f"{options.output}: {result.mask.mean():.0%} of {options.image.name} is object")
    print(f"expected DSC: {result.confidence.value:.2f}")
    if result.confidence.doubt is not None:
        print(f"in doubt: {result.confidence.doubt}")


if __name__ == "__main__":
    main()
