"""Servers for people of this machine: the search page and the API.

A request is answered only for addresses and the names of this machine, so that no other site can reach the server
through a name of its own, and only if no page of another site sends it. Every request has a limit in size and in time
before anything parses it.
"""

import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modeling_dcclip.handler import BadRequest
from modeling_dcclip.search.messages import Message, message_of, translate

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = frozenset({"", "0.0.0.0", "::"})
TIMEOUT_S = 30  # of a connection that sends or takes nothing
# for a whole request, and then for its answer, however slowly the bytes come
REQUEST_S = 60
ANSWER_S = 600
MAX_ADDRESS = 2**14  # characters; a Chinese character of a query takes nine
MAX_IN_FLIGHT = 2**28  # bytes of all bodies that are in memory
MAX_DRAINED = (
    2**28
)  # bytes that are read of a body that is too large, so that the client reads the answer
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; media-src 'self'; "
    "script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LocalServer(ThreadingHTTPServer):
    """Server that no other site can use; `handler` is the class that answers a request."""

    allow_reuse_address = sys.platform != "win32"  # there, two servers could share a port
    # a page asks for its images at once; the default of 5 refuses connections
    request_queue_size = 256

    def __init__(self, handler: type["LocalHandler"], host: str = "127.0.0.1", port: int = 8420):
        self.host = host.lower()
        names = {self.host}
        if self.host in EVERYWHERE:
            names = {socket.gethostname(), socket.getfqdn()}
        self.names = {"localhost", *(name.lower() for name in names)}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.deadlines: dict[socket.socket, float] = {}
        self._in_flight = 0
        self._lock = threading.Lock()
        self.last_request = time.monotonic()
        super().__init__((host, port), handler)

    def service_actions(self):
        """End the connections whose time is over; `serve_forever` calls this method twice a second."""
        now = time.monotonic()
        for connection, deadline in list(self.deadlines.items()):
            if now > deadline:
                with suppress(OSError):  # it has ended by itself
                    connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold a part of the memory for bodies.

        Raises:
            BadRequest: With status 503, if the bodies in memory leave too little.
        """
        with self._lock:
            if self._in_flight + size > MAX_IN_FLIGHT:
                raise BadRequest(
                    "Too many large requests at once. Send it again later.", status_code=503
                )
            self._in_flight += size
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= size

    def handle_error(self, request: Any, client_address: Any):
        """Report an error of a request, unless the browser closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Address of the page."""
        host = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/"

    def accepts(self, name: str) -> bool:
        """Whether a request may name the server so. Another site can lead its own name here, but not an address."""
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name in self.names
        return True


class LocalHandler(BaseHTTPRequestHandler):
    """Handler that refuses other sites, and answers with fixed headers and errors as JSON."""

    server: LocalServer
    server_version = "dcclip"
    sys_version = ""
    timeout = TIMEOUT_S
    get: Callable[[], None]
    post: Callable[[], None]

    def setup(self):
        """Start the time of the connection."""
        super().setup()
        self.server.last_request = time.monotonic()
        self.server.deadlines[self.connection] = self.server.last_request + REQUEST_S

    def finish(self):
        """End the time of the connection."""
        try:
            super().finish()
        finally:
            self.server.deadlines.pop(self.connection, None)

    def do_GET(self):
        """Answer a request with the method `get` of a subclass."""
        self._answer(self.get)

    def do_POST(self):
        """Answer a request with the method `post` of a subclass."""
        self._answer(self.post)

    def _answer(self, answer: Callable[[], None]):
        if self._is_refused():
            return
        try:
            answer()
        except (ConnectionError, TimeoutError):
            raise
        except (OSError, ValueError) as error:
            self.send_failure(getattr(error, "status_code", 400), message_of(error))

    def _is_refused(self) -> bool:
        """Whether a request is too long, has a foreign name of this server, or comes from another site.

        It is then answered.
        """
        host = (self.headers.get("Host") or "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if len(self.path) > MAX_ADDRESS:
            self.send_failure(414, "The address is too long.")
        elif not self.server.accepts(name):
            self.send_failure(403, Message("host: {!r} is not a name of this server.", name))
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self.send_failure(403, "Another site cannot use this server.")
        else:
            return False
        return True

    @contextmanager
    def body(self, limit: int) -> Iterator[bytes]:
        """The body of a request, which counts as memory in use until the end of the `with` block.

        Raises:
            BadRequest: It is larger than the limit, in bytes, or its length is unknown.
        """
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            raise BadRequest(
                "Content-Length is missing; send the length of the body.",
                status_code=411,
            )
        if int(length) > limit:
            remaining = min(int(length), MAX_DRAINED)
            while remaining and (part := self.rfile.read(min(remaining, 2**16))):
                remaining -= len(part)
            raise BadRequest(
                "The body has {:,} bytes; send at most {:,}.",
                int(length),
                limit,
                status_code=413,
            )
        with self.server.reserve(int(length)):
            yield self.rfile.read(int(length))

    def send_failure(self, status: int, message: str):
        """Answer with a JSON object that has the field `error`."""
        self.send_json({"error": self.translated(message)}, status)

    def translated(self, message: str) -> str:
        """A message in the language that the client prefers."""
        preferred = self.headers.get("Accept-Language") or "en"
        return translate(message, "zh" if preferred.lower().startswith("zh") else "en")

    def send_json(self, content: dict[str, Any] | list[Any], status: int = 200):
        """Answer with JSON."""
        # a path may have bytes that UTF-8 cannot encode
        text = json.dumps(content, ensure_ascii=True)
        self.send_content("application/json", text.encode(), status=status)

    def send_content(
        self,
        content_type: str,
        content: bytes,
        cache: str = "no-store",
        status: int = 200,
        **headers: str,
    ):
        """Answer with any content; names of further headers have `_` for `-`."""
        self.server.deadlines[self.connection] = time.monotonic() + ANSWER_S
        self.send_response(status)
        of_content = {
            "Content-Type": content_type,
            "Content-Length": str(len(content)),
            "Cache-Control": cache,
        }
        of_content |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in (HEADERS | of_content).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any):
        """Print nothing."""
