"""Embeddings and labels for other programs over HTTP, without PyTorch: `dcclip serve --api`.

A request is the JSON object that `EndpointHandler` of handler.py takes, and so is its answer. openapi.json describes
both.
"""

import json
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any

from modeling_dcclip.handler import BadRequest, answer
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.local_server import LocalHandler, LocalServer

MAX_BODY = 64 * 2**20  # bytes of a request
MAX_DRAINED = 2**30  # bytes that are read of a larger one, so that the client reads the answer
OPENAPI = Path(__file__).with_name("openapi.json")


class ApiServer(LocalServer):
    """Server of one exported model; other arguments and errors as in `SearchServer`."""

    def __init__(self, runtime: Runtime, host: str = "127.0.0.1", port: int = 8000):
        self.runtime = runtime
        self.lock = threading.Lock()  # one large image at a time
        super().__init__(_ApiHandler, host, port)

    def answer(self, data: Any) -> list[dict[str, Any]] | dict[str, Any]:
        """Answer a request as `EndpointHandler` does."""
        own = self.runtime
        with self.lock:
            return answer(
                data, own.preprocess.edge, own.encode_images, own.encode_texts, own.logit_scale
            )


class _ApiHandler(LocalHandler):
    server: ApiServer

    def do_GET(self):
        """Answer with the description of the API."""
        if self.is_refused():
            return
        if self.path == "/openapi.json":
            self.send_content("application/json", OPENAPI.read_bytes())
        else:
            self.send_failure(
                HTTPStatus.NOT_FOUND,
                "Send requests to POST /api; GET /openapi.json describes them.",
            )

    def do_POST(self):
        """Answer a request of the API."""
        if self.is_refused():
            return
        try:
            self.send_json(HTTPStatus.OK, self.server.answer(self._read_json()))
        except BadRequest as error:
            self.send_failure(HTTPStatus(error.status_code), str(error))
        except ValueError as error:
            self.send_failure(HTTPStatus.BAD_REQUEST, str(error))

    def _read_json(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise BadRequest(
                "Content-Length is missing; send the length of the body.",
                HTTPStatus.LENGTH_REQUIRED,
            )
        if int(length) > MAX_BODY:
            remaining = min(int(length), MAX_DRAINED)
            while remaining and (part := self.rfile.read(min(remaining, 2**16))):
                remaining -= len(part)
            raise BadRequest(f"The body has {int(length):,} bytes; send at most {MAX_BODY:,}.", 413)
        body = self.rfile.read(int(length))
        if self.path != "/api":
            raise BadRequest(
                "Send requests to POST /api; GET /openapi.json describes them.",
                HTTPStatus.NOT_FOUND,
            )
        if (
            self.headers.get_content_type() != "application/json"
        ):  # which no form of another site can send
            raise BadRequest(
                "Content-Type: send application/json.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is not JSON ({error}).") from error
