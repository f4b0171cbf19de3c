"""Kill indexing with SIGKILL at random moments, continue it, and compare the index with that of an unbroken run.

Every index has 65 photographs and a damaged file. A run commits after every second file and reads few files ahead, so
that kills meet every part of the work. Nothing is imported that needs PyTorch.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.indexing_dcclip import num_cores
from tests.modeling.color_model import save_color_model
from training.utils.results import Row

ROOT = Path(__file__).parents[1]
NUM_PHOTOS = 65
COMMIT_FILES, WAITING = 2, 4
# what a kill loses was not committed yet: the files of a commit, and those that each thread has read ahead
MAX_REPEATED = COMMIT_FILES + WAITING * num_cores()
TABLES = ("contents", "files", "failures", "free_rows", "folders", "counters")
# an image takes a while, and its path is printed when it is embedded
CHILD = f"""
import sys, time
from modeling_dcclip import indexing_dcclip
from modeling_dcclip.index_dcclip import Index
indexing_dcclip.COMMIT_FILES, indexing_dcclip.WAITING = {COMMIT_FILES}, {WAITING}
read = indexing_dcclip._read
def slow(path, **others):
    time.sleep(0.01)
    outcome = read(path, **others)
    if outcome.vector is not None:
        print(path.decode(), flush=True)
    return outcome
indexing_dcclip._read = slow
with Index.open(sys.argv[1], sys.argv[2], create=True) as index:
    print("open", flush=True)
    index.add(sys.argv[3])
"""


@dataclass
class IndexCounts:
    """Result of the kill test of indexing.

    Args:
        kills: Number of runs that were killed.
        identical: Number of them whose index equals that of an unbroken run after they were continued.
        repeated: For each kill, number of images that were embedded twice.
    """

    kills: int = 0
    identical: int = 0
    repeated: list[int] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every index is identical, and only images that were not committed were embedded twice."""
        return self.kills == self.identical and max(self.repeated) <= MAX_REPEATED

    @property
    def rows(self) -> list[Row]:
        """The counts as rows of a results file."""
        numbers = {
            "kills": self.kills,
            "identical": self.identical,
            "images": NUM_PHOTOS,
            "most_repeated": max(self.repeated),
            "most_in_work": MAX_REPEATED,
        }
        return [Row(model="dcclip index", metric=metric, value=value) for metric, value in numbers.items()]

    def __str__(self) -> str:
        return (
            f"{self.kills} kills during indexing, {self.identical} identical indexes; at most {max(self.repeated)} of "
            f"{NUM_PHOTOS} images embedded twice, {MAX_REPEATED} may be in work"
        )


def write_photos(folder: Path):
    """Write small photographs of different content in seven folders, and a damaged file."""
    rng = np.random.default_rng(0)
    for number in range(NUM_PHOTOS):
        path = folder / f"{number % 7}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(path)
    (folder / "broken.jpg").write_bytes(b"no")


def content(folder: Path) -> list:
    """Everything that an index has: all tables of the catalog, and the vectors of all rows."""
    with Index.open(folder) as index:
        vectors = index.store.read(np.arange(index.catalog.num_rows)).tobytes()
        path = folder / index.manifest["data"] / "catalog.sqlite"
    with closing(sqlite3.connect(path)) as catalog:
        return [vectors, *(catalog.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in TABLES)]


def start(*arguments: Path) -> subprocess.Popen:
    """Start a run, and wait until it has opened the index: the start of the interpreter is no part of the work."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def run(folder: Path, kills: int, seed: int) -> IndexCounts:
    """Kill and continue runs.

    Args:
        folder: Empty folder for the photographs and the indexes.
        kills: Number of runs to kill.
        seed: Seed of the random moments.
    """
    rng, counts = random.Random(seed), IndexCounts()
    photos, model = folder / "photos", save_color_model(folder / "model")
    write_photos(photos)
    with Index.open(folder / "unbroken", model, create=True) as index:
        assert index.add(photos).embedded == NUM_PHOTOS
    expected = content(folder / "unbroken")
    while counts.kills < kills:
        killed = folder / f"killed-{counts.kills}"
        process = start(killed, model, photos)
        assert process.stdout is not None
        embedded = [process.stdout.readline() for _ in range(rng.randrange(NUM_PHOTOS))]
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        embedded += process.communicate()[0].splitlines()
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"A run ended with code {process.returncode} before it was killed.")
        process = start(killed, model, photos)
        embedded += process.communicate()[0].splitlines()
        counts.kills += 1
        counts.identical += process.returncode == 0 and content(killed) == expected
        counts.repeated.append(len(embedded) - NUM_PHOTOS)
        print(counts, flush=True)
    return counts
