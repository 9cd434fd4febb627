"""What torch computes on the validation images: the yardstick of every export.

It is computed in a process of its own, beside the export, which keeps one core busy with tracing while torch can use
the others. ``python -m msformer_deploy.export.reference`` is that process: JSON on stdin in, arrays in a file out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msformer_deploy.bundle.fingerprint import noise
from msformer_deploy.bundle.folder import ModelSizes
from msformer_deploy.errors import DeployError
from msformer_deploy.machine.interpreter import command_of
from msformer_deploy.registry import RefineSettings, find_system

# To glibc: keep the memory of freed tensors. Giving 100 MB back and asking for it again at every layer costs a sixth of
# the time. Other systems ignore it.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
ENCODED = "encoded/"  # before the names of the encoder's outputs, in the file of the result


@dataclass(frozen=True, eq=False)
class Reference:
    """What torch makes of the n validation images."""

    encoded: dict[str, NDArray[np.float32]]  # of every output of the encoder (n, ...)
    labels: NDArray[np.integer]  # (n, S, S)
    collapsed: NDArray[np.bool_]  # (n,)
    probability: NDArray[np.float32]  # (n, S, S)


def validation_images(side: int) -> dict[str, NDArray[np.float32]]:
    """Three real images and, last, the one of the fingerprint: (1, 3, S, S) each, by name."""
    from msformer_deploy.images.read import network_input, read_image
    from msformer_deploy.images.samples import sample_images

    images = {path.name: network_input(read_image(path), side)[None] for path in sample_images()}
    images["uniform noise"] = noise(side)
    return images


def compute(
    system: str, sizes: ModelSizes, seed: int, settings: RefineSettings, weights: Path | None = None
) -> Reference:
    """Run the frozen network and its refinement in torch on the validation images.

    Args:
        system: by its name.
        sizes: of the network.
        seed: of its weights.
        settings: of the refinement.
        weights: a file with weights in place of those of the seed.
    """
    import torch

    from msformer_deploy.models.deployed import Inside
    from msformer_deploy.models.figure import Figure
    from msformer_deploy.refinement.head import refine_head
    from msformer_deploy.weights.network import FAMILIES, new_network, read_network
    from msformer_deploy.weights.prior import load_prior

    family = FAMILIES[system]
    model = new_network(sizes, seed, system) if weights is None else read_network(weights, sizes, system)
    family.settle(model.requires_grad_(False))
    images = [torch.from_numpy(image) for image in validation_images(sizes.side).values()]
    encoded = [family.encode(model, sizes, image) for image in images]
    with torch.inference_mode():
        if find_system(system).trained:
            probabilities = [Inside()(scores) for scores, *_ in encoded]
        else:
            figure = Figure(load_prior(), sizes.side)
            probabilities = [figure(image, features) for image, (features, *_) in zip(images, encoded, strict=True)]
    outcomes = [refine_head(features, family.head(model), settings)[0] for features, *_ in encoded]
    outputs = zip(find_system(system).encoder_outputs, zip(*encoded, strict=True), strict=True)
    return Reference(
        encoded={name: np.concatenate([each.numpy() for each in of_images]) for name, of_images in outputs},
        labels=np.stack([outcome.labels.numpy() for outcome in outcomes]),
        collapsed=np.array([outcome.collapsed for outcome in outcomes]),
        probability=np.concatenate([each.numpy() for each in probabilities]),
    )


class Computation:
    """A reference that is being computed."""

    def __init__(self, process: subprocess.Popen[str], result: Path) -> None:
        self._process, self._result = process, result

    def wait(self) -> Reference:
        """The finished reference.

        Raises:
            DeployError: the process failed.
        """
        _, complaint = self._process.communicate()
        if self._process.returncode:
            reason = complaint.strip().splitlines()[-1:] or ["no reason given"]
            raise DeployError(f"the torch reference for validation failed: {reason[0]}")
        with np.load(self._result, allow_pickle=False) as arrays:
            return Reference(
                {name.removeprefix(ENCODED): value for name, value in arrays.items() if name.startswith(ENCODED)},
                arrays["labels"],
                arrays["collapsed"],
                arrays["probability"],
            )


@contextmanager
def start(
    system: str, sizes: ModelSizes, seed: int, settings: RefineSettings, weights: Path | None = None
) -> Iterator[Computation]:
    """Begin to compute a reference, see :func:`compute`; on leaving, whatever happened, the process is gone."""
    with TemporaryDirectory(prefix="msformer-deploy-") as folder:
        result = Path(folder) / "reference.npz"
        request = {
            "system": system,
            "sizes": asdict(sizes),
            "seed": seed,
            "settings": asdict(settings),
            "weights": None if weights is None else str(weights),
            "result": str(result),
        }
        process = subprocess.Popen(
            command_of(__name__),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | KEEP_FREED_MEMORY,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            yield Computation(process, result)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Answer the request on stdin."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # the export itself keeps one core busy
    request = json.loads(sys.stdin.readline())
    weights = None if request["weights"] is None else Path(request["weights"])
    reference = compute(
        request["system"],
        ModelSizes(**request["sizes"]),
        request["seed"],
        RefineSettings(**request["settings"]),
        weights,
    )
    arrays: dict[str, Any] = {f"{ENCODED}{name}": value for name, value in reference.encoded.items()}
    arrays |= {name: getattr(reference, name) for name in ("labels", "collapsed", "probability")}
    np.savez(request["result"], **arrays)


if __name__ == "__main__":
    main()
