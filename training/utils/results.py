"""`results.json`: rows of numbers, with the command, commit, data and seed that produced them.

Every number that a person reads is rendered from such a file.
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from training.utils.files import (
    REPO_ROOT,
    atomic_write,
    map_strings,
    portable,
    portable_text,
    write_text,
)
from training.utils.reading import check_value, read_mapping

if TYPE_CHECKING:
    import pandas

RESULTS_FILE = "results.json"
PLOT_FILE = "results.png"
MAX_COLUMNS = 8  # widest table that people read
TITLE_WIDTH = 24  # characters in a line of a panel's title
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "timm", "tokenizers")
PERCENTS = ("title", "label", "measure", "language", "value", "low", "high")  # columns

Key = tuple[str | None, str | None, str]  # set, language and metric of a row


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number. Fields that do not apply are None.

    Args:
        model: Name of the model, or `teacher` or `student`.
        metric: Name of the metric, such as `top1` or `parameters`.
        value: The number: a fraction in 0..1, a count, bytes or milliseconds, as the metric defines.
        stage: Training stage: `untrained`, `distilled`, `aligned` or `no_teacher`; `start` and `finetuned`.
        set: Name of the evaluation set; None for size and latency.
        protocol: Name of the evaluation protocol.
        language: ISO 639-1 code of the prompts or captions.
        seed: Seed of the training run.
        interval: 95 % confidence interval of a fraction, (low, high).
    """

    model: str
    metric: str
    value: float
    stage: str | None = None
    set: str | None = None
    protocol: str | None = None
    language: str | None = None
    seed: int | None = None
    interval: tuple[float, float] | None = None


@dataclass
class Results:
    """Content of a results file.

    Args:
        meta: Command, commit, seed, versions and data that produced the numbers, as `make_meta` returns them.
        rows: One row for each number.
    """

    meta: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def write(self, folder: str | Path, name: str = RESULTS_FILE) -> Path:
        """Write the file `name` to a folder atomically, without absolute paths, and return its path."""
        path = Path(folder) / name
        names = _portable_names(self.rows)
        rows = [asdict(replace(row, model=names[row.model])) for row in self.rows]
        # the models of `meta` have the names of their rows, other paths the shortest
        meta = map_strings(lambda text: names.get(text) or portable_text(text), self.meta)
        content = {"meta": meta, "rows": rows}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read a file that `write` has written.

        Raises:
            ValueError: The file is missing or damaged, or is not a table of results.
        """
        path = Path(path)
        return check_value(cls, read_mapping(path, path.name), path.name)

    def values(self, **fields: Any) -> list[float]:
        """Return the values of all rows whose fields equal the given ones, such as `metric="top1"`."""
        return [row.value for row in self.rows if fields.items() <= vars(row).items()]

    def mean(self, **fields: Any) -> float | None:
        """Return the mean of `values(**fields)`, such as the mean over seeds; None without such rows."""
        values = self.values(**fields)
        return statistics.fmean(values) if values else None

    def table(self) -> str:
        """Render all rows that have a language as a Markdown table, in percent, averaged over seeds.

        It has one row for each model and stage, and one column for each set, language, metric and protocol, or the
        other way round if these are many.
        """
        means = self._percents().pivot_table("value", "title", "label", sort=False)
        if means.shape[1] >= MAX_COLUMNS:
            means = means.T
        lines = [["model", *means.columns], ["---"] * (1 + means.shape[1])]
        for name, values in means.iterrows():
            cells = ["" if isnan(value) else f"{value:.1f}" for value in values]
            lines.append([name, *cells])
        return markdown_table(lines)

    def plot(self, folder: str | Path) -> Path:
        """Draw the rows of `table` with their 95 % intervals to `PLOT_FILE` in a folder, and return its path.

        It has one panel for each model and stage, one line for each set and metric, and one color for each language.
        """
        from matplotlib.figure import Figure  # without pyplot, which looks for a display

        rows = self._percents()
        titles = list(rows["title"].unique())
        measures = list(rows["measure"].unique())
        languages = list(rows["language"].unique())
        figure = Figure((2.2 * len(titles), 1.2 + 0.3 * len(measures)))
        axes = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
        for (title, language), drawn in rows.groupby(["title", "language"], sort=False):
            number = languages.index(language)
            # the mean over seeds can be outside their range by a rounding error
            below = (drawn["value"] - drawn["low"]).clip(lower=0)
            above = (drawn["high"] - drawn["value"]).clip(lower=0)
            panel = axes[titles.index(title)]
            panel.errorbar(
                drawn["value"],
                drawn["measure"].map(measures.index) + 0.2 * number,
                xerr=[below, above],
                fmt=f"oC{number}",
                markersize=4,
                label=language,
            )
            panel.set_title(fill(title, TITLE_WIDTH), fontsize="medium")
            panel.set_xlabel("%")
            panel.grid(axis="x", alpha=0.3)
        axes[0].update_datalim([(0, 0)])  # from 0 %, with a margin for the marker there
        axes[0].autoscale_view()
        axes[0].set_yticks(range(len(measures)), measures)
        axes[0].invert_yaxis()
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        path = Path(folder) / PLOT_FILE
        # the font lacks Chinese names, of which matplotlib warns
        with atomic_write(path) as scratch, warnings.catch_warnings(action="ignore"):
            figure.savefig(scratch, format="png", dpi=150, bbox_inches="tight")
        return path

    def _percents(self) -> "pandas.DataFrame":
        """The rows that have a language, in percent, with the names that a table and a plot show.

        The protocol is part of a name only if several measured the same.
        """
        import pandas

        names = _portable_names(self.rows)
        several = with_several_protocols(self.rows)
        percents = []
        for row in self.rows:
            if row.language is None:
                continue
            is_one = (row.set, row.language, row.metric) not in several
            protocol = None if is_one else row.protocol
            title = ", ".join(filter(None, (names[row.model], row.stage)))
            label = " ".join(filter(None, (row.set, row.language, row.metric, protocol)))
            measure = ", ".join(filter(None, (row.set, row.metric, protocol))).replace("_", " ")
            bounds = row.interval or (row.value, row.value)
            numbers = [100 * number for number in (row.value, *bounds)]
            percents.append((title, label, measure, row.language, *numbers))
        return pandas.DataFrame(percents, columns=PERCENTS)


def markdown_table(lines: Iterable[Sequence[str]]) -> str:
    """Render lines of cells as a Markdown table: the header, the delimiter row (`---` or `---:`), and the body."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_several_protocols(rows: Iterable[Row]) -> set[Key]:
    """Set, language and metric of the rows that were measured by several protocols, so that their values differ."""
    first: dict[Key, str | None] = {}
    several = set()
    for row in rows:
        key = (row.set, row.language, row.metric)
        if first.setdefault(key, row.protocol) != row.protocol:
            several.add(key)
    return several


def _portable_names(rows: Iterable[Row]) -> dict[str, str]:
    """Portable names of models, with as many parts of their folders as it takes to tell them apart."""
    models = {row.model for row in rows}
    for num_parts in range(1, 100):
        names = {}
        for model in models:
            parts = [portable(each, num_parts) for each in model.split(", ")]
            names[model] = ", ".join(parts)
        if len({*names.values()}) == len(names):
            break
    return names


def make_meta(
    data: str, seed: int | None, command: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the `meta` of a results file: command (default: this process's), commit, seed, package versions, data and
    date, and `more` entries.

    A run with an `Accelerator`, or under `accelerate launch --mixed_precision`, also has `mixed_precision`.
    """
    from accelerate.state import AcceleratorState, is_initialized

    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if is_initialized():
        precision = AcceleratorState().mixed_precision
    if precision is not None:
        more = {"mixed_precision": precision} | more
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        versions[name] = importlib.metadata.version(name)
    return {
        "command": command or " ".join(sys.argv),
        "commit": _commit(),
        "seed": seed,
        "versions": versions,
        "data": data,
        "date": datetime.now(UTC).date().isoformat(),
        **more,
    }


def _commit() -> str | None:
    """Return the commit of the checkout, marked `-dirty` after uncommitted changes; None outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=REPO_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
