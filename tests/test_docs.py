"""What the documents say is tried: examples and a tutorial run, commands exist, links resolve, nothing is left out.

``make docs`` holds the built site to more: anchors, the navigation, every option, every public name (``.ci/site.py``).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
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
OTHERS = {  # of other programs
    *("--disable-usage-stats", "--gpus", "--no-halt", "--preload", "--runtime", "--system-site-packages", "--user"),
}
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


class TestClusters:
    """The commands of the page on several machines; those of Ray itself are those of ``studies/cluster.py``."""

    PAGE = DOCS / "how-to" / "clusters.md"

    @pytest.fixture
    def shell(self, tiny_bundle, tmp_path, monkeypatch):
        """Runs a script with a program msformer-deploy that notes its arguments, and then does what they say."""
        write_pairs(tmp_path, 5)
        (tmp_path / "images").rename(tmp_path / "scans")
        program = tmp_path / "bin" / "msformer-deploy"
        program.parent.mkdir()
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$NOTED"\n')
        program.chmod(0o755)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(
            "msformer_deploy.commands.segmenters.open_bundle", lambda *_, **__: load_bundle(tiny_bundle.path)
        )

        def run(script: str, **variables: object) -> int:
            noted = tmp_path / "noted"
            environment = {name: str(value) for name, value in variables.items()}
            environment |= {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "NOTED": str(noted)}
            subprocess.run(["sh", "-c", script], check=True, env=environment)
            return cli_module.call(noted.read_text().splitlines())

        return run

    @staticmethod
    def whole(folder):
        report = json.loads((folder / "report.json").read_text())
        return len(report["images"]) == 5 and (folder / "index.html").is_file()

    def test_shards(self, shell, tmp_path):
        lines = blocks(self.PAGE, "sh")[0].splitlines()
        assert [shell(line) for line in lines] == [0] * 5
        assert self.whole(tmp_path / "results")

    @pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
    def test_slurm(self, shell, tmp_path):
        segment, merge = blocks(self.PAGE, "bash")
        (first, last) = re.search(r"^#SBATCH --array=(\d+)-(\d+)$", segment, re.MULTILINE).groups()
        tasks = range(int(first), int(last) + 1)
        of_array = {"SLURM_ARRAY_TASK_COUNT": len(tasks)}
        assert [shell(segment, SLURM_ARRAY_TASK_ID=task, **of_array) for task in tasks] == [0] * len(tasks)
        assert shell(segment, SLURM_ARRAY_TASK_ID=0, **of_array) == 0, "a second time"
        assert shell(merge) == 0
        assert self.whole(tmp_path / "results")
        assert all(line.startswith("#SBATCH --") for line in segment.splitlines()[1:6] if line.startswith("#"))

    @pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
    def test_kubernetes(self, shell, tmp_path):
        yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
        (text,) = blocks(self.PAGE, "yaml")
        job = yaml.safe_load(text)
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
        assert pod["restartPolicy"] == "Never", "which backoffLimitPerIndex requires"
        (container,) = pod["containers"]
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        assert container["command"] == ["sh", "-c"]
        (script,) = container["args"]
        assert "\n" not in script.strip()
        count = spec["completions"]
        assert f"/{count}" in script.split("--shard")[1]
        here = script.replace("/data/", f"{tmp_path}/")
        assert [shell(here, JOB_COMPLETION_INDEX=index) for index in range(count)] == [0] * count
        merging = re.search(r"`(msformer-deploy report merge /data/[^`]*)`", self.PAGE.read_text()).group(1)
        assert shell(merging.replace("/data/", f"{tmp_path}/")) == 0
        assert self.whole(tmp_path / "results")

    @pytest.mark.slow
    @pytest.mark.needs("ray")
    def test_options_of_ray_start_exist(self):
        from ray.scripts.scripts import cli as ray_program

        (text,) = ["\n".join(blocks(self.PAGE, "text"))]
        used = re.findall(r"^ray ([a-z-]+) *(.*)$", text, re.MULTILINE)
        assert {name for name, _ in used} == {"start", "get-auth-token"}
        for name, arguments in used:
            known = {option for each in ray_program.commands[name].params for option in each.opts}
            assert {each.partition("=")[0] for each in arguments.split()} <= known


def test_make_targets_shown_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"^ *make ([a-z-]+)", "\n".join(blocks(page, "(?:sh|bash|console)")), re.MULTILINE):
            assert f"\n{target}:" in makefile, target
