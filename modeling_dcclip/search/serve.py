"""A page on localhost to search an index: `dcclip serve`.

Only photographs of the index are read: a request names a number, never a path, and an image is decoded and encoded
again. Videos are sent as they are, to be played. A file that has changed since it was indexed is not shown.
"""

import hashlib
import io
import mimetypes
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from modeling_dcclip.handler import BadRequest
from modeling_dcclip.search.background import Background
from modeling_dcclip.search.catalog import File
from modeling_dcclip.search.decoding import MEMORY, decode_photo
from modeling_dcclip.search.files import UnreadablePhotoError
from modeling_dcclip.search.index import Hit, Index
from modeling_dcclip.search.indexing import Progress, Report
from modeling_dcclip.search.local_server import LOOPBACK, LocalHandler, LocalServer
from modeling_dcclip.search.messages import Message, UserError, message_of, print_error
from modeling_dcclip.search.photos import open_file
from modeling_dcclip.search.previews import SIZES, Previews, cache_folder
from modeling_dcclip.search.query import LOOKED, Filter, QueryWarning, understand
from modeling_dcclip.search.texts import find

# photographs in an answer, and at most
TOP = 60
MAX_TOP = 200
IDLE_S = 5.0  # without a request, before other work is done
WAIT_S = 1.0  # for a file manager that fails
# id, and time of the frame of a video
PHOTOGRAPH = re.compile("([0-9]{1,18})(?:@([0-9]{1,6}[.]?[0-9]{0,3}))?")
RANGE = re.compile("bytes=([0-9]{1,18})-([0-9]{1,18})?")
RANGE_BYTES = 2**22  # of a video in one answer; the browser asks for more
MAX_EXAMPLE = 2**25  # bytes of an example image
EXAMPLES = 32  # that the server remembers
LASTING = "private, max-age=31536000, immutable"  # of what has its version in its address
PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Indexing(Background):
    """Folders that are indexed while the page is open.

    Args:
        index: Index to add to. Searches have one of their own.
        folders: Arguments of `Index.add`, as `exclude`.
        report: Function that is called with the report, and with the number of files in the index.
        bar: Context manager of a function that shows the progress as well. Default: none.
    """

    def __init__(
        self,
        index: Index,
        folders: Sequence[Path],
        exclude: Sequence[str] | None,
        report: Callable[[Report, int], None],
        bar: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
    ):
        super().__init__()
        self._index = index
        self._folders = folders
        self._exclude = exclude
        self._report = report
        self._bar = bar
        self._left_out: list[Message] = []
        self._done = self._total = 0
        self._began = 0.0  # when the first file was done
        self._error = ""

    def run(self):
        """Index the folders, and report."""
        try:
            with self._bar() as show:
                progress = partial(self._progress, show)
                report = self._index.add(*self._folders, progress=progress, exclude=self._exclude)
            self._left_out = [message for message, _ in report.left_out()]
            self._report(report, len(self._index))
        except KeyboardInterrupt:  # of the method below
            pass
        except (ValueError, OSError) as error:
            self._error = message_of(error)
            print_error(self._error)

    def _progress(self, show: Progress | None, done: int, total: int):
        if self.stopping.is_set():
            raise KeyboardInterrupt
        if show is not None:
            show(done, total)
        self._began = self._began or time.monotonic()
        self._done = done
        self._total = total

    def state(self) -> dict[str, Any]:
        """How far it is, for the page."""
        passed = time.monotonic() - self._began
        left = passed / self._done * (self._total - self._done) if self._done > 1 else None
        return {
            "running": self.is_alive(),
            "done": self._done,
            "total": self._total,
            "seconds_left": left,
            "error": self._error,
            "left_out": self._left_out,
        }


class SearchServer(LocalServer):
    """Server of the page of one index.

    Args:
        index: Index to search.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        indexing: What is indexed meanwhile, if anything is.

    Raises:
        OSError: The address cannot be used.
    """

    def __init__(
        self,
        index: Index,
        host: str = "127.0.0.1",
        port: int = 8420,
        indexing: Indexing | None = None,
    ):
        self.index = index
        self.indexing = indexing
        # warnings are caught for the process, so one query at a time
        self.query_lock = threading.Lock()
        self.examples: OrderedDict[str, Image.Image] = OrderedDict()
        self.previews = Previews(cache_folder())
        super().__init__(_PageHandler, host, port)

    def server_close(self):
        """Stop listening and decoding."""
        super().server_close()
        self.previews.close()

    def is_busy(self) -> bool:
        """Whether something was asked a moment ago, or photographs are indexed."""
        is_indexing = self.indexing is not None and self.indexing.state()["running"]
        return is_indexing or time.monotonic() - self.last_request < IDLE_S

    def remember(self, content: bytes) -> str:
        """Keep an example image for later queries, and return its name."""
        with MEMORY.scope():
            _, image = decode_photo(io.BytesIO(content), self.index.runtime.edge)
        name = hashlib.blake2b(content, digest_size=8).hexdigest()
        self.examples[name] = image
        while len(self.examples) > EXAMPLES:
            self.examples.popitem(last=False)
        return name


class _PageHandler(LocalHandler):
    server: SearchServer

    def get(self):
        """Answer with a file of the page, what it asks for, or an image or a video."""
        url = urlsplit(self.path)
        fields = parse_qs(url.query, max_num_fields=20)
        parameters = {name: values[0] for name, values in fields.items()}
        kind, _, name = url.path[1:].partition("/")
        file = PAGE / (kind or "page.html")
        if not name and file.suffix in TYPES and file.name in os.listdir(PAGE):
            self.send_content(f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes())
        elif url.path == "/search":
            self.send_json(self._search(parameters))
        elif url.path == "/months":
            self.send_json(self._months(parameters))
        elif url.path == "/status":
            self.send_json(self._status())
        elif kind == "example":
            self._send_example(name)
        elif kind in SIZES:
            self._send_image(kind, name, parameters.get("version"))
        elif kind == "video":
            self._send_video(name, parameters.get("version"))
        else:
            self.send_failure(404, "This page does not exist.")

    def post(self):
        """Take an example image, or show a photograph in the file manager, for the person at this machine."""
        kind, _, name = self.path[1:].partition("/")
        # a browser sends this header only from a page of this server
        if "X-DCCLIP" not in self.headers:
            self.send_failure(403, "Only the page can do this.")
        elif kind == "example":
            with self.body(MAX_EXAMPLE) as content:
                self.send_json({"name": self.server.remember(content)})
        elif kind == "open":
            self._open(name)
        else:
            self.send_failure(404, "This page does not exist.")

    def _open(self, name: str):
        if self.server.host not in LOOPBACK:
            self.send_failure(403, "Only the page on this machine opens folders.")
            return
        command = _file_manager(self._file(name, None).path)
        failed = shutil.which(command[0]) is None
        with suppress(subprocess.TimeoutExpired):  # it may run until its window is closed
            failed = failed or subprocess.Popen(command).wait(WAIT_S) != 0
        if failed and sys.platform != "win32":
            self.send_failure(404, "This machine has no file manager.")
        else:
            self.send_json({})

    def _months(self, parameters: dict[str, str]) -> list[tuple[str, int]]:
        dates = self.server.index.catalog.timeline(_filter(parameters))
        return [*Counter(taken[:7] for _, taken in dates).items()]

    def _status(self) -> dict[str, Any]:
        indexing = self.server.indexing
        state: dict[str, Any] = {"running": False, "error": "", "left_out": []}
        if indexing is not None:
            state = indexing.state()
        texts = {
            "error": self.translated(state["error"]),
            "left_out": [self.translated(each) for each in state["left_out"]],
        }
        return state | texts | {"files": len(self.server.index)}

    def _search(self, parameters: dict[str, str]) -> dict[str, Any]:
        index = self.server.index
        skip = max(0, int(parameters.get("skip", 0)))
        top = max(1, min(int(parameters.get("top", TOP)), MAX_TOP))
        has_dates = parameters.get("dates") != "off"
        text, without, chosen, dates = understand(
            parameters.get("q", ""), _filter(parameters), has_dates
        )
        like = [_photograph(parameters["like"])] if "like" in parameters else []
        images = [self._example(parameters["example"])] if "example" in parameters else []
        with self.server.query_lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", QueryWarning)
            hits = find(index, text, without, images, like, chosen, top, skip)
        is_query = bool(text or without or like or images)
        fits = None
        more = len(hits) == top
        if is_query and skip < LOOKED:
            fitting = [hit for hit in hits if hit.fits]
            if hits and hits[0].fit is not None:
                fits = len(fitting)
            is_by_date = parameters.get("sort") == "date"
            if is_by_date:
                hits = sorted(fitting or hits, key=lambda hit: hit.taken, reverse=True)
            more = len(hits) > skip + top or (len(hits) >= LOOKED and not is_by_date)
            hits = hits[skip : skip + top]
        return {
            "is_query": is_query,
            "total": len(index.catalog.rows_of_files(chosen)),
            "without": without,
            "fits": fits,
            "hits": [self._entry(hit) for hit in hits],
            "more": more,
            "dates": dates and {name: value for name, value in vars(dates).items() if value},
            "notes": [self.translated(message_of(each.message)) for each in caught],
            "opens": self.server.host in LOOPBACK,
        }

    def _example(self, name: str) -> Image.Image:
        if name not in self.server.examples:
            raise UserError("The example image is gone. Choose it again.")
        return self.server.examples[name]

    def _send_example(self, name: str):
        content = io.BytesIO()
        image = self._example(name).copy()
        image.thumbnail((SIZES["thumbnail"],) * 2)
        image.save(content, "JPEG")
        self.send_content("image/jpeg", content.getvalue())

    def _file(self, name: str, version: str | None) -> File:
        """The photograph of a request, which has not changed."""
        file = self.server.index.catalog.file(*_photograph(name))
        if (
            not file
            or version not in (None, file.state.version)  # a different file has this number now
            or not os.path.isabs(file.path)
            or not file.state.is_current()
        ):
            raise UnreadablePhotoError("changed since it was indexed")
        return file

    def _send_image(self, kind: str, name: str, version: str | None):
        file = self._file(name, version)
        content = self.server.previews.read(file.path, file.state.version, file.seconds, kind)
        self.send_content("image/jpeg", content, LASTING if version else "no-store")

    def _send_video(self, name: str, version: str | None):
        """Send a part of a video, as the header `Range` asks."""
        file = self._file(name, version)
        size = file.state.size if file.seconds is not None else 0  # of a photograph nothing is sent
        asked = RANGE.fullmatch(self.headers.get("Range") or "bytes=0-")
        if asked is None or int(asked[1]) >= size:
            message = "The range of bytes is not inside the video."
            self.send_failure(416, message)
            return
        start = int(asked[1])
        end = min(start + RANGE_BYTES, size, int(asked[2]) + 1 if asked[2] else size)
        with open_file(os.fsencode(file.path)) as video:
            video.seek(start)
            content = video.read(end - start)
        self.send_content(
            mimetypes.guess_type(file.path)[0] or "application/octet-stream",
            content,
            status=206,
            Accept_Ranges="bytes",
            Content_Range=f"bytes {start}-{start + len(content) - 1}/{size}",
        )

    def _entry(self, hit: Hit) -> dict[str, Any]:
        """What the page shows of a photograph."""
        path = os.fsencode(hit.path).decode("utf-8", "replace")
        return {
            "id": f"{hit.id}@{hit.seconds}" if hit.seconds else f"{hit.id}",
            "version": hit.version,
            "path": path,
            "name": Path(path).name,
            "folder": str(Path(path).parent),
            "date": hit.taken,
            "seconds": hit.seconds,
            "time": hit.time,
            "ratio": round(self.server.previews.ratio(hit.path, hit.version, hit.seconds), 3),
            "score": None if hit.score is None else round(hit.score, 3),
            "copies": len(hit.copies),
            "fits": hit.fits,
            "match": hit.match,
            "words": hit.words,
            "text": hit.text,
            "is_current": hit.is_current,
        }


def _filter(parameters: dict[str, str]) -> Filter:
    names = ("after", "before", "path")
    return Filter(*(parameters.get(name, "").strip() or None for name in names))


def _photograph(text: str) -> tuple[int, float]:
    """Id of a photograph, and time of the frame of a video, from the `id` that the page has."""
    match = PHOTOGRAPH.fullmatch(text)
    if match is None:
        raise BadRequest("id: the index has no file {}.", text, status_code=404)
    return int(match[1]), float(match[2] or 0)


def _file_manager(path: str) -> list[str]:
    """Command that shows a file in the file manager."""
    if sys.platform == "darwin":
        return ["open", "-R", path]
    if sys.platform == "win32":
        return ["explorer", "/select,", path]
    return ["xdg-open", os.path.dirname(path)]
