"""What studies of many training runs share: they go on after an interruption, and render means over seeds."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from training.utils.results import Results


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


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean of shares in percent, with its standard deviation if there are several, such as `61.2 ± 0.4`.

    Args:
        values: Shares, 0..1, one for each seed.
    """
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
