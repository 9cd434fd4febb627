"""``msformer-deploy serve``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import BundleError, UsageError
from ..registry import Precision
from . import options
from .options import PATH, Command, example, option, under
from .output import say
from .segmenters import Asked, find_bundle, learning_threads, writing_threads

PORT = 8000


@click.command(
    cls=Command,
    params=[
        *under(
            "Address",
            options.host(),
            options.port(PORT),
        ),
        *under(
            "Access",
            option(
                "--api-key-file",
                type=PATH,
                metavar="FILE",
                help="File with the API key that requests must have. The variable MSFORMER_DEPLOY_API_KEY may hold it"
                " instead.",
                unset="no key",
            ),
            option(
                "--insecure",
                is_flag=True,
                help="Listen on an address that other computers reach, without an API key.",
            ),
        ),
        *under("Bundle", options.bundle(), options.system(), options.preset()),
        *under("Encoder", options.backend(), options.precision(), options.device(), options.threads()),
        *under(
            "Batches",
            option(
                "--batch",
                default=1,
                type=click.IntRange(1, 1024),
                metavar="N",
                help="Maximum number of images per encoder call.",
            ),
            option(
                "--max-delay-ms",
                default=5.0,
                type=click.FloatRange(0, 10_000),
                metavar="MS",
                help="Milliseconds that an image waits for others of its batch.",
            ),
        ),
        *under(
            "Limits",
            option(
                "--max-body",
                default=64.0,
                type=click.FloatRange(0.001, 4096),
                metavar="MIB",
                help="Maximum size of a request's body.",
            ),
            option(
                "--max-pixels",
                default=25.0,
                type=click.FloatRange(0.001, 100),
                metavar="MEGAPIXELS",
                help="Maximum size of an image.",
            ),
            option(
                "--max-in-flight",
                default=8,
                type=click.IntRange(1, 1024),
                metavar="N",
                help="Maximum number of requests in work.",
            ),
            option(
                "--max-queue",
                default=32,
                type=click.IntRange(0, 4096),
                metavar="N",
                help="Maximum number of requests that wait. More are refused with status 429.",
            ),
            option(
                "--timeout",
                default=30.0,
                type=click.FloatRange(0.1, 3600),
                metavar="SECONDS",
                help="Maximum time of a request.",
            ),
        ),
    ],
    epilog=example(
        "msformer-deploy serve",
        "msformer-deploy serve --bundle bundle --port 9000 --max-in-flight 16",
        "msformer-deploy serve --host 0.0.0.0 --api-key-file key.txt",
    ),
)
def serve(
    host: str,
    port: int,
    api_key_file: Path | None,
    insecure: bool,
    bundle_path: Path | None,
    system: str | None,
    preset: str | None,
    backend: str,
    precision: Precision | None,
    device: str,
    threads: int | None,
    batch: int,
    max_delay_ms: float,
    max_body: float,
    max_pixels: float,
    max_in_flight: int,
    max_queue: int,
    timeout: float,
) -> None:
    """Segment images for other programs, over HTTP.

    The server answers the Open Inference Protocol v2 and POST /segment. It ends by Ctrl+C or SIGTERM, once the requests
    in work are done.
    """
    from ..machine.extras import require_extra

    require_extra("serve", "serve")
    from ..backends.base import parse_device
    from ..service import server
    from ..service.keys import VARIABLE, read_key
    from ..service.limits import MEBIBYTE, Limits

    key = read_key(api_key_file, os.environ.get(VARIABLE))
    server.require_protected(host, key, insecure=insecure)
    if batch > max_in_flight:
        raise UsageError(
            f"--batch {batch} is never reached with --max-in-flight {max_in_flight}; pass a larger --max-in-flight"
        )
    parse_device(device)
    from ..refinement.options import EncoderOptions
    from ..segmenter import Segmenter

    encoder = EncoderOptions(backend, device, threads, precision, learning_threads=learning_threads(threads))

    bundle, refinement = find_bundle(Asked(bundle_path, system, preset, encoder))
    if bundle.fingerprint_of(precision or bundle.precision) is None:
        raise BundleError(
            f"{bundle.path}: has no fingerprint of what a backend must compute, and serve is ready only after one has"
            " passed; export the bundle again"
        )

    def open_segmenter() -> Segmenter:
        made = Segmenter(bundle, encoder, settings=refinement)
        made.require_batch(batch)
        return made

    limits = Limits(round(max_body * MEBIBYTE), round(max_pixels * 1e6), max_in_flight, max_queue, timeout)
    settings = server.Settings(bundle.system, limits, key, batch, max_delay_ms / 1000, writing_threads())
    with server.open_socket(host, port) as listening:
        if insecure and not key:
            say(
                f"warning: --insecure: whoever reaches {host} can use this service, and sends images without encryption"
            )
        click.echo(f"{bundle.system} is served at {server.address_of(listening)}; end with Ctrl+C")
        server.serve(listening, open_segmenter, settings)
