"""The wheel: our three folders under one import name, nothing else, and importable from itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "msformer_deploy": "msformer_deploy",
    "export": "msformer_deploy/export",
    "kernels": "msformer_deploy/kernels",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tracked sources, so that a stale build folder cannot lend it files."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in sources():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(output.glob("*.whl"))


def sources() -> list[Path]:
    return [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def test_wheel_holds_every_source_file_under_its_import_name_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for path in sources():
        folder, *rest = path.relative_to(ROOT).parts
        expected.add("/".join((FOLDERS[folder], *rest)))
    assert names == expected


def test_wheel_declares_the_command_the_extras_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    info = {name.split("/")[-1]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "msformer-deploy = msformer_deploy.__main__:main" in archive.read(info["entry_points.txt"]).decode()
    assert "LICENSE" in info
    metadata = archive.read(info["METADATA"]).decode()
    runtimes = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: onnxruntime")]
    assert len(runtimes) == 2, "one extra for each of the two wheels, and no plain requirement"
    assert any("onnxruntime>" in line and 'extra == "cpu"' in line for line in runtimes)
    assert any("onnxruntime-gpu>" in line and 'extra == "gpu"' in line for line in runtimes)
    for extra in ("cpu", "gpu", "tensorrt", "tensorrt-rtx", "cuda", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


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
