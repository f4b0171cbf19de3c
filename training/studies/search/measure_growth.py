"""Memory and time of an index that grows."""

import hashlib
import json
import os
import statistics
from pathlib import Path

import numpy as np

from modeling_dcclip.files_dcclip import FileState
from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.indexing_dcclip import Outcome, enter
from training.studies.search.child import run_dcclip
from training.studies.search.options import GrowthOptions
from training.studies.search.photo_files import encode_photos, write_photos
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.results import Results, Row, make_meta

QUERIES = ("海边的日落", "a dog in the snow")
MAX_PHOTOS = 1000  # different photographs
COMMITTED = 5000  # random vectors written at once


def measure_growth(options: GrowthOptions, program: str) -> Results:
    """Measure each step, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.

    Raises:
        ValueError: The numbers of files do not grow, or an image cannot be read.
        RuntimeError: A command failed.
    """
    if options.counts != sorted(set(options.counts)) or not options.counts or options.counts[0] < 1:
        raise ValueError(f"counts: got {options.counts}, expected growing numbers of files, such as 5000 20000.")
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(make_meta(options.data, None, command_of(program, options), model=options.model))
    encoded = encode_photos(options.data, min(MAX_PHOTOS, options.counts[-1]), options.width)
    with scratch_folder(folder / ".growth") as scratch:
        before = 0
        for count in options.counts:
            paths = write_photos(scratch / "photos", encoded, range(before, count))
            num_random = 0 if options.embedded is None else max(len(paths) - options.embedded, 0)
            if num_random:
                enter_random(scratch / "index", options.model, paths[:num_random])
            for metric, value in measure_step(scratch, options, len(paths) - num_random).items():
                results.rows.append(Row(model="dcclip", metric=metric, set=f"{count:,} files", value=round(value, 4)))
                print(f"{count:,} files: {metric} {value:.4g}", flush=True)
            before = count
    results.write(folder)
    return results


def enter_random(folder: Path, model: str, paths: list[Path]):
    """Enter files in an index with random vectors, as if they had been embedded.

    Args:
        folder: Folder of the index; it is created if it is missing.
        model: Folder of the model of the index.
        paths: Files of distinct content.
    """
    rng = np.random.default_rng(len(paths))
    with Index.open(folder, model, create=True) as index, index.writing():
        for start in range(0, len(paths), COMMITTED):
            batch = []
            for path in paths[start : start + COMMITTED]:
                status, name = path.stat(), os.fsencode(path.absolute())
                digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
                vector = rng.standard_normal(index.store.dimension, np.float32)
                state = FileState(name, status.st_size, status.st_mtime_ns)
                batch.append(Outcome(name, state, digest, None, vector / np.linalg.norm(vector)))
            with index.catalog.writing():
                enter(index.catalog, index.store, batch)


def measure_step(scratch: Path, options: GrowthOptions, added: int) -> dict[str, float]:
    """Index what is new, run again, and search.

    Args:
        scratch: Folder with `photos`, and with `index` after the first step.
        options: Options of the command.
        added: Number of files that are new.

    Returns:
        The numbers by metric: bytes, seconds, and files a second.
    """
    index = ["--index", str(scratch / "index")]
    command = ["index", str(scratch / "photos"), "--model", options.model, "--json", *index]
    indexed = run_dcclip(*command)
    report = json.loads(indexed.output)
    if report["embedded"] != added:
        raise RuntimeError(f"dcclip index embedded {report['embedded']} files, expected {added}.")
    again = [run_dcclip(*command) for _ in range(options.rounds)]
    answers = [run_dcclip("search", query, *index) for _ in range(options.rounds) for query in QUERIES]
    return {
        "index_peak_bytes": indexed.peak_bytes,
        "images_per_s": added / report["seconds"],
        "unchanged_s": statistics.median(each.seconds for each in again),
        "unchanged_cpu_s": statistics.median(each.cpu_s for each in again),
        "unchanged_peak_bytes": max(each.peak_bytes for each in again),
        "first_answer_s": statistics.median(each.seconds for each in answers),
        "first_answer_cpu_s": statistics.median(each.cpu_s for each in answers),
        "search_peak_bytes": max(each.peak_bytes for each in answers),
    }
