"""The folder that a web server gives to browsers: the built page, and the graphs of the default bundles for it.

The page is built from ``web/`` by ``make web`` into ``static/``. A graph is cut in two: ``features`` runs once for an
image, and ``figure`` for each prompt. Every large file is packed with gzip, and ``page.json`` says by which hash the
page knows its content.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.graph_content import HEAD_IN_GRAPH, STRIPS_FROM, graph_content
from ..backends.rewrites.outputs import drop_unneeded
from ..backends.rewrites.strips import in_strips
from ..backends.rewrites.transposes import cancel_transposes
from ..bundle.folder import MANIFEST as OF_BUNDLE
from ..bundle.folder import sha256
from ..bundle.shipped import shipped_bundle
from ..errors import DeployError
from ..foreground.prompts import CHANNELS, SIDE
from ..images.dicom.kinds import MANUFACTURER
from ..machine.versions import installed_versions
from ..registry import DEFAULT, SYSTEMS, find_system
from ..terminology import SEGMENTS, SELF_GUIDED, Concept

if TYPE_CHECKING:
    import onnx

    from ..bundle.folder import Bundle

STATIC = Path(__file__).with_name("static")
BUILT = "built.json"  # what the page was built from
RUNTIMES = ("runtime", "webgpu")  # of which a browser loads one
MANIFEST = "page.json"
PRESETS = ("fast", "balanced")
FEATURES, FIGURE = "features", "figure"  # the two parts of a graph


def write_site(folder: Path) -> None:
    """Write everything that a browser loads into an empty folder.

    Raises:
        DeployError: the page was not built.
        BundleError: a default bundle is damaged.
        OSError: the folder cannot be written.
    """
    built = _built()
    shutil.copytree(STATIC, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(BUILT))
    runtimes = {name: _runtime(folder, name, built["runtimes"][name]) for name in RUNTIMES}
    presets = {}
    for preset in PRESETS:
        bundle = shipped_bundle(SYSTEMS[DEFAULT].sized(preset))
        assert bundle is not None, "the default system has bundles of these presets"
        parts = {name: _pack(content, folder, f"{preset}-{name}.onnx.gz") for name, content in parts_of(bundle).items()}
        sizes: dict[str, Any] = {"side": bundle.sizes.side, "clusters": bundle.sizes.clusters}
        presets[preset] = {**sizes, "made_by": _made_by(bundle), "fingerprint": _fingerprint(bundle), **parts}
    (folder / MANIFEST).write_text(json.dumps({**runtimes, "presets": presets}, indent=1) + "\n")


def parts_of(bundle: Bundle) -> dict[str, bytes]:
    """The two graphs of a self-guided bundle for the page, by name, serialised.

    ``features`` gives label_map and features (1, S, S, C) of an image (1, 3, S, S), ``figure`` the probability
    (1, S, S) of image, features and, where the bundle's graph has them, prompts (1, 3, 96, 96).
    """
    import onnx

    content = graph_content(bundle, "segmenter", "fp32").read()
    whole = content if isinstance(content, bytes) else content.read_bytes()
    found = {}
    for name, cut in ((FEATURES, _cut_features), (FIGURE, _cut_figure)):
        model = onnx.load_from_string(whole)
        cut(model.graph, _features(model.graph, bundle.sizes.side))
        found[name] = model.SerializeToString()
    if bundle.sizes.side**2 > STRIPS_FROM:
        found[FEATURES] = in_strips(found[FEATURES])
    return found


def _fingerprint(bundle: Bundle) -> dict[str, Any]:
    """What the page's runtimes must compute of the fingerprint's image, and how close they must come."""
    known = bundle.fingerprint
    assert known is not None, "bundles of this package have one"
    samples = {"features": known.features, "largest": known.largest, "labels": known.labels}
    return {**samples, "tolerance": known.tolerance["fp32"], "agreement": known.agreement["fp32"]}


def _made_by(bundle: Bundle) -> dict[str, Any]:
    """What a DICOM segmentation says of its maker, by DICOM's keywords, and the terms of what it is."""
    term = SEGMENTS["object"]
    return {
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": find_system(bundle.system).title,
        "SoftwareVersions": installed_versions(["msformer-deploy"]).get("msformer-deploy", "unknown"),
        "DeviceSerialNumber": f"bundle {sha256(bundle.file(OF_BUNDLE))[:16]}",
        "family": _code(SELF_GUIDED),
        "category": _code(term.category),
        "type": _code(term.type),
    }


def _code(concept: Concept) -> dict[str, str]:
    return {
        "CodeValue": concept.value,
        "CodingSchemeDesignator": concept.scheme,
        "CodeMeaning": concept.meaning,
    }


def _cut_features(graph: onnx.GraphProto, features: onnx.ValueInfoProto) -> None:
    labels = _output(graph, "label_map")
    del graph.output[:]
    graph.output.extend([labels, features])
    drop_unneeded(graph)


def _cut_figure(graph: onnx.GraphProto, features: onnx.ValueInfoProto) -> None:
    from onnx import TensorProto, helper

    probability = _output(graph, "probability")
    given = [features]
    if any("prompts" in node.output for node in graph.node):  # made as zeros
        given.append(helper.make_tensor_value_info("prompts", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE]))
    for producer in [node for node in graph.node if {each.name for each in given}.intersection(node.output)]:
        graph.node.remove(producer)
    graph.input.extend(given)
    del graph.output[:]
    graph.output.append(probability)
    drop_unneeded(graph)


def _output(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    (found,) = (each for each in graph.output if each.name == name)
    return found


def _features(graph: onnx.GraphProto, side: int) -> onnx.ValueInfoProto:
    """The features with their channels last, as an encoder makes them and as the figure wants them; named so."""
    from onnx import TensorProto, helper

    cancel_transposes(graph)
    (last,) = (node for node in graph.node if "features" in node.output)
    rows = last.input[0]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [
                FEATURES if each == rows else f"{FEATURES}, channels first" if each == FEATURES else each
                for each in names
            ]
    (head,) = (each for each in graph.initializer if each.name == HEAD_IN_GRAPH)
    return helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", side, side, head.dims[1]])


def _built() -> dict[str, Any]:
    try:
        built: dict[str, Any] = json.loads((STATIC / BUILT).read_text())
    except FileNotFoundError:
        raise DeployError(
            f"{STATIC}: the page is not built; run 'make web' in the checkout (it needs Node.js), or install the wheel"
        ) from None
    for path in (_wasm(STATIC, name) for name in RUNTIMES):
        if not path.is_file():
            raise DeployError(f"{path}: is missing; install msformer-deploy again")
    return built


def _wasm(folder: Path, name: str) -> Path:
    return folder / f"{name}.wasm.gz"


def _runtime(folder: Path, name: str, built: dict[str, Any]) -> dict[str, Any]:
    """The entry of a runtime in the manifest."""
    path = _wasm(folder, name)
    return {"file": path.name, **built, "packed": path.stat().st_size}


def _pack(content: bytes, folder: Path, name: str) -> dict[str, Any]:
    """Write a packed file, and return its entry in the manifest."""
    path = folder / name
    path.write_bytes(gzip.compress(content, 6, mtime=0))
    return {
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "packed": path.stat().st_size,
    }
