"""``msformer-deploy web``."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import click

from ..errors import DeployError, UsageError
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
    from ..web.site import write_site

    if output is not None:
        _write(output)
        conclude(f"the page is in {output}; give the folder to a web server, and open its index.html there")
        return
    with tempfile.TemporaryDirectory(prefix="msformer-deploy-") as temporary:
        folder = Path(temporary)
        write_site(folder)
        with open_server(folder, port) as server:
            click.echo(f"open {address_of(server)} in a browser on this computer; end with Ctrl+C")
            with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
                server.serve_forever()


def _write(output: Path) -> None:
    from ..web.site import write_site

    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise UsageError(f"{output}: the folder is not empty; name a new one with --output")
        write_site(output)
    except OSError as error:
        raise DeployError(f"{output}: cannot be written ({error.strerror}); name another folder") from error
