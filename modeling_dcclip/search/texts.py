"""Text in photographs, read by rapidocr while the page is idle: the extra `ocr`.

The texts are a cache in the folder of the index. They are read in a process of its own, whose memory and time no
search shares: `main` takes a path a line, and answers with its text, both as JSON.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput
from modeling_dcclip.search.background import Background, command_of_main
from modeling_dcclip.search.catalog import Catalog, DamagedIndexError, Database
from modeling_dcclip.search.files import VIDEOS, extension_of
from modeling_dcclip.search.fit import standardize
from modeling_dcclip.search.index import Hit, Index
from modeling_dcclip.search.lance import LanceIndex
from modeling_dcclip.search.photos import UnreadablePhotoError, make_thumbnail
from modeling_dcclip.search.query import LOOKED, Filter

NAME = ".words.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS read (path BLOB PRIMARY KEY, version TEXT NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(words, path UNINDEXED, version UNINDEXED);
"""
CHARACTERS = "[\u3400-\u9fff]"  # of Chinese, which has no spaces between words
WORD = r"[^\W\u3400-\u9fff]+"
RUN = re.compile(f"{CHARACTERS}+|{WORD}")
TOKEN = re.compile(f"{CHARACTERS}|{WORD}")
EDGE = 2048  # pixels of the longer side of a photograph that is read
MOST = 60  # photographs that a word finds
CHECK_S = 1.0  # between two looks at whether something else happens
# a photograph is read if its standard score for these is at least LINE
LOOKS = (
    "a screenshot of text",
    "a document with text",
    "a receipt",
    "a sign with words",
    "文字截图",
    "一页文字",
    "收据",
    "有字的牌子",
)
LINE = 1.0
AT_ONCE = 10_000  # vectors in memory


def is_available() -> bool:
    """Whether the package that reads texts is installed."""
    return find_spec("rapidocr") is not None


class Texts(Database):
    """The texts of an index that were read.

    Args:
        folder: Folder of the index.
    """

    def __init__(self, folder: Path):
        path = folder / NAME
        try:
            super().__init__(path, SCHEMA)
        except DamagedIndexError:
            self._begin_again()

    def _begin_again(self):
        """Replace a damaged file by an empty one, so that the photographs are read again."""
        self.close()
        self._path.unlink(missing_ok=True)
        super().__init__(self._path, SCHEMA)

    def execute(self, statement: str, *values: object) -> list[tuple]:
        """Run an SQL statement, and return its rows; if the file is damaged, on an empty one."""
        try:
            return super().execute(statement, *values)
        except DamagedIndexError:
            self._begin_again()
            return super().execute(statement, *values)

    def __len__(self) -> int:
        """Number of photographs that were read."""
        return self.value("SELECT count(*) FROM read")

    def has(self, path: bytes, version: str) -> bool:
        """Whether a file was read, and has not changed since."""
        return self.column("SELECT version FROM read WHERE path = ?", path) == [version]

    def add(self, path: bytes, version: str, text: str):
        """Enter the text of a file, in place of an earlier one."""
        self.execute("DELETE FROM texts WHERE path = ?", path)
        if found := " ".join(_phrases(text)):
            self.execute("INSERT INTO texts VALUES (?, ?, ?)", found, path, version)
        self.execute("INSERT OR REPLACE INTO read VALUES (?, ?)", path, version)

    def find(self, query: str) -> list[tuple[bytes, str]]:
        """Paths and versions of the files whose text has all words of a query, the best first."""
        phrases = " ".join(f'"{phrase}"' for phrase in _phrases(query))
        if not phrases:
            return []
        statement = "SELECT path, version FROM texts WHERE texts MATCH ? ORDER BY rank"
        return self.execute(statement, phrases)

    def remove_missing(self, catalog: Catalog):
        """Remove the texts of files that left the catalog, from the disk as well."""
        present = {*catalog.column("SELECT path FROM files")}
        paths = self.column("SELECT path FROM read")
        if gone := [path for path in paths if path not in present]:
            names = json.dumps([path.hex().upper() for path in gone])
            listed = "hex(path) IN (SELECT value FROM json_each(?))"
            self.execute(f"DELETE FROM read WHERE {listed}", names)
            self.execute("DELETE FROM texts WHERE path NOT IN (SELECT path FROM read)")
            self.execute("INSERT INTO texts (texts) VALUES ('optimize')")
            self.execute("VACUUM")


def _phrases(text: str) -> list[str]:
    """The words of a text, and its runs of Chinese characters with spaces between them: each is a token."""
    runs = RUN.findall(unicodedata.normalize("NFKC", text).lower())
    return [" ".join(TOKEN.findall(run)) for run in runs]


def find(
    index: Index | LanceIndex,
    text: str,
    without: Sequence[str] = (),
    images: Sequence[ImageInput] = (),
    like: Sequence[tuple[int, float | None]] = (),
    chosen: Filter | None = None,
    top: int = LOOKED,
    skip: int = 0,
) -> list[Hit]:
    """Find photographs: those whose text has all words of a query, others that fit, and then the most similar others.

    Args:
        index: Index to search; the other arguments are those of its method `search`.
        text: See there. Without a text, images or `like`, the newest photographs are found.
        without: See there.
        images: See there.
        like: See there.
        chosen: Which files may be found.
        top: Number of photographs; for a query at least `LOOKED`, unless more are left out.
        skip: Number of photographs to leave out. Of a query, numbers below `LOOKED` leave out none.
    """
    chosen = chosen or Filter()
    if not (text or without or images or like):
        return index.newest(top, chosen, skip)
    written = _written(index, text, chosen) if isinstance(index, Index) else []
    query = {"without": without, "images": images, "like": like} | vars(chosen)
    if skip >= LOOKED:
        return index.search(text, top=top, skip=skip - len(written), **query)
    hits = index.search(text, top=max(top, LOOKED), **query)
    ids = {hit.id for hit in written}
    fit = 1.0 if hits and hits[0].fit is not None else None
    found = [replace(hit, fit=fit) for hit in written]
    found += [hit for hit in hits if hit.id not in ids]
    return sorted(found, key=lambda hit: not hit.fits)


def _written(index: Index, query: str, chosen: Filter) -> list[Hit]:
    """Photographs of an index that pass a filter, and whose text has all words of a query."""
    if not query or not (index.folder / NAME).exists():
        return []
    with closing(Texts(index.folder)) as texts:
        found = texts.find(query)
    with index.catalog.reading():  # no file of a row may leave the index meanwhile
        allowed = {*index.catalog.rows_of_files(chosen).tolist()} if found else set()
        rows: list[int] = []
        for path, version in found:
            file = index.catalog.file_at(path)
            if file is None or file.state.version != version or file.row not in allowed:
                continue
            if file.row not in rows:  # as of a copy
                rows.append(file.row)
            if len(rows) == MOST:
                break
        return index.hits(rows, chosen)


def candidates(index: Index, texts: Texts) -> list[tuple[bytes, str]]:
    """Paths and versions of the photographs that look as if they had text and were not read, the likeliest first."""
    looks = index.embed_texts(LOOKS)
    nouns = index.nouns
    with index.catalog.reading():  # no file of a row may leave the index meanwhile
        rows = np.array([row for row, _ in index.catalog.timeline(Filter())], np.int64)
        scores = np.zeros(len(rows))
        for start in range(0, len(rows), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            vectors = index.store.read(rows[part])
            scores[part] = standardize((vectors @ looks.T).max(1), vectors @ nouns.T)
        likely = [rows[place] for place in np.argsort(-scores) if scores[place] >= LINE]
        groups = index.catalog.files_of_rows(likely)
    found = []
    for files in groups.values():
        state = files[0].state
        is_photograph = os.path.isabs(state.path) and extension_of(state.path) not in VIDEOS
        if is_photograph and not texts.has(state.path, state.version):
            found.append((state.path, state.version))
    return found


class TextReader(Background):
    """Reads the texts of an index while nothing else happens.

    Args:
        index: Index that is searched meanwhile.
        is_busy: Function that tells whether to wait.
    """

    def __init__(self, index: Index, is_busy: Callable[[], bool]):
        super().__init__()
        self._index = index
        self._is_busy = is_busy
        self._process: subprocess.Popen | None = None

    def __exit__(self, *error: object):
        self.stopping.set()
        if self._process is not None:
            self._process.kill()
        super().__exit__()

    def run(self):
        """Read what is waiting, and look for new photographs once a minute."""
        while not self._wait():
            # an index that cannot be read or written now, which a search reports
            with suppress(OSError, ValueError), closing(Texts(self._index.folder)) as texts:
                self._index.refresh()
                texts.remove_missing(self._index.catalog)
                if waiting := candidates(self._index, texts):
                    self._read(texts, waiting)
            self.stopping.wait(60 * CHECK_S)

    def _wait(self) -> bool:
        """Wait until nothing else happens; whether to stop."""
        while self._is_busy() and not self.stopping.is_set():
            self.stopping.wait(CHECK_S)
        return self.stopping.is_set()

    def _read(self, texts: Texts, waiting: list[tuple[bytes, str]]):
        command = command_of_main(__name__)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            self._process = process
            is_ready = process.stdout.readline()
            for path, version in waiting if is_ready else ():
                if self._wait():
                    break
                with suppress(BrokenPipeError):  # it has ended
                    process.stdin.write(json.dumps(os.fsdecode(path)).encode() + b"\n")
                    process.stdin.flush()
                answer = process.stdout.readline()
                if self.stopping.is_set():
                    break
                # without an answer it was killed, such as for its memory
                texts.add(path, version, json.loads(answer or '""'))
                if not answer:
                    break
            process.kill()


def main():
    """Read the photographs that stdin names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the process that reads the answers
    if hasattr(os, "nice"):
        os.nice(10)
    from PIL import Image
    from rapidocr import RapidOCR

    settings = {"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1}
    engine = RapidOCR(params=settings)
    print("ready", flush=True)
    for line in sys.stdin:
        text = ""
        with suppress(UnreadablePhotoError):  # it has changed, or a preview of it says why
            image = Image.open(io.BytesIO(make_thumbnail(json.loads(line), EDGE)))
            text = "\n".join(engine(np.asarray(image)[:, :, ::-1]).txts or ())
        print(json.dumps(text), flush=True)
