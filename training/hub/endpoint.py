r"""Serve the handler of a model folder on this machine, to test an integration before it meets an Inference Endpoint.

    python -m training.hub.endpoint --model model_cards/dcclip-tiny-photo
    echo "{\"inputs\": \"$(base64 -w0 cat.jpg)\", \"candidate_labels\": [\"猫\", \"a dog\"]}" > request.json
    curl http://127.0.0.1:8080/ -H 'Content-Type: application/json' -d @request.json

A POST request to `/` has the format of Inference Endpoints. `GET /health` answers when the model is loaded.
"""

import importlib.util
import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from training.utils.cli import command_name, parse_options, user_errors
from training.utils.quiet import hide_library_bars
from training.utils.server import LocalServer, host_name

PROGRAM = "python -m training.hub.endpoint"
HANDLER_FILE = "handler.py"
MAX_PORT = 65535
MIB = 2**20
READ_TIMEOUT_S = 60.0  # for a request to arrive
BUSY_AFTER_S = 30.0  # for earlier requests to make room
MAX_WAITING = 128  # requests in work and waiting
MAX_VALUES = 100_000  # in JSON; an empty list takes three bytes in a request and eighty in memory
VALUE_MARKS = (b",", b":", b"[", b"{")  # none is in base64
PIECE_BYTES = 2**18  # of a body, read at once
DISCARD_S = 10.0  # for the rest of a refused body

Handler = Callable[[dict[str, Any]], list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """What to serve, and to whom.

    Args:
        model: Model folder. Its `handler.py` is run.
        host: Address to listen on. The default is reachable from this machine only. There is no authentication.
        port: Port to listen on; 0 chooses a free port.
        max_body_mib: Largest size of a request in MiB. An image as base64 is a third larger than its file.
    """

    model: str = "model_cards/dcclip-tiny-photo"
    host: str = "127.0.0.1"
    port: int = 8080
    max_body_mib: int = 44

    def __post_init__(self):
        if not 0 <= self.port <= MAX_PORT:
            raise ValueError(f"port: must be in 0..{MAX_PORT}, got {self.port}.")
        if self.max_body_mib < 1:
            raise ValueError(f"max_body_mib: must be at least 1, got {self.max_body_mib}.")


class Room:
    """Memory for the bodies of requests. A body is not read before there is room for it.

    Args:
        num_bytes: Size of all bodies together.
    """

    def __init__(self, num_bytes: int):
        self.free, self.num_waiting = num_bytes, 0
        self.changed = threading.Condition()

    @contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Take room for a body, which is free again after the block.

        Args:
            num_bytes: Size of the body.

        Raises:
            BadBody: There is none within `BUSY_AFTER_S`, or `MAX_WAITING` requests are in work already.
        """
        with self.changed:
            if self.num_waiting >= MAX_WAITING:
                raise busy()
            self.num_waiting += 1
            try:
                if not self.changed.wait_for(lambda: self.free >= num_bytes, BUSY_AFTER_S):
                    raise busy()
            except BadBody:
                self.num_waiting -= 1
                raise
            self.free -= num_bytes
        try:
            yield
        finally:
            with self.changed:
                self.free += num_bytes
                self.num_waiting -= 1
                self.changed.notify_all()


class EndpointServer(LocalServer):
    """Server of one handler. Requests are answered one at a time.

    The bodies of all requests in work take at most `max_bytes` together. Others wait unread, and are answered with
    status 503 if that takes too long.

    Args:
        handler: Function from a request to its answer.
        host: Address to listen on. On a loopback address, only requests that name this machine are answered, so that
            no web page reaches the server by a DNS trick.
        port: Port to listen on; 0 takes a free one.
        max_bytes: Largest size of a request in bytes.

    Raises:
        ValueError: The address cannot be used.
    """

    def __init__(self, handler: Handler, host: str, port: int, max_bytes: int):
        self.handler, self.max_bytes = handler, max_bytes
        self.room = Room(max_bytes)
        self.lock = threading.Lock()
        self.is_local = _is_loopback(host)
        try:
            super().__init__((host, port), _Requests)
        except OSError as error:
            raise ValueError(f"port: {host}:{port} cannot be used ({error}). Choose another --port.") from error

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/"


class _Requests(BaseHTTPRequestHandler):
    server: EndpointServer
    server_version, sys_version = "dcclip", ""
    timeout = READ_TIMEOUT_S

    def do_GET(self):
        if self._is_refused():
            return
        if self.path == "/health":
            self._send(HTTPStatus.OK, {"status": "ok"})
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "Send a POST request to /, or a GET request to /health.")

    def do_POST(self):
        if self._is_refused():
            return
        try:
            length = self._length()
            with self.server.room.take(length):
                answer = self._answer(length)
        except BadBody as error:
            self._refuse(error.status, str(error))
            self._discard()
        except ValueError as error:
            # the handler's own errors name a status; any other is of the request as well
            self._refuse(HTTPStatus(getattr(error, "status_code", HTTPStatus.BAD_REQUEST)), str(error))
        except Exception as error:  # the server goes on, and the log has the traceback
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
            raise
        else:
            self._send(HTTPStatus.OK, answer)

    def _answer(self, length: int) -> Any:
        content = self._receive(length)
        body = {"inputs": content} if self._is_image() else _parse(content)
        del content  # the parsed request is as large
        with self.server.lock:
            return self.server.handler(body)

    def _is_image(self) -> bool:
        return self.headers.get_content_maintype() == "image"

    def _length(self) -> int:
        """Size of the body: JSON, or the bytes of an image alone, which is then the whole request."""
        if self.path != "/":
            raise BadBody("Send the request to /.", HTTPStatus.NOT_FOUND)
        if not self._is_image() and self.headers.get_content_type() != "application/json":
            raise BadBody("Send JSON with Content-Type: application/json.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            raise BadBody("The request has no Content-Length.", HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 18 or int(length) > self.server.max_bytes:
            limit = f"{self.server.max_bytes:,}"
            raise BadBody(
                f"The request has {length} bytes; send at most {limit}.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            )
        return int(length)

    def _receive(self, length: int) -> bytearray:
        """Read the body. A client that sends a byte a minute does not keep the room of others."""
        content, until = bytearray(), time.monotonic() + READ_TIMEOUT_S
        while len(content) < length:
            piece = self.rfile.read1(min(PIECE_BYTES, length - len(content)))  # type: ignore[attr-defined]
            if not piece or time.monotonic() > until:
                raise BadBody(
                    f"The request has {length} bytes, of which {len(content)} arrived within {READ_TIMEOUT_S:.0f} s.",
                    HTTPStatus.REQUEST_TIMEOUT,
                )
            content += piece
        return content

    def _discard(self):
        """Close the connection after the client has sent all, or the system would drop the answer on its way."""
        self.close_connection = True
        until = time.monotonic() + DISCARD_S
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(DISCARD_S)
            while time.monotonic() < until and self.rfile.read1(PIECE_BYTES):  # type: ignore[attr-defined]
                pass

    def _is_refused(self) -> bool:
        """Refuse a request that another site or another name of this machine made."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if self.server.is_local and not _is_loopback(host_name(host)):
            self._refuse(HTTPStatus.FORBIDDEN, "The Host of the request is not this machine.")
        elif origin is not None and urlsplit(origin).netloc != host:
            self._refuse(HTTPStatus.FORBIDDEN, "Another site cannot use this server.")
        else:
            return False
        return True

    def _refuse(self, status: HTTPStatus, message: str):
        self._send(status, {"error": message})

    def _send(self, status: HTTPStatus, answer: Any):
        content = json.dumps(answer, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", f"{BUSY_AFTER_S:.0f}")
        self.end_headers()
        self.wfile.write(content)


class BadBody(ValueError):
    """A request whose body cannot be read.

    Args:
        message: What is wrong, and what to send.
        status: Status of the answer.
    """

    def __init__(self, message: str, status: HTTPStatus):
        super().__init__(message)
        self.status = status


def busy() -> BadBody:
    """The error for a request that finds no room."""
    return BadBody(
        "The server is busy with other requests; send this one again later.", HTTPStatus.SERVICE_UNAVAILABLE
    )


def _parse(content: bytearray) -> Any:
    num_values = sum(map(content.count, VALUE_MARKS))
    if num_values > MAX_VALUES:
        raise BadBody(
            f"The request has about {num_values:,} values; send at most {MAX_VALUES:,}.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"The request is not JSON ({error}).", HTTPStatus.BAD_REQUEST) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def load_handler(folder: Path) -> Handler:
    """Load the handler of a model folder by its file, as an Inference Endpoint does.

    Args:
        folder: Folder of the model.

    Raises:
        ValueError: The folder has no handler.
    """
    path = folder / HANDLER_FILE
    if not path.is_file():
        raise ValueError(f"model: {str(folder)!r} has no {HANDLER_FILE}. Name the folder of a finished model.")
    spec = importlib.util.spec_from_file_location("dcclip_endpoint_handler", path)
    assert spec is not None and spec.loader is not None  # it is a Python file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def main(argv: list[str] | None = None):
    """Parse the options, load the model, serve until the process is interrupted."""
    options = parse_options(EndpointOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="torch"):
        hide_library_bars()
        handler = load_handler(Path(options.model))
        server = EndpointServer(handler, options.host, options.port, options.max_body_mib * MIB)
    if not server.is_local:
        print(f"{options.host}: other machines can reach this server, without authentication", file=sys.stderr)
    print(f"{server.url}   (Ctrl-C stops the server)", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
