"""Segment a folder with the command line and list the masks that a person should look at first.

The command reads ahead, writes behind, keeps going when an image fails, and leaves a report and a gallery. Without a
folder, the script takes the sample images. Without a bundle, the command makes its default bundle once.

    python examples/segment_a_folder.py scans --output results
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from msformer_deploy.images.samples import shown_images

SOME_IMAGES_FAILED = 5  # exit code of run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args()

    inputs = shown_images() if options.folder is None else [options.folder]
    command = [sys.executable, "-m", "msformer_deploy", "run", *inputs, "--output", options.output]
    if options.bundle is not None:
        command += ["--bundle", options.bundle]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, SOME_IMAGES_FAILED):
        sys.exit(code)  # the command has said why

    report = json.loads((options.output / "report.json").read_text(encoding="utf-8"))
    segmented = [image for image in report["images"] if image["error"] is None]
    unsure = [image for image in segmented if image["foreground"]["doubt"]]
    print(f"{len(unsure)} of {len(segmented)} masks are in doubt; the one with the lowest expected DSC comes first")
    for image in sorted(unsure, key=lambda image: image["foreground"]["confidence"]):
        found = image["foreground"]
        print(f"{found['confidence']:.2f}  {options.output / image['mask']}  {found['doubt']}")
    for image in report["images"]:
        if image["error"] is not None:
            print(f"failed  {image['error']}")
    sys.exit(code)


if __name__ == "__main__":
    main()
