"""Help: headings, whole sentences, defaults last, and examples that are commands."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click
import pytest
from command_line import every_command

from msformer_deploy.commands.options import OTHER, REQUIRED, Argument, Command, example, option, under

COMMANDS = every_command()


def texts(command: click.Command) -> dict[str, str]:
    """Help of everything but ``--help``, by name."""
    return {parameter.name or "": str(getattr(parameter, "help", "")) for parameter in command.params}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_required_comes_first_and_nothing_is_listed_twice(invoke: Any, name: str) -> None:
    command = COMMANDS[name]
    required = {each.name for each in command.params if each.required}
    assert required == {each.name for each in command.params if getattr(each, "heading", None) == REQUIRED}
    headings = re.findall(r"^(\S.*):$", invoke(*name.split(), "--help").out, re.MULTILINE)
    assert headings[0] == REQUIRED or not required
    assert headings[-1] == OTHER
    assert len(set(headings)) == len(headings)
    assert "Options" not in headings


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole_sentences_with_the_default_last(name: str) -> None:
    for text in texts(COMMANDS[name]).values():
        assert re.match(r"[A-Z]", text), text
        assert text.endswith("."), text
        assert "Default:" not in text or re.search(r"Default: [^.]+(\.\d[^.]*)?\.$", text), text
        assert not re.search(r"\b(least|most|by default|told|tell)\b", text.replace("most likely", "")), text


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns_without_colours(invoke: Any, name: str) -> None:
    text = invoke(*name.split(), "--help").out
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()
    assert "\x1b" not in text


def test_no_summary_of_a_command_is_cut(invoke: Any) -> None:
    assert "..." not in invoke("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands(name: str) -> None:
    epilog = (COMMANDS[name].epilog or "").replace("\\\n", "")
    lines = [line.strip() for line in epilog.splitlines() if line.startswith("  ")]
    assert lines
    for line in lines:
        before, _, typed = f"{line} ".partition(f"msformer-deploy {name} ")
        assert before == ""
        COMMANDS[name].make_context(name, shlex.split(typed))


def test_a_command_of_its_own(invoke: Any) -> None:
    command = Command(
        "made",
        params=[
            *under(REQUIRED, Argument(["path"], help="A path."), option("--size", required=True, help="A size.")),
            option("--quiet", is_flag=True, help="Say nothing."),
            *under(
                "Numbers",
                option("--each", multiple=True, unset="none", help="A number."),
                option("--three", nargs=3, default=(1, 2, 3), help="Three."),
            ),
        ],
        epilog=example("made a"),
    )
    text = command.get_help(click.Context(command, info_name="made"))
    assert " ".join(text.split()) == (
        "Usage: made [OPTIONS] PATH Required: PATH A path. --size TEXT A size. Numbers: --each TEXT A number."
        " Can be given several times. Default: none. --three INTEGER... Three. Default: 1 2 3. Other: --quiet Say"
        " nothing. --help Show this message and exit. Example: made a"
    )
