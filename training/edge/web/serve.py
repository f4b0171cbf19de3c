"""Serve a folder on localhost."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from training.utils.server import LocalServer, host_name

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_PORT = 65535
TIMEOUT_S = 30  # of a connection that sends nothing


class _Handler(SimpleHTTPRequestHandler):
    timeout = TIMEOUT_S
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webp": "image/webp",
    }

    def parse_request(self) -> bool:
        """Answer only requests that name this machine, so that no web page can read the files by a DNS trick."""
        if not super().parse_request():
            return False
        if host_name(self.headers.get("Host")) not in LOOPBACK:
            self.send_error(HTTPStatus.FORBIDDEN, "The Host of the request is not this machine")
            return False
        return True

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")  # the browser checks each file for changes
        super().end_headers()

    def log_message(self, format: str, *args):
        pass


def make_server(folder: Path, port: int) -> LocalServer:
    """Make a server of a folder that only this machine can reach.

    Args:
        folder: Folder to serve.
        port: Port on localhost; 0 chooses a free port.

    Raises:
        ValueError: The port is out of range or in use.
    """
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port: must be in 0..{MAX_PORT}, got {port}.")
    try:
        return LocalServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port: {port} cannot be used ({error}). Choose another --port.") from error


def serve(folder: Path, port: int, on_ready: Callable[[str], None]):
    """Serve a folder until the process is interrupted.

    Args:
        folder: Folder to serve.
        port: Port on localhost; 0 chooses a free port.
        on_ready: Function that is called with the address when the server is ready.

    Raises:
        ValueError: The port is out of range or in use.
    """
    with make_server(folder, port) as server:
        on_ready(f"http://localhost:{server.server_port}/")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
