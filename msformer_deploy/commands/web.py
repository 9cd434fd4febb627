"""``msformer-deploy web``."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import click

from ..errors import DeployError, UsageError, printable
from .options import PATH, Command, example, option
from .output import conclude

PORT = 8000


@click.command(
    cls=Command,
    params=[
        option(
            "--port",
            type=click.IntRange(0, 65535),
            metavar="N",
            default=PORT,
            help="Port of the page's address; 0 takes a free one.",
        ),
        option(
            "--output",
            type=PATH,
            metavar="DIR",
            help="Write the page into this new or empty folder, for any web server, and serve nothing.",
            unset="the page is served",
        ),
    ],
    epilog=example("msformer-deploy web", "msformer-deploy web --output page"),
)
def web(port: int, output: Path | None) -> None:
    """Segment images in a browser, on a page that sends nothing.

    The page is served to this computer alone, until Ctrl+C.
    """
    from ..web.server import address_of, open_server

    if output is not None:
        _write(output)
        conclude(f"the page is in {printable(output)}; give the folder to a web server, and open its index.html there")
        return
    with tempfile.TemporaryDirectory(prefix="msformer-deploy-") as temporary:
        folder = Path(temporary)
        _fill(folder, folder)
        with open_server(folder, port) as server:
            click.echo(f"open {address_of(server)} in a browser on this computer; end with Ctrl+C")
            with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
                server.serve_forever()


def _write(output: Path) -> None:
    """Write the page into a new or empty folder, whole or not at all."""
    output = Path(os.path.realpath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{printable(output)}: is not a new or an empty folder; name one with --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        _fill(temporary, output)
        temporary.chmod(0o755)  # temporary folders are for their owner alone
        os.replace(temporary, output)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, named: Path) -> None:
    from ..web.site import write_site

    try:
        write_site(folder)
    except OSError as error:
        raise _unwritable(named, error) from error


def _unwritable(folder: Path, error: OSError) -> DeployError:
    # An error of shutil's, which is of several files, has no reason of its own.
    return DeployError(
        f"{printable(folder)}: cannot be written ({error.strerror or 'the disk is full or fails'}); make room, or name"
        " another folder"
    )
