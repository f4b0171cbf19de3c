"""Ports and servers of this machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import TypeVar

from starlette.testclient import TestClient

from modeling_dcclip.search.serve.local_server import LocalServer

Server = TypeVar("Server", bound=BaseServer | LocalServer)


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def client_of(server: LocalServer) -> TestClient:
    """Client that calls a server without a connection, as its page does. Use it in a `with` block."""
    client = TestClient(server, server.origin, headers={"X-DCCLIP": "1"}, client=("127.0.0.1", 1))
    if server.access is not None:
        client.get(server.url)  # which gives it a cookie
    return client


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Answer requests in a thread until the end of the `with` block."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
