"""The optional parts of the installation."""

from __future__ import annotations

import sys

import pytest
from locations import ROOT
from packaging.requirements import Requirement

from msformer_deploy.errors import BackendUnavailable
from msformer_deploy.machine import extras
from msformer_deploy.machine.extras import MODULES, is_installed, require_extra


def test_a_module_of_an_absent_package_is_not_installed() -> None:
    assert not is_installed("no_such_package.module")


def test_a_module_marked_as_absent_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not is_installed("onnxruntime")


@pytest.mark.parametrize(
    "extra", [pytest.param(extra, marks=pytest.mark.needs(*modules)) for extra, modules in MODULES.items()]
)
def test_what_is_installed_is_not_asked_for(extra: extras.Extra) -> None:
    require_extra(extra, "this")


@pytest.mark.parametrize(
    ("extra", "absent", "message"),
    [
        (
            "samples",
            {"skimage"},
            'export needs scikit-image, which is not installed; pip install "msformer-deploy[samples]"',
        ),
        ("torch", {"torch"}, 'export needs torch, which is not installed; pip install "msformer-deploy[torch]"'),
        (
            "export",
            {"torch", "onnxscript", "skimage"},
            "export needs torch, onnxscript and scikit-image, which are not installed;"
            ' pip install "msformer-deploy[export]"',
        ),
        (
            "export",
            {"onnxscript", "skimage"},
            'export needs onnxscript and scikit-image, which are not installed; pip install "msformer-deploy[export]"',
        ),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, extra: extras.Extra, absent: set[str], message: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: module not in absent)
    with pytest.raises(BackendUnavailable) as raised:
        require_extra(extra, "export")
    assert str(raised.value) == message


def test_every_extra_brings_its_modules() -> None:
    """pyproject.toml says the same: read on Python 3.11 and newer, which has a reader for it."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def brought(extra: str) -> set[str]:
        named = [Requirement(each) for each in declared[extra]]
        inner = {name for each in named if each.name == "msformer-deploy" for name in each.extras}
        return {each.name for each in named} | {name for each in inner for name in brought(each)}

    for extra, modules in MODULES.items():
        packages = {extras._PACKAGES.get(module, module) for module in modules}
        assert packages <= brought(extra), extra
