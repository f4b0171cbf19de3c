"""Photographs for assistants: a server of the Model Context Protocol over stdio. Needs the extra `mcp`.

It reads only, and shows and labels only photographs of its index.
"""

import base64
import json
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from pydantic import Field

from modeling_dcclip import __version__
from modeling_dcclip.search.index.index import Hit, Index
from modeling_dcclip.search.index.lance import LanceIndex
from modeling_dcclip.search.messages import UserError, message_of
from modeling_dcclip.search.photos.photos import UnreadablePhotoError, make_thumbnail, read_example
from modeling_dcclip.search.query.query import Filter, QueryWarning, understand
from modeling_dcclip.search.serve.report import fields_of, find, status_of

PREVIEW = 256  # pixels of the longer side
MAX_HITS = 50
READS_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)
INSTRUCTIONS = (
    "Search the photographs of this computer by what they show, in Chinese or English. Scores are cosine "
    "similarities; `fits` tells whether a photograph probably shows what was asked."
)

Number = Annotated[int, Field(ge=1, le=MAX_HITS, description="Maximum number of photographs.")]
Previews = Annotated[bool, Field(description="Whether to return a small JPEG of each photograph.")]
Photo = Annotated[str, Field(description="Path of a photograph, as a search returned it.")]


class PhotoServer:
    """The tools of one index; each returns JSON, and photographs as images."""

    def __init__(self, index: Index | LanceIndex):
        self.index = index
        self._lock = threading.Lock()  # warnings are caught for the process

    def search_photos(
        self,
        query: Annotated[
            str,
            Field(description="What they show; `-word` leaves out. Empty: the newest ones."),
        ] = "",
        after: Annotated[str | None, Field(description="First date: YYYY[-MM[-DD]].")] = None,
        before: Annotated[str | None, Field(description="Last date, in the same form.")] = None,
        path: Annotated[
            str | None, Field(description="Part of the path, or a pattern with * and ?.")
        ] = None,
        number: Number = 10,
        previews: Previews = True,
    ) -> CallToolResult:
        """Find photographs by a text in Chinese or English, dates and paths, the most similar first."""
        with self._lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", QueryWarning)
            text, without, chosen, dates = understand(query, Filter(after, before, path))
            hits = find(self.index, text, without, chosen=chosen, top=number)[:number]
        notes = [str(each.message) for each in caught]
        if dates is not None:
            notes.append(f"{dates.words!r} is understood as dates")
        return _answer(hits, previews, notes)

    def similar_photos(
        self, path: Photo, number: Number = 10, previews: Previews = True
    ) -> CallToolResult:
        """Find the photographs that are most similar to one of the index."""
        like = [(self._known(path), None)]
        hits = find(self.index, "", like=like, top=number + 1)
        others = [hit for hit in hits if hit.path != path]
        return _answer(others[:number], previews, [])

    def label_photo(
        self,
        path: Photo,
        labels: Annotated[
            list[str], Field(min_length=1, max_length=1000, description="Chinese or English.")
        ],
        template: Annotated[str, Field(description="Text around a label, with {} for it.")] = "{}",
    ) -> dict[str, float]:
        """Score labels for a photograph of the index; the scores sum to 1, even if no label fits."""
        self._known(path)
        runtime = self.index.runtime
        image = read_example(path, runtime.edge)
        return dict(runtime.zero_shot(image, list(dict.fromkeys(labels)), template))

    def index_status(self) -> dict[str, Any]:
        """What the index has: its folders, number of files, and what could not be read."""
        return status_of(self.index)

    def _known(self, path: str) -> int:
        number = self.index.id_of(path)
        if number is None:
            raise UserError("path: the index has no photograph {!r}.", path)
        return number


def _answer(hits: Sequence[Hit], previews: bool, notes: list[str]) -> CallToolResult:
    found = {"photos": [fields_of(hit) for hit in hits], "notes": notes}
    # bytes of paths that are not UTF-8 become question marks
    text = json.dumps(found, ensure_ascii=False).encode(errors="replace").decode()
    content: list[ContentBlock] = [TextContent(type="text", text=text)]
    for hit in hits if previews else ():
        with suppress(UnreadablePhotoError):  # `is_current` tells that it is gone
            preview = make_thumbnail(hit.path, PREVIEW, hit.seconds or 0)
            data = base64.b64encode(preview).decode()
            content.append(ImageContent(type="image", data=data, mime_type="image/jpeg"))
    return CallToolResult(content=content, structured_content=json.loads(text))


def _errors_told(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The SDK passes the message of a `ToolError` on, and hides other errors."""

    @wraps(tool)
    def call(**arguments: Any) -> Any:
        try:
            return tool(**arguments)
        except (ValueError, OSError) as error:
            raise ToolError(message_of(error)) from error

    return call


def make_server(index: Index | LanceIndex) -> MCPServer:
    """Make a server of the photographs of an index."""
    server = MCPServer("dcclip", instructions=INSTRUCTIONS, version=__version__, log_level="ERROR")
    photos = PhotoServer(index)
    for tool in (
        photos.search_photos,
        photos.similar_photos,
        photos.label_photo,
        photos.index_status,
    ):
        server.tool(annotations=READS_ONLY)(_errors_told(tool))
    return server
