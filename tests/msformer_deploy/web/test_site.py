from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import page_fixtures
import pytest
from locations import ROOT

from msformer_deploy import Segmenter
from msformer_deploy.bundle.shipped import default_bundle
from msformer_deploy.errors import DeployError
from msformer_deploy.images.read import network_input
from msformer_deploy.web import site

WEB = ROOT / "web"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    site.write_site(folder)
    return folder


def test_manifest_knows_every_packed_file(written: Path) -> None:
    manifest = json.loads((written / site.MANIFEST).read_text())
    graphs = [preset[part] for preset in manifest["presets"].values() for part in (site.FEATURES, site.FIGURE)]
    entries = [*(manifest[name] for name in site.RUNTIMES), *graphs]
    for entry in entries:
        path = written / entry["file"]
        content = gzip.decompress(path.read_bytes())
        assert entry["packed"] == path.stat().st_size
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert all(preset["fingerprint"]["features"] for preset in manifest["presets"].values())
    packed = {path.name for path in written.glob("*.gz")}
    assert packed == {entry["file"] for entry in entries}


@pytest.mark.slow
@pytest.mark.needs("onnxruntime")
def test_the_two_parts_give_what_the_whole_graph_gives() -> None:
    import onnxruntime

    bundle = default_bundle()
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    segmenter = Segmenter(bundle, backend="onnxruntime")
    result = segmenter.segment(image)
    square = network_input(result.image, bundle.sizes.side)[None]
    parts = site.parts_of(bundle)
    features, figure = (onnxruntime.InferenceSession(parts[name]) for name in (site.FEATURES, site.FIGURE))
    labels, found = features.run(["label_map", "features"], {"image": square})
    given = {"image": square, "features": found}
    if "prompts" in {each.name for each in figure.get_inputs()}:
        given["prompts"] = np.zeros((1, 3, site.SIDE, site.SIDE), np.float32)
    (probability,) = figure.run(["probability"], given)
    assert (labels[0] == result.network_labels).mean() > 0.999
    (prepared,) = segmenter.learn([segmenter.prepare(result.image)])
    np.testing.assert_allclose(probability[0], prepared.refinement.figure, atol=1e-4)


def sources() -> str:
    """As ``web/vite.config.ts`` hashes what the page is built from."""
    files = ["index.html", "package-lock.json", "vite.config.ts"]
    files += [path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file}\0".encode())
        digest.update((WEB / file).read_bytes())
    return digest.hexdigest()


def test_the_built_page_is_not_older_than_its_sources() -> None:
    built = json.loads((site.STATIC / site.BUILT).read_text())
    assert built["sources"] == sources(), "run 'make web'"


def test_the_page_names_no_other_address() -> None:
    page = (site.STATIC / "index.html").read_text()
    assert "http://" not in page and "https://" not in page
    assert "default-src 'none'" in page


def test_a_page_that_was_not_built_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "STATIC", tmp_path)
    with pytest.raises(DeployError, match="the page is not built; run 'make web' in the checkout"):
        site.write_site(tmp_path / "page")


def compare(one: object, other: object, where: str = "") -> None:
    """Whether two fixtures are the same, floats up to rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        if "data" in one:
            first, second = page_fixtures.unpack(one), page_fixtures.unpack(other)
            assert first.dtype == second.dtype, where
            if first.dtype.kind == "f":
                np.testing.assert_allclose(first, second, atol=1e-5, err_msg=where)
            else:
                assert (first == second).mean() > 0.999, where
            return
        for key in one:
            compare(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            compare(*pair, f"{where}/{index}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6), where
    else:
        assert one == other, where


@pytest.mark.slow
def test_fixtures_of_the_port_are_what_python_finds() -> None:
    compare(json.loads(json.dumps(page_fixtures.make())), page_fixtures.read())
