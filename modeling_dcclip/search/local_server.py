"""Servers for people of this machine: the search page and the API.

A request is answered only for addresses and the names of this machine, so that no other site can reach the server
through a name of its own, and only if no page of another site sends it.
"""

import ipaddress
import json
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modeling_dcclip.messages import translate

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = frozenset({"", "0.0.0.0", "::"})
TIMEOUT_S = 30  # of a connection that sends nothing
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LocalServer(ThreadingHTTPServer):
    """Server that no other site can use; `handler` is the class that answers a request."""

    allow_reuse_address = sys.platform != "win32"  # there, two servers could share a port
    request_queue_size = (
        256  # a page asks for its images at once; the default of 5 refuses connections
    )

    def __init__(self, handler: type["LocalHandler"], host: str = "127.0.0.1", port: int = 8000):
        self.host = host.lower()
        names = {socket.gethostname(), socket.getfqdn()} if self.host in EVERYWHERE else {self.host}
        self.names = {"localhost", *(name.lower() for name in names)}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

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
    server_version, sys_version = "dcclip", ""
    timeout = TIMEOUT_S

    def is_refused(self) -> bool:
        """Whether a request has a foreign name of this server, or comes from another site; it is then answered."""
        host = (self.headers.get("Host") or "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if not self.server.accepts(name):
            self.send_failure(HTTPStatus.FORBIDDEN, f"host: {name!r} is not a name of this server.")
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self.send_failure(HTTPStatus.FORBIDDEN, "Another site cannot use this server.")
        else:
            return False
        return True

    def send_failure(self, status: HTTPStatus, message: str):
        """Answer with a JSON object that has the field `error`."""
        self.send_json(status, {"error": self.translated(message)})

    def translated(self, message: str) -> str:
        """A message in the language that the browser prefers."""
        preferred = self.headers.get("Accept-Language") or "en"
        return translate(message, "zh" if preferred.lower().startswith("zh") else "en")

    def send_json(self, status: HTTPStatus, content: dict[str, Any]):
        """Answer with JSON."""
        text = json.dumps(
            content, ensure_ascii=True
        )  # a path may have bytes that UTF-8 cannot encode
        self.send_content("application/json", text.encode(), status=status)

    def send_content(
        self,
        content_type: str,
        content: bytes,
        cache: str = "no-store",
        status: HTTPStatus = HTTPStatus.OK,
    ):
        """Answer with any content."""
        self.send_response(status)
        of_content = {
            "Content-Type": content_type,
            "Content-Length": str(len(content)),
            "Cache-Control": cache,
        }
        for name, value in (HEADERS | of_content).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any):
        """Print nothing."""
