"""What the documents say is tried: Python blocks run, commands exist, links resolve, the command line is documented."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import pytest
from labelled import write_pairs
from locations import ROOT
from PIL import Image

from msformer_deploy.cli import cli
from msformer_deploy.models.subtraction import M2SNet
from msformer_deploy.training.supervised import supervised

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
COMMAND = re.compile(r"^ *(?:\.venv/bin/)?msformer-deploy +(.+)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_python_examples_run(tiny_bundle, picture, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    Image.fromarray(picture).save(tmp_path / "image.png")
    write_pairs(tmp_path, 4)
    monkeypatch.setattr(supervised, "new_network", lambda _: M2SNet(4, (1, 1, 1, 1)))
    monkeypatch.chdir(tmp_path)
    examples = blocks(ROOT / "docs" / "python-api.md", "python")
    assert len(examples) > 5
    exec(compile("\n".join(examples), "docs/python-api.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "(0.0, 4095.0)" in printed
    assert "every pixel has the same value" in printed
    assert (tmp_path / "overlay.png").is_file()
    assert (tmp_path / "run" / "last.safetensors").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_shown_exist(page):
    for shell in blocks(page, "(?:sh|bash|console)"):
        for line in COMMAND.findall(shell.replace("\\\n", " ")):
            name, *arguments = line.split("#")[0].split()
            if name.startswith("-"):
                continue
            command = cli.commands[name]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            used = {argument.split("=")[0] for argument in arguments if argument.startswith("-")}
            assert used <= known, line


def test_every_command_and_option_is_documented():
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert f"## {name}" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[0]}" in text, f"{name} {parameter.opts[0]}"


def test_make_targets_shown_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"^ *make ([a-z-]+)", "\n".join(blocks(page, "(?:sh|bash|console)")), re.MULTILINE):
            assert f"\n{target}:" in makefile, target
