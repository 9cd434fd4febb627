"""The format of a file of weights, by its bytes: the suffix may be wrong, and the file may be something else."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from ..errors import UsageError, printable

Format = Literal["safetensors", "torch"]

# The first bytes of torch.save before 1.6: torch.serialization.MAGIC_NUMBER, pickled, in one of several protocols.
_TORCH_BEFORE_1_6 = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_TORCH_0_1 = {"pickle", "storages", "tensors"}  # members of the tar files that torch wrote before 0.2
_BEGIN = 4096  # bytes that are examined
_PIECE = 2**20  # bytes that are read at once
_HDF5_AT = (0, 512, 1024, 2048)  # where an HDF5 file may begin
_LARGEST_HEADER = 100_000_000  # bytes, of safetensors
_OTHER_TOOL = "convert it with the tool that wrote it, and save a state_dict() of torch or a .safetensors file"
_UNPACK = "unpack it and give the file of weights inside"
_AGAIN = "download or copy it again"

# First bytes of other files, what such a file is, and what to do.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch it with 'git lfs pull'",
    ),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "fetch it with 'git annex get'"),
    (b"\x93NUMPY", "one NumPy array", _OTHER_TOOL),
    (b"GGUF", "a GGUF file", _OTHER_TOOL),
    (b"MATLAB ", "a MATLAB file", _OTHER_TOOL),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
)


def weights_format(path: Path) -> Format:
    """Return the format of a file of weights. No code in it is run.

    Only its first bytes are read, except for torch's zip files, which are read completely to verify their checksums.

    Raises:
        OSError: the file cannot be read.
        UsageError: the file is damaged, or of another kind; the message says which kind and what to do.
    """
    with path.open("rb") as file:
        begin = file.read(_BEGIN)
    if begin.startswith(b"PK"):
        return _zip(path)
    if _is_safetensors(begin):
        return "safetensors"
    if begin.startswith(b"\x80") and _TORCH_BEFORE_1_6 in begin[:32]:
        return "torch"
    what, remedy = _other(path, begin)
    raise UsageError(f"{printable(path)}: {what}; {remedy}")


def _is_safetensors(begin: bytes) -> bool:
    """Whether a file begins with the length of a header, eight little-endian bytes, and a header in JSON."""
    return begin[8:9] == b"{" and 2 <= int.from_bytes(begin[:8], "little") <= _LARGEST_HEADER


def _zip(path: Path) -> Format:
    name = printable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if any(member.endswith("/data.pkl") for member in members):
                _check_sums(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name}: damaged or cut short; {_AGAIN}") from error
    names = {member.partition("/")[2] for member in members}  # torch puts all members into one folder
    if "constants.pkl" in names:
        raise UsageError(
            f"{name}: is a TorchScript archive, that is, a program with weights, and was not run; if you trust it, load"
            " it with torch.jit.load and save its state_dict() with torch.save"
        )
    if "data.pkl" in names:
        return "torch"
    if "model.weights.h5" in members:
        raise UsageError(f"{name}: is a Keras archive; {_OTHER_TOOL}")
    if members and all(member.endswith(".npy") for member in members):
        raise UsageError(f"{name}: is an archive of NumPy arrays; {_OTHER_TOOL}")
    raise UsageError(f"{name}: is a zip archive that torch did not write; {_UNPACK}")


def _check_sums(archive: zipfile.ZipFile) -> None:
    """Verify the checksums of all members: torch does not verify them, and would load damaged weights.

    Raises:
        zipfile.BadZipFile: a checksum differs.
    """
    for member in archive.infolist():
        if member.CRC:  # torch writes 0 if checksums are switched off
            with archive.open(member) as file:
                while file.read(_PIECE):
                    pass


def _other(path: Path, begin: bytes) -> tuple[str, str]:
    """Return what an unsupported file is, and what to do."""
    for start, what, remedy in _OTHERS:
        if begin.startswith(start):
            return f"is {what}", remedy
    if any(begin[at:].startswith(b"\x89HDF\r\n\x1a\n") for at in _HDF5_AT):
        return "is an HDF5 file, as Keras writes weights", _OTHER_TOOL
    if begin[4:8] == b"TFL3":
        return "is a TensorFlow Lite model", _OTHER_TOOL
    if begin[257:262] == b"ustar":
        return _tar(path)
    if begin.startswith(b"\x80") and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "is a plain Python pickle that torch.save did not write; no code in it was run",
            "if you trust it, load it and save the state_dict() with torch.save",
        )
    if _is_onnx(path, begin):
        return (
            "is an ONNX model, a graph whose weights have other names than in torch",
            "give the checkpoint that it was exported from",
        )
    text = _text(begin)
    if text is None or len(begin) < 16:
        return "is empty" if not begin else "is not a file of weights, or is damaged or cut short", _AGAIN
    if text.startswith(("<!doctype", "<html", "<head", "<body", "<script", "<?xml", "<!--")):
        return "is a web page (HTML), saved instead of the file", "download the file itself"
    if text.startswith(("{", "[")):
        return "is text (JSON), not weights", "give the file of weights that it belongs to"
    return "is text, not weights", "download or copy the file of weights itself"


def _tar(path: Path) -> tuple[str, str]:
    try:
        with tarfile.open(path, "r:") as archive:
            members = {member.name for member in archive}
    except (tarfile.TarError, OSError):
        return "is a tar archive, damaged or cut short", _AGAIN
    if members >= _TORCH_0_1:
        return (
            "is a tar file of torch 0.1, which torch reads only by running code in it; no code in it was run",
            "if you trust it, load it with torch.load(..., weights_only=False) and save the state_dict() alone",
        )
    return "is a tar archive", _UNPACK


def _is_onnx(path: Path, begin: bytes) -> bool:
    """Whether a file is an ONNX model. ONNX has no signature: the version comes first, and the rest must be a graph."""
    if begin[:1] != b"\x08":
        return False
    import onnx

    try:
        model = onnx.load_model(io.BytesIO(path.read_bytes()), load_external_data=False)
    except Exception:  # protobuf raises errors of its own classes
        return False
    return len(model.graph.node) > 0


def _text(begin: bytes) -> str | None:
    """The text in lower case, without leading white space; None if it is not text."""
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = begin[: len(begin) // 2 * 2].decode("utf-16", "ignore")
    else:
        try:
            text = begin.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if error.start < len(begin) - 3:  # the last character may be cut
                return None
            text = begin[: error.start].decode("utf-8-sig")
    if any(letter < " " and letter not in "\t\n\r\f" for letter in text):
        return None
    return text.lstrip().lower()
