"""What all studies share: options, rows that outlive an interruption, tables of means over seeds."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from training.data import evenly_spaced_rows, load_source, require_columns
from training.data.reader import digest_sources
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import expanded
from training.utils.results import (
    RESULTS_FILE,
    Results,
    Row,
    make_meta,
    markdown_table,
    portable_values,
)

PROGRAM = "python -m training.studies"
CAPTIONED = ("image", *LANGUAGES)  # columns of images with captions in both languages
# options that a later call may change, because rows name their values or do not depend on them
EXTENDABLE = ("arms", "backends", "models", "output_dir", "seeds", "sizes", "threads")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of every study.

    Args:
        output_dir: Folder for results.json and scratch files. Runs whose results are already there are not repeated.
    """

    output_dir: str

    def require_at_least(self, low: int, *names: str):
        """Check numbers, and lists of numbers.

        Raises:
            ValueError: A number is smaller, or a list is empty.
        """
        for name in names:
            value = getattr(self, name)
            values = value if isinstance(value, list) else [value]
            if not values or min(values) < low:
                raise ValueError(f"{name}: must be at least {low}, got {value}.")


class Study:
    """Results of one study, written after every run.

    Args:
        name: Name of the study on the command line.
        options: Its options.
        data: Source of the images and texts.
        conditions: Further facts on which the results depend, such as a fingerprint of the weights.

    Raises:
        ValueError: The folder has results of other settings.
    """

    def __init__(self, name: str, options: StudyOptions, data: str, **conditions: Any):
        self.folder = Path(options.output_dir)
        settings = {
            key: value for key, value in asdict(options).items() if key not in EXTENDABLE
        } | conditions
        named = [
            os.path.abspath(expanded(value))
            for value in settings.values()
            if isinstance(value, str)
        ]
        settings["files_digest"] = digest_sources(named)
        settings = portable_values(json.loads(json.dumps(settings)))  # as the file has them
        meta = make_meta(data, None, command_of(f"{PROGRAM} {name}", options), settings=settings)
        self.results = Results(meta)
        path = self.folder / RESULTS_FILE
        if path.exists():
            earlier = Results.read(path)
            before = earlier.meta.get("settings", {})
            changed = sorted(
                key for key in {*before, *settings} if before.get(key) != settings.get(key)
            )
            if changed:
                key = changed[0]
                raise ValueError(
                    f"output_dir: {str(path)!r} has results with {key} {before.get(key)}, not {settings.get(key)}. "
                    "Name a different folder, or remove that file."
                )
            self.results.rows = earlier.rows

    def has(self, **fields: Any) -> bool:
        """Whether rows with these fields are measured already."""
        return bool(self.results.values(**fields))

    def add(self, rows: Sequence[Row]):
        """Add the rows of one run, write all results, and print the run in one line."""
        self.results.rows += rows
        self.results.write(self.folder)
        if rows:
            first = rows[0]
            names = [
                first.model,
                first.stage,
                first.set,
                None if first.seed is None else f"seed {first.seed}",
            ]
            values = [
                f"{row.metric}{f' {row.language}' if row.language else ''} {row.value:.4g}"
                for row in rows
                if row.interval is None or row.language is not None
            ]
            print(f"{', '.join(filter(None, names))}: {', '.join(values[:8])}", flush=True)

    def finish(self, table: str):
        """Write the results, and print the table and the path of the results."""
        print(f"\n{table}\n\n{self.results.write(self.folder)}")


def arms_table(results: Results, columns: dict[str, dict[str, str]]) -> str:
    """Render percentages, English / Chinese, as mean over seeds with the standard deviation.

    Args:
        results: Results of a study whose rows name their arm in `model`.
        columns: For each title the fields of its rows.

    Returns:
        Markdown table with a line for each arm.
    """
    lines = [["%, en / zh", "Seeds", *columns], ["---", *["---:"] * (len(columns) + 1)]]
    for arm in dict.fromkeys(row.model for row in results.rows):
        seeds = {row.seed for row in results.rows if row.model == arm} - {None}
        cells = [
            " / ".join(
                mean_and_spread(results.values(model=arm, language=each, **fields))
                for each in LANGUAGES
            )
            for fields in columns.values()
        ]
        lines.append([arm, str(len(seeds) or ""), *cells])
    return markdown_table(lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean of fractions in percent, with the standard deviation if there are several, such as `61.2 ± 0.4`."""
    if not values:
        return "-"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def open_rows(
    source: str, columns: Sequence[str], field: str, number: int | None = None
) -> Dataset:
    """Open columns of a source without decoding its images.

    Args:
        source: Any source that `load_source` accepts.
        columns: Its columns, `image` among them.
        field: Option that names the source, for messages.
        number: Largest number of rows, evenly spaced. Default: all.

    Raises:
        ValueError: The source cannot be opened, or a column is missing.
    """
    rows = require_columns(
        load_source(source, field=field), columns, source, "Name other data.", field=field
    )
    rows = rows.select_columns(list(columns)).cast_column("image", Image(decode=False))
    return rows if number is None else rows.select(evenly_spaced_rows(len(rows), number))
