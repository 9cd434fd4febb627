"""The file of a head that corrected images taught (:mod:`.like`): ``head.safetensors`` beside results, some kilobytes.

Its metadata say which bundles it fits: those of the same system and side whose encoder has the same weights. These are
drawn from a seed, so the digest is of what draws them, and of the prior's weights. Every bundle that was exported with
the same system, sizes and seed takes it, whatever its precisions and engines.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.folder import LEARNED_HEAD, MANIFEST
from ..errors import BundleError, UsageError, printable, why_unread
from ..files import atomic_path
from ..weights import prior
from .like import HIDDEN, PARTS, SEEN, Identity, LearnedHead

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

FILE = "head.safetensors"  # beside results
VERSION = "1"  # of the format, and of what is seen of a pixel
LARGEST = 2**20  # bytes
LARGEST_VALUE = 1e6  # of any number in it
_TENSORS = ("centre", "spread", "coefficients", "offset")


def identity_of(bundle: Bundle) -> Identity:
    """What a head of a bundle belongs to."""
    drawn = [bundle.system, bundle.seed, asdict(bundle.sizes), prior.SHA256]
    digest = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
    return Identity(bundle.system, bundle.sizes.side, digest)


def require_fit(head: LearnedHead, bundle: Bundle) -> None:
    """See that a head belongs to a bundle.

    Raises:
        UsageError: it is of another system, side or encoder.
    """
    own, expected = head.identity, identity_of(bundle)
    if own == expected:
        return
    if own.system != expected.system:
        why = f"system {own.system}, and the bundle is of {expected.system}"
    elif own.side != expected.side:
        why = f"side {own.side}, and the bundle has side {expected.side}"
    else:
        why = "another encoder of the same sizes (another seed or version)"
    raise UsageError(f"the head was learned with {why}; learn it with this bundle: run --like")


def write(path: Path, head: LearnedHead) -> None:
    """Write a head, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content(head))


def content(head: LearnedHead) -> bytes:
    """The file of a head; equal heads give equal bytes."""
    from safetensors.numpy import save

    tensors = {name: np.asarray(getattr(head, name), np.float32).reshape(-1) for name in _TENSORS}
    metadata = {
        "format": VERSION,
        "system": head.identity.system,
        "side": str(head.identity.side),
        "encoder_sha256": head.identity.encoder,
        "source_sha256": head.source,
        "images": str(head.images),
        "part": str(head.part),
    }
    # One entry: several would be written in any order.
    return save(tensors, {"head": json.dumps(metadata)})


def read(path: Path) -> LearnedHead:
    """Read a head. No code in the file is run.

    Raises:
        UsageError: it cannot be read, or is not such a file.
    """
    name = printable(path)
    try:
        size = path.stat().st_size
        found = _parsed(path) if path.is_file() and size <= LARGEST else None
    except OSError as error:
        raise UsageError(f"{name}: {why_unread(error)}") from error
    except Exception as error:  # safetensors raises its own class
        if path.name == FILE and (path.parent / MANIFEST).is_file():
            raise UsageError(
                f"{name}: is the initial head of a bundle; give the {FILE} that run --like wrote beside results"
            ) from error
        raise UsageError(f"{name}: is not a head that run --like wrote, or is damaged; give {FILE}") from error
    if found is None:
        raise UsageError(f"{name}: is not a head that run --like wrote; give {FILE}")
    return found


def of_bundle(bundle: Bundle) -> LearnedHead | None:
    """The head that was put into a bundle; None if none was.

    Raises:
        BundleError: it is damaged, or of another bundle.
    """
    if LEARNED_HEAD not in bundle.manifest["files"]:
        return None
    try:
        head = read(bundle.file(LEARNED_HEAD))
        require_fit(head, bundle)
    except UsageError as error:
        raise BundleError(f"{bundle.path}: {error}; export the bundle again") from error
    return head


def _parsed(path: Path) -> LearnedHead:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        told = json.loads(file.metadata()["head"])
        centre, spread, coefficients, offset = (np.asarray(file.get_tensor(name)) for name in _TENSORS)
    images, part = int(told["images"]), float(told["part"])
    arrays = (centre, spread, coefficients, offset)
    if (
        told["format"] != VERSION
        or [each.shape for each in arrays] != [(SEEN,), (SEEN,), (SEEN + HIDDEN,), (1,)]
        or any(each.dtype != np.float32 or not (np.abs(each) <= LARGEST_VALUE).all() for each in arrays)
        or not (spread > 0).all()
        or not 1 <= images <= LARGEST_VALUE
        or not 0 <= part <= max(PARTS)
    ):
        raise ValueError("no head")
    identity = Identity(told["system"], int(told["side"]), told["encoder_sha256"])
    return LearnedHead(
        identity, str(told["source_sha256"]), images, part, centre, spread, coefficients, float(offset[0])
    )
