"""What says which graph it is: its own hash, and those of the weights that it leaves to the package."""

from __future__ import annotations

from dataclasses import replace

import pytest

from msformer_deploy.backends import graph_content as module
from msformer_deploy.backends.graph_content import graph_content, rewriting
from msformer_deploy.bundle.folder import LEFT_OUT
from msformer_deploy.bundle.shipped import default_bundle


def test_the_key_is_of_the_file_and_of_every_file_with_weights() -> None:
    bundle = default_bundle()
    key = graph_content(bundle, "segmenter", "fp32").key
    assert bundle.manifest["files"]["segmenter.onnx"]["sha256"] in key
    assert [part.file for part in bundle.left_out] == ["prior.safetensors", "msformer.safetensors"]
    for index in range(2):
        entries = [dict(entry) for entry in bundle.manifest[LEFT_OUT]]
        entries[index]["sha256"] = "of other weights"
        other = replace(bundle, manifest={**bundle.manifest, LEFT_OUT: entries})
        assert graph_content(other, "segmenter", "fp32").key != key


def test_code_and_onnx_decide_what_is_made_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rewriting()
    rewriting.cache_clear()
    monkeypatch.setattr(module, "version", lambda _: "another")
    try:
        assert rewriting() != before
    finally:
        rewriting.cache_clear()
