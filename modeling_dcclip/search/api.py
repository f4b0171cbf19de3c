"""Embeddings and labels for other programs over HTTP, without PyTorch: `dcclip serve --api`.

A request is the JSON object that `EndpointHandler` of handler.py takes, and so is its answer. openapi.json describes
both.
"""

import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from modeling_dcclip.handler import BadRequest, answer
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.local_server import Json, LocalServer, Turns

MAX_BODY = 64 * 2**20  # bytes of a request
OPENAPI = Path(__file__).with_name("openapi.json")


class ApiServer(LocalServer):
    """Server of one exported model; other arguments and errors as in `SearchServer`."""

    absent = "Send requests to POST /api; GET /openapi.json describes them."

    def __init__(self, runtime: Runtime, host: str = "127.0.0.1", port: int = 8420):
        self.runtime = runtime
        self.turns = Turns()  # one large image at a time
        routes = [
            Route("/openapi.json", self.describe),
            Route("/api", self.answer, methods=["POST"]),
        ]
        super().__init__(routes, host, port)

    async def describe(self, request: Request) -> Response:
        """Answer with the description of the API."""
        return FileResponse(OPENAPI)

    async def answer(self, request: Request) -> Response:
        """Answer a request as `EndpointHandler` does."""
        # which no form of another site can send
        if (
            request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            != "application/json"
        ):
            raise BadRequest("Content-Type: send application/json.", status_code=415)
        async with self.body(request, MAX_BODY) as body:
            return await self.turns.run(self._answered, body)

    def _answered(self, body: bytes) -> Response:
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest("The body is not JSON ({}).", error) from error
        return Json(answer(data, self.runtime))
