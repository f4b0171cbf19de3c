"""What Immich's machine learning server is asked: the form of `POST /predict`, and its answer.

A request has the fields `entries`, a JSON object `{task: {type: {"modelName": NAME}}}`, and `image` or `text`. Of its
tasks, `clip` is answered, with the embedding as a string of JSON.
"""

import io
import json
from typing import Any, NamedTuple

from starlette.datastructures import FormData, UploadFile

from modeling_dcclip.handler import MAX_CHARACTERS, BadRequest
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.messages import Message
from modeling_dcclip.search.photos.decoding import read_size
from modeling_dcclip.search.photos.files import UnreadablePhotoError
from modeling_dcclip.search.photos.photos import decode_sent

TASK = "clip"
FIELDS = {"visual": "image", "textual": "text"}  # a type of the task names the field with its input
# tasks of Immich that need other models
OTHERS = {"facial-recognition": "faces", "ocr": "text in images"}


class Query(NamedTuple):
    """An image file or a text to embed.

    Args:
        model: Name of the model that Immich's settings have.
        image: Content of the file; None for a text.
        text: Empty for an image.
    """

    model: str
    image: bytes | None
    text: str


async def read_form(form: FormData) -> Query:
    """The query of a form.

    Raises:
        BadRequest: A field is missing or repeated, or `entries` asks for what this server does not do.
    """
    entries = form.getlist("entries")
    kind, model = _read_entries(entries[0] if len(entries) == 1 else None)
    field = FIELDS[kind]
    values = form.getlist(field)
    if len(values) != 1 or isinstance(values[0], UploadFile) != (field == "image"):
        raise BadRequest(
            "{}: got {} of them, expected one {}.",
            field,
            len(values),
            Message("file" if field == "image" else "text"),
        )
    (value,) = values
    if isinstance(value, UploadFile):
        return Query(model, await value.read(), "")
    if not value.strip() or len(value) > MAX_CHARACTERS:
        raise BadRequest("text: it has {:,} characters; use 1 to {:,}.", len(value), MAX_CHARACTERS)
    return Query(model, None, value)


def _read_entries(text: Any) -> tuple[str, str]:
    """Type and model of the one entry."""
    try:
        entries = json.loads(text)
        tasks = [
            (task, kind, entry["modelName"])
            for task, types in entries.items()
            for kind, entry in types.items()
        ]
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise BadRequest(
            'entries: send JSON such as {"clip": {"visual": {"modelName": "ViT-B-32__openai"}}}.',
            status_code=422,
        ) from error
    for task, _, _ in tasks:
        if task in OTHERS:
            raise BadRequest(
                "entries: this server does not find {}. In Immich, add the URL of Immich's own machine learning "
                "server in Machine Learning Settings, or turn this feature off there.",
                Message(OTHERS[task]),
            )
    if len(tasks) != 1 or tasks[0][0] != TASK or tasks[0][1] not in FIELDS:
        named = ", ".join(f"{task} {kind}" for task, kind, _ in tasks) or "none"
        raise BadRequest(
            "entries: got {:.80}, expected clip visual or clip textual.", named, status_code=422
        )
    return tasks[0][1], str(tasks[0][2])


def predict(query: Query, runtime: Runtime) -> dict[str, Any]:
    """Answer a query as Immich's server does.

    Raises:
        BadRequest: The image cannot be decoded.
    """
    if query.image is None:
        return {TASK: _json(runtime.encode_texts([query.text], truncate=True))}
    try:
        vectors = runtime.encode_images([decode_sent(query.image, runtime.edge)])
    except UnreadablePhotoError as error:
        raise BadRequest(
            "image: it cannot be read ({}). Send an image file.", error.cause
        ) from error
    width, height = read_size(io.BytesIO(query.image))
    return {TASK: _json(vectors), "imageHeight": height, "imageWidth": width}


def _json(vectors: Any) -> str:
    """The only embedding of (1, D) as JSON, from which each float32 can be read again."""
    return json.dumps(vectors[0].tolist())
