"""Indexing against a bare loop."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image

from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.runtime_dcclip import Runtime
from training.edge.sessions import open_session
from training.studies.benchmarks.benchmark import Benchmark
from training.studies.search.options import SearchOptions
from training.studies.search.photo_files import encode_photos, write_photos
from training.utils.files import scratch_folder


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
        self.session = open_session(self.runtime.file("vision"), 1)  # of the bare loop

    def run(self):
        """Measure everything, and write results.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self.folder / ".search") as scratch:
            encoded = encode_photos(self.options.data, self.options.num_images, self.options.width)
            files = write_photos(scratch / "photos", encoded, range(self.options.num_images))
            self.measure_indexing(files, scratch)
        self.write(self.options.data, model=self.options.model)

    def measure_indexing(self, files: list[Path], scratch: Path):
        """Rates of the index, of the bare loop and of decoding alone.

        Args:
            files: JPEG files in `scratch`/photos.
            scratch: Folder for the indexes.
        """
        photos = scratch / "photos"
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
        for name in rates:
            self.add(name, "images_per_s", statistics.median(rates[name]))
            self.add(name, "images_per_cpu_s", statistics.median(cpu_rates[name]))
        for metric, values in (("over_bare_loop", rates), ("over_bare_loop_cpu", cpu_rates)):
            ratios = [ours / bare for ours, bare in zip(values["index"], values["bare loop"], strict=True)]
            self.add("index", metric, statistics.median(ratios))

    def _bare_loop(self, files: list[Path]):
        """Decode each file in draft mode, and encode a ready tensor."""
        edge = self.runtime.preprocess.edge or 0
        ready = {"pixel_values": self.runtime.preprocess(files[0])[None]}

        def encode(path: Path):
            with Image.open(path) as image:
                image.draft("RGB", (edge, edge))
                image.load()
            return self.session.run(None, ready)[0]

        _in_threads(encode, files)


def _in_threads(work: Callable[[Path], object], files: list[Path]):
    """Do the work for each file, in as many threads as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        for _ in executor.map(work, files):
            pass


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds of the block: `wall`, and `cpu` of all threads."""
    seconds: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield seconds
    seconds |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
