"""A page on localhost to search an index: `dcclip serve`.

Only photographs of the index are read: a request names a number, never a path, and an image is decoded and encoded
again. A file that has changed since it was indexed is not shown.
"""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from modeling_dcclip.search.index import Hit, Index
from modeling_dcclip.search.local_server import LocalHandler, LocalServer
from modeling_dcclip.search.photos import THUMBNAIL, UnreadablePhotoError, make_thumbnail
from modeling_dcclip.search.query import QueryWarning

TOP = 60  # photographs on a page
PHOTO = 2048  # pixels of the longer side of a photograph in full view
IMAGE_SIZES = {"thumbnail": THUMBNAIL, "photo": PHOTO}
PAGE = Path(__file__).parent / "page"
PAGES = {
    "/": ("text/html", "page.html"),
    "/page.css": ("text/css", "page.css"),
    "/page.js": ("text/javascript", "page.js"),
}


class SearchServer(LocalServer):
    """Server of the page of one index.

    Args:
        index: Index to search.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        OSError: The address cannot be used.
    """

    def __init__(self, index: Index, host: str = "127.0.0.1", port: int = 8000):
        self.index = index
        self.query_lock = threading.Lock()  # warnings are caught for the process, so one query at a time
        # one large image in memory at a time, in one thread, whose allocator uses the memory again
        self.image_reader = ThreadPoolExecutor(1)
        super().__init__(_PageHandler, host, port)


class _PageHandler(LocalHandler):
    server: SearchServer

    def do_GET(self):
        """Answer a request."""
        if self.is_refused():
            return
        try:
            url = urlsplit(self.path)
        except ValueError:
            self.send_failure(HTTPStatus.BAD_REQUEST, "The address is malformed.")
            return
        kind, _, number = url.path[1:].partition("/")
        parameters = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path in PAGES:
            content_type, name = PAGES[url.path]
            self.send_content(f"{content_type}; charset=utf-8", (PAGE / name).read_bytes())
        elif url.path == "/search":
            self._search(parameters)
        elif kind in IMAGE_SIZES and number.isascii() and number.isdecimal() and len(number) < 19:
            self._send_image(int(number), parameters.get("version"), IMAGE_SIZES[kind])
        else:
            self.send_failure(HTTPStatus.NOT_FOUND, "This page does not exist.")

    def _search(self, parameters: dict[str, str]):
        index = self.server.index
        try:
            with self.server.query_lock, warnings.catch_warnings(record=True, category=QueryWarning) as caught:
                warnings.simplefilter("always", QueryWarning)
                if "similar" in parameters:
                    hits, has_scores = index.similar(_number(parameters["similar"]), TOP), True
                elif text := parameters.get("q", "").strip():
                    hits, has_scores = index.search(text, top=TOP), True
                else:
                    hits, has_scores = index.newest(TOP), False
            files = len(index)
        except (OSError, ValueError) as error:
            self.send_failure(HTTPStatus.BAD_REQUEST, str(error))
            return
        notes = [str(each.message) for each in caught]
        answer = {"hits": [_entry(hit, has_scores) for hit in hits], "notes": notes, "files": files}
        self.send_json(HTTPStatus.OK, answer)

    def _send_image(self, number: int, version: str | None, edge: int):
        try:
            file = self.server.index.catalog.file(number)
            if file is None:
                raise UnreadablePhotoError("not in the index", is_lasting=True)
            if version not in (None, file.state.version):  # a different file has this number now
                raise UnreadablePhotoError("changed since the search", is_lasting=True)
            if not os.path.isabs(file.path) or not file.state.is_current():
                raise UnreadablePhotoError("changed since it was indexed", is_lasting=True)
            content = self.server.image_reader.submit(make_thumbnail, file.path, edge).result()
        except (OSError, ValueError) as error:
            self.send_failure(HTTPStatus.NOT_FOUND, f"photograph {number}: {error}.")
            return
        self.send_content("image/jpeg", content, "private, max-age=600" if version else "no-store")


def _entry(hit: Hit, has_score: bool) -> dict[str, Any]:
    """What the page shows of a photograph."""
    path = os.fsencode(hit.path).decode("utf-8", "replace")
    score = round(hit.score, 4) if has_score else None
    entry = {"id": hit.id, "version": hit.version, "name": Path(path).name, "path": path}
    return entry | {"date": hit.taken[:10], "score": score}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError(f"similar: {text!r} is not the number of a photograph.")
    return int(text)
