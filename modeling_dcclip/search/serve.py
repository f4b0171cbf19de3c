"""A page on localhost to search an index: `dcclip serve`.

Only photographs of the index are read: a request names a number, never a path, and an image is decoded and encoded
again. A file that has changed since it was indexed is not shown.
"""

import os
import threading
import warnings
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
HTML = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DC-CLIP</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
<form id="form" role="search">
<input id="query" type="search" enterkeyhint="search" autocomplete="off" maxlength="2000"
 aria-label="搜索照片 / Search photographs" placeholder="海边的日落 / sunset at the sea">
<button>搜索 / Search</button>
</form>
<p id="status" role="status"></p>
<main id="grid"></main>
<script src="/page.js"></script>
</html>
"""

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px system-ui, sans-serif; margin: 0; }
form { position: sticky; top: 0; display: flex; gap: .5rem; padding: .75rem; background: Canvas; }
input { flex: 1; min-width: 0; }
input, button { font: inherit; padding: .5rem .75rem; }
#status { margin: 0 .75rem .5rem; min-height: 1.3em; opacity: .75; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(160px, 45%), 1fr)); gap: 8px; }
main { padding: 0 .75rem; }
figure { margin: 0; min-width: 0; }
figure button { display: block; width: 100%; padding: 0; border: 0; background: #8882; cursor: pointer; }
figure button:focus-visible { outline: 3px solid Highlight; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; }
figcaption { font-size: 12px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; padding: 2px 0 6px; }
"""

SCRIPT = """
"use strict";
const [form, query, status, grid] = ["form", "query", "status", "grid"].map((id) => document.getElementById(id));
let latest = 0;

function figureOf(hit) {
  const figure = document.createElement("figure");
  const similar = document.createElement("button");
  const image = document.createElement("img");
  const name = hit.id + "?version=" + hit.version;
  image.src = "/thumbnail/" + name;
  image.alt = hit.name;
  image.loading = "lazy";
  similar.title = "相似照片 / Similar photographs";
  similar.append(image);
  similar.addEventListener("click", () => visit({ similar: hit.id }));
  const caption = document.createElement("figcaption");
  const link = document.createElement("a");
  link.href = "/photo/" + name;
  link.target = "_blank";
  link.textContent = hit.name;
  caption.title = hit.path;
  caption.append(hit.score === null ? hit.date + " " : hit.score.toFixed(3) + " ", link);
  figure.append(similar, caption);
  return figure;
}

async function show() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const number = ++latest;
  query.value = parameters.get("q") ?? "";
  status.textContent = "…";
  let answer;
  try {
    const response = await fetch("/search?" + parameters);
    answer = await response.json();
  } catch (error) {
    answer = { error: String(error) };
  }
  if (number !== latest) return;  // a later query was faster
  status.textContent = answer.error ?? [...answer.notes, answer.hits.length + " / " + answer.files].join(" · ");
  grid.replaceChildren(...(answer.hits ?? []).map(figureOf));
  scrollTo(0, 0);
}

function visit(parameters) {
  const hash = "#" + new URLSearchParams(parameters);
  if (hash === location.hash) show();
  else location.hash = hash;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  visit(query.value.trim() ? { q: query.value } : {});
});
addEventListener("hashchange", show);
show();
query.focus({ preventScroll: true });
"""

PAGES = {
    "/": ("text/html", HTML),
    "/page.css": ("text/css", STYLE),
    "/page.js": ("text/javascript", SCRIPT),
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
        self.image_lock = threading.Lock()  # one large image in memory at a time
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
            content_type, text = PAGES[url.path]
            self.send_content(f"{content_type}; charset=utf-8", text.encode())
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
            with self.server.image_lock:
                content = make_thumbnail(file.path, edge)
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
