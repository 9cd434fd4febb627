"""The page in a real Chromium: what it finds, that nothing leaves, and what it says about bad input."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dicoms
import numpy as np
import pictures
import pytest
from locations import ROOT
from PIL import Image

from msformer_deploy import Segmenter
from msformer_deploy.foreground.prompts import Point, Prompts
from msformer_deploy.measures.overlap import overlap
from msformer_deploy.web.server import address_of, open_server
from msformer_deploy.web.site import MANIFEST, write_site

DRIVER = ROOT / "web" / "test" / "browser.mjs"
MAX_FIRST_LOAD = 15e6  # bytes
POINT = (30, 25)  # x and y, outside of the object


def missing() -> str | None:
    """Why the page cannot be opened here; None if it can."""
    if shutil.which("chromium") is None:
        return "Debian's chromium is not installed"
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (ROOT / "web" / "node_modules" / "puppeteer-core").is_dir():
        return "what drives Chromium is not installed: npm ci --prefix web"
    return None


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a folder, while it is served."""
    with open_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address_of(server)
        finally:
            server.shutdown()
            thread.join()


def lesion() -> np.ndarray:
    """A dark spot on light skin, uint8 (150, 200, 3)."""
    rows, columns = np.mgrid[:150, :200]
    spot = np.exp(-((((rows - 80) / 38) ** 2 + ((columns - 110) / 50) ** 2) ** 2))[..., None]
    noise = np.random.default_rng(0).normal(0, 4, (150, 200, 3))
    skin, dark = np.array([222, 178, 160]), np.array([96, 58, 46])
    return np.clip(skin + spot * (dark - skin) + noise, 0, 255).astype(np.uint8)


def bad_files(folder: Path) -> list[Path]:
    """A text that is called a picture, 100 megapixels, and a JPEG without its end."""
    text, huge, cut = folder / "text.png", folder / "huge.png", folder / "cut.jpg"
    text.write_text("This is not a picture.")
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)))
    Image.fromarray(lesion()).save(cut)
    cut.write_bytes(cut.read_bytes()[:700])
    return [text, huge, cut]


def other_files(folder: Path) -> list[Path]:
    """The same picture in other formats: 16 bits, transparent, with a palette, compressed, and as a slice of CT."""
    colours = Image.fromarray(lesion())
    grey = np.asarray(colours.convert("L")).astype(np.uint16)
    paths = [folder / name for name in ("deep.png", "alpha.png", "palette.png", "photo.jpg", "deep.tif", "lzw.tif")]
    deep, alpha, palette, photo, deep_tiff, lzw = paths
    Image.fromarray(grey * 257).save(deep)
    colours.putalpha(Image.fromarray((grey % 255).astype(np.uint8)))
    colours.save(alpha)
    colours = colours.convert("RGB")
    colours.quantize(64).save(palette)
    colours.save(photo, quality=90)
    deep_tiff.write_bytes(pictures.tiff(grey * 9 + 500))
    lzw.write_bytes(pictures.tiff(lesion(), compression="lzw", predictor=True))
    window = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": -900, "WindowWidth": 260}
    slice_ = dicoms.image((255 - grey).astype(np.int16), **window)
    inverted = dicoms.image((grey * 16).astype(np.uint16), PhotometricInterpretation="MONOCHROME1")
    return [*paths, dicoms.save(slice_, folder / "ct.dcm"), dicoms.save(inverted, folder / "inverted.dcm")]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one visit saw, and where its files are."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("page")
    site, damaged, image = folder / "site", folder / "damaged", folder / "lesion.png"
    site.mkdir()
    write_site(site)
    shutil.copytree(site, damaged)
    manifest = json.loads((damaged / MANIFEST).read_text())
    manifest["presets"]["fast"]["features"]["sha256"] = "0" * 64
    (damaged / MANIFEST).write_text(json.dumps(manifest))
    Image.fromarray(lesion()).save(image)
    log, plan = folder / "net.json", folder / "plan.json"
    with serving(site) as url, serving(damaged) as other:
        content = {
            "chromium": shutil.which("chromium"),
            "url": url,
            "damaged": other,
            "image": str(image),
            "point": POINT,
            "others": [str(each) for each in other_files(folder)],
            "bad": [str(each) for each in bad_files(folder)],
            "folder": str(folder),
            "log": str(log),
        }
        plan.write_text(json.dumps(content))
        done = subprocess.run(["node", str(DRIVER), str(plan)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {**found, "folder": folder, "site": site, "image": image, "log": log, "hosts": {url, other}}


def mask_of(seen: dict[str, Any], name: str) -> np.ndarray:
    (path,) = (seen["folder"] / name).glob("*.png")
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image) > 127


def requests(log: Path) -> list[str]:
    """All addresses that pages asked for, by Chromium's own record; what Chromium asks for itself has no initiator."""
    text = log.read_text().rstrip().rstrip(",")
    record = json.loads(text if text.endswith("}") else f"{text}]}}")
    start = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = (each.get("params", {}) for each in record["events"] if each["type"] == start)
    return [params["url"] for params in begun if params.get("initiator", "not an origin") != "not an origin"]


@pytest.mark.slow
def test_mask_and_label_map_are_those_of_python(seen: dict[str, Any]) -> None:
    expected = Segmenter().segment(seen["image"])
    assert seen["isolated"]
    assert overlap(mask_of(seen, "mask"), expected.mask).dsc >= 0.99
    (labels,) = (seen["folder"] / "labels").glob("*.png")
    with Image.open(labels) as image:
        assert image.mode == "P"
        assert (np.array(image) == expected.labels).mean() >= 0.99
    (coco,) = (seen["folder"] / "coco").glob("*.json")
    assert json.loads(coco.read_text())["images"] == [{"id": 1, "file_name": "lesion.png", "width": 200, "height": 150}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["deep.png", "alpha.png", "palette.png", "photo.jpg", "deep.tif", "lzw.tif", "ct.dcm", "inverted.dcm"],
)
def test_other_formats_have_the_masks_of_python(seen: dict[str, Any], name: str) -> None:
    expected = Segmenter().segment(seen["folder"] / name).mask
    assert 0.02 < expected.mean() < 0.9
    found = next((seen["folder"] / name).parent.glob(f"saved-{name}/*.png"))
    with Image.open(found) as image:
        assert overlap(np.array(image) > 127, expected).dsc >= 0.99


@pytest.mark.slow
def test_a_click_moves_the_mask_and_undo_brings_it_back(seen: dict[str, Any]) -> None:
    before, after, undone = (mask_of(seen, name) for name in ("mask", "corrected", "undone"))
    x, y = POINT
    assert not before[y, x] and after[y, x]
    expected = Segmenter().segment(seen["image"], prompts=Prompts([Point(x, y)]))
    assert overlap(after, expected.mask).dsc >= 0.99
    assert (before == undone).all()


@pytest.mark.slow
def test_nothing_is_asked_of_another_address_and_the_first_load_is_small(seen: dict[str, Any]) -> None:
    asked = [each for each in requests(seen["log"]) if urlsplit(each).scheme not in ("blob", "data")]
    hosts = {urlsplit(each).netloc for each in seen["hosts"]}
    assert {urlsplit(each).netloc for each in asked} <= hosts
    assert not [line for line in seen["console"] if "Content Security Policy" in line]
    main, _ = sorted(hosts, key=lambda host: -sum(urlsplit(each).netloc == host for each in asked))
    files = {"index.html", *(urlsplit(each).path.lstrip("/") for each in asked if urlsplit(each).netloc == main)}
    assert {"page.json", "runtime.wasm.gz", "fast-features.onnx.gz", "fast-figure.onnx.gz"} <= files
    assert sum((seen["site"] / file).stat().st_size for file in files) < MAX_FIRST_LOAD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("text.png", "text.png: is not an image that the page reads; choose PNG, JPEG, TIFF or DICOM files"),
        ("huge.png", "huge.png: 10000 × 10000 pixels is over the limit of 50 megapixels of this page"),
        ("cut.jpg", "cut.jpg: cannot be decoded; it is damaged, or no image"),
        ("damaged", "fast-features.onnx.gz is not the file that the page was made with: its SHA-256 differs"),
        ("wasm", "WebAssembly is switched off in this browser"),
    ],
)
def test_bad_input_gets_one_sentence(seen: dict[str, Any], what: str, message: str) -> None:
    assert seen["messages"][what].startswith(message)
    assert "\n" not in seen["messages"][what].strip()
