"""Servers for people of this machine: the search page and the API.

Starlette routes the requests, and uvicorn speaks HTTP. What is ours: a request is answered only for addresses and the
names of this machine, so that no other site can reach the server through a name of its own, and only if no page of
another site sends it. The page is shown to those who have its token. Bodies and connections have limits.
"""

import asyncio
import ipaddress
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import BaseRoute
from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import Server

from modeling_dcclip.handler import BadRequest
from modeling_dcclip.search.messages import Message, message_of, translate
from modeling_dcclip.search.serve.access import KEY_HEADER, Access, is_other_user, is_same

P = ParamSpec("P")
T = TypeVar("T")

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = frozenset({"", "0.0.0.0", "::"})
ELSEWHERE = ("192.0.2.1", 9)  # an address on no network, which takes the usual way out
COOKIE_S = 365 * 24 * 3600
# for the body of a request, and for the next request of a connection
REQUEST_S = 60
GRACE_S = 1  # for answers in work when the server is stopped
WAIT_S = 60  # for the requests before
MAX_ADDRESS = 2**14  # characters; a Chinese character of a query takes nine
MAX_IN_FLIGHT = 2**28  # bytes of all bodies that are in memory
# bytes that are read of a body that is too large, so that the client reads the answer
MAX_DRAINED = 2**28
BACKLOG = 32  # connections that the system accepts for the server, and asyncio at once
MAX_CONNECTIONS = 200  # files need descriptors as well, and a process may have 256
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; media-src 'self'; "
    "script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LocalServer:
    """Server that no other site can use. It is an ASGI application, and listens as soon as it is created.

    Args:
        routes: What it answers. An `OSError` or `ValueError` of an endpoint is answered with status 400, or the
            error's `status_code`.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        access: Secrets that requests need; None if they need none.

    Raises:
        OSError: The address cannot be used.
    """

    absent = "This page does not exist."  # answer for other addresses

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        host: str = "127.0.0.1",
        port: int = 8420,
        access: Access | None = None,
    ):
        self.access = access
        self.host = host.lower()
        names = {self.host}
        if self.host in EVERYWHERE:
            names = {socket.gethostname(), socket.getfqdn()}
        self.names = {"localhost", *(name.lower() for name in names)}
        self._in_flight = 0
        handlers: dict[Any, Any] = {HTTPException: self._refuse, OSError: _fail, ValueError: _fail}
        self._app = Starlette(routes=routes, exception_handlers=handlers)
        config = Config(
            self,
            http="h11",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=REQUEST_S,
            timeout_graceful_shutdown=GRACE_S,
            limit_concurrency=MAX_CONNECTIONS,
        )
        self._server = Server(config)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # with the protocol named, asyncio sends each part at once; else answers may wait for 40 ms
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if sys.platform != "win32":  # there, two servers could share a port
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *error: object):
        self.close()

    def serve_forever(self):
        """Answer requests until `shutdown` is called.

        Raises:
            KeyboardInterrupt: The user stopped the process.
        """
        self._server.run([self._socket])

    def shutdown(self):
        """End `serve_forever`, which runs in a different thread."""
        self._server.should_exit = True

    def close(self):
        """Stop listening."""
        self._socket.close()

    @property
    def origin(self) -> str:
        """Address of the server for this machine."""
        return self._origin("127.0.0.1" if self.host in EVERYWHERE else self.host)

    @property
    def url(self) -> str:
        """Address that opens the page, for all who can reach the server."""
        origin = self._origin(_network_name() if self.host in EVERYWHERE else self.host)
        return f"{origin}/" if self.access is None else self.access.url(origin)

    def _origin(self, host: str) -> str:
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def accepts(self, name: str) -> bool:
        """Whether a request may name the server so. Another site can lead its own name here, but not an address."""
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return name in self.names
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        """Answer a request, with fixed headers, or refuse it."""
        app: Any = self._app
        if scope["type"] == "http":
            request = Request(scope)
            if refusal := self._refusal(request):
                app = failure(request, *refusal)
            elif self.access is not None:
                app = self._entrance(request, self.access) or app
            send = _with_headers(send)
        with suppress(ClientDisconnect):  # while its body was read
            await app(scope, receive, send)

    def _entrance(self, request: Request, access: Access) -> Response | None:
        """Answer to a request without the secrets, and to the first with the token, which gets a cookie."""
        name = f"dcclip-{self.port}"  # the ports of a host share their cookies
        if is_same(request.query_params.get("token", ""), access.token):
            if request.client is not None and is_other_user(request.client.port, self.port):
                return failure(request, 403, "This page belongs to another user of this machine.")
            if request.url.path != "/":
                return None
            response = RedirectResponse("/", 303)
            response.set_cookie(
                name, access.cookie, max_age=COOKIE_S, httponly=True, samesite="strict"
            )
            return response
        has_cookie = is_same(request.cookies.get(name, ""), access.cookie)
        if has_cookie or is_same(request.headers.get(KEY_HEADER, ""), access.key):
            return None
        return failure(request, 403, "token: open the address that dcclip printed, with its token.")

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Why a request is refused: too long, a foreign name of this server, or sent by another site."""
        headers, scope = request.headers, request.scope
        host = headers.get("Host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_ADDRESS:
            return 414, "The address is too long."
        if not self.accepts(name):
            return 403, Message("host: {!r} is not a name of this server.", name)
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return 403, "Another site cannot use this server."
        return None

    async def _refuse(self, request: Request, error: HTTPException) -> Response:
        return failure(request, error.status_code, self.absent)

    @asynccontextmanager
    async def body(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The body of a request, which counts as memory in use until the end of the `with` block.

        Raises:
            BadRequest: It is larger than the limit, in bytes, its length is unknown, or it comes too slowly.
        """
        length = request.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise BadRequest(
                "Content-Length is missing; send the length of the body.",
                status_code=411,
            )
        if int(length) > limit:
            drained = 0
            async for part in request.stream():
                drained += len(part)
                if drained > MAX_DRAINED:
                    break
            raise BadRequest(
                "The body has {:,} bytes; send at most {:,}.",
                int(length),
                limit,
                status_code=413,
            )
        with self._reserve(int(length)):
            try:
                async with asyncio.timeout(REQUEST_S):
                    content = await request.body()
            except TimeoutError as error:
                raise BadRequest(
                    "The body took longer than {} s.", REQUEST_S, status_code=408
                ) from error
            yield content

    @contextmanager
    def _reserve(self, size: int) -> Iterator[None]:
        """Hold a part of the memory for bodies, in the thread of the event loop."""
        if self._in_flight + size > MAX_IN_FLIGHT:
            raise BadRequest(
                "Too many large requests at once. Send it again later.", status_code=503
            )
        self._in_flight += size
        try:
            yield
        finally:
            self._in_flight -= size


class Turns:
    """Calls one after the other, in a thread whose allocator uses the memory again; those that wait hold no thread.

    Args:
        wait_s: Seconds after which a call is given up; None for never.
    """

    def __init__(self, wait_s: float | None = WAIT_S):
        self._wait_s = wait_s
        self._executor = ThreadPoolExecutor(1)

    async def run(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a function when it is its turn.

        Raises:
            BadRequest: With status 503, if that takes too long.
        """
        call = self._executor.submit(function, *args, **options)
        try:
            async with asyncio.timeout(self._wait_s):
                return await asyncio.wrap_future(call)
        except TimeoutError as error:
            raise BadRequest(
                "Too many requests at once. Send it again later.", status_code=503
            ) from error

    def close(self):
        """Let the call in work end, and drop the others."""
        self._executor.shutdown(cancel_futures=True)


class Json(JSONResponse):
    """Answer with JSON in ASCII, because a path may have bytes that UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:
        """Bytes of the body."""
        return json.dumps(content).encode()


def failure(request: Request, status: int, message: str) -> Response:
    """Answer with a JSON object that has the field `error`, or with text for a person who opened the address."""
    text = translated(request, message)
    if "text/html" in request.headers.get("Accept", ""):
        return PlainTextResponse(text, status)
    return Json({"error": text}, status)


def _network_name() -> str:
    """Address of this machine in its network, else its name."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ELSEWHERE)  # which sends nothing
        return probe.getsockname()[0]
    return socket.gethostname()


def translated(request: Request, message: str) -> str:
    """A message in the language that the client prefers."""
    preferred = request.headers.get("Accept-Language", "en")
    return translate(message, "zh" if preferred.lower().startswith("zh") else "en")


async def _fail(request: Request, error: Exception) -> Response:
    return failure(request, getattr(error, "status_code", 400), message_of(error))


def _with_headers(send: Send) -> Send:
    """A function that sends the fixed headers with an answer."""

    async def sending(message: ASGIMessage):
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
