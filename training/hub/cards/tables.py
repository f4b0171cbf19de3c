"""The tables of a card in Markdown, rendered from results."""

from collections.abc import Collection
from typing import Any

from training.evaluation.sets.protocols import SETS
from training.hub.cards.metadata import is_final
from training.utils.results import Results, Row, markdown_table


def accuracy_table(results: Results) -> str | None:
    """Accuracy in percent of every model and stage, a column for each set, language and metric; None without any."""
    rows = _accuracy_rows(results)
    return Results(results.meta, rows).table() if rows else None


def _accuracy_rows(results: Results) -> list[Row]:
    """Rows with a language; a set of ELEVATER has its own metric."""
    return [
        row
        for row in results.rows
        if row.language and (row.set not in SETS or row.metric == SETS[row.set].metric)
    ]


def protocols(results: Results) -> list[str]:
    """Protocols of the accuracy table."""
    return sorted({row.protocol for row in _accuracy_rows(results) if row.protocol})


def size_table(results: Results) -> str | None:
    """Size and latency of the teacher and the final student: one row for each model, one column for each metric.

    Returns:
        The table; None if the run did not measure size and latency.
    """
    rows = []
    for row in results.rows:
        is_shown = row.model == "teacher" or is_final(row.model, row.stage)
        if is_shown and row.language is None and row.set is None:
            rows.append(row)
    if not rows:
        return None
    metrics = list(dict.fromkeys(row.metric for row in rows))
    header = ["model", *(metric.replace("_", " ") for metric in metrics)]
    lines = [header, ["---", *["---:"] * len(metrics)]]
    for model, stage in dict.fromkeys((row.model, row.stage) for row in rows):
        cells = [f"{model}, {stage}" if stage else model]
        for metric in metrics:
            value = results.mean(model=model, stage=stage, set=None, language=None, metric=metric)
            if value is None:
                cells.append("")
            else:
                cells.append(f"{value:,.0f}" if value.is_integer() else f"{value:,.2f}")
        lines.append(cells)
    return markdown_table(lines)


def export_table(results: Results, published: Collection[str]) -> str | None:
    """Exported files with the verdict of the accuracy gate: one row for each file, including refused ones.

    Args:
        results: Results with the verdicts of the exports.
        published: Paths of the files that may be published. Others work only where they were written.

    Returns:
        The table; None if nothing was exported.
    """
    verdicts: list[dict[str, Any]] = []
    for entry in results.meta.get("export", {}).get("verdicts", []):
        is_published = any(path.startswith(entry["file"]) for path in published)
        if is_published or not entry["kept"]:
            verdicts.append(entry)
    if not verdicts:
        return None
    languages = sorted({language for entry in verdicts for language in entry["lost_points"]})
    lost_columns = [f"top-1 lost, {language}" for language in languages]
    numbers = ["MB", "ms", "cosine with PyTorch", *lost_columns]
    lines = [["file", *numbers, ""], ["---", *["---:"] * len(numbers), "---"]]
    for entry in verdicts:
        cells = [""] * len(numbers)
        if entry["bytes"]:
            ms = f"{entry['ms']:.2f}" if entry["ms"] else ""
            cells = [f"{entry['bytes'] / 1e6:.2f}", ms, f"{entry['mean_cosine']:.5f}"]
            for language in languages:
                lost = entry["lost_points"].get(language)
                cells.append("" if lost is None else f"{lost:+.2f}")
        note = ""
        if not entry["kept"]:
            note = f"refused: {' '.join(entry['reasons'])}"
        elif not entry.get("checked", True):
            note = "accuracy unchecked"
        lines.append([f"`{entry['file']}`", *cells, note])
    return markdown_table(lines)
