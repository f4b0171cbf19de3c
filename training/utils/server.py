"""What the servers of this machine share: a thread for each connection, and the host of a request."""

from contextlib import suppress
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit


class LocalServer(ThreadingHTTPServer):
    """HTTP server with a thread for each connection. Open connections do not keep the process running."""

    request_queue_size = 256  # a page asks for its images at once; the default of 5 refuses connections
    daemon_threads = True


def host_name(header: str | None) -> str:
    """Name of the host in a `Host` header, without its port; empty if the header is missing or damaged.

    Args:
        header: Value of the header.
    """
    with suppress(ValueError):
        return urlsplit(f"//{header or ''}").hostname or ""
    return ""
