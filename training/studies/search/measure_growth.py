"""Memory and time of an index that grows."""

import json
import statistics
from pathlib import Path

from training.studies.search.child import run_dcclip
from training.studies.search.options import GrowthOptions
from training.studies.search.photo_files import encode_photos, write_photos
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.results import Results, Row, make_meta

QUERIES = ("海边的日落", "a dog in the snow")
MAX_PHOTOS = 1000  # different photographs


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
            write_photos(scratch / "photos", encoded, range(before, count))
            for metric, value in measure_step(scratch, options, count - before).items():
                results.rows.append(Row(model="dcclip", metric=metric, set=f"{count:,} files", value=round(value, 4)))
                print(f"{count:,} files: {metric} {value:.4g}", flush=True)
            before = count
    results.write(folder)
    return results


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
    indexed, peak = run_dcclip(*command)
    report = json.loads(indexed.output)
    if report["embedded"] != added:
        raise RuntimeError(f"dcclip index embedded {report['embedded']} files, expected {added}.")
    again = [run_dcclip(*command) for _ in range(options.rounds)]
    answers = [run_dcclip("search", query, *index) for _ in range(options.rounds) for query in QUERIES]
    return {
        "index_peak_bytes": peak,
        "images_per_s": added / report["seconds"],
        "unchanged_s": statistics.median(finished.seconds for finished, _ in again),
        "unchanged_peak_bytes": max(peak for _, peak in again),
        "first_answer_s": statistics.median(finished.seconds for finished, _ in answers),
        "search_peak_bytes": max(peak for _, peak in answers),
    }
