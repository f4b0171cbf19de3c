"""A page on localhost to search an index: `dcclip serve`.

Only photographs of the index are read: a request names a number, never a path, and an image is decoded and encoded
again. Videos are sent as they are, to be played. A file that has changed since it was indexed is not shown.
"""

import json
import mimetypes
import os
import re
import threading
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from modeling_dcclip.handler import BadRequest
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index.catalog import File
from modeling_dcclip.search.index.index import Hit, Index, hits_of, may_fit
from modeling_dcclip.search.index.indexing import Progress, Report, require_folders
from modeling_dcclip.search.messages import Message, UserError, message_of, print_error
from modeling_dcclip.search.photos.decoding import give_memory_back
from modeling_dcclip.search.photos.files import UnreadablePhotoError, fingerprint
from modeling_dcclip.search.photos.photos import decode_sent, encode_thumbnail
from modeling_dcclip.search.photos.previews import SIZES, Previews, cache_folder
from modeling_dcclip.search.query.query import LOOKED, Filter, QueryWarning, understand
from modeling_dcclip.search.serve.access import KEY_HEADER, is_same, read_access, write_access
from modeling_dcclip.search.serve.local_server import Json, LocalServer, Turns, translated
from modeling_dcclip.search.serve.report import find

# photographs in an answer, and at most
TOP = 60
MAX_TOP = 200
# id, and time of the frame of a video
PHOTOGRAPH = re.compile("([0-9]{1,18})(?:@([0-9]{1,6}[.]?[0-9]{0,3}))?")
MAX_EXAMPLE = 2**25  # bytes of an example image
MAX_FOLDERS = 2**20  # bytes of names of folders
EXAMPLES = 32  # that the server remembers
LASTING = "private, max-age=31536000, immutable"  # for URLs that contain a version
PAGE = Path(__file__).parent / "page"


class Example(NamedTuple):
    """An example image that was sent, without its pixels."""

    runtime: Runtime
    embedding: np.ndarray  # (D,)
    thumbnail: bytes  # JPEG


class Indexing:
    """Folders that are indexed while the page is open, until the end of a `with` block.

    Args:
        index: Index to add to. Searches have one of their own.
        report: Function that is called with each report, and with the number of files in the index.
        bar: Context manager of a function that shows the progress as well. Default: none.
    """

    def __init__(
        self,
        index: Index,
        report: Callable[[Report, int], None],
        bar: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
    ):
        self._index = index
        self._report = report
        self._bar = bar
        self._left_out: list[Message] = []
        self._executor = ThreadPoolExecutor(1, "dcclip-indexing")
        self._last: Future[None] | None = None
        self._stopping = threading.Event()
        self._done = self._total = 0
        self._began = 0.0  # when the first file was done
        self._error = ""

    def __enter__(self) -> "Indexing":
        return self

    def __exit__(self, *error: object):
        self._stopping.set()
        self._executor.shutdown(cancel_futures=True)

    def add(self, folders: Sequence[Path], exclude: Sequence[str] | None = None):
        """Index folders after those that were added before; arguments are those of `Index.add`."""
        self._last = self._executor.submit(self._add, folders, exclude)

    def join(self):
        """Wait until all folders are indexed."""
        if self._last is not None:
            self._last.result()

    def _add(self, folders: Sequence[Path], exclude: Sequence[str] | None):
        self._done = self._total = 0
        self._began = 0.0
        self._error = ""
        try:
            with self._bar() as show:
                progress = partial(self._progress, show)
                report = self._index.add(*folders, progress=progress, exclude=exclude)
            self._left_out = [message for message, _ in report.left_out()]
            self._report(report, len(self._index))
        except KeyboardInterrupt:  # raised by the method below
            pass
        except (ValueError, OSError) as error:
            self._error = message_of(error)
            print_error(self._error)

    def _progress(self, show: Progress | None, done: int, total: int):
        if self._stopping.is_set():
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
            "running": self._last is not None and not self._last.done(),
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
        give_memory_back()
        self.index = index
        self.indexing = indexing
        # warnings are caught for the process, so one query at a time
        self.queries = Turns()
        self.encoder = Turns()  # one example image at a time, because each takes memory
        self.examples: OrderedDict[str, Example] = OrderedDict()
        self.previews = Previews(cache_folder())
        # large images take much memory, so one at a time for each size
        self.makers = {kind: Turns(wait_s=None) for kind in SIZES}
        mimetypes.add_type("text/javascript", ".js")  # Windows may have a different type
        routes = [
            Route("/", FileResponse(PAGE / "page.html")),
            Route("/search", self.search),
            Route("/months", self.months),
            Route("/status", self.status),
            Route("/example", self.take_example, methods=["POST"]),
            Route("/example/{name}", self.example),
            *(Route(f"/{kind}/{{name}}", self.preview, name=kind) for kind in SIZES),
            Route("/video/{name}", self.video),
            Route("/hit/{name}", self.hit),
            Route("/left-out", self.left_out),
            Route("/folders", self.add_folders, methods=["POST"]),
            Mount("/", StaticFiles(directory=PAGE)),
        ]
        access = read_access(index.folder)
        super().__init__(routes, host, port, access)
        write_access(index.folder, replace(access, origin=self.origin))

    def close(self):
        """Stop listening and decoding."""
        super().close()
        for each in (*self.makers.values(), self.previews, self.queries, self.encoder):
            each.close()

    async def search(self, request: Request) -> Response:
        """Photographs that fit a query."""
        return await self.queries.run(self._search, request)

    def months(self, request: Request) -> Response:
        """How many photographs each month has, newest first."""
        dates = self.index.catalog.timeline(_filter(request.query_params))
        return Json([*Counter(taken[:7] for _, taken in dates).items()])

    def status(self, request: Request) -> Response:
        """How far the indexing is."""
        state: dict[str, Any] = {"running": False, "error": "", "left_out": []}
        if self.indexing is not None:
            state = self.indexing.state()
        texts = {
            "error": translated(request, state["error"]),
            "left_out": [translated(request, each) for each in state["left_out"]],
        }
        return Json(state | texts | {"files": len(self.index)})

    async def take_example(self, request: Request) -> Response:
        """Keep an example image for later queries, and answer with its name."""
        # a browser sends this header only from a page of this server
        if "X-DCCLIP" not in request.headers:
            raise BadRequest("Only the page can do this.", status_code=403)
        async with self.body(request, MAX_EXAMPLE) as content:
            return Json({"name": await self.encoder.run(self._remember, content)})

    def example(self, request: Request) -> Response:
        """An example image, small."""
        example = self._example(request.path_params["name"])
        return Response(example.thumbnail, media_type="image/jpeg")

    async def preview(self, request: Request) -> Response:
        """A photograph, or the frame of a video, in one of two sizes."""
        file = await run_in_threadpool(self._file, request)
        kind = request.scope["route"].name
        wanted = file.state.version, file.seconds, kind
        content = await run_in_threadpool(self.previews.find, *wanted)
        if content is None:
            content = await self.makers[kind].run(self.previews.make, file.path, *wanted)
        # what has its version in its address lasts
        headers = {"Cache-Control": LASTING} if "version" in request.query_params else None
        return Response(content, headers=headers, media_type="image/jpeg")

    def video(self, request: Request) -> Response:
        """A video, or the part of it that the header `Range` names."""
        file = self._file(request)
        if file.seconds is None:
            raise BadRequest("id: the index has no video {}.", file.id, status_code=404)
        return FileResponse(file.path)

    def hit(self, request: Request) -> Response:
        """A photograph as a search lists it."""
        file = self._file(request)
        (hit,) = hits_of([[file]], [None])
        return Json(self._entry(hit))

    def left_out(self, request: Request) -> Response:
        """What the index left out, and why, with the paths of files that cannot be read."""
        causes: dict[str, list[str]] = {}
        for path, cause in self.index.catalog.failures():
            causes.setdefault(translated(request, cause), []).append(_shown(path))
        listed = [{"cause": cause, "paths": paths[:MAX_TOP]} for cause, paths in causes.items()]
        return Json({"causes": listed})

    async def add_folders(self, request: Request) -> Response:
        """Index folders that a command of this user names, which found this server running."""
        assert self.access is not None
        if not is_same(request.headers.get(KEY_HEADER, ""), self.access.key):
            raise BadRequest("Only the dcclip command can do this.", status_code=403)
        async with self.body(request, MAX_FOLDERS) as content:
            try:
                asked = json.loads(content)
                folders = [Path(name) for name in asked["folders"]]
                exclude = asked["exclude"]
            except (ValueError, LookupError, TypeError) as error:
                raise BadRequest("The body is not JSON ({}).", error) from error
        require_folders(folders)
        if self.indexing is not None and folders:
            self.indexing.add(folders, exclude)
        return Json({})

    def _remember(self, content: bytes) -> str:
        runtime = self.index.runtime
        image = decode_sent(content, runtime.edge)
        embedding = runtime.encode_images([image])[0]
        name = fingerprint(content)
        self.examples[name] = Example(runtime, embedding, encode_thumbnail(image))
        while len(self.examples) > EXAMPLES:
            self.examples.popitem(last=False)
        return name

    def _example(self, name: str) -> "Example":
        example = self.examples.get(name)
        if example is None or example.runtime is not self.index.runtime:  # as after an upgrade
            raise UserError("The example image is gone. Choose it again.")
        return example

    def _file(self, request: Request) -> File:
        """The photograph of a request, which has not changed."""
        file = self.index.catalog.file(*_photograph(request.path_params["name"]))
        version = request.query_params.get("version")
        if (
            not file
            or version not in (None, file.state.version)  # a different file has this number now
            or not os.path.isabs(file.path)
            or not file.state.is_current()
        ):
            raise UnreadablePhotoError("changed since it was indexed")
        return file

    def _search(self, request: Request) -> Response:
        parameters = request.query_params
        skip = max(0, _number(parameters, "skip", 0))
        top = max(1, min(_number(parameters, "top", TOP), MAX_TOP))
        has_dates = parameters.get("dates") != "off"
        text, without, chosen, dates = understand(
            parameters.get("q", ""), _filter(parameters), has_dates
        )
        like = [_photograph(parameters["like"])] if "like" in parameters else []
        images = [self._example(parameters["example"]).embedding] if "example" in parameters else []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", QueryWarning)
            hits = find(self.index, text, without, images, like, chosen, top, skip)
        is_query = bool(text or without or like or images)
        may = may_fit(hits)
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
        return Json(
            {
                "is_query": is_query,
                "total": self.index.count(chosen),
                "without": without,
                "fits": fits,
                "may": may,
                "hits": [self._entry(hit) for hit in hits],
                "more": more,
                "dates": dates and {name: value for name, value in vars(dates).items() if value},
                "notes": [translated(request, message_of(each.message)) for each in caught],
            }
        )

    def _entry(self, hit: Hit) -> dict[str, Any]:
        """What the page shows of a photograph."""
        path = _shown(hit.path)
        return {
            "id": f"{hit.id}@{hit.seconds}" if hit.seconds else f"{hit.id}",
            "version": hit.version,
            "path": path,
            "name": Path(path).name,
            "folder": str(Path(path).parent),
            "date": hit.taken,
            "seconds": hit.seconds,
            "time": hit.time,
            "ratio": round(self.previews.ratio(hit.path, hit.version, hit.seconds), 3),
            "score": None if hit.score is None else round(hit.score, 3),
            "copies": len(hit.copies),
            "fits": hit.fits,
            "words": hit.words,
            "size": hit.size,
            "is_current": hit.is_current,
        }


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _filter(parameters: QueryParams) -> Filter:
    names = ("after", "before", "path", "every")
    return Filter(*(parameters.get(name, "").strip() or None for name in names))


def _number(parameters: QueryParams, name: str, default: int) -> int:
    value = parameters.get(name) or str(default)
    if not value.isdecimal():
        raise BadRequest("{}: got {!r}, expected a whole number.", name, value)
    return int(value)


def _photograph(text: str) -> tuple[int, float]:
    """Id of a photograph, and time of the frame of a video, from the `id` that the page has."""
    match = PHOTOGRAPH.fullmatch(text)
    if match is None:
        raise BadRequest("id: the index has no file {}.", text, status_code=404)
    return int(match[1]), float(match[2] or 0)
