"""Models of a Triton repository: read with Triton's own definition, held to the graph, run without Triton."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import sidecars
import trained_weights
from bundles import relisted
from locations import ROOT
from PIL import Image

from msformer_deploy import Segmenter, read_image
from msformer_deploy.bundle import engines
from msformer_deploy.bundle.folder import Bundle, load_bundle
from msformer_deploy.bundle.sidecar import ENGINE, EngineOptions, write_record
from msformer_deploy.errors import BackendUnavailable, DeployError, UsageError
from msformer_deploy.export import triton
from msformer_deploy.export.triton import MAX_BATCH, write_model
from msformer_deploy.images.read import network_input, resize_nearest
from msformer_deploy.registry import TRITON_BACKENDS

pytestmark = pytest.mark.needs("tritonclient")
ON_A_CPU = ("onnxruntime", "openvino")


def configured(model: Path) -> Any:
    from triton_server import read_configuration

    return read_configuration(model)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def squares(bundle: Bundle, count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, bundle.sizes.side, bundle.sizes.side), np.float32)


def with_engine(folder: Path, *changes: dict[str, Any]) -> Bundle:
    """A bundle with engines of the whole method in it, which are bytes that TensorRT is never given."""
    made = load_bundle(folder)
    side, shape = made.sizes.side, (made.sizes.side, made.sizes.side)
    for each in changes:
        record = sidecars.record(
            **{
                "graph": "segmenter",
                "onnx_sha256": made.manifest["files"]["segmenter.onnx"]["sha256"],
                "options": EngineOptions(batch=(1, 2, 4)),
                "inputs": [{"name": "image", "dtype": "FLOAT", "shape": [-1, 3, side, side]}],
                "outputs": [
                    {"name": "label_map", "dtype": "INT32", "shape": [-1, *shape]},
                    {"name": "collapsed", "dtype": "BOOL", "shape": [-1]},
                ],
                **each,
            }
        )
        (folder / record.folder).mkdir(parents=True)
        (folder / record.folder / ENGINE).write_bytes(sidecars.DATA)
        write_record(folder / record.folder, record)
    return relisted(folder)


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_deformable_bundle"])
def test_the_configuration_is_of_the_graph(request, bundle, backend, tmp_path):
    from triton_server import shape_inside, type_of
    from tritonclient.utils import triton_to_np_dtype

    made = request.getfixturevalue(bundle)
    place, _ = write_model(made, tmp_path, backend, "fp32")
    config = configured(place)
    assert place == tmp_path / made.system
    assert (config.name, config.backend) == (made.system, backend)
    assert {str(path) for path in content(place)} == {"config.pbtxt", f"1/{config.default_model_filename}"}
    graph = onnx.load(place / "1" / config.default_model_filename).graph
    for told, values in ((config.input, graph.input), (config.output, graph.output)):
        assert [each.name for each in told] == [value.name for value in values]
        for each, value in zip(told, values, strict=True):
            tensor = value.type.tensor_type
            first, *others = tensor.shape.dim
            assert triton_to_np_dtype(type_of(each)) == onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            assert len(each.dims) >= 1  # Triton takes no tensor without axes
            if config.max_batch_size:
                assert first.dim_param  # the batch, of any size
                assert shape_inside(each, []) == [dim.dim_value for dim in others]
            else:
                assert shape_inside(each, []) == [1, *(dim.dim_value for dim in others)]
                assert first.dim_value == 1
    assert config.HasField("dynamic_batching") == (config.max_batch_size > 1) == (backend == "onnxruntime")
    (instances,) = config.instance_group
    kind = {"onnxruntime": instances.KIND_AUTO, "openvino": instances.KIND_CPU}[backend]
    assert (instances.count, instances.kind) == (1, kind)


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_deformable_bundle"])
def test_every_batch_gives_the_labels_of_each_image_alone(request, bundle, tmp_path):
    made = request.getfixturevalue(bundle)
    place, _ = write_model(made, tmp_path, "onnxruntime", "fp32")
    config = configured(place)
    session = onnxruntime.InferenceSession(place / "1" / config.default_model_filename)
    names = [each.name for each in config.output]
    images = squares(made, config.max_batch_size)
    together = dict(zip(names, session.run(names, {config.input[0].name: images}), strict=True))
    assert config.max_batch_size == MAX_BATCH > 1
    for index in (0, MAX_BATCH - 1):
        alone = dict(zip(names, session.run(names, {config.input[0].name: images[index : index + 1]}), strict=True))
        np.testing.assert_array_equal(together["label_map"][index], alone["label_map"][0])
        np.testing.assert_allclose(together["probability"][index], alone["probability"][0], atol=1e-4)


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_deformable_bundle"])
def test_it_gives_the_labels_of_run(request, bundle, backend, tmp_path, picture):
    """What is asked for are the tensors of the configuration, in the runtime that Triton's backend is made of."""
    made = request.getfixturevalue(bundle)
    place, _ = write_model(made, tmp_path, backend, "fp32")
    config = configured(place)
    file, names = place / "1" / config.default_model_filename, [each.name for each in config.output]
    Image.fromarray(picture).save(tmp_path / "image.png")
    image = network_input(read_image(tmp_path / "image.png"), made.sizes.side)[None]
    if backend == "onnxruntime":
        found = onnxruntime.InferenceSession(file).run(names, {config.input[0].name: image})
    else:
        from msformer_deploy.backends.openvino import open_core

        core = open_core()
        compiled = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = [compiled({config.input[0].name: image})[name] for name in names]
    labels = dict(zip(names, found, strict=True))["label_map"][0]
    expected = Segmenter(made, backend=backend, device="cpu", whole_graph=True).segment(tmp_path / "image.png").labels
    assert labels.shape == (made.sizes.side, made.sizes.side)
    assert len(np.unique(expected)) > 1
    height, width = picture.shape[:2]
    np.testing.assert_array_equal(resize_nearest(labels, height, width), expected)


@pytest.mark.parametrize("backend", ON_A_CPU)
def test_the_warm_up_runs(backend, tiny_bundle, tmp_path):
    place, _ = write_model(tiny_bundle, tmp_path, backend, "fp32")
    config = configured(place)
    session = onnxruntime.InferenceSession(place / "1" / config.default_model_filename)
    assert [each.batch_size for each in config.model_warmup] == ([1, MAX_BATCH] if config.max_batch_size else [1])
    for request in config.model_warmup:
        assert request.inputs.keys() == {each.name for each in config.input}
        black = request.inputs["image"]
        assert (black.zero_data, black.data_type) == (True, config.input[0].data_type)
        batch = [request.batch_size] if config.max_batch_size else []
        found = session.run(["probability"], {"image": np.zeros([*batch, *black.dims], np.float32)})
        assert np.isfinite(found[0]).all()


def test_the_client_of_the_page_runs(tiny_bundle, tmp_path, picture, monkeypatch):
    """Triton's own client, against a server that loads the model by its configuration."""
    from triton_server import serving

    place, _ = write_model(tiny_bundle, tmp_path, "onnxruntime", "fp32")
    Image.fromarray(picture).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "how-to" / "triton.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert '"localhost:8000"' in script
    known: dict[str, Any] = {}
    with serving(place) as port:
        exec(compile(script.replace("localhost:8000", f"127.0.0.1:{port}"), "docs/how-to/triton.md", "exec"), known)
    result = Segmenter(tiny_bundle, backend="onnxruntime", device="cpu", whole_graph=True).segment(
        tmp_path / "image.png"
    )
    np.testing.assert_array_equal(resize_nearest(known["labels"], *picture.shape[:2]), result.labels)
    np.testing.assert_allclose(known["probability"].mean(), result.probability.mean(), atol=0.02)
    assert known["answer"].as_numpy("collapsed").shape == (1, 1)
    assert np.asarray(Image.open("mask.png")).shape == picture.shape[:2]


@pytest.mark.slow
def test_a_trained_system_is_served_with_its_head(tmp_path, tmp_path_factory, picture):
    weights = trained_weights.of_each_system(tmp_path)
    made = load_bundle(trained_weights.bundles(weights, tmp_path_factory)["m2snet"])
    place, _ = write_model(made, tmp_path / "models", "onnxruntime", "fp32")
    session = onnxruntime.InferenceSession(place / "1" / "model.onnx")
    Image.fromarray(picture).save(tmp_path / "image.png")
    (labels,) = session.run(
        ["label_map"], {"image": network_input(read_image(tmp_path / "image.png"), made.sizes.side)[None]}
    )
    expected = (
        Segmenter(made, backend="onnxruntime", device="cpu", whole_graph=True).segment(tmp_path / "image.png").labels
    )
    assert set(np.unique(expected)) == {0, 1}
    np.testing.assert_array_equal(resize_nearest(labels[0], *picture.shape[:2]), expected)


class TestEngines:
    def test_the_engine_of_the_bundle(self, bundle_copy, tmp_path):
        from triton_server import shape_inside, type_of

        made = with_engine(bundle_copy, {})
        side = made.sizes.side
        place, model = write_model(made, tmp_path / "models", "tensorrt", "fp32")
        config = configured(place)
        assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 4)
        assert (place / "1" / "model.plan").read_bytes() == sidecars.DATA
        assert [(each.name, type_of(each), shape_inside(each, [])) for each in (*config.input, *config.output)] == [
            ("image", "FP32", [3, side, side]),
            ("label_map", "INT32", [side, side]),
            ("collapsed", "BOOL", []),
        ]
        assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
        assert [each.batch_size for each in config.model_warmup] == [1, 4]
        assert "NVIDIA A10 with TensorRT 10.13.3.9" in model.note

    def test_one_image_in_a_call_needs_no_batches(self, bundle_copy, tmp_path):
        made = with_engine(bundle_copy, {"options": EngineOptions()})
        config = configured(write_model(made, tmp_path / "models", "tensorrt", "fp32")[0])
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (1, False)
        assert [each.batch_size for each in config.model_warmup] == [1]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ([], "has no engine of the fp32 segmenter by the full TensorRT"),
            ([{"flavour": "rtx"}], "has no engine of the fp32 segmenter by the full TensorRT"),
            ([{"graph": "encoder"}], "has no engine of the fp32 segmenter by the full TensorRT"),
            ([{"precision": "fp16"}], "has no engine of the fp32 segmenter by the full TensorRT"),
            ([{"onnx_sha256": "0" * 64}], "has no engine of the fp32 segmenter by the full TensorRT"),
            ([{}, {"compute_capabilities": ("9.0",)}], "several engines of the fp32 segmenter"),
            ([{"options": EngineOptions(batch=(2, 2, 4))}], "takes 2 images or more in a call"),
        ],
        ids=["none", "rtx", "encoder", "fp16", "stale", "two", "no single image"],
    )
    def test_an_engine_that_triton_cannot_run(self, bundle_copy, tmp_path, changes, message):
        made = with_engine(bundle_copy, *changes)
        with pytest.raises(BackendUnavailable, match=re.escape(message)):
            write_model(made, tmp_path / "models", "tensorrt", "fp32")
        assert not (tmp_path / "models").exists()

    def test_a_damaged_engine(self, bundle_copy, tmp_path):
        made = with_engine(bundle_copy, {})
        (folder,) = engines.records(made)
        (bundle_copy / folder / ENGINE).write_bytes(b"something else")
        with pytest.raises(DeployError, match="damaged, its SHA-256"):
            write_model(made, tmp_path / "models", "tensorrt", "fp32")
        assert not (tmp_path / "models").exists()


class TestPlace:
    def test_what_exists_is_replaced_by_force_alone(self, tiny_bundle, tmp_path):
        place, _ = write_model(tiny_bundle, tmp_path, "openvino", "fp32")
        (place / "old").touch()
        other = tmp_path / "other" / "config.pbtxt"
        other.parent.mkdir()
        other.write_text("of another model")
        before = content(tmp_path)
        with pytest.raises(UsageError, match=r"exists already; choose another --triton or pass --force"):
            write_model(tiny_bundle, tmp_path, "onnxruntime", "fp32")
        assert content(tmp_path) == before
        write_model(tiny_bundle, tmp_path, "onnxruntime", "fp32", force=True)
        assert configured(place).backend == "onnxruntime"
        assert before.keys() - content(tmp_path).keys() == {str(Path("msformer", "old"))}

    def test_what_is_no_model_is_never_replaced(self, tiny_bundle, tmp_path):
        (tmp_path / "msformer").mkdir()
        (tmp_path / "msformer" / "thesis.txt").write_text("mine")
        with pytest.raises(UsageError, match="exists and is not a model of Triton, so --force will not replace it"):
            write_model(tiny_bundle, tmp_path, "onnxruntime", "fp32", force=True)
        assert content(tmp_path) == {str(Path("msformer", "thesis.txt")): b"mine"}

    @pytest.mark.parametrize("inside", ["bundle/models", "bundle", "."], ids=["in it", "the bundle", "around it"])
    def test_bundle_and_repository_lie_beside_each_other(self, bundle_copy, tmp_path, inside):
        before = content(tmp_path)
        with pytest.raises(UsageError, match="must lie beside each other"):
            write_model(load_bundle(bundle_copy), tmp_path / inside, "onnxruntime", "fp32")
        assert content(tmp_path) == before

    @pytest.mark.parametrize("force", [False, True])
    def test_nothing_is_left_of_a_model_that_fails(self, tiny_bundle, tmp_path, monkeypatch, force):
        if force:
            write_model(tiny_bundle, tmp_path, "openvino", "fp32")
        before = content(tmp_path)

        def full(*_: object) -> str:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(triton, "configuration", full)
        with pytest.raises(DeployError, match=r"\(No space left on device\); make room"):
            write_model(tiny_bundle, tmp_path, "onnxruntime", "fp32", force=force)
        assert content(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == (["msformer"] if force else [])


@pytest.mark.parametrize("backend", TRITON_BACKENDS)
def test_bf16_is_for_engines(backend):
    if backend == "tensorrt":
        triton.require_runnable("bf16", backend, learned=False)
        return
    with pytest.raises(UsageError, match=f"Triton's {backend} does not run bf16 graphs; pass another --precision"):
        triton.require_runnable("bf16", backend, learned=False)
