"""What all studies share: options, rows that outlive an interruption, means over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.utils.cli import command_of
from training.utils.keys import differences, make_key, no_key
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

PROGRAM = "python -m training.experiments.studies"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of every study.

    Args:
        output_dir: Folder for results.json and scratch files. Runs whose results are already there are not repeated.
    """

    output_dir: str = no_key()


class Study:
    """Results of one study, written after every run.

    Args:
        name: Name of the study on the command line.
        options: Its options. A later call may change fields made by `no_key`.
        data: Source of the images and texts.
        conditions: Further facts on which the results depend, such as digests of data and weights.

    Raises:
        ValueError: The folder has results of other settings.
    """

    def __init__(self, name: str, options: StudyOptions, data: str, **conditions: Any):
        self.folder = Path(options.output_dir)
        settings = make_key(options) | conditions
        command = command_of(f"{PROGRAM} {name}", options)
        self.results = Results(make_meta(data, None, command, settings=settings))
        path = self.folder / RESULTS_FILE
        if path.exists():
            earlier = Results.read(path)
            if changed := differences(earlier.meta.get("settings", {}), settings):
                raise ValueError(
                    f"output_dir: {str(path)!r} has results of other settings ({changed[0]}). Name a "
                    "different folder, or remove that file."
                )
            self.results.rows = earlier.rows

    def has(self, **fields: Any) -> bool:
        """Whether rows with these fields are measured already."""
        return bool(self.results.values(**fields))

    def add(self, rows: Sequence[Row]):
        """Add the rows of one run, write all results, and print the run in one line."""
        self.results.rows += rows
        self.results.write(self.folder)
        first = rows[0]
        seed = None if first.seed is None else f"seed {first.seed}"
        names = filter(None, (first.model, first.stage, first.protocol, seed))
        values = (f"{row.metric} {row.language or ''} {row.value:.4g}" for row in rows[:8])
        print(f"{', '.join(names)}: {', '.join(values)}", flush=True)

    def finish(self, table: str):
        """Write the results, and print the table and the path of the results."""
        print(f"\n{table}\n\n{self.results.write(self.folder)}")


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean of fractions in percent, with the standard deviation if there are several, such as `61.2 ± 0.4`."""
    if not values:
        return "-"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
