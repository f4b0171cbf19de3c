"""Serve a folder on localhost."""

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
        self.send_header("Cache-Control", "no-cache")  # the browser checks each file for changes
        super().end_headers()

    def log_message(self, format: str, *args):
        pass


def serve(folder: Path, port: int, on_ready: Callable[[str], None]):
    """Serve a folder until the process is interrupted.

    Args:
        folder: Folder to serve.
        port: Port on localhost; 0 chooses a free port.
        on_ready: Function that is called with the address when the server is ready.

    Raises:
        ValueError: The port is in use.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port: {port} cannot be used ({error}). Choose another --port.") from error
    with server:
        on_ready(f"http://localhost:{server.server_port}/")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
