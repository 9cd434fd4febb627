"""What is installed: the package with the two folders it links to, compiled kernels, nothing else."""

from __future__ import annotations

import email
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from locations import CUDA_COMPILERS_EXPECTED, ROOT
from packaging.requirements import Requirement

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.kernels.compile import PTX_CAPABILITIES, SOURCES, cubins_name, shipped_name
from msformer_deploy.kernels.compilers import find_compiler

PACKAGE = "msformer_deploy"
LINKED = ("export", "kernels")  # top-level folders, which the package reaches through links
COMPILED = "msformer_deploy/kernels/compiled/"
KERNEL = 'extern "C" __global__ void kernel(float *value) { *value = 1.f; }\n'


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked sources, so that a stale build folder cannot lend files; kernels that compile quickly."""
    tree = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    for path in sources():
        target = tree / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(KERNEL.encode() if path.suffix == ".cu" else path.read_bytes())
    for folder in LINKED:
        (tree / PACKAGE / folder).symlink_to(Path("..") / folder)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return next(output.glob("*.whl"))


def sources() -> list[Path]:
    return [
        path
        for folder in (PACKAGE, *LINKED)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def import_names() -> set[str]:
    """Where every source file is found by those who import it."""
    paths = (path.relative_to(ROOT) for path in sources())
    return {path.as_posix() if path.parts[0] == PACKAGE else f"{PACKAGE}/{path.as_posix()}" for path in paths}


@pytest.fixture
def compiler():
    try:
        return find_compiler()
    except BackendUnavailable as error:
        if CUDA_COMPILERS_EXPECTED:
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_wheel_holds_every_source_file_under_its_import_name_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    names = {name for name in names if not name.startswith(COMPILED)}
    assert names == import_names()
    assert {f"msformer_deploy/kernels/csrc/{source}.cu" for source in SOURCES} <= names


@pytest.mark.parametrize("folder", LINKED)
def test_tools_find_the_linked_folders_where_they_are_imported(folder):
    assert (ROOT / PACKAGE / folder).is_symlink()
    assert (ROOT / PACKAGE / folder).samefile(ROOT / folder)


@pytest.mark.slow
def test_an_editable_install_imports_the_sources(tmp_path):
    code = (
        "from msformer_deploy import kernels\n"
        "from msformer_deploy.export import build\n"
        "print(build.__file__, kernels.__file__, sep='\\n')"
    )
    command = [sys.executable, "-P", "-c", code]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    build, kernels = map(Path, finished.stdout.splitlines())
    assert build == ROOT / PACKAGE / "export" / "build.py"
    assert kernels == ROOT / PACKAGE / "kernels" / "__init__.py"


@pytest.mark.slow
def test_source_distribution_holds_every_source_file_and_builds_without_links(tree, tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        assert import_names() <= names
        assert not any(member.issym() for member in archive)
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path.parent for path in tmp_path.glob("*/setup.py"))
    assert build(unpacked, tmp_path / "build").returncode == 0
    assert list(tmp_path.glob("build/lib*/msformer_deploy/export/build.py"))


@pytest.mark.slow
def test_a_checkout_without_links_is_refused_with_what_to_do(tree):
    link = tree / PACKAGE / "export"
    link.unlink()
    link.write_text("../export")  # as git writes it where links are switched off
    try:
        finished = subprocess.run(
            [sys.executable, "setup.py", "--version"], check=False, capture_output=True, text=True, cwd=tree
        )
    finally:
        link.unlink()
        link.symlink_to(Path("..") / "export")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert "git config core.symlinks true" in finished.stderr


def test_wheel_carries_every_kernel_compiled(wheel, compiler):
    archive = zipfile.ZipFile(wheel)
    ptx = {shipped_name(source, capability) for source in SOURCES for capability in PTX_CAPABILITIES}
    cubins = {cubins_name(source) for source in SOURCES if compiler.name.startswith("nvcc")}
    assert {name for name in archive.namelist() if name.startswith(COMPILED)} == {
        f"{COMPILED}{name}" for name in (*ptx, *cubins, "manifest.json")
    }
    files = json.loads(archive.read(f"{COMPILED}manifest.json"))["files"]
    assert set(files) == ptx | cubins
    for name, record in files.items():
        code = lzma.decompress(archive.read(COMPILED + name))
        assert (b".text.kernel\0" if name in cubins else b".entry kernel(") in code
        assert record["sha256"] == hashlib.sha256(code).hexdigest()
        assert record["compiler"] == compiler.name


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_wheel_uses_what_it_carries(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from msformer_deploy.kernels.compile import SOURCES, load\n"
        "print(*[load(source, 90).origin for source in SOURCES])"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert finished.stdout.split() == ["shipped"] * len(SOURCES)


def test_build_without_a_compiler_warns_and_goes_on(tree, tmp_path):
    compilers = tree / "kernels" / "compilers.py"
    original = compilers.read_text()
    compilers.write_text(f"{original}\n\ndef find_compiler():\n    raise BackendUnavailable('none here')\n")
    try:
        finished = build(tree, tmp_path)
    finally:
        compilers.write_text(original)
    assert finished.returncode == 0
    (line,) = [line for line in finished.stderr.splitlines() if "none here" in line]
    assert "this wheel carries no compiled CUDA kernels and will compile them at first use" in line
    assert not list(tmp_path.rglob("*.xz"))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_build_stops_at_a_kernel_that_does_not_compile(tree, tmp_path):
    source = tree / "kernels" / "csrc" / f"{SOURCES[0]}.cu"
    source.write_text("?")
    try:
        finished = build(tree, tmp_path)
    finally:
        source.write_text(KERNEL)
    assert finished.returncode == 1
    assert f"error: {SOURCES[0]}.cu for compute_75 does not compile with" in finished.stderr


def build(tree: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """A build in which what we depend on cannot be imported."""
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'numpy', 'click', 'platformdirs', 'onnx')))\n"
        "sys.argv[0] = 'setup.py'\n"
        "runpy.run_path('setup.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "build", "--build-base", str(output)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=tree)


def test_wheel_declares_the_command_the_extras_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    info = {name.split("/")[-1]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "msformer-deploy = msformer_deploy.__main__:main" in archive.read(info["entry_points.txt"]).decode()
    assert "LICENSE" in info
    metadata = archive.read(info["METADATA"]).decode()
    runtimes = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: onnxruntime")]
    assert len(runtimes) == 4, "one extra for each of the two wheels, and no plain requirement"
    for wheel_name, extra in (("onnxruntime", "cpu"), ("onnxruntime-gpu", "gpu")):
        (older, newer) = (line for line in runtimes if f" {wheel_name}>" in line)
        assert ">=1.23" in older and 'python_version < "3.11"' in older and f'extra == "{extra}"' in older
        assert ">=1.26" in newer and 'python_version >= "3.11"' in newer and f'extra == "{extra}"' in newer
    extras = {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")}
    runtimes = {"cpu", "gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda", "pycuda"}
    assert extras == runtimes | {
        "torch",
        "samples",
        "export",
        "train",
        "evaluate",
        "plot",
        "dicom",
        "volumes",
        "serve",
        "listen",
        "ray",
        "docs",
        "dev",
    }
    assert "Requires-Python: >=3.10" in metadata


def test_the_core_needs_no_torch_and_nothing_that_brings_it(wheel):
    archive = zipfile.ZipFile(wheel)
    (info,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    required = [Requirement(value) for value in email.message_from_bytes(archive.read(info)).get_all("Requires-Dist")]
    core = {each.name for each in required if each.marker is None}
    assert core == {
        *("click", "connected-components-3d", "imagecodecs", "jinja2", "msgspec", "numpy", "onnx", "pillow"),
        *("platformdirs", "safetensors", "tabulate", "tifffile", "tqdm", "zlib-ng"),
    }


@pytest.mark.slow
def test_wheel_works_where_the_sources_are_not(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from msformer_deploy import cli, export, kernels\n"
        "print(cli.__file__, export.__file__, kernels.__file__, sep='\\n')\n"
        "sys.exit(cli.call(['list']))"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    files = [Path(line) for line in finished.stdout.splitlines()[:3]]
    assert all(path.is_relative_to(tmp_path) for path in files)
    assert "msformer " in finished.stdout
