"""A page on localhost to search an index: `dcclip serve`.

Only photographs of the index are read: a request names a number, never a path, and an image is decoded and encoded
again. A file that has changed since it was indexed is not shown.
"""

import os
import re
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from modeling_dcclip.search.index import Hit, Index
from modeling_dcclip.search.local_server import LOOPBACK, LocalHandler, LocalServer
from modeling_dcclip.search.photos import THUMBNAIL, UnreadablePhotoError, make_thumbnail
from modeling_dcclip.search.query import Filter, QueryWarning, split_query

TOP = 60  # photographs in an answer
BEST = 200  # photographs that a search sorts by date
WAIT_S = 1.0  # for a file manager that fails
NUMBER = re.compile("[0-9]{1,18}")
PHOTOGRAPH = re.compile(
    "([0-9]{1,18})(?:@([0-9]{1,6}[.]?[0-9]{0,3}))?"
)  # id, and time of the frame of a video
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
        self.query_lock = (
            threading.Lock()
        )  # warnings are caught for the process, so one query at a time
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
        elif kind in IMAGE_SIZES and PHOTOGRAPH.fullmatch(number):
            self._send_image(number, parameters.get("version"), IMAGE_SIZES[kind])
        else:
            self.send_failure(HTTPStatus.NOT_FOUND, "This page does not exist.")

    def do_POST(self):
        """Show a photograph in the file manager, for the person at this machine."""
        kind, _, number = self.path[1:].partition("/")
        if self.is_refused():
            return
        # a browser sends this header only from a page of this server
        if kind != "open" or "X-DCCLIP" not in self.headers or self.server.host not in LOOPBACK:
            self.send_failure(HTTPStatus.FORBIDDEN, "Only the page on this machine opens folders.")
            return
        try:
            file = self.server.index.catalog.file(*_photograph(number))
            if file is None or not os.path.exists(file.path):
                raise OSError(f"photograph {number}: it is gone.")
            with suppress(subprocess.TimeoutExpired):  # it may run until its window is closed
                if (
                    subprocess.Popen(_file_manager(file.path)).wait(WAIT_S)
                    and sys.platform != "win32"
                ):
                    raise OSError("This machine has no file manager.")
        except (OSError, ValueError) as error:
            lacks = isinstance(error, FileNotFoundError)  # such as xdg-open
            self.send_failure(
                HTTPStatus.NOT_FOUND, "This machine has no file manager." if lacks else str(error)
            )
            return
        self.send_json(HTTPStatus.OK, {})

    def _search(self, parameters: dict[str, str]):
        index = self.server.index
        try:
            with self.server.query_lock, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", QueryWarning)
                if not NUMBER.fullmatch(number := parameters.get("skip", "0")):
                    raise ValueError(f"skip: {number!r} is not a number.")
                skip = int(number)
                after, before, path = (
                    parameters.get(name, "").strip() or None for name in ("after", "before", "path")
                )
                text, without = split_query(parameters.get("q", ""))
                like = [_photograph(parameters["like"])] if "like" in parameters else []
                is_query = bool(text or without or like)
                chosen = Filter(after, before, path)
                if not is_query:
                    hits = index.newest(TOP, chosen, skip)
                else:
                    start, top = (0, BEST) if parameters.get("sort") == "date" else (skip, TOP)
                    hits = index.search(
                        *([text] if text else []),
                        without=without,
                        like=like,
                        top=top,
                        skip=start,
                        after=after,
                        before=before,
                        path=path,
                    )
                    if top == BEST:
                        fitting = [hit for hit in hits if hit.fits] or hits
                        hits = sorted(fitting, key=lambda hit: hit.taken, reverse=True)[
                            skip : skip + TOP
                        ]
            total = len(index.catalog.rows_of_files(chosen))
        except (OSError, ValueError) as error:
            self.send_failure(HTTPStatus.BAD_REQUEST, str(error))
            return
        answer = {
            "hits": [self._entry(hit, is_query) for hit in hits],
            "notes": [
                self.translated(str(each.message))
                for each in caught
                if each.category is QueryWarning
            ],
            "total": total,
            "more": len(hits) == TOP,
            "without": without,
            "opens": self.server.host in LOOPBACK,
        }
        self.send_json(HTTPStatus.OK, answer)

    def _send_image(self, number: str, version: str | None, edge: int):
        try:
            file = self.server.index.catalog.file(*_photograph(number))
            if file is None:
                raise UnreadablePhotoError("not in the index", is_lasting=True)
            if version not in (None, file.state.version):  # a different file has this number now
                raise UnreadablePhotoError("changed since the search", is_lasting=True)
            if not os.path.isabs(file.path) or not file.state.is_current():
                raise UnreadablePhotoError("changed since it was indexed", is_lasting=True)
            content = self.server.image_reader.submit(
                make_thumbnail, file.path, edge, file.seconds or 0
            ).result()
        except (OSError, ValueError) as error:
            self.send_failure(HTTPStatus.NOT_FOUND, f"photograph {number}: {error}.")
            return
        self.send_content("image/jpeg", content, "private, max-age=600" if version else "no-store")

    def _entry(self, hit: Hit, has_score: bool) -> dict[str, Any]:
        """What the page shows of a photograph."""
        path = os.fsencode(hit.path).decode("utf-8", "replace")
        score = round(hit.score, 4) if has_score else None
        entry = {
            "id": f"{hit.id}@{hit.seconds}" if hit.seconds else hit.id,
            "version": hit.version,
            "path": path,
        }
        entry |= {
            "name": f"{Path(path).name} {self.translated(hit.time)}".rstrip(),
            "is_current": hit.is_current,
        }
        return entry | {
            "date": hit.taken[:10],
            "score": score,
            "copies": len(hit.copies),
            "fits": hit.fits,
        }


def _photograph(text: str) -> tuple[int, float | None]:
    """Id of a photograph, and time of the frame of a video, from the `id` that the page has."""
    if (match := PHOTOGRAPH.fullmatch(text)) is None:
        raise ValueError(f"id: {text!r} is not the number of a photograph.")
    return int(match[1]), float(match[2]) if match[2] else None


def _file_manager(path: str) -> list[str]:
    """Command that shows a file in the file manager."""
    if sys.platform == "darwin":
        return ["open", "-R", path]
    return (
        ["explorer", "/select,", path]
        if sys.platform == "win32"
        else ["xdg-open", os.path.dirname(path)]
    )
