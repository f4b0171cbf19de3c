"""What studies of many training runs share: they keep every run, go on after an interruption, and render means."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from training.utils.results import Results, Row


def take_over(results: Results, path: Path, conditions: Sequence[str]):
    """Take over the rows of an earlier call of a study, which are not measured again.

    Args:
        results: Results of this call, which have no rows yet.
        path: Results file of the earlier call; it may be missing.
        conditions: Names in the provenance that must be the same.

    Raises:
        ValueError: The earlier rows were measured under other conditions, or the file is damaged.
    """
    if not path.exists():
        return
    earlier = Results.read(path)
    for name in conditions:
        old, new = earlier.meta.get(name), results.meta[name]
        if old != new:
            raise ValueError(
                f"output_dir: {str(path)!r} has runs with {name} {old}, not {new}. Name another folder, or remove "
                "that file."
            )
    results.rows = earlier.rows


def keep_rows(results: Results, rows: list[Row], folder: Path):
    """Add the rows of one run to the results, write them, and print the run in one line.

    Args:
        results: Results of the study.
        rows: Rows of the run; those with a language are printed.
        folder: Folder of the results.
    """
    results.rows += rows
    results.write(folder)
    first = rows[0]
    run = [
        first.model,
        *([first.stage] if first.stage else []),
        *([] if first.seed is None else [f"seed {first.seed}"]),
    ]
    values = [f"{row.metric} {row.language} {100 * row.value:.1f}" for row in rows if row.language]
    print(f"{', '.join(run)}: {', '.join(values)}", flush=True)


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean of shares in percent, with its standard deviation if there are several, such as `61.2 ± 0.4`.

    Args:
        values: Shares, 0..1, one for each seed.
    """
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
