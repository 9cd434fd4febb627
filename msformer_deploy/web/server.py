"""A server for one folder, on the loopback alone.

Its headers let the page use threads (cross-origin isolation), and keep the browser from any other address.
"""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..errors import DeployError

LOOPBACK = "127.0.0.1"
# Only what comes from the server itself is loaded; blobs are pictures that the page made.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class _Handler(SimpleHTTPRequestHandler):
    # Not what the system says, where a registry entry can make scripts plain text.
    extensions_map = {  # noqa: RUF012 - as the class it inherits from declares it
        "": "application/octet-stream",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
        ".gz": "application/gzip",
        ".wasm": "application/wasm",
        ".txt": "text/plain; charset=utf-8",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is for errors."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: browsers drop connections that they no longer need."""


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server that listens; call ``serve_forever`` on it.

    Args:
        folder: what it gives.
        port: to listen on; 0 takes a free one.

    Raises:
        DeployError: the port is in use, or may not be used.
    """
    try:
        return _Server((LOOPBACK, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise DeployError(
            f"port {port} cannot be used ({error.strerror}); choose another one with --port, or 0 for a free one"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """What to open in a browser."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/"
