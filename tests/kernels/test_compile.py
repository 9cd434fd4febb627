"""CUDA sources become images for the driver: both compilers, the wheel's PTX, the cache, the report. Needs no GPU."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from locations import CUDA_COMPILERS_EXPECTED

from msformer_deploy.errors import BackendUnavailable, DeployError
from msformer_deploy.kernels import compile as kernels
from msformer_deploy.kernels import compilers, resources
from msformer_deploy.kernels.resources import Resources

PROBE = """\
#include <tile.cuh>

extern "C" __global__ void __launch_bounds__(128) probe_turn(const float *values, float *turned, int count) {
    __shared__ float tile[128];
    const int index = blockIdx.x * 128 + threadIdx.x;
    tile[threadIdx.x] = index < count ? scaled(values[index]) : 0.f;
    __syncthreads();
    turned[index] = tile[127 - threadIdx.x];
}

extern "C" __global__ void probe_fill(float *values) { values[threadIdx.x] = 1.f; }
"""
HEADER = "#pragma once\n__device__ __forceinline__ float scaled(float value) { return 2.f * value; }\n"


class FakeCompiler:
    """A compiler whose work is counted."""

    def __init__(self, name: str = "fake 1.0", capabilities: tuple[int, ...] = ()) -> None:
        self.name = name
        self.runs = 0
        self.known = capabilities

    def ptx(self, source: Path, capability: int) -> bytes:
        self.runs += 1
        return f".version 8.4\n.target sm_{capability}\n{source.read_text()}".encode()

    def cubin(self, source: Path, capability: int) -> bytes:
        self.runs += 1
        return f"machine code for {capability} by {self.name}".encode()

    def capabilities(self) -> list[int]:
        return list(self.known)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """One small source in a folder of its own; nothing shipped, nothing cached."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "probe.cu").write_text(PROBE)
    (folder / "tile.cuh").write_text(HEADER)
    monkeypatch.setattr(kernels, "SOURCES", ("probe",))
    monkeypatch.setattr(resources, "SOURCES", ("probe",))
    monkeypatch.setattr(kernels, "SOURCE_FOLDER", folder)
    monkeypatch.setattr(kernels, "SHIPPED_FOLDER", tmp_path / "compiled")
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path / "cache" / "kernels")
    return folder


@pytest.fixture
def fake(monkeypatch):
    compiler = FakeCompiler()
    monkeypatch.setattr(kernels, "find_compiler", lambda: compiler)
    return compiler


def needed(find):
    try:
        return find()
    except BackendUnavailable as error:
        if CUDA_COMPILERS_EXPECTED:
            raise
        pytest.skip(str(error))


@pytest.fixture
def nvcc():
    return needed(compilers.find_nvcc)


@pytest.fixture
def nvrtc():
    return needed(compilers.find_nvrtc)[0]


@pytest.fixture(params=["nvcc", "nvrtc"])
def compiler(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bare_machine(tmp_path, monkeypatch):
    """No compiler anywhere, but a folder in PATH to put programs into."""
    for variable in ("CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(compilers, "_wheel_folders", lambda pattern: [])
    monkeypatch.setattr(compilers, "_nvrtc_libraries", lambda: iter(["/nowhere/libnvrtc.so.13"]))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def put_program(path: Path, prints: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("cuda", "isa", "used"),
    [
        (None, "9.0", "as it is"),
        ("13.0", "9.0", "as it is"),
        ("14.2", "9.9", "as it is"),
        ("12.6", "8.5", "as it is"),
        ("12.6", "9.0", "nvrtc 12.4"),
        ("13.0", "9.1", "nvrtc 12.4"),
        ("12.3", "9.0", "nothing"),
        ("11.8", "9.0", "nothing"),
    ],
)
def test_a_driver_gets_ptx_that_it_knows(monkeypatch, tmp_path, cuda, isa, used):
    """JetPack 6 has a driver for CUDA 12.6, and the wheel's PTX is of CUDA 13."""
    text = f".version {isa}\n"
    nvrtcs = [
        SimpleNamespace(
            version=version,
            name=f"nvrtc {version[0]}.{version[1]}",
            ptx=lambda source, capability: b".version 8.4\n",
        )
        for version in ((12, 4), (13, 0))
    ]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "load", lambda *_: kernels.Image(text.encode(), "ptx", 80, "shipped", isa))
    monkeypatch.setattr(kernels, "find_nvrtc", lambda: nvrtcs)
    if used == "nothing":
        with pytest.raises(BackendUnavailable, match=rf"no NVRTC of CUDA {cuda} or older is installed"):
            kernels.load_for_driver("probe", 87, cuda)
        return
    image = kernels.load_for_driver("probe", 87, cuda)
    assert image.origin == ("shipped" if used == "as it is" else f"compiled by {used}")
    assert image.isa == (isa if used == "as it is" else "8.4")


# The compilers.


@pytest.mark.slow
@pytest.mark.parametrize("capability", kernels.PTX_CAPABILITIES)
def test_ptx_holds_the_kernels_and_no_folder(compiler, folder, capability, tmp_path):
    ptx = compiler.ptx(folder / "probe.cu", capability)
    assert f".target sm_{capability}\n".encode() in ptx
    assert re.findall(rb"\.entry (\w+)", ptx) == [b"probe_turn", b"probe_fill"]
    assert re.findall(rb'\.file\t\d+ "(.*)"', ptx) == [b"probe.cu", b"tile.cuh"], "line numbers, by bare file names"
    assert not ptx.endswith(b"\0")
    elsewhere = shutil.copytree(folder, tmp_path / "else where")
    assert compiler.ptx(elsewhere / "probe.cu", capability) == ptx


def test_error_is_one_line_with_the_place_and_the_rest_is_a_note(compiler, folder):
    (folder / "probe.cu").write_text("\n\n__device__ int first = unknown_1;\n__device__ int second = unknown_2;\n")
    with pytest.raises(DeployError, match=r"^probe\.cu for compute_80 does not compile with nv\w+ [\d.]+: ") as raised:
        compiler.ptx(folder / "probe.cu", 80)
    assert re.search(r'probe\.cu\(3\): error: identifier "unknown_1" is undefined$', str(raised.value))
    assert "unknown_2" in str(raised.value.__cause__)


def test_missing_header_is_named(compiler, folder):
    (folder / "tile.cuh").unlink()
    with pytest.raises(DeployError, match=r"probe\.cu\S+1\S* .*error: .*tile\.cuh"):
        compiler.ptx(folder / "probe.cu", 80)


@pytest.mark.slow
def test_nvcc_takes_no_options_from_outside(nvcc, folder, monkeypatch):
    plain = nvcc.ptx(folder / "probe.cu", 80)
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-G -use_fast_math")
    assert nvcc.ptx(folder / "probe.cu", 80) == plain


def test_nvrtc_makes_cubins_of_what_it_knows(nvrtc, folder):
    assert {75, 80, 90} <= set(nvrtc.capabilities())
    cubin = nvrtc.cubin(folder / "probe.cu", 90)
    assert cubin.startswith(b"\x7fELF")
    assert b".text.probe_turn\0" in cubin


@pytest.mark.parametrize("target", [10, 999])
def test_nvrtc_refusing_an_option_says_why(nvrtc, folder, target):
    with pytest.raises(DeployError, match=rf"probe\.cu for compute_{target} does not compile .*gpu-architecture"):
        nvrtc.ptx(folder / "probe.cu", target)


@pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
def test_nvcc_of_the_environment_then_of_the_wheel_then_of_path(bare_machine, tmp_path, monkeypatch):
    put_program(bare_machine / "gcc", "")
    put_program(bare_machine / "nvcc", "release 3.0, V3.0.1")
    assert compilers.find_compiler().name == "nvcc 3.0.1"
    put_program(tmp_path / "wheel" / "nvcc", "release 2.0, V2.0.1")
    monkeypatch.setattr(compilers, "_wheel_folders", lambda pattern: [str(tmp_path / "wheel")])
    assert compilers.find_compiler().name == "nvcc 2.0.1"
    put_program(tmp_path / "toolkit" / "bin" / "nvcc", "release 1.0, V1.0.1")
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "toolkit"))
    assert compilers.find_compiler().name == "nvcc 1.0.1"


@pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")
def test_nvcc_that_cannot_work_is_passed_over_and_named(bare_machine, tmp_path, monkeypatch):
    put_program(tmp_path / "toolkit" / "bin" / "nvcc", "Segmentation fault")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    with pytest.raises(BackendUnavailable, match=r"toolkit/bin/nvcc needs gcc in PATH"):
        compilers.find_nvcc()
    put_program(bare_machine / "gcc", "")
    with pytest.raises(BackendUnavailable, match=r"toolkit/bin/nvcc --version fails: Segmentation fault"):
        compilers.find_nvcc()
    put_program(bare_machine / "nvcc", "release 3.0, V3.0.1")
    assert compilers.find_nvcc().name == "nvcc 3.0.1"


def test_no_compiler_is_one_line_that_says_what_to_install(bare_machine):
    with pytest.raises(BackendUnavailable) as raised:
        kernels.load("probe", 80)
    message = str(raised.value)
    assert "\n" not in message
    for part in ("probe.compute_80.ptx.xz", "CUDA_HOME", "PATH", "libnvrtc", "pip install nvidia-cuda-nvrtc"):
        assert part in message
    with pytest.raises(BackendUnavailable, match="libnvrtc is not in"):
        kernels.recompile_with_nvrtc("probe", 80)


WHEELS = (("cu13", "libnvrtc.so.13"), ("cuda_nvrtc", "libnvrtc.so.12"))


def test_nvrtc_is_looked_for_in_the_wheels_of_cuda_12_and_13(tmp_path, monkeypatch):
    expected = [tmp_path / "nvidia" / layout / "lib" / name for layout, name in WHEELS]
    for path in expected:
        path.parent.mkdir(parents=True)
        path.write_text("not a library")
        path.with_name("libnvrtc-builtins.so.1").write_text("not asked for by itself")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: spec)
    assert list(compilers._nvrtc_libraries())[:2] == [str(path) for path in expected]


def test_versions_of_nvrtc_come_oldest_first_and_once(monkeypatch):
    class Library:
        def __init__(self, library: str) -> None:
            if library == "absent":
                raise OSError("no such file")
            self.library, self.version = library, {"a": (13, 0), "b": (12, 6), "c": (13, 0)}[library]

    monkeypatch.setattr(compilers, "Nvrtc", Library)
    monkeypatch.setattr(compilers, "_nvrtc_libraries", lambda: iter(["absent", "a", "b", "c"]))
    assert [nvrtc.library for nvrtc in compilers.find_nvrtc()] == ["b", "a"]


# Which image a device gets.


@pytest.mark.parametrize(("device", "served"), [(75, 75), (79, 75), (80, 80), (86, 80), (90, 80), (121, 80)])
def test_device_gets_the_highest_ptx_it_can_run(fake, device, served):
    image = kernels.load("probe", device)
    assert (image.kind, image.capability, image.isa) == ("ptx", served, "8.4")
    assert f".target sm_{served}\n".encode() in image.data


@pytest.mark.parametrize("prepare", [kernels.load, kernels.recompile_with_nvrtc])
def test_device_too_old_is_told_before_anything_is_looked_for(prepare):
    with pytest.raises(BackendUnavailable, match=r"compute capability 7\.0 is too old .* 7\.5 or newer"):
        prepare("probe", 70)


def test_second_load_comes_from_the_cache(fake):
    first, second = kernels.load("probe", 86), kernels.load("probe", 90)
    assert (first.origin, second.origin, fake.runs) == ("compiled by fake 1.0", "cache", 1)
    assert first.data == second.data
    kernels.load("probe", 75)
    assert fake.runs == 2, "another path through the source"


@pytest.mark.parametrize("name", ["probe.cu", "tile.cuh"])
def test_cache_forgets_edited_sources(fake, folder, name):
    kernels.load("probe", 80)
    before = kernels.source_hash("probe")
    (folder / name).write_text((folder / name).read_text() + "// edited\n")
    assert kernels.source_hash("probe") != before
    assert kernels.load("probe", 80).origin == "compiled by fake 1.0"


def test_hash_takes_options_in_and_other_sources_not(folder, monkeypatch):
    before = kernels.source_hash("probe")
    (folder / "other.cu").write_text("other")
    assert kernels.source_hash("probe") == before
    monkeypatch.setattr(kernels, "NVCC_OPTIONS", ("-O2",))
    assert kernels.source_hash("probe") != before


def test_cache_forgets_other_compilers(fake):
    kernels.load("probe", 80)
    fake.name = "fake 1.1"
    assert kernels.load("probe", 80).origin == "compiled by fake 1.1"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_damaged_cache_entry_is_replaced(fake, tmp_path, damage):
    good = kernels.load("probe", 80)
    (entry,) = (tmp_path / "cache" / "kernels").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert kernels.load("probe", 80) == good, "compiled again, not taken from the cache"
    assert entry.read_bytes() == whole
    assert kernels.load("probe", 80).origin == "cache"


def test_cache_that_cannot_be_written_warns_once_and_does_not_matter(fake, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = [kernels.load("probe", capability) for capability in (75, 80, 80)]
    assert [image.origin for image in images] == ["compiled by fake 1.0"] * 3
    (warning,) = caught
    assert str(tmp_path / "cache" / "kernels") in str(warning.message)
    assert (tmp_path / "cache").is_file()


def test_a_user_without_a_home_compiles_at_each_start(fake, monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: None)
    with pytest.warns(UserWarning, match="no home folder for compiled CUDA kernels"):
        assert kernels.load("probe", 80).origin == "compiled by fake 1.0"


def test_cache_lies_in_the_users_cache_folder(monkeypatch):
    monkeypatch.undo()
    from platformdirs import user_cache_path

    assert kernels.cache_folder().parent == user_cache_path("msformer-deploy")


# What a wheel carries.


def test_shipped_ptx_is_used_and_nothing_else_is_looked_for(fake, tmp_path, monkeypatch):
    kernels.ship(tmp_path / "compiled")
    monkeypatch.setattr(kernels, "find_compiler", lambda: pytest.fail("no compiler is needed"))
    image = kernels.load("probe", 120)
    assert (image.origin, image.capability, image.isa) == ("shipped", 80, "8.4")
    assert image.data == lzma.decompress((tmp_path / "compiled" / "probe.compute_80.ptx.xz").read_bytes())
    assert not (tmp_path / "cache").exists()


def test_shipped_cubins_are_those_that_a_driver_makes_of_the_ptx(nvcc, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "find_compiler", lambda: nvcc)
    kernels.ship(tmp_path / "compiled")
    for capability in kernels.SHIPPED_CAPABILITIES:
        image = kernels.shipped_cubin("probe", capability, "13.0")
        assert image[1:] == ("cubin", capability, "shipped", "")
        assert image.data == nvcc.assemble(kernels.load("probe", capability).data, capability, "probe.cu")[0]
    assert kernels.shipped_cubin("probe", 86, "13.0") is None, "a cubin is for exactly one capability"


def put_cubins(folder: Path, compiler: str, **changes: object) -> None:
    """What ``ship`` writes of cubins, where no compiler is needed."""
    folder.mkdir()
    code = b"for 89for 90"
    (folder / "probe.cubins.xz").write_bytes(lzma.compress(code))
    record = {
        "source": kernels.source_hash("probe"),
        "sha256": hashlib.sha256(code).hexdigest(),
        "compiler": compiler,
        "cubins": {"89": [0, 6], "90": [6, 6]},
    }
    (folder / "manifest.json").write_text(json.dumps({"files": {"probe.cubins.xz": record | changes}}))


@pytest.mark.parametrize(
    ("compiler", "driver", "taken"),
    [("nvcc 13.0.88", "12.8", False), ("nvcc 13.2.1", "13.0", True), ("nvcc 12.9.1", "13.0", True)],
)
def test_a_driver_takes_cubins_of_its_major_version_and_of_earlier_ones(tmp_path, compiler, driver, taken):
    put_cubins(tmp_path / "compiled", compiler)
    image = kernels.shipped_cubin("probe", 90, driver)
    assert image == ((b"for 90", "cubin", 90, "shipped", "") if taken else None)


@pytest.mark.parametrize("changes", [{"sha256": "0"}, {"source": "0"}, {"cubins": []}, {"cubins": {"90": 1}}], ids=str)
def test_shipped_cubins_that_are_stale_or_damaged_are_left_alone(tmp_path, changes):
    put_cubins(tmp_path / "compiled", "nvcc 13.0.88", **changes)
    assert kernels.shipped_cubin("probe", 90, "13.0") is None


def damage_ptx(folder: Path) -> None:
    path = folder / "probe.compute_80.ptx.xz"
    path.write_bytes(path.read_bytes()[:-1])


def remove_entry(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": {}}')


DAMAGE = {
    "source edited": (lambda ptx: (ptx.parent / "csrc" / "tile.cuh").write_text("//"), "was made from other sources"),
    "ptx damaged": (damage_ptx, "is damaged"),
    "ptx absent": (lambda ptx: (ptx / "probe.compute_80.ptx.xz").unlink(), "does not come with this installation"),
    "manifest absent": (lambda ptx: (ptx / "manifest.json").unlink(), "does not come with this installation"),
    "manifest cut": (lambda ptx: (ptx / "manifest.json").write_text("{"), "manifest is damaged"),
    "manifest odd": (lambda ptx: (ptx / "manifest.json").write_text("[]"), "manifest is damaged"),
    "no entry": (remove_entry, "manifest is damaged"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_shipped_ptx_that_is_stale_or_damaged_is_compiled_anew(fake, tmp_path, monkeypatch, damage, reason):
    kernels.ship(tmp_path / "compiled")
    damage(tmp_path / "compiled")
    assert kernels.load("probe", 80).origin == "compiled by fake 1.0"

    def absent():
        raise BackendUnavailable("no compiler")

    monkeypatch.setattr(kernels, "find_compiler", absent)
    with pytest.raises(BackendUnavailable, match=f"CUDA kernels: .*{reason}; no compiler"):
        kernels.load("probe", 80)


@pytest.mark.slow
def test_what_ships_is_recorded_and_repeats(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "find_compiler", lambda: compiler)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "removed.compute_75.ptx.xz").write_text("of a source that is no more")
    for name in ("one", "two"):
        kernels.ship(tmp_path / name)
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    cubins = ["probe.cubins.xz"] if isinstance(compiler, compilers.Nvcc) else []  # NVRTC does not assemble
    assert written == ["manifest.json", "probe.compute_75.ptx.xz", "probe.compute_80.ptx.xz", *cubins]
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    files = json.loads((tmp_path / "one" / "manifest.json").read_text())["files"]
    record = files["probe.compute_80.ptx.xz"]
    assert (record["compiler"], record["source"]) == (compiler.name, kernels.source_hash("probe"))
    assert (
        f".version {record['isa']}\n"
        in lzma.decompress((tmp_path / "one" / "probe.compute_80.ptx.xz").read_bytes()).decode()
    )


# For a driver that finds the PTX too new.


def test_recompiling_makes_a_cubin_with_the_oldest_nvrtc_that_knows_the_device(fake, tmp_path, monkeypatch):
    kernels.ship(tmp_path / "compiled")
    old, new = FakeCompiler("nvrtc 12.6", (75, 80, 90)), FakeCompiler("nvrtc 13.0", (75, 80, 90, 120))
    monkeypatch.setattr(kernels, "find_nvrtc", lambda: [old, new])
    image = kernels.recompile_with_nvrtc("probe", 90)
    assert image == (b"machine code for 90 by nvrtc 12.6", "cubin", 90, "compiled by nvrtc 12.6", "")
    assert kernels.recompile_with_nvrtc("probe", 90).origin == "cache"
    assert kernels.recompile_with_nvrtc("probe", 120).origin == "compiled by nvrtc 13.0"
    newer_than_both = kernels.recompile_with_nvrtc("probe", 130)
    assert newer_than_both[1:] == ("ptx", 80, "compiled by nvrtc 12.6", "8.4")


def test_recompiling_really_makes_a_cubin(nvrtc):
    image = kernels.recompile_with_nvrtc("probe", 86)
    assert (image.kind, image.capability, image.origin) == ("cubin", 86, f"compiled by {nvrtc.name}")
    assert b".text.probe_fill\0" in image.data


# The report.

LOG = """\
ptxas info    : 256 bytes gmem, 16 bytes cmem[3]
ptxas info    : Compiling entry function 'spilling' for 'sm_90'
ptxas info    : Function properties for spilling
    896 bytes stack frame, 632 bytes spill stores, 728 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 896 bytes cumulative stack size, 512 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 61.984 ms
ptxas info    : Function properties for _Z6helperPfi
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function 'clean' for 'sm_90'
ptxas info    : Function properties for clean
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 364 bytes cmem[0]
"""


def test_assemblers_report_is_read():
    assert resources.parse_resources(LOG) == {
        "spilling": Resources(registers=32, shared=512, stack=912, spill_stores=640, spill_loads=732),
        "clean": Resources(registers=255, shared=0, stack=0, spill_stores=0, spill_loads=0),
    }
    assert resources.parse_resources("") == {}


def test_table_marks_spills_and_fits_a_terminal():
    clean, spilling = Resources(40, 0, 0, 0, 0), Resources(255, 49152, 16, 100, 1100)
    devices = dict.fromkeys(kernels.CUBIN_CAPABILITIES, clean)
    name = "cluster_argmax_bf16_n"
    lines = list(resources.render({f"{name}16": {**devices, 90: spilling}, f"{name}4": {75: clean}}))
    assert max(map(len, lines)) <= 120
    # Two buffers of the argmax: pixels of 16 x 136 words, and a head of 8 n x 20 words.
    small, large = 4 * 2 * (16 * 136 + 32 * 20), 4 * 2 * (16 * 136 + 128 * 20)
    assert lines[1].split() == [f"{name}4", str(small), "40", *"--------"], "n4 before n16"
    assert lines[2].split() == [f"{name}16", str(large + 49152), *["40"] * 5, "255!1200", *["40"] * 3]
    assert lines[3:] == [f"{name}16 on sm_90: 16 bytes of stack, 100 stored and 1100 loaded again"]


@pytest.mark.slow
def test_report_covers_every_target(nvcc, tmp_path):
    finished = CliRunner().invoke(resources.main, ["--output", str(tmp_path / "out")])
    assert finished.exit_code == 0, finished.output
    assert finished.output.splitlines()[-1].startswith("2 kernels, 9 targets, 0 failures, ")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["compiler"] == nvcc.name
    for kernel, shared in (("probe_turn", 512), ("probe_fill", 0)):
        devices = report["kernels"][kernel]
        assert list(devices) == [f"sm_{capability}" for capability in kernels.CUBIN_CAPABILITIES]
        assert {taken["shared"] for taken in devices.values()} == {shared}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"probe.compute_75.ptx", "probe.compute_80.ptx", "probe.sm_75.cubin", "probe.sm_120.cubin"}


ONE_KERNEL = """\
extern "C" __global__ void greedy(char *values) {{
    __shared__ char tile[{size}];
    tile[threadIdx.x] = values[0];
    __syncthreads();
    values[0] = tile[values[1]];
}}
"""


@pytest.mark.slow
def test_report_names_what_does_not_compile_and_does_the_rest(nvcc, folder, tmp_path, monkeypatch):
    (folder / "broken.cu").write_text("#if __CUDA_ARCH__ >= 800\n\n?\n#endif\n" + ONE_KERNEL.format(size=1))
    (folder / "greedy.cu").write_text(ONE_KERNEL.format(size=80_000))
    monkeypatch.setattr(resources, "SOURCES", ("broken", "greedy", "probe"))
    finished = CliRunner().invoke(resources.main, ["--output", str(tmp_path / "out")])
    assert finished.exit_code == 1
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 10
    assert re.search(r"broken\.cu for compute_80 does not compile with nvcc .*broken\.cu\(3\): error", errors[0])
    assert re.search(r"greedy\.cu for sm_75 does not compile with nvcc .*'greedy' uses too much shared data", errors[1])
    assert "3 kernels, 9 targets, 10 failures" in finished.output


def test_report_without_nvcc_is_one_line(bare_machine, tmp_path):
    finished = CliRunner().invoke(resources.main, ["--output", str(tmp_path / "out")])
    assert finished.exit_code == BackendUnavailable.exit_code
    assert finished.stderr.startswith("error: nvcc is not in")


# The real sources.


@pytest.fixture
def real_sources(monkeypatch, folder):
    """Removes the stand-ins of the other tests in this file."""
    monkeypatch.undo()


def declared_kernels(source: str, capability: int) -> set[str]:
    """The names of a source's kernels once macros are expanded, which the compilers do not show."""
    path = kernels.source_path(source)
    command = ["gcc", "-E", "-P", "-xc++", f"-D__CUDA_ARCH__={capability}0", f"-I{path.parent}", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*?\)\s+)?(\w+)\(', text))


def names(pattern: bytes, code: bytes) -> set[str]:
    return {name.decode() for name in re.findall(pattern, code)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("source", kernels.SOURCES)
def test_every_kernel_compiles(real_sources, source, tmp_path, monkeypatch):
    """For the oldest device and the newest: sources differ below 8.0 alone. ``make kernels`` does all devices."""
    devices = (min(kernels.CUBIN_CAPABILITIES), max(kernels.CUBIN_CAPABILITIES))
    monkeypatch.setattr(resources, "CUBIN_CAPABILITIES", devices)
    table, failures = resources.assemble_all(compilers.find_nvcc(), [source], tmp_path)
    assert not failures
    assert table
    for capability in kernels.PTX_CAPABILITIES:
        ptx = (tmp_path / kernels.ptx_name(source, capability)).read_bytes()
        assert names(rb"\.entry (\w+)", ptx) == declared_kernels(source, capability) == set(table)
        assert b"_INTERNAL_" not in ptx, "a name with internal linkage carries a hash of the folder"
    for capability in devices:
        cubin = (tmp_path / f"{source}.sm_{capability}.cubin").read_bytes()
        assert names(rb"\0\.text\.(\w+)(?=\0)", cubin) == set(table)
        assert all(capability in assembled for assembled in table.values())


@pytest.mark.slow
@pytest.mark.parametrize("source", kernels.SOURCES)
def test_nvrtc_compiles_every_kernel(real_sources, nvrtc, source):
    ptx = nvrtc.ptx(kernels.source_path(source), 80)
    assert names(rb"\.entry (\w+)", ptx) == declared_kernels(source, 80)
