"""Weights of others: the ways in which files wrap them, those in which they are wrong, and code that never runs."""

from __future__ import annotations

import io
import itertools
import os
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path

import goldens
import pytest
import torch
import trained_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msformer_deploy import files
from msformer_deploy.errors import DeployError, UsageError
from msformer_deploy.models import res2net, subtraction
from msformer_deploy.models.res2net import Res2Net
from msformer_deploy.models.subtraction import M2SNet, MSNet
from msformer_deploy.models.swin_unet import SwinUNet
from msformer_deploy.models.unet import UNet
from msformer_deploy.weights.checkpoint_import import AVERAGES, WRAPPERS, import_weights, read_weights, write_weights

SMALL = {"channels": 8, "layers": (1, 1, 1, 1)}
CLASSIFIER = {"fc.weight": torch.zeros(10, 256), "fc.bias": torch.zeros(10)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the networks small."""
    monkeypatch.setattr(subtraction, "MSNet", partial(MSNet, **SMALL))
    monkeypatch.setattr(subtraction, "M2SNet", partial(M2SNet, **SMALL))
    monkeypatch.setattr(res2net, "Res2Net", partial(Res2Net, **SMALL))


def weights(kind: type[nn.Module] = MSNet) -> dict[str, Tensor]:
    """A state dict in which every entry differs from a new network's."""
    state = kind(**SMALL).state_dict()
    return {name: torch.full_like(tensor, index + 1) for index, (name, tensor) in enumerate(state.items())}


def same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(got) == list(expected) and all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        OrderedDict,
        lambda state: {"state_dict": state, "epoch": 49},
        lambda state: {"model": state, "optimizer": {"lr": 0.05}},
        lambda state: {"net": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: state | {f"resnet.{name}": tensor for name, tensor in CLASSIFIER.items()},
        lambda state: state | {"output1.0.bias": nn.Parameter(torch.tensor([3.0]))},
        lambda state: dict(reversed(state.items())),
    ],
    ids=["plain", "ordered", "state_dict", "model", "net", "module.", "both", "classifier", "parameter", "order"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_every_wrapping_is_taken_off(wrap, zipped, tmp_path):
    state = weights() | {"output1.0.bias": torch.tensor([3.0])}
    torch.save(wrap(state), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    got = import_weights(tmp_path / "a.pth", "msnet")
    assert same(got, state)
    MSNet(**SMALL).load_state_dict(got)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("wrapper", [*AVERAGES, *WRAPPERS])
def test_every_wrapper_is_known(wrapper, tmp_path):
    torch.save({"epoch": 49, wrapper: weights(), "optimizer_state_dict": {"state": {}}}, tmp_path / "a.pth")
    assert same(import_weights(tmp_path / "a.pth", "msnet"), weights())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("prefix", [*map("".join, itertools.permutations(["_orig_mod.", "module.", "model."]))])
@pytest.mark.parametrize("wrappers", [*itertools.permutations(["state_dict", "model"])], ids=str)
def test_wrappers_and_prefixes_may_be_nested_in_any_order(wrappers, prefix, tmp_path):
    outer, inner = wrappers
    content = {outer: {inner: prefixed(prefix, weights()), "epoch": 1}, "lr": 0.1, "arch": "m2snet"}
    torch.save(content, tmp_path / "a.pth")
    assert same(import_weights(tmp_path / "a.pth", "msnet"), weights())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state": {"model": state, "optim": {}}, "epoch": 3},
        lambda state: {"a": {"b": {"c": state}}},
        lambda state: {"checkpoint": {"state_dict": prefixed("module.", state)}},
        lambda state: {"best_model": state, "optimizer": {"state": {"w": {"exp_avg": torch.ones(3)}}}},
        lambda state: {"segmenter": state, "losses": {"dice": torch.ones(2)}, "seen": {"images": torch.tensor(4)}},
        lambda state: state | {"epoch": 3, "arch": "msnet"},
        lambda state: {"n_averaged": torch.tensor(4)} | prefixed("module.", state),
        lambda state: prefixed("_forward_module.module.", state),
        lambda state: prefixed("_fsdp_wrapped_module._checkpoint_wrapped_module.", state),
    ],
    ids=["state", "any", "checkpoint", "optimiser", "numbers", "epoch", "averaged", "deepspeed", "fsdp"],
)
def test_wrappers_of_any_name_and_what_lies_beside(wrap, tmp_path):
    torch.save(wrap(weights()), tmp_path / "a.pth")
    assert same(import_weights(tmp_path / "a.pth", "msnet"), weights())


def test_a_file_that_holds_itself_ends(tmp_path):
    content: dict[str, object] = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    assert "holds no named tensors" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("sums", [True, False])
def test_weights_that_changed_on_the_way_are_damaged(sums, tmp_path):
    path = tmp_path / "a.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(sums)
    try:
        torch.save({"a": torch.arange(1000.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_weights(path)["a"].shape == (1000,)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(1000.0).numpy().tobytes()[:400])
    content[place + 100] ^= 1
    path.write_bytes(content)
    if sums:
        assert "damaged or cut short; download or copy it again" in refusal(path)
    else:
        assert read_weights(path)["a"].shape == (1000,)  # there is nothing to check them by


@pytest.mark.parametrize("zipped", [True, False])
def test_an_unusual_pickle_protocol_is_refused(zipped, tmp_path):
    torch.save(weights(), tmp_path / "a.pth", pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    assert "its pickle protocol is not 2; no code in it was run" in refusal(tmp_path / "a.pth")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("part", ["_orig_mod", "module"])
def test_a_part_that_was_compiled_or_made_parallel_alone(part, tmp_path):
    state = {name.replace("resnet.layer1.", f"resnet.{part}.layer1."): each for name, each in weights().items()}
    assert state.keys() != weights().keys()
    torch.save(state, tmp_path / "a.pth")
    assert same(import_weights(tmp_path / "a.pth", "msnet"), weights())


@pytest.mark.usefixtures("small")
def test_of_weights_and_their_average_the_average_is_taken(tmp_path):
    others = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    torch.save({"params": others, "params_ema": weights()}, tmp_path / "a.pth")
    assert same(import_weights(tmp_path / "a.pth", "msnet"), weights())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": weights(), "net": weights()}, "several sets of weights (model, net); save only the set"),
        ({"student": weights(), "teacher": weights()}, "several sets of weights (student, teacher); save only the set"),
        (weights() | prefixed("module.", weights()), "twice, under different names; save only one network"),
        (weights() | prefixed("model.", weights()), "unknown: model."),
    ],
    ids=["two", "two of any name", "one name", "two networks"],
)
def test_what_could_mean_several_things_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    assert message in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "network",
    [
        *(partial(kind, **SMALL) for kind in (MSNet, M2SNet, Res2Net)),
        partial(UNet, trained_weights.WIDTHS),
        partial(SwinUNet, 32, **trained_weights.SWIN),
    ],
)
def test_no_network_has_names_that_would_be_taken_off(network, tmp_path):
    names = network().state_dict().keys()
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").keys() == names


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_content_decides_and_not_the_suffix(kind, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    if kind == "safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
    assert same(import_weights(path, "msnet"), weights())


@pytest.mark.usefixtures("small")
def test_a_safetensors_file_of_half_numbers_becomes_float32(tmp_path):
    state = weights(M2SNet)
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(halves, tmp_path / "a.safetensors")
    got = import_weights(tmp_path / "a.safetensors", "m2snet")
    assert same(got, state)
    assert {tensor.dtype for tensor in got.values()} == {torch.float32, torch.int64}


@pytest.mark.usefixtures("small")
def test_a_backbone_gets_its_names_in_the_whole_networks(tmp_path):
    state = weights(Res2Net)
    torch.save(state | CLASSIFIER, tmp_path / "imagenet.pth")
    got = import_weights(tmp_path / "imagenet.pth", "res2net")
    assert same(got, {f"resnet.{name}": tensor for name, tensor in state.items()})
    model = M2SNet(**SMALL)
    assert not model.load_state_dict(got, strict=False).unexpected_keys
    assert (model.resnet.bn1.weight == state["bn1.weight"]).all()


@pytest.mark.usefixtures("small")
def test_counters_of_batches_may_be_missing(tmp_path):
    state = {name: tensor for name, tensor in weights().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    got = import_weights(tmp_path / "old.pth", "msnet")
    assert list(got) == list(weights())
    assert got["output2.1.num_batches_tracked"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_tensors_of_one_memory_are_parted(tmp_path):
    state = weights()
    state["x5_x4.1.bias"] = state["x5_x4.1.weight"]
    state["x4_x3.0.weight"] = state["x4_x3.0.weight"].mT
    torch.save(state, tmp_path / "a.pth")
    write_weights(tmp_path / "a.safetensors", import_weights(tmp_path / "a.pth", "msnet"), {"system": "msnet"})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x5_x4.1.bias"], state["x5_x4.1.bias"])


def refusal(path: Path, network: str = "msnet") -> str:
    with pytest.raises(UsageError) as caught:
        import_weights(path, network)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class Malice:
    """Leaves a file behind when a pickle of it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ""])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_never_run(suffix, kind, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / f"evil{suffix}"
    content = weights() | {"extra": Malice(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    assert "no code in it was run" in refusal(path)
    assert not trace.exists()
    content = io.BytesIO(path.read_bytes())  # torch.load goes by the suffix of a path
    torch.load(content, weights_only=False) if kind != "pickle" else pickle.load(content)
    assert trace.exists()  # it would have


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_called_so(suffix, share, tmp_path):
    path = tmp_path / f"a{suffix}"
    torch.save(weights(), path) if suffix == ".pth" else save_file(weights(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert ("damaged or cut short" if share else "is empty") in refusal(path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no named tensors"),
        ({}, "no named tensors"),
        ({"a": 1}, "no named tensors"),
        ({1: torch.zeros(1)}, "no named tensors"),
        ({"state_dict": {}}, "no named tensors"),
        ({"a": torch.zeros(3).to_sparse()}, "no named tensors"),
        (torch.zeros(3), "no named tensors"),
        (nn.Linear(1, 1), "no code in it was run"),
    ],
    ids=["list", "empty", "number", "key", "empty inside", "sparse", "tensor", "module"],
)
def test_what_is_no_state_dict_is_called_so(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    assert message in refusal(tmp_path / "a.pth")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"output1.0.bias": None}, ["missing: output1.0.bias;"]),
        ({"head.weight": torch.zeros(1)}, ["unknown: head.weight;"]),
        ({"head\nline": torch.zeros(1)}, ["unknown: head\\nline;"]),
        ({"output1.0.bias": torch.zeros(2)}, ["of another shape: output1.0.bias (2,) instead of (1,);"]),
        ({"output1.0.bias": torch.zeros(1, dtype=torch.int64)}, ["kind of number: output1.0.bias (torch.int64);"]),
        ({"output1.0.bias": torch.zeros(1, dtype=torch.complex64)}, ["kind of number"]),
        (dict.fromkeys(["a", "b", "c", "d", "e"], torch.zeros(1)), ["unknown: a, b, c and 2 more;"]),
        ({"output1.0.bias": None, "x": torch.zeros(1)}, ["missing: output1.0.bias; unknown: x;"]),
    ],
    ids=["missing", "unknown", "line break", "shape", "kind", "complex", "many", "two"],
)
def test_names_shapes_and_kinds_are_checked(change, parts, tmp_path):
    state = {name: tensor for name, tensor in (weights() | change).items() if tensor is not None}
    torch.save(state, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth")
    assert [part for part in parts if part not in message] == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("saved", "asked", "part"),
    [
        (MSNet, "m2snet", "missing: conv_3.norm.weight, conv_3.norm.bias, conv_3.norm.running_mean and 5 more"),
        (M2SNet, "msnet", "unknown: conv_3.norm.weight"),
        (MSNet, "res2net", "missing: conv1.0.weight"),
        (Res2Net, "msnet", "unknown: conv1.0.weight"),
    ],
)
def test_another_network_is_told(saved, asked, part, tmp_path):
    torch.save(weights(saved), tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth", asked)
    assert f"does not fit {asked}" in message
    assert part in message


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "folder.pth", "folder.safetensors"])
def test_what_is_no_file_is_called_so(name, tmp_path):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    assert "cannot be read" in refusal(tmp_path / name)


@pytest.mark.slow
@pytest.mark.golden
def test_golden_names_of_the_published_code_fit(tmp_path):
    _, facts = goldens.read("m2snet_s352")
    published = {name: torch.zeros(shape) for name, shape in facts["state_dict_shapes"].items()}
    published |= {name: torch.tensor(0) for name in published if name.endswith("num_batches_tracked")}
    torch.save(published, tmp_path / "m2snet.pth")
    got = import_weights(tmp_path / "m2snet.pth", "m2snet")
    assert {name: list(tensor.shape) for name, tensor in got.items()} == {
        name: shape for name, shape in facts["state_dict_shapes"].items() if ".fc." not in name
    }


def test_written_weights_come_back_with_what_is_known_of_them(tmp_path):
    path, state = tmp_path / "a.safetensors", weights()
    path.write_text("of before")
    write_weights(path, state, {"system": "msnet", "source": "a.pth"})
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"system": "msnet", "source": "a.pth"}
    assert torch.equal(load_file(path)["output1.0.bias"], state["output1.0.bias"])
    assert load_file(path).keys() == state.keys()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_equal_weights_give_equal_files(tmp_path):
    state, facts = {"a": torch.arange(3.0), "bb": torch.ones(2)}, {f"fact {number}": "é" for number in range(9)}
    for number, metadata in enumerate((facts, dict(reversed(facts.items())))):
        write_weights(tmp_path / f"{number}.safetensors", state, metadata)
    one, other = ((tmp_path / f"{number}.safetensors").read_bytes() for number in range(2))
    assert one == other
    with safe_open(tmp_path / "0.safetensors", "pt") as opened:
        assert opened.metadata() == facts
        assert all(torch.equal(opened.get_tensor(name), state[name]) for name in state)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_text("of before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DeployError, match=r"a\.safetensors: cannot be written \(No space left"):
        write_weights(path, {"a": torch.zeros(1)}, {"system": "msnet"})
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_text() == "of before"
