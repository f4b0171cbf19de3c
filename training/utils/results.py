"""`results.json`: rows of numbers, with the command, commit, data and seed that produced them.

Every number that a person reads is rendered from such a file.
"""

import importlib.metadata
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from training.utils.files import REPO_ROOT, atomic_write, portable, portable_text, write_text

RESULTS_FILE, PLOT_FILE = "results.json", "results.png"
MAX_COLUMNS = 8  # of a table that people read
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "timm", "tokenizers")


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
        names = _portable_names(row.model for row in self.rows)
        content = {
            "meta": portable_values(self.meta),
            "rows": [asdict(row) | {"model": names[row.model]} for row in self.rows],
        }
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read a file that `write` has written.

        Raises:
            OSError: The file does not exist.
            ValueError: The file is damaged, or is not a table of results.
        """
        text = Path(path).read_bytes()
        try:
            content = json.loads(text)
            rows = [
                Row(**row | {"interval": row.get("interval") and tuple(row["interval"])})
                for row in content["rows"]
            ]
            for row in rows:
                _check_types(row)
            return cls(dict(content["meta"]), rows)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{Path(path).name}: damaged, or not a table of results ({type(error).__name__}: {str(error)[:200]})."
                " Measure again, or copy the file again."
            ) from error

    def values(self, **fields: Any) -> list[float]:
        """Return the values of all rows whose fields equal the given ones, such as `metric="top1"`."""
        return [
            row.value
            for row in self.rows
            if all(getattr(row, name) == value for name, value in fields.items())
        ]

    def mean(self, **fields: Any) -> float | None:
        """Return the mean of `values(**fields)`, such as the mean over seeds; None without such rows."""
        values = self.values(**fields)
        return statistics.fmean(values) if values else None

    def table(self) -> str:
        """Render all rows that have a language as a Markdown table, in percent, averaged over seeds.

        It has one row for each model and stage, and one column for each set, language, metric and protocol, or the
        other way round if these are many.
        """
        fractions = [row for row in self.rows if row.language is not None]
        several = with_several_protocols(fractions)
        columns = _unique(_column(row, several) for row in fractions)
        header = ["model", *(" ".join(str(value) for _, value in column) for column in columns)]
        lines = [header]
        for model, stage in _unique((row.model, row.stage) for row in fractions):
            values = [self.mean(model=model, stage=stage, **dict(column)) for column in columns]
            lines.append(
                [
                    f"{model}, {stage}" if stage else model,
                    *("" if value is None else f"{100 * value:.1f}" for value in values),
                ]
            )
        if len(header) > MAX_COLUMNS:
            lines = [list(line) for line in zip(*lines, strict=True)]
        return markdown_table([lines[0], ["---"] * len(lines[0]), *lines[1:]])

    def plot(self, folder: str | Path) -> Path:
        """Draw the rows of `table` with their 95 % intervals to `PLOT_FILE` in a folder, and return its path.

        It has one panel for each model and stage, one line for each set and metric, and one color for each language.
        """
        from matplotlib.figure import Figure  # without pyplot, which looks for a display

        rows = [row for row in self.rows if row.language is not None]
        several, models = (
            with_several_protocols(rows),
            _unique((row.model, row.stage) for row in rows),
        )
        places = {
            label: place
            for place, label in enumerate(_unique(_label(row, several) for row in rows))
        }
        names = _portable_names(row.model for row in rows)
        figure = Figure((3 + 2 * len(models), 1.2 + 0.3 * len(places)), layout="constrained")
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for panel, (model, stage) in zip(panels, models, strict=True):
            for number, language in enumerate(_unique(row.language for row in rows)):
                drawn = [
                    row
                    for row in rows
                    if (row.model, row.stage, row.language) == (model, stage, language)
                ]
                values = np.array([row.value for row in drawn])
                ends = np.array([row.interval or (row.value, row.value) for row in drawn]).reshape(
                    -1, 2
                )
                heights = [places[_label(row, several)] + 0.2 * number for row in drawn]
                errors = 100 * np.abs(ends.T - values)
                panel.errorbar(
                    100 * values, heights, xerr=errors, fmt="o", markersize=4, label=language
                )
            panel.set(
                title=", ".join(filter(None, (names[model], stage))), xlim=(0, 100), xlabel="%"
            )
            panel.grid(axis="x", alpha=0.3)
        panels[0].set_yticks(list(places.values()), list(places))
        panels[0].invert_yaxis()
        panels[0].legend()
        with (
            atomic_write(path := Path(folder) / PLOT_FILE) as scratch,
            warnings.catch_warnings(action="ignore"),
        ):
            figure.savefig(
                scratch, format="png", dpi=150
            )  # warns of Chinese names, which the font lacks
        return path


def markdown_table(lines: Iterable[Sequence[str]]) -> str:
    """Render lines of cells as a Markdown table: the header, the delimiter row (`---` or `---:`), and the body."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(text: str) -> str:
    """Pad the cells of Markdown tables in a text, for a terminal."""
    lines: list[str] = []
    for is_table, block in groupby(text.split("\n"), lambda line: line.startswith("|")):
        if not is_table:
            lines += block
            continue
        columns = []
        for header, rule, *cells in zip(*(line[2:-2].split(" | ") for line in block), strict=True):
            width = max(map(len, (header, rule, *cells)))
            pad = str.rjust if rule.endswith(":") else str.ljust
            columns.append([pad(header, width), "-" * width, *(pad(cell, width) for cell in cells)])
        lines += ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join(lines)


def percent_cells(values: Iterable[float | None]) -> list[str]:
    """Cells with fractions (0..1) in percent, to one decimal; `-` for None."""
    return ["-" if value is None else f"{100 * value:.1f}" for value in values]


def _check_types(row: Row):
    """Raise TypeError if a field of a row that was read from a file has the wrong type."""
    interval = () if row.interval is None else row.interval
    if not all(isinstance(number, (int, float)) for number in (row.value, *interval)):
        raise TypeError("a value is not a number")
    for name in ("model", "metric", "stage", "set", "protocol", "language"):
        value = getattr(row, name)
        if not isinstance(value, str) and (value is not None or name in ("model", "metric")):
            raise TypeError(f"{name} is of type {type(value).__name__}")
    if row.seed is not None and not isinstance(row.seed, int):
        raise TypeError(f"seed is of type {type(row.seed).__name__}")


def with_several_protocols(rows: Iterable[Row]) -> set[tuple[str | None, str | None, str]]:
    """Set, language and metric of the rows that were measured by several protocols, so that their values differ."""
    protocols: dict[tuple[str | None, str | None, str], set[str | None]] = {}
    for row in rows:
        protocols.setdefault(_key(row), set()).add(row.protocol)
    return {key for key, names in protocols.items() if len(names) > 1}


def _key(row: Row) -> tuple[str | None, str | None, str]:
    return row.set, row.language, row.metric


def _column(
    row: Row, several: set[tuple[str | None, str | None, str]]
) -> tuple[tuple[str, Any], ...]:
    """Fields that the values of a column of a table share, with their names."""
    fields = {"set": row.set, "language": row.language, "metric": row.metric}
    return tuple((fields | ({"protocol": row.protocol} if _key(row) in several else {})).items())


def _label(row: Row, several: set[tuple[str | None, str | None, str]]) -> str:
    """The column of a row without its language, in words."""
    parts = (value for name, value in _column(row, several) if name != "language")
    return ", ".join(filter(None, parts)).replace("_", " ")


def portable_values(value: Any) -> Any:
    """Make all absolute paths in a JSON value portable."""
    if isinstance(value, dict):
        return {name: portable_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable_values(item) for item in value]
    return portable_text(value) if isinstance(value, str) else value


def _portable_names(models: Iterable[str]) -> dict[str, str]:
    """Portable names of models, with as many parts of their folders as it takes to tell them apart."""
    distinct = set(models)
    for num_parts in range(1, 100):
        names = {
            name: ", ".join(portable(each, num_parts) for each in name.split(", "))
            for name in distinct
        }
        if len(set(names.values())) == len(names):
            break
    return names


def _unique(items: Iterable) -> list:
    return list(dict.fromkeys(items))


def make_meta(
    data: str, seed: int | None, command: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the `meta` of a results file: command (default: this process's), commit, seed, package versions, data and
    date, and `more` entries.
    """
    return {
        "command": command or " ".join(sys.argv),
        "commit": _commit(),
        "seed": seed,
        "versions": {"python": sys.version.split()[0]}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "data": data,
        "date": datetime.now(UTC).date().isoformat(),
    } | more


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
