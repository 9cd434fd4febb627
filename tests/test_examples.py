"""The examples run as they are shown, on small bundles, and leave what they say.

The notebook's code cells run one after the other in one namespace. They are plain Python without magics, so neither
Jupyter nor nbclient has to be installed, and no kernel has to start.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trained_weights import LAYERS

from msformer_deploy import Segmenter, cli
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.images.samples import sample_images, shown_images
from msformer_deploy.models.subtraction import M2SNet
from msformer_deploy.training.supervised import supervised

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
MOST_LINES = 60


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def commands_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands that a script starts in this process: another one needs seconds to import torch."""
    start = subprocess.run

    def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[Any]:
        if command[:3] != [sys.executable, "-m", "msformer_deploy"]:
            return start(command, **options)
        code = cli.call([str(argument) for argument in command[3:]])
        assert code == 0 or not options["check"]
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", run)


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> int:
    """Run a script as ``__main__``; return its exit code."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_say_how_they_are_run(script: str) -> None:
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert len(text.splitlines()) < MOST_LINES
    assert f"    python examples/{script}" in text.split('"""')[1]


@pytest.mark.parametrize("given", [True, False])
def test_segment_an_image(monkeypatch: Any, tiny_bundle: Bundle, images: Path, capsys: Any, given: bool) -> None:
    image = images / "a.png" if given else shown_images()[0]
    arguments = [image] if given else []
    assert run(monkeypatch, "segment_an_image.py", *arguments, "--bundle", tiny_bundle.path) == 0
    expected = Segmenter(tiny_bundle).segment(image)
    with Image.open("mask.png") as mask:
        assert (np.asarray(mask) == np.where(expected.mask, 255, 0)).all()
    printed = capsys.readouterr().out
    assert image.name in printed
    assert f"expected DSC: {expected.confidence.value:.2f}\n" in printed
    assert ("in doubt" in printed) == (expected.confidence.doubt is not None)


def test_segment_an_image_that_cannot_be_read(monkeypatch: Any, tiny_bundle: Bundle) -> None:
    assert run(monkeypatch, "segment_an_image.py", "none.png", "--bundle", tiny_bundle.path) == 1
    assert not Path("mask.png").exists()


@pytest.mark.usefixtures("commands_here")
def test_segment_a_folder(monkeypatch: Any, tiny_bundle: Bundle, images: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)  # noise has no outline across which colours differ
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(images / "noise.png")
    (images / "broken.png").write_bytes(b"no image")
    assert run(monkeypatch, "segment_a_folder.py", images, "--bundle", tiny_bundle.path) == 5
    report = json.loads(Path("results/report.json").read_text(encoding="utf-8"))
    _, first, *listed = capsys.readouterr().out.splitlines()  # the first line is that of run
    doubted = [each for each in report["images"] if each["error"] is None and each["foreground"]["doubt"]]
    assert 0 < len(doubted) == report["summary"]["doubted"]
    assert first.startswith(f"{len(doubted)} of 4 masks are in doubt")
    assert len(listed) == len(doubted) + 1
    assert [line.split()[0] for line in listed[:-1]] == sorted(line.split()[0] for line in listed[:-1])
    assert {Path(line.split()[1]) for line in listed[:-1]} == {Path("results", each["mask"]) for each in doubted}
    assert listed[-1].startswith("failed ")
    assert "broken.png" in listed[-1]


@pytest.mark.usefixtures("commands_here")
def test_segment_the_sample_images(monkeypatch: Any, tiny_bundle: Bundle) -> None:
    assert run(monkeypatch, "segment_a_folder.py", "--bundle", tiny_bundle.path) == 0
    assert {Path(f"results/{path.name}.mask.png").is_file() for path in shown_images()} == {True}


@pytest.mark.usefixtures("commands_here")
def test_a_folder_without_images_ends_with_the_exit_code_of_run(monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, "segment_a_folder.py", "empty") == 2


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("commands_here", "reference_here")
def test_train_a_model(monkeypatch: Any, tiny_bundle: Bundle) -> None:
    """On the sample images, with a network of few channels; their masks are those of the small bundle."""
    monkeypatch.setattr(supervised, "new_network", lambda _: M2SNet(4, LAYERS))
    monkeypatch.setattr(
        "msformer_deploy.commands.segmenters.open_bundle", lambda path, *_, **__: load_bundle(path or tiny_bundle.path)
    )
    assert run(monkeypatch, "train_a_model.py", "--side", 64) == 0
    bundle = load_bundle("trained/bundle")
    assert (bundle.system, bundle.sizes.side) == ("m2snet", 64)
    report = json.loads(Path("trained/results/report.json").read_text(encoding="utf-8"))
    assert {Path(each["input"]).name for each in report["images"]} == {path.name for path in sample_images()}
    assert report["settings"]["system"] == "m2snet"
    assert report["summary"]["done"] == 3


@pytest.mark.parametrize("failing", [None, "train", "export", "run"])
def test_train_on_ones_own_masks_calls_three_commands_until_one_fails(monkeypatch: Any, failing: str | None) -> None:
    called: list[list[str]] = []

    def start(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        called.append(command[3:])
        return subprocess.CompletedProcess(command, 3 if command[3] == failing else 0)

    monkeypatch.setattr(subprocess, "run", start)
    code = run(monkeypatch, "train_a_model.py", "--images", "i", "--masks", "m", "--output", "o", "--epochs", 7)
    weights, bundle = str(Path("o/run/best.safetensors")), str(Path("o/bundle"))
    system = ["--system", "m2snet"]
    train = ["train", *system, "--images", "i", "--masks", "m", "--output", str(Path("o/run"))]
    expected = [
        [*train, "--epochs", "7", "--side", "352"],
        ["export", *system, "--weights", weights, "--output", bundle],
        ["run", "i", "--bundle", bundle, "--output", str(Path("o/results"))],
    ]
    count = 3 if failing is None else 1 + ["train", "export", "run"].index(failing)
    assert (code, called) == (0 if failing is None else 3, expected[:count])


@pytest.mark.parametrize("option", ["--images", "--masks"])
def test_images_without_masks_are_refused(monkeypatch: Any, option: str) -> None:
    assert run(monkeypatch, "train_a_model.py", option, "folder") == 2


# Run by another process, in which two imports fail.
ALONE = """
import runpy, sys
sys.modules["torch"] = sys.modules["msformer_deploy"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_serve_from_onnx_without_torch_and_this_package(tiny_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    picture, graph = images / "a.png", tiny_bundle.path / "segmenter.onnx"
    home = tmp_path / "home"
    home.mkdir()
    # The script itself has to keep ONNX Runtime from reporting, which leaves files in the home folder.
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-c", ALONE, str(EXAMPLES / "serve_from_onnx.py"), str(picture), "--graph", str(graph)]
    subprocess.run(command, check=True, env=environment)
    expected = Segmenter(tiny_bundle, whole_graph=True, backend="onnxruntime").segment(picture).mask
    assert 0.05 < expected.mean() < 0.95
    with Image.open("mask.png") as mask:
        assert (np.asarray(mask) == np.where(expected, 255, 0)).mean() > 0.99
    assert list(home.rglob("*")) == []


def test_the_notebook_shows_image_labels_mask_and_confidence(monkeypatch: Any, bundle_copy: Path, capsys: Any) -> None:
    assert bundle_copy == Path.cwd() / "bundle"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown: list[np.ndarray] = []
    real = Image.fromarray

    def show(array: np.ndarray) -> Image.Image:
        shown.append(array)
        return real(array)

    monkeypatch.setattr(Image, "fromarray", show)
    for number, source in enumerate(cells("code")):
        exec(compile(source, f"quickstart.ipynb, code cell {number}", "exec"), namespace)
    result = namespace["result"]
    pictures = [array for array in shown if array.shape[:2] == result.mask.shape]
    image, flat, mask, overlay = pictures[0], pictures[-3], pictures[-2], pictures[-1]
    assert (image == namespace["image"].display()).all()
    for region in np.unique(result.labels):
        inside = result.labels == region
        assert (flat[inside] == image[inside].mean(axis=0).astype(np.uint8)).all()
    assert mask is result.mask
    assert (overlay == result.overlay()).all()
    assert f"expected DSC: {result.confidence.value:.2f}" in capsys.readouterr().out


def test_the_notebook_is_kept_without_outputs() -> None:
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


def test_the_notebook_makes_a_bundle_where_there_is_none(monkeypatch: Any) -> None:
    called: list[list[object]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    exec(compile(cells("code")[0], "quickstart.ipynb, code cell 0", "exec"), {})
    assert [list(map(str, command[3:])) for command in called] == [
        ["export", "--system", "msformer", "--output", "bundle"]
    ]
