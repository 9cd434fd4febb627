"""The compilers from CUDA sources to PTX: nvcc if it is installed, else the NVRTC library.

The sources include no header of the CUDA toolkit, so both compilers need only the folder of the sources.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from msformer_deploy.errors import BackendUnavailable, DeployError

# Line numbers cost nothing at run time and let a profiler show the source. No fast math: results are compared with
# torch's. -O3 is the default of nvcc; NVRTC has no such option.
OPTIONS = ("-std=c++17", "-lineinfo")
NVCC_OPTIONS = ("-O3", *OPTIONS)

INSTALL = "install one with 'pip install nvidia-cuda-nvrtc' (nvidia-cuda-nvrtc-cu12 for a driver of CUDA 12)"


class Compiler(Protocol):
    """The common interface of both compilers."""

    @property
    def name(self) -> str:
        """Name and version, such as ``nvcc 13.0.88``."""

    def ptx(self, source: Path, capability: int) -> bytes:
        """PTX of ``source`` for compute capability ``capability``, in which no folder is named.

        The bytes of NVRTC do not depend on the folder. Those of nvcc may: it makes inner names from the path, and with
        other names it may number registers otherwise.

        Raises:
            DeployError: the source does not compile.
        """


class Nvcc:
    """The compiler driver, run as a program."""

    def __init__(self, program: Path) -> None:
        """Raises BackendUnavailable if the program exists but does not work."""
        self.program = program
        # Without a host compiler nvcc does not even compile code for the device.
        host = "cl" if sys.platform == "win32" else "gcc"
        if "NVCC_CCBIN" not in os.environ and shutil.which(host) is None:
            raise BackendUnavailable(f"{program} needs {host} in PATH")
        answer = self._run("--version")
        version = re.search(r"\bV(\d+(?:\.\d+)+)", answer.stdout)
        if answer.returncode or version is None:
            raise BackendUnavailable(f"{program} --version fails: {_first_error(answer.stdout + answer.stderr)}")
        self.version = version[1]

    @property
    def name(self) -> str:
        return f"nvcc {self.version}"

    def ptx(self, source: Path, capability: int) -> bytes:
        arguments = ["-ptx", f"-arch=compute_{capability}", *NVCC_OPTIONS, "-I", str(source.parent), str(source)]
        ptx, _ = self._compile(f"{source.name} for compute_{capability}", arguments)
        return _without_folders(ptx)

    def assemble(self, ptx: bytes, capability: int, title: str) -> tuple[bytes, str]:
        """Return the cubin that a driver would make from ``ptx``, and the assembler's report on resources.

        Raises:
            DeployError: the PTX cannot be assembled; the message starts with ``title``.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "source.ptx"
            path.write_bytes(ptx)
            arguments = ["-cubin", f"-arch=sm_{capability}", "--resource-usage", str(path)]
            return self._compile(f"{title} for sm_{capability}", arguments)

    def _compile(self, what: str, arguments: list[str]) -> tuple[bytes, str]:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            finished = self._run(*arguments, "-o", str(output))
            log = finished.stdout + finished.stderr
            if finished.returncode:
                raise _failure(what, self.name, log)
            return output.read_bytes(), log

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Options in the environment would change the compiled code.
        ours = {name: value for name, value in os.environ.items() if not re.fullmatch(r"NVCC_\w+_FLAGS", name)}
        command = [str(self.program), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, errors="replace", env=ours, check=False)
        except OSError as error:
            raise BackendUnavailable(f"{self.program} cannot be run: {error.strerror}") from error


class Nvrtc:
    """The compiler library, called in this process."""

    def __init__(self, library: str) -> None:
        """Load ``library``, a path or a name for the system's loader. Raises OSError if it cannot be loaded."""
        # The wheels' NVRTC looks for its second library by name; the loader finds it only if it is already loaded.
        for path in Path(library).parent.glob("libnvrtc-builtins.so.*") if os.sep in library else ():
            ctypes.CDLL(str(path))
        self._library = ctypes.CDLL(library)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    @property
    def name(self) -> str:
        return f"nvrtc {self.version[0]}.{self.version[1]}"

    def capabilities(self) -> list[int]:
        """The compute capabilities of the devices for which it can compile cubins."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return list(found)

    def ptx(self, source: Path, capability: int) -> bytes:
        return _without_folders(self._compile(source, f"compute_{capability}", "PTX").rstrip(b"\0"))

    def cubin(self, source: Path, capability: int) -> bytes:
        """Machine code for devices of exactly this capability."""
        return self._compile(source, f"sm_{capability}", "CUBIN")

    def _compile(self, source: Path, target: str, kind: str) -> bytes:
        # Headers are passed by name: no include path is needed, and the output contains no folder.
        headers = sorted(source.parent.glob("*.cuh"))
        options = [f"--gpu-architecture={target}", *OPTIONS]
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.read_bytes(),
            source.name.encode(),
            len(headers),
            _strings([header.read_bytes() for header in headers]),
            _strings([header.name.encode() for header in headers]),
        )
        try:
            code = self._library.nvrtcCompileProgram(program, len(options), _strings([o.encode() for o in options]))
            if code:
                log = self._output(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise _failure(f"{source.name} for {target}", self.name, log or self._reason(code))
            return self._output(program, kind)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _output(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        output = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{kind}", program, output)
        return output.raw

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise DeployError(f"{function} failed: {self._reason(code)}")

    def _reason(self, code: int) -> str:
        return str(self._library.nvrtcGetErrorString(code).decode())


def find_compiler() -> Compiler:
    """Return nvcc if it works, else NVRTC.

    Raises:
        BackendUnavailable: neither is installed.
    """
    try:
        return find_nvcc()
    except BackendUnavailable as no_nvcc:
        try:
            return find_nvrtc()[0]
        except BackendUnavailable as no_nvrtc:
            raise BackendUnavailable(f"no CUDA compiler: {no_nvcc}, and {no_nvrtc}; {INSTALL}") from None


def find_nvcc() -> Nvcc:
    """Return the first nvcc that works: of CUDA_HOME or CUDA_PATH, of the wheel, or in PATH.

    The wheel comes before PATH, because the project pins its version.

    Raises:
        BackendUnavailable: no nvcc works.
    """
    unusable = []
    for folder in (*_toolkits("bin"), *_wheel_folders("cu*/bin"), None):
        program = shutil.which("nvcc", path=folder)
        if program is not None:
            try:
                return Nvcc(Path(program))
            except BackendUnavailable as error:
                unusable.append(str(error))
    raise BackendUnavailable(
        ", ".join(unusable) or "nvcc is not in CUDA_HOME, CUDA_PATH, the wheel nvidia-cuda-nvcc or PATH"
    )


def find_nvrtc() -> list[Nvrtc]:
    """Every installed version of NVRTC, the oldest first: the most drivers accept its output.

    Raises:
        BackendUnavailable: NVRTC is not installed.
    """
    found: dict[tuple[int, int], Nvrtc] = {}
    for library in _nvrtc_libraries():
        try:
            nvrtc = Nvrtc(library)
        except OSError:
            continue
        found.setdefault(nvrtc.version, nvrtc)
    if not found:
        raise BackendUnavailable("libnvrtc is not in the wheel nvidia-cuda-nvrtc, CUDA_HOME or the system's libraries")
    return [found[version] for version in sorted(found)]


def _nvrtc_libraries() -> Iterator[str]:
    # Wheels of CUDA 13 install it in cu13/lib, wheels of CUDA 12 in cuda_nvrtc/lib, Conda in its prefix.
    for folder in (*_wheel_folders("cu*/lib"), *_toolkits("lib64"), os.path.join(sys.prefix, "lib")):
        yield from map(str, sorted(Path(folder).glob("libnvrtc.so.*")))
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def _toolkits(child: str) -> list[str]:
    named = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    return [os.path.join(folder, child) for folder in named if folder]


def _wheel_folders(pattern: str) -> list[str]:
    spec = importlib.util.find_spec("nvidia")  # a namespace package of all NVIDIA wheels
    roots = spec.submodule_search_locations or [] if spec else []
    return sorted(str(folder) for root in roots for folder in Path(root).glob(pattern))


def _strings(values: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*values)


def _without_folders(ptx: bytes) -> bytes:
    """Return the PTX without folders in its ``.file`` lines, because folders differ between machines."""
    return re.sub(rb'(?m)^(\t\.file\t\d+ ")[^"]*[/\\]', rb"\1", ptx)


def _failure(what: str, compiler: str, log: str) -> DeployError:
    error = DeployError(f"{what} does not compile with {compiler}: {_first_error(log)}")
    error.__cause__ = RuntimeError(log)  # the complete log, for the traceback
    return error


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\b(error|fatal)\b", line)), lines[0] if lines else "no message")
