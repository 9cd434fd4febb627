"""The file of a head: what goes in comes out, and what is no head, or of another bundle, is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from msformer_deploy import UsageError
from msformer_deploy.bundle.shipped import default_bundle
from msformer_deploy.refinement import head_file
from msformer_deploy.refinement.like import HIDDEN, SEEN, Identity, LearnedHead


@pytest.fixture
def head() -> LearnedHead:
    rng = np.random.default_rng(0)
    numbers = [rng.normal(size=size).astype(np.float32) for size in (SEEN, SEEN, SEEN + HIDDEN)]
    numbers[1] = np.abs(numbers[1])
    return LearnedHead(head_file.identity_of(default_bundle()), "source", 3, 0.35, *numbers, 0.25)


def test_a_head_is_kilobytes_and_comes_back_as_it_was(head: LearnedHead, tmp_path: Path) -> None:
    path = tmp_path / head_file.FILE
    head_file.write(path, head)
    assert path.stat().st_size < 4096
    found = head_file.read(path)
    assert (found.identity, found.source, found.images, found.part) == (head.identity, "source", 3, 0.35)
    assert found.offset == 0.25
    for name in ("centre", "spread", "coefficients"):
        assert np.array_equal(getattr(found, name), getattr(head, name))
    assert head_file.content(found) == path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def other_tensors(path: Path) -> None:
    save_file({"head": np.zeros((2, 2), np.float32)}, path)


def not_finite(path: Path) -> None:
    told = {"format": "1", "system": "msformer", "side": "97", "encoder_sha256": "", "source_sha256": ""}
    numbers = {"centre": SEEN, "spread": SEEN, "coefficients": SEEN + HIDDEN, "offset": 1}
    tensors = {name: np.full(size, np.nan, np.float32) for name, size in numbers.items()}
    save_file(tensors, path, {"head": json.dumps({**told, "images": "1", "part": "1"})})


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no head"),
        lambda path: path.write_bytes(b"\0" * (head_file.LARGEST + 1)),
        lambda path: path.mkdir(),
        other_tensors,
        not_finite,
    ],
)
def test_what_is_no_head_is_refused_in_one_line(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"x\.safetensors: is not a head that run --like wrote") as error:
        head_file.read(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: (
            {name: getattr(head, name)[:5] for name in ("centre", "spread")}
            | {"coefficients": head.coefficients[: 5 + HIDDEN]}
        ),
        lambda head: {"centre": np.full(SEEN, 1e30, np.float32)},
        lambda head: {"spread": np.zeros(SEEN, np.float32)},
        lambda head: {"offset": float("inf")},
        lambda head: {"images": 10**12},
    ],
    ids=["another length", "huge", "no spread", "infinite", "images"],
)
def test_a_head_with_numbers_that_run_never_writes_is_refused(
    head: LearnedHead, change: Callable[[LearnedHead], dict[str, object]], tmp_path: Path
) -> None:
    head_file.write(tmp_path / "x.safetensors", replace(head, **change(head)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"x\.safetensors: is not a head that run --like wrote"):
        head_file.read(tmp_path / "x.safetensors")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        head_file.read(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "s3net"}, "learned with system s3net, and the bundle is of msformer"),
        ({"side": 193}, "learned with side 193, and the bundle has side 97"),
        ({"encoder": "other"}, "learned with another encoder of the same sizes"),
    ],
)
def test_a_head_of_another_bundle_is_refused(head: LearnedHead, change: dict[str, object], said: str) -> None:
    head_file.require_fit(head, default_bundle())
    other = replace(head, identity=Identity(**{**head.identity._asdict(), **change}))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        head_file.require_fit(other, default_bundle())
