"""What ``make floors`` installs: the lowest version of every direct dependency, from pyproject.toml alone."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from locations import ROOT

script = runpy.run_path(str(ROOT / ".ci" / "floors.py"))
floors, EXTRAS = script["floors"], script["EXTRAS"]


def project(*dependencies: str, **extras: list[str]) -> dict[str, Any]:
    every = {name: [] for name in (*EXTRAS, "dev")}
    return {"dependencies": list(dependencies), "optional-dependencies": every | extras}


def test_dependencies_extras_and_what_runs_tests() -> None:
    dev = ["mypy>=1.15", "msformer-deploy[plot]", "pytest>=8", "pytest-xdist>=3.6"]
    found = floors(project("a-b>=1.2", "c>=3", cpu=["d>=4.0.1"], train=["e>=5"], gpu=["f>=6"], dev=dev))
    assert found == ["a-b==1.2", "c==3", "d==4.0.1", "e==5", "pytest==8", "pytest-xdist==3.6"]


def test_what_another_extra_brings_counts_once() -> None:
    own = {"torch": ["t>=2.13"], "export": ["msformer-deploy[samples,torch]", "o>=6"], "samples": ["s>=0.25"]}
    found = floors(project(**own, train=["msformer-deploy[torch]"], evaluate=["s>=0.25"]))
    assert found == ["s==0.25", "t==2.13", "o==6"]


@pytest.mark.parametrize(("minor", "version"), [(10, "1.23"), (11, "1.26"), (13, "1.26")])
def test_one_floor_for_each_python(minor: int, version: str) -> None:
    either = ["r>=1.23; python_version < '3.11'", "r>=1.26; python_version >= '3.11'"]
    assert floors(project(cpu=either), minor) == [f"r=={version}"]


@pytest.mark.parametrize("dependency", ["a", "a==1", "a>=1,<2", "a>=1; sys_platform == 'linux'", "a[extra]>=1"])
def test_one_without_a_plain_floor_is_refused(dependency: str) -> None:
    with pytest.raises(ValueError, match="write name>=version"):
        floors(project(dependency))
