"""Text in photographs, read by rapidocr while the page is idle: the extra `ocr`.

The catalog has a text for each content, and finds its words. They are read in a process of its own, whose memory and
time no search shares: `main` takes a path a line, and answers with its text, both as JSON.
"""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec

import numpy as np

from modeling_dcclip.runtime_dcclip import ImageInput
from modeling_dcclip.search.background import Background, command_of_main
from modeling_dcclip.search.files import VIDEOS, FileState, extension_of
from modeling_dcclip.search.index import Hit, Index
from modeling_dcclip.search.lance import LanceIndex
from modeling_dcclip.search.photos import UnreadablePhotoError, make_thumbnail
from modeling_dcclip.search.query import LOOKED, Filter

EDGE = 2048  # pixels of the longer side of a photograph that is read
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


def is_available() -> bool:
    """Whether the package that reads texts is installed."""
    return find_spec("rapidocr") is not None


def find(
    index: Index | LanceIndex,
    text: str,
    without: Sequence[str] = (),
    images: Sequence[ImageInput | np.ndarray] = (),
    like: Sequence[tuple[int, float | None]] = (),
    chosen: Filter | None = None,
    top: int = LOOKED,
    skip: int = 0,
) -> list[Hit]:
    """Find photographs: those that fit, and then the most similar others; without a query the newest ones.

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
    query = {"without": without, "images": images, "like": like} | vars(chosen)
    if skip >= LOOKED:
        return index.search(text, top=top, skip=skip, **query)
    return sorted(index.search(text, top=max(top, LOOKED), **query), key=lambda hit: not hit.fits)


def candidates(index: Index) -> list[FileState]:
    """The photographs that look as if they had text and were not read, the likeliest first."""
    looks = index.embed_texts(LOOKS)
    nouns = index.nouns
    with index.catalog.reading():  # no file of a row may leave the index meanwhile
        read = {*index.catalog.column("SELECT row FROM texts")}
        timeline = index.catalog.timeline(Filter())
        rows = np.array([row for row, _ in timeline if row not in read], np.int64)
        scores = index.standard_scores(rows, looks, nouns)
        likely = [rows[place] for place in np.argsort(-scores) if scores[place] >= LINE]
        groups = index.catalog.files_of_rows(likely)
    states = [files[0].state for files in groups.values()]
    return [
        state
        for state in states
        if os.path.isabs(state.path) and extension_of(state.path) not in VIDEOS
    ]


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
            with suppress(OSError, ValueError):
                self._index.refresh()
                if waiting := candidates(self._index):
                    self._read(waiting)
            self.stopping.wait(60 * CHECK_S)

    def _wait(self) -> bool:
        """Wait until nothing else happens; whether to stop."""
        while self._is_busy() and not self.stopping.is_set():
            self.stopping.wait(CHECK_S)
        return self.stopping.is_set()

    def _read(self, waiting: list[FileState]):
        command = command_of_main(__name__)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            self._process = process
            is_ready = process.stdout.readline()
            for state in waiting if is_ready else ():
                if self._wait():
                    break
                if not state.is_current():  # the next update of the index enters its new content
                    continue
                with suppress(BrokenPipeError):  # it has ended
                    process.stdin.write(json.dumps(os.fsdecode(state.path)).encode() + b"\n")
                    process.stdin.flush()
                answer = process.stdout.readline()
                if self.stopping.is_set():
                    break
                digest = self._index.catalog.digest(state.path)
                if digest and state.is_current():
                    # without an answer the process was killed, such as for its memory
                    self._index.catalog.add_texts([(digest, json.loads(answer or '""'))])
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
