"""`results.json`, where all numbers come from: what was measured, by which command, on which data and seed."""

import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.utils.files import REPO_ROOT, write_text

RESULTS_FILE = "results.json"
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "timm", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    Args:
        model: `teacher`, `student`, or a model's name.
        stage: `untrained`, `distilled`, `aligned`, `no_teacher`; None where it does not apply.
        set: what it was measured on; None for size and time.
        protocol: how.
        language: ISO 639-1 code; None where it does not apply.
        metric: such as `top1` or `parameters`.
        value: shares in 0..1, counts, bytes, milliseconds.
        seed: of the training run; None where it does not apply.
        interval: 95 % interval of a share.
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
    """A file of numbers.

    Args:
        meta: command, commit, seed, versions, data and whatever else made them.
        rows: the numbers.
    """

    meta: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def write(self, folder: str | Path, name: str = RESULTS_FILE) -> Path:
        """Write `folder/results.json`, or a file of another name, whole or not at all."""
        path = Path(folder) / name
        content = {"meta": self.meta, "rows": [asdict(row) for row in self.rows]}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read a file that `write` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(
            content["meta"],
            [Row(**row | {"interval": row.get("interval") and tuple(row["interval"])}) for row in content["rows"]],
        )

    def values(self, **wanted: Any) -> list[float]:
        """The numbers of all rows whose fields equal `wanted`."""
        return [row.value for row in self.rows if all(getattr(row, key) == value for key, value in wanted.items())]

    def mean(self, **wanted: Any) -> float | None:
        """The mean of these numbers, such as over seeds; None where there are none."""
        values = self.values(**wanted)
        return statistics.fmean(values) if values else None

    def table(self) -> str:
        """All shares in percent as a Markdown table: a row a model and stage, a column a set, language and metric."""
        shares = [row for row in self.rows if row.language is not None]
        columns = _unique((row.set, row.language, row.metric) for row in shares)
        header = ["model", *(" ".join(map(str, column)) for column in columns)]
        lines = [header, ["---"] * len(header)]
        for model, stage in _unique((row.model, row.stage) for row in shares):
            values = [
                self.mean(model=model, stage=stage, set=s, language=language, metric=metric)
                for s, language, metric in columns
            ]
            lines.append(
                [
                    f"{model}, {stage}" if stage else model,
                    *("" if value is None else f"{100 * value:.1f}" for value in values),
                ]
            )
        return markdown_table(lines)


def markdown_table(lines: Iterable[Sequence[str]]) -> str:
    """Cells as a Markdown table: the header, the rule under it such as `---` or `---:`, and the rows."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _unique(items: Iterable) -> list:
    return list(dict.fromkeys(items))


def make_meta(data: str, seed: int | None, command: str | None = None, **more: Any) -> dict[str, Any]:
    """What made the numbers.

    Args:
        data: source of the test data.
        seed: of the run.
        command: default: this process's own command line.
        more: whatever else a reader needs.
    """
    return {
        "command": command or " ".join(sys.argv),
        "commit": _commit(),
        "seed": seed,
        "versions": {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES},
        "data": data,
        "date": datetime.now(UTC).date().isoformat(),
    } | more


def _commit() -> str | None:
    """The checkout's commit, with a mark if it has uncommitted changes; None outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPO_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
