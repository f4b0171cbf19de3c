"""Embeddings and labels for other programs over HTTP, without PyTorch: `dcclip serve --api`.

A request to `/api` is the JSON object that `EndpointHandler` of handler.py takes, and so is its answer. `/ping` and
`/predict` answer as Immich's machine learning server does. openapi.json describes all.
"""

import json
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from modeling_dcclip.handler import BadRequest, answer
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.messages import print_note
from modeling_dcclip.search.photos.photos import decode_sent
from modeling_dcclip.search.serve.immich import predict, read_form
from modeling_dcclip.search.serve.local_server import Json, LocalServer, Turns

MAX_BODY = 64 * 2**20  # bytes of a request
MAX_FIELD = 2**16  # bytes of a field of a form that is not a file
MAX_NAMES = 16  # a client may ask for any model, and each name is noted once
# names of this machine for a program in a container
CONTAINER_HOSTS = {"host.docker.internal", "host.containers.internal"}
OPENAPI = Path(__file__).with_name("openapi.json")


class ApiServer(LocalServer):
    """Server of one exported model; other arguments and errors as in `SearchServer`."""

    absent = "Send requests to POST /api or /predict; GET /openapi.json describes them."

    def __init__(self, runtime: Runtime, host: str = "127.0.0.1", port: int = 8420):
        self.runtime = runtime
        self.turns = Turns()  # one large image at a time
        routes = [
            Route("/openapi.json", FileResponse(OPENAPI)),
            Route("/api", self.answer, methods=["POST"]),
            Route("/", Json({"message": f"DC-CLIP {runtime.folder.name}"})),
            Route("/ping", PlainTextResponse("pong")),
            Route("/predict", self.predict, methods=["POST"]),
        ]
        super().__init__(routes, host, port)
        self.names |= CONTAINER_HOSTS
        self._asked: set[str] = set()  # names of models

    def close(self):
        """Stop listening and answering."""
        super().close()
        self.turns.close()

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

    async def predict(self, request: Request) -> Response:
        """Embed an image or a text for Immich."""
        async with self.body(request, MAX_BODY):
            try:
                form = request.form(max_files=2, max_fields=4, max_part_size=MAX_FIELD)
                async with form as fields:
                    query = await read_form(fields)
            except HTTPException as error:  # Starlette raises it for a damaged form
                raise BadRequest("The form cannot be read ({}).", error.detail) from error
            if query.model not in self._asked and len(self._asked) < MAX_NAMES:
                self._asked.add(query.model)
                print_note(
                    "{!r} was asked for; the model {!r} answers",
                    query.model,
                    str(self.runtime.folder),
                )
            return await self.turns.run(lambda: Json(predict(query, self.runtime)))

    def _answered(self, body: bytes) -> Response:
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest("The body is not JSON ({}).", error) from error
        return Json(answer(data, self.runtime, decode_sent))
