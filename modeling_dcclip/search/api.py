"""Embeddings and labels for other programs over HTTP, without PyTorch: `dcclip serve --api`.

A request is the JSON object that `EndpointHandler` of handler.py takes, and so is its answer. openapi.json describes
both.
"""

import json
import threading
from pathlib import Path
from typing import Any

from modeling_dcclip.handler import BadRequest, answer
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.local_server import LocalHandler, LocalServer

MAX_BODY = 64 * 2**20  # bytes of a request
WAIT_S = 60  # for the requests before
OPENAPI = Path(__file__).with_name("openapi.json")
HELP = "Send requests to POST /api; GET /openapi.json describes them."


class ApiServer(LocalServer):
    """Server of one exported model; other arguments and errors as in `SearchServer`."""

    def __init__(self, runtime: Runtime, host: str = "127.0.0.1", port: int = 8420):
        self.runtime = runtime
        self.lock = threading.Lock()  # one large image at a time
        super().__init__(_ApiHandler, host, port)

    def answer(self, data: Any) -> list[dict[str, Any]] | dict[str, Any]:
        """Answer a request as `EndpointHandler` does."""
        if not self.lock.acquire(timeout=WAIT_S):
            raise BadRequest("Too many requests at once. Send it again later.", status_code=503)
        try:
            return answer(data, self.runtime)
        finally:
            self.lock.release()


class _ApiHandler(LocalHandler):
    server: ApiServer

    def get(self):
        """Answer with the description of the API."""
        if self.path == "/openapi.json":
            self.send_content("application/json", OPENAPI.read_bytes())
        else:
            self.send_failure(404, HELP)

    def post(self):
        """Answer a request of the API."""
        with self.body(MAX_BODY) as body:
            content = self.server.answer(self._parsed(body))
        self.send_json(content)

    def _parsed(self, body: bytes) -> Any:
        if self.path != "/api":
            raise BadRequest(HELP, status_code=404)
        # which no form of another site can send
        if self.headers.get_content_type() != "application/json":
            raise BadRequest(
                "Content-Type: send application/json.",
                status_code=415,
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest("The body is not JSON ({}).", error) from error
