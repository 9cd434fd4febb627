"""What the documents say is tried: examples and a tutorial run, commands exist, links resolve, nothing is left out.

``make docs`` holds the built site to more: anchors, the navigation, every option, every public name (``.ci/site.py``).
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from command_line import every_command
from labelled import write_pairs
from locations import ROOT
from packaging.requirements import Requirement
from PIL import Image
from trained_weights import LAYERS

import msformer_deploy
from msformer_deploy import cli as cli_module
from msformer_deploy.bundle.folder import load_bundle
from msformer_deploy.models.subtraction import M2SNet
from msformer_deploy.training.supervised import supervised

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
OTHERS = {"--gpus", "--preload", "--runtime", "--system-site-packages", "--user"}  # of other programs
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
# Of this repository, in prose or in a command; what stands for a name (NAME) is none.
FILE = re.compile(
    r"(?<![\w/.])((?:docs|export|kernels|msformer_deploy|studies|tests)/[\w./-]*\w\.(?:cu|cuh|md|png|py|safetensors))"
)
COMMAND = re.compile(r"^ *(?:\.venv/bin/)?msformer-deploy +(.+)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_python_examples_run(tiny_bundle, picture, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    Image.fromarray(picture).save(tmp_path / "image.png")
    write_pairs(tmp_path, 4)
    monkeypatch.setattr(supervised, "new_network", lambda _: M2SNet(4, (1, 1, 1, 1)))
    monkeypatch.chdir(tmp_path)
    examples = blocks(ROOT / "docs" / "how-to" / "python.md", "python")
    assert len(examples) > 5
    exec(compile("\n".join(examples), "docs/how-to/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "(0.0, 4095.0)" in printed
    assert "every pixel has the same value" in printed
    assert (tmp_path / "overlay.png").is_file()
    assert (tmp_path / "run" / "last.safetensors").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "results"], ids=lambda page: page.name)
def test_files_named_exist(page):
    named = set(FILE.findall(page.read_text(encoding="utf-8")))
    assert [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_shown_exist(page):
    for shell in blocks(page, "(?:sh|bash|console)"):
        for line in COMMAND.findall(shell.replace("\\\n", " ")):
            typed = line.split("#")[0].strip()
            if typed.startswith("-"):
                continue
            name, command = next(each for each in every_command().items() if f"{typed} ".startswith(f"{each[0]} "))
            arguments = typed.removeprefix(name).split()
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            used = {argument.split("=")[0] for argument in arguments if re.match("-+[a-z]", argument)}
            assert used <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pip_shall_install_can_be_read_by_every_pip(page):
    """``name @ .`` is no requirement: a folder is named by its path, with extras behind it."""
    for shell in blocks(page, "(?:sh|bash|console|text)"):
        for line in re.findall(r"pip install (.+)$", shell.replace("\\\n", " "), re.MULTILINE):
            for word in shlex.split(line, comments=True):
                if not word.startswith(("-", ".", "/")) and not word.endswith(".whl"):
                    assert Requirement(word).url is None, line


def test_every_command_has_its_table_of_options():
    """The tables are made of the commands; that each option is in the built page is checked by ``.ci/site.py``."""
    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    table = r"^ +:module: ([\w.]+)\n +:command: (\w+)\n +:prog_name: msformer-deploy ([\w -]+)$"
    named = re.findall(table, text, re.MULTILINE)
    found = {name: getattr(importlib.import_module(module), command) for module, command, name in named}
    assert found == every_command()


def test_every_public_name_has_its_place():
    text = (DOCS / "reference" / "python-api.md").read_text(encoding="utf-8")
    assert {f"::: msformer_deploy.{name}" for name in msformer_deploy.__all__} <= set(text.splitlines())


def test_options_in_the_prose_exist():
    """Prose and tables of the pages for users name options as ``--option``, often without a command."""
    parameters = [parameter for command in every_command().values() for parameter in command.params]
    known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    for page in PAGES:
        if page.parent.name in ("results", "explanation", "decisions") or page.name == "CHANGELOG.md":
            continue  # those name options of scripts, and of their time
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`(--[a-z][a-z0-9-]*)[^`]*`", prose):
            assert code in known | OTHERS, f"{page.relative_to(ROOT)}: {code}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert re.search(rf"[-:] {re.escape(page.relative_to(DOCS).as_posix())}$", navigation, re.MULTILINE), page


@pytest.mark.slow
@pytest.mark.usefixtures("reference_here")
def test_the_tutorial_of_a_model_of_your_own_runs(tiny_bundle, tmp_path, monkeypatch):
    """Every command of the page, on six small images, with small networks; only the number of epochs is another."""
    images, masks = write_pairs(tmp_path, 6)
    images.rename(tmp_path / "scans")
    shutil.rmtree(masks)
    (tmp_path / "test").mkdir()
    for name in ("04.png", "05.png"):
        (tmp_path / "scans" / name).rename(tmp_path / "test" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervised, "new_network", lambda _: M2SNet(4, LAYERS))
    for command in ("segmenters", "evaluate"):
        monkeypatch.setattr(
            f"msformer_deploy.commands.{command}.open_bundle",
            lambda path, *_, **__: load_bundle(path or tiny_bundle.path),
        )
    script = "\n".join(blocks(DOCS / "tutorials" / "own-model.md", "sh")).replace("\\\n", " ")
    assert "--epochs 250" in script
    for line in filter(None, script.replace("--epochs 250", "--epochs 1").splitlines()):
        program, *arguments = shlex.split(line)
        assert program == "msformer-deploy"
        if arguments == ["web"]:  # somebody corrects two masks, and saves them
            (tmp_path / "corrected").mkdir()
            for name in ("00.png", "01.png"):
                shutil.copy(tmp_path / "draft" / f"{name}.mask.png", tmp_path / "corrected")
            continue
        assert cli_module.call(arguments) == 0, line
    taught = json.loads((tmp_path / "better" / "report.json").read_text())
    assert [each["corrected"] for each in taught["images"] if each.get("corrected")] == [True, True]
    assert len(list((tmp_path / "final").glob("*.probability.png"))) == 4
    scores = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("draft", "model")}
    for report, method in (("draft", "msformer"), ("model", "m2snet")):
        judged = {(row["method"], row["protocol"]) for row in scores[report]["rows"]}
        assert {(method, "label-free"), ("otsu", "label-free")} <= judged
    label_free = [row for row in scores["draft"]["rows"] if row["protocol"] == "label-free"]
    drafts = [row["dsc"] for row in label_free if row["method"] == "msformer"]
    assert drafts == [1, 1], "evaluate makes the masks that run made, and here nobody corrected them"


def test_make_targets_shown_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"^ *make ([a-z-]+)", "\n".join(blocks(page, "(?:sh|bash|console)")), re.MULTILINE):
            assert f"\n{target}:" in makefile, target
