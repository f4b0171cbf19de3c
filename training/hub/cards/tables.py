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
    rows = [
        row
        for row in results.rows
        if row.language is None
        and row.set is None
        and (row.model == "teacher" or is_final(row.model, row.stage))
    ]
    if not rows:
        return None
    metrics = list(dict.fromkeys(row.metric for row in rows))
    header = ["model", *(metric.replace("_", " ") for metric in metrics)]
    lines = [header, ["---", *["---:"] * len(metrics)]]
    for model, stage in dict.fromkeys((row.model, row.stage) for row in rows):
        cells = [", ".join(filter(None, (model, stage)))]
        for metric in metrics:
            value = results.mean(model=model, stage=stage, set=None, language=None, metric=metric)
            number = "" if value is None else f"{value:,.{0 if value.is_integer() else 2}f}"
            cells.append(number)
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
    verdicts: list[dict[str, Any]] = [
        entry
        for entry in results.meta.get("export", {}).get("verdicts", [])
        if not entry["kept"] or any(path.startswith(entry["file"]) for path in published)
    ]
    if not verdicts:
        return None
    languages = sorted({language for entry in verdicts for language in entry["lost_points"]})
    lost_columns = [f"top-1 lost, {language}" for language in languages]
    header = ["file", "MB", "ms", "cosine with PyTorch", *lost_columns, ""]
    lines = [header, ["---", *["---:"] * (3 + len(languages)), "---"]]
    for entry in verdicts:
        cells = [""] * (3 + len(languages))
        if entry["bytes"]:
            lost = entry["lost_points"]
            cells = [
                f"{entry['bytes'] / 1e6:.2f}",
                f"{entry['ms']:.2f}" if entry["ms"] else "",
                f"{entry['mean_cosine']:.5f}",
                *(f"{lost[each]:+.2f}" if each in lost else "" for each in languages),
            ]
        note = "" if entry.get("checked", True) else "accuracy unchecked"
        note = note if entry["kept"] else f"refused: {' '.join(entry['reasons'])}"
        lines.append([f"`{entry['file']}`", *cells, note])
    return markdown_table(lines)
