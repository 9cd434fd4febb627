"""Runs every command once, and the Python API, on small networks: ``python every_command.py FOLDER BUNDLE``.

The folder receives what the commands are given and told to write. The last line printed is a JSON object of what ran.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from labelled import write_pairs
from PIL import Image
from ports import unused_port

from msformer_deploy import Segmenter, cli, load_bundle, read_image
from msformer_deploy.models import subtraction
from msformer_deploy.models.subtraction import M2SNet, MSNet
from msformer_deploy.registry import SYSTEMS, Preset, System
from msformer_deploy.training.supervised import supervised

ONE = ("--threads", 1)  # a second thread would only wait for the first in networks so small
WAIT = 60  # seconds for an answer of the service
SMALL = {"channels": 4, "layers": (1, 1, 1, 1)}


class Tour:
    """One method a command, named as the command is with underscores; and one for the API."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, bundle
        self.images, self.masks = write_pairs(folder, 4)

    def list(self) -> None:
        call("list", "--json")

    def inspect(self) -> None:
        call("inspect", self.bundle)

    def doctor(self) -> None:
        call("doctor")

    def export(self) -> None:
        with mock.patch("msformer_deploy.commands.export.find_system", lambda _: self._system()):
            call("export", "--output", self.folder / "exported")

    def run(self) -> None:
        for backend in ("openvino", "onnxruntime"):
            output = self.folder / backend
            call("run", self.images, "--bundle", self.bundle, "--output", output, "--backend", backend, *ONE)

    def report(self) -> None:
        output = self.folder / "shards"
        for number in (1, 2):
            call("run", self.images, "--bundle", self.bundle, "--output", output, "--shard", f"{number}/2", *ONE)
        call("report", "merge", output, "--output", output)

    def benchmark(self) -> None:
        quick = ("--min-seconds", 0.1, "--warmup-seconds", 0, *ONE)
        call("benchmark", self.bundle, "--images", self.images, "--backend", "onnxruntime", *quick)

    def evaluate(self) -> None:
        data = ("--images", self.images, "--masks", self.masks, "--sheet", self.folder / "sheet.png")
        call("evaluate", "--bundle", self.bundle, *data, *ONE)

    def train(self) -> None:
        data = ("--images", self.images, "--masks", self.masks, "--output", self.folder / "trained")
        quick = ("--side", 64, "--epochs", 1, "--batch", 2, "--device", "cpu", *ONE)
        with mock.patch.object(supervised, "new_network", lambda _: M2SNet(**SMALL)):
            call("train", "--system", "m2snet", *data, *quick)

    def import_weights(self) -> None:
        torch.save(MSNet(**SMALL).state_dict(), self.folder / "published.pth")
        with mock.patch.object(subtraction, "MSNet", functools.partial(MSNet, **SMALL)):
            output = self.folder / "imported.safetensors"
            call("import-weights", self.folder / "published.pth", "--system", "msnet", "--output", output)

    def web(self) -> None:
        call("web", "--output", self.folder / "page")

    def serve(self) -> None:
        port = unused_port()
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(ask_and_end, port, self.images / "00.png")
            call("serve", "--bundle", self.bundle, "--port", port, *ONE)
            client.result()

    def listen(self) -> None:
        """Until it listens, and then the signal that ends it."""
        port = unused_port()

        def end() -> None:
            with socket.socket() as sender:
                while sender.connect_ex(("127.0.0.1", port)):
                    time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end, daemon=True).start()
        where = ("--spool", self.folder / "spool", "--send-to", "PACS@127.0.0.1:104", "--port", port)
        call("listen", *where, "--bundle", self.bundle, *ONE)

    def python_api(self) -> None:
        Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(60, 80)).save(self.folder / "grey.png")
        Segmenter(load_bundle(self.bundle)).segment(read_image(self.folder / "grey.png"))

    def _system(self) -> System:
        made = load_bundle(self.bundle)
        system = SYSTEMS["msformer"]
        return dataclasses.replace(
            system,
            **{size: getattr(made.sizes, size) for size in ("side", "width", "clusters", "blocks")},
            presets=system.presets | {"fast": Preset(made.refinement)},
        )


def ask_and_end(port: int, image: Path) -> None:
    """Have a service segment an image, read its metrics and its page, and end it by a signal."""
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/v2/health/ready", timeout=WAIT).close()
            break
        except OSError:  # it is not there, or not ready
            time.sleep(0.05)
    try:
        urllib.request.urlopen(f"{url}/segment", image.read_bytes(), timeout=WAIT).close()
        for path in ("/", "/metrics"):
            urllib.request.urlopen(url + path, timeout=WAIT).close()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def call(*arguments: object) -> None:
    """Call the command line in this process; a failure ends the tour."""
    code = cli.call([*map(str, arguments)])
    if code:
        sys.exit(f"{arguments[0]} ended with exit code {code}")


def main() -> None:
    torch.set_num_threads(1)
    tour = Tour(*map(Path, sys.argv[1:]))
    ran = []
    for name in (*cli.cli.commands, "python-api"):
        stop: Callable[[], None] | None = getattr(tour, name.replace("-", "_"), None)
        if stop is None:
            sys.exit(f"{Path(__file__).name} does not know the command {name}: add a method that runs it")
        stop()
        ran.append(name)
    print(json.dumps(ran))


if __name__ == "__main__":
    main()
