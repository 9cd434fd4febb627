"""Options: the class that makes help readable, and those that several commands share.

``--help`` lists options under headings, those that are required first. Every text is whole sentences, its default last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..registry import AXES, BACKENDS, DEFAULT, PRECISIONS, PRESETS, SEG_TYPES, SYSTEMS
from ..terminology import SEGMENTS

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is reported by what reads it
SEED = click.IntRange(0, 2**63 - 1)  # torch takes no larger one
THREADS = click.IntRange(1, 1024)  # more than any machine has, and within the runtimes' integers


class Place(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A path, or an address such as ``s3://bucket/results``, which stays a string."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """What was typed, as one of the two."""
        return value if isinstance(value, str) and "://" in value else Path(value)


REQUIRED, OTHER = "Required", "Other"


class Option(click.Option):
    """An option with a heading. Its help says whether it is repeatable, and last what its default is.

    Args:
        declarations: as of :class:`click.Option`, as all other attributes.
        help: one or more sentences.
        unset: what holds without the option; by default the value that is its default.
    """

    heading = OTHER

    def __init__(self, declarations: Sequence[str], help: str, unset: str | None = None, **attributes: Any) -> None:
        default = attributes.get("default")
        if unset is None and default is not None:
            unset = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        repeatable = "Can be given several times." if attributes.get("multiple") else ""
        parts = (help, repeatable, f"Default: {unset}." if unset else "")
        super().__init__(declarations, help=" ".join(part for part in parts if part), **attributes)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Nothing: the help says it."""
        return {}


class Argument(click.Argument):
    """An argument that has a heading and help as an option has."""

    heading = REQUIRED

    def __init__(self, declarations: Sequence[str], help: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.help = help  # click takes it only since 8.4

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """What stands in the usage, and the help."""
        return self.make_metavar(ctx), self.help or ""


class Command(click.Command):
    """A command whose help lists arguments and options under their headings, in the order they are declared."""

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: since click 8.4 arguments are listed here, but ours are among the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each heading, the last one for what has none, such as ``--help``."""
        listed: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                listed.setdefault(getattr(parameter, "heading", OTHER), []).append(record)
        for heading in sorted(listed, key=OTHER.__eq__):
            with formatter.section(heading):
                formatter.write_dl(listed[heading])


def under(heading: str, *parameters: Option | Argument) -> Sequence[Option | Argument]:
    """The parameters, under a heading."""
    for parameter in parameters:
        parameter.heading = heading
    return parameters


def option(*declarations: str, help: str, **attributes: Any) -> Option:
    """An option, as :func:`click.option` declares it."""
    return Option(declarations, help, **attributes)


def example(*lines: str) -> str:
    """An epilog that shows command lines as they are."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def bundle() -> Option:
    return option(
        "--bundle",
        "bundle_path",
        type=PATH,
        metavar="DIR",
        help="Bundle to use.",
        unset="that of the system and the preset, from the package or made on first use",
    )


def system(without: str = "--bundle") -> Option:
    return option(
        "--system",
        type=click.Choice(list(SYSTEMS)),
        help=f"System whose default bundle to use without {without}.",
        unset=DEFAULT,
    )


def preset() -> Option:
    return option(
        "--preset",
        type=click.Choice(PRESETS),
        help="Named sizes and refinement settings; 'msformer-deploy list' shows them.",
        unset="the bundle's",
    )


def backend() -> Option:
    return option(
        "--backend",
        default="auto",
        metavar="NAME",
        help=f"Backend that runs the encoder: auto, {', '.join(BACKENDS)}.",
    )


def precision(*more: str) -> Option:
    return option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help=" ".join(["Encoder precision; must be in the bundle.", *more]),
        unset="the bundle's",
    )


def device() -> Option:
    return option(
        "--device",
        default="auto",
        metavar="NAME",
        help="Device: auto, cpu, cuda or cuda:N. A named device is never replaced by another.",
    )


def threads(decides: str = "the runtime") -> Option:
    return option(
        "--threads", type=THREADS, metavar="N", help="Number of threads per operator.", unset=f"{decides} decides"
    )


def host() -> Option:
    return option(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="IP address to listen on.",
        unset="the loopback, which no other computer reaches",
    )


def port(default: int) -> Option:
    return option(
        "--port",
        type=click.IntRange(0, 65535),
        metavar="N",
        default=default,
        help="Port to listen on; 0 takes a free one.",
    )


def foreground() -> Option:
    return option(
        "--foreground",
        default="auto",
        metavar="RULE",
        help="Rule that chooses the mask: auto, candidate:N (1 to 3, see the gallery), largest, all, cluster:ID, or"
        " lung-ct (volumes).",
    )


def window() -> Option:
    return option(
        "--window",
        metavar="NAME|CENTRE,WIDTH",
        help="Intensities that become black and white: lung, soft-tissue, mediastinum, liver, bone, brain, or numbers"
        " such as -600,1500. Only for grey images.",
        unset="the window in a DICOM file, or a range found in the image",
    )


def axis() -> Option:
    return option(
        "--axis", type=click.Choice(AXES), help="Plane of the slices of volumes.", unset="slices as they are stored"
    )


def seg_type() -> Option:
    return option(
        "--seg-type",
        type=click.Choice(SEG_TYPES),
        help="How a DICOM segmentation is stored. binary: one bit per pixel and segment, for nearly all viewers."
        " labelmap: one number per pixel, in DICOM since 2024; few viewers read it.",
        unset="binary",
    )


def structure() -> Option:
    return option(
        "--structure",
        type=click.Choice(tuple(SEGMENTS)),
        default="object",
        metavar="NAME",
        help=f"What the mask shows, for the names and coded terms in results: {', '.join(SEGMENTS)}.",
    )


def json_flag() -> Option:
    return option("--json", "as_json", is_flag=True, help="Print everything as JSON.")


def file(kind: str, content: str) -> Option:
    """``--KIND FILE``, whose parameter is called ``KIND_file``."""
    return option(f"--{kind}", f"{kind}_file", type=PATH, metavar="FILE", help=f"Write {content} to this file.")


def force(help: str = "Replace files that exist.") -> Option:
    return option("--force", is_flag=True, help=help)


def quiet() -> Option:
    return option("-q", "--quiet", is_flag=True, help="Print no progress.")
