"""Indexing against a bare loop, and a scan of many vectors."""

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.vectors_dcclip import DTYPES, VectorStore
from training.data import load_source
from training.data.images import image_cell, open_image
from training.edge.sessions import open_session
from training.studies.benchmarks.benchmark import Benchmark
from training.studies.search.options import SearchOptions
from training.utils.files import scratch_folder

NEAREST = 10
SCANS = 7
WRITTEN = 65_536  # vectors written at once


class SearchStudy(Benchmark):
    """One run of the study.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """

    def __init__(self, options: SearchOptions, program: str):
        super().__init__(options, program)
        self.options = options
        self.runtime = Runtime(options.model, threads=1)
        rows = load_source(options.data)
        self.samples = rows.select(range(min(options.num_images, len(rows))))

    def run(self):
        """Measure everything, and write results.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self.folder / ".search") as scratch:
            photos = scratch / "photos"
            self._write_photos(photos)
            self.measure_indexing(photos, scratch)
            vectors = self.runtime.encode_images(sorted(photos.iterdir()))
            self.measure_scans(vectors, scratch)
        self.write(self.options.data, model=self.options.model)

    def _write_photos(self, folder: Path):
        folder.mkdir(parents=True)
        for number, sample in enumerate(self.samples):
            image = _rgb(sample["image"])
            size = (self.options.width, max(round(self.options.width * image.height / image.width), 1))
            image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=88)

    def measure_indexing(self, photos: Path, scratch: Path):
        """Rates of the index, of the bare loop and of decoding alone, and the time of a run without changes."""
        files = sorted(photos.iterdir())
        rates: dict[str, list[float]] = {"index": [], "bare loop": [], "decoding": []}
        cpu_rates: dict[str, list[float]] = {name: [] for name in rates}
        for number in range(self.options.rounds):
            with Index.open(scratch / f"index{number}", self.runtime, create=True) as index:
                self.runtime.encode_images([files[0]])  # both find the tower loaded
                calls: dict[str, Callable[[], object]] = {
                    "index": partial(index.add, photos),
                    "bare loop": partial(self._bare_loop, files),
                    "decoding": partial(_in_threads, self.runtime.preprocess, files),
                }
                for name, call in calls.items():
                    with _timed() as seconds:
                        call()
                    rates[name].append(len(files) / seconds["wall"])
                    cpu_rates[name].append(len(files) / seconds["cpu"])
                with _timed() as seconds:
                    index.add(photos)
        for name in rates:
            self.add(name, "images_per_s", statistics.median(rates[name]))
            self.add(name, "images_per_cpu_s", statistics.median(cpu_rates[name]))
        for metric, values in (("over_bare_loop", rates), ("over_bare_loop_cpu", cpu_rates)):
            ratios = [ours / bare for ours, bare in zip(values["index"], values["bare loop"], strict=True)]
            self.add("index", metric, statistics.median(ratios))
        self.add("index", "unchanged_cpu_ms_per_image", 1000 * seconds["cpu"] / len(files))

    def _bare_loop(self, files: list[Path]):
        """Decode each file in draft mode, and encode a ready tensor."""
        session, edge = open_session(self.runtime.file("vision"), 1), self.runtime.preprocess.edge or 0
        ready = {"pixel_values": self.runtime.preprocess(files[0])[None]}

        def encode(path: Path):
            with Image.open(path) as image:
                image.draft("RGB", (edge, edge))
                image.load()
            return session.run(None, ready)[0]

        _in_threads(encode, files)

    def measure_scans(self, vectors: np.ndarray, scratch: Path):
        """Processor time of one search in many vectors."""
        count = self.options.num_vectors
        for dtype in DTYPES:
            folder = scratch / f"scan-{dtype}"
            store = VectorStore(folder, vectors.shape[1], dtype)
            for start in range(0, count, WRITTEN):
                rows = np.arange(start, min(start + WRITTEN, count))
                store.write(rows, vectors[rows % len(vectors)])
            times = []
            for query in vectors[:SCANS]:
                with _timed() as seconds:
                    store.search(query, count, NEAREST, None)
                times.append(1000 * seconds["cpu"])
            self.add(dtype, "scan_cpu_ms", min(times))
            shutil.rmtree(folder)


def _in_threads(work: Callable[[Path], object], files: list[Path]):
    """Do the work for each file, in as many threads as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        for _ in executor.map(work, files):
            pass


def _rgb(cell: object) -> Image.Image:
    """Image of a cell, which the source may have decoded."""
    if isinstance(cell, Image.Image):
        return cell.convert("RGB")
    encoded = image_cell(cell)
    if encoded is None:
        raise ValueError("data: a row has no image. Remove it, or choose other data.")
    return open_image(encoded)


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds of the block: `wall`, and `cpu` of all threads."""
    seconds: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield seconds
    seconds |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
