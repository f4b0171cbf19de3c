"""Serve a folder to this machine's browser."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webp": "image/webp",
    }

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")  # the browser asks whether a file is still the same
        super().end_headers()

    def log_message(self, format: str, *args):
        pass


def serve(folder: Path, port: int, tell: Callable[[str], None]):
    """Serve until the process is interrupted.

    Args:
        folder: what is served.
        port: on localhost; 0 takes a free one.
        tell: is called with the address once it answers.

    Raises:
        ValueError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port: {port} cannot be used ({error}). Name another with --port.") from error
    with server:
        tell(f"http://localhost:{server.server_port}/")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
