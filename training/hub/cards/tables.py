"""The tables of a card in Markdown, rendered from results."""

import statistics
from typing import Any

from training.evaluation.sets.class_names import SETS
from training.evaluation.sets.protocols import ELEVATER, METRICS
from training.hub.cards.metadata import export_models, is_final
from training.utils.results import Results, Row, markdown_table

TITLES = {"ms_share": "time relative to fp32"}  # of metrics whose name does not explain itself


def accuracy_table(results: Results) -> str | None:
    """Accuracy in percent of every model and stage, a column for each set, language and metric.

    Exported files and ELEVATER's sets have tables of their own.

    Returns:
        The table; None without such results.
    """
    selected = _accuracy_rows(results)
    if all(row.language is None for row in selected):
        return None
    return Results(results.meta, selected).table()


def _accuracy_rows(results: Results) -> list[Row]:
    exported = export_models(results)
    return [row for row in results.rows if row.set not in SETS and row.model not in exported]


def elevater_table(results: Results) -> str | None:
    """ELEVATER's sets in both languages, each with its own metric, and the mean over the measured sets.

    Returns:
        The table; None if none of the twenty sets was measured.
    """
    rows = [
        row
        for row in results.rows
        # rows over several languages, such as the agreement, have no column here
        if row.set in ELEVATER and row.metric == ELEVATER[row.set].metric and row.language and "," not in row.language
        if is_final(row.model, row.stage)
    ]
    if not rows:
        return None
    selected = Results(results.meta, rows)
    columns = sorted({(row.language or "", row.protocol or "") for row in rows})
    lines = [["model", "set", "metric", *(f"{language} ({protocol})" for language, protocol in columns)]]
    lines.append(["---"] * 3 + ["---:"] * len(columns))
    has_mean = len({row.set for row in rows}) > 1
    for model in dict.fromkeys(row.model for row in rows):
        by_column: list[list[float]] = [[] for _ in columns]
        for name in sorted({row.set or "" for row in rows if row.model == model}):
            means = [
                selected.mean(model=model, set=name, language=lang, protocol=protocol) for lang, protocol in columns
            ]
            cells = ["" if mean is None else f"{100 * mean:.1f}" for mean in means]
            lines.append([model, name, METRICS[ELEVATER[name].metric], *cells])
            for values, mean in zip(by_column, means, strict=True):
                values += [] if mean is None else [mean]
        means_of_sets = [
            f"{100 * statistics.fmean(values):.1f} ({len(values)})" if values else "" for values in by_column
        ]
        if has_mean:
            lines.append([model, f"**mean (sets of {len(ELEVATER)})**", "", *means_of_sets])
    return markdown_table(lines)


def protocols(results: Results) -> list[str]:
    """Protocols of the accuracy table."""
    return sorted({row.protocol for row in _accuracy_rows(results) if row.language and row.protocol})


def size_table(results: Results) -> str | None:
    """Size and latency of the teacher and the final student: one row for each model, one column for each metric.

    Returns:
        The table; None if the run did not measure size and latency.
    """
    exported = export_models(results)  # exported files have a table of their own
    rows = [row for row in results.rows if row.language is None and row.set is None and row.model not in exported]
    rows = [row for row in rows if row.model == "teacher" or is_final(row.model, row.stage)]
    if not rows:
        return None
    metrics = list(dict.fromkeys(row.metric for row in rows))
    header = ["model", *(TITLES.get(metric, metric.replace("_", " ")) for metric in metrics)]
    lines = [header, ["---", *["---:"] * len(metrics)]]
    for model, stage in dict.fromkeys((row.model, row.stage) for row in rows):
        values = [results.mean(model=model, stage=stage, set=None, language=None, metric=metric) for metric in metrics]
        title = ", ".join(filter(None, (model, stage)))
        lines.append([title, *("" if value is None else _number(value) for value in values)])
    return markdown_table(lines)


def export_table(results: Results) -> str | None:
    """Exported files with the verdict of the accuracy gate: one row for each file, including refused ones.

    Returns:
        The table; None if nothing was exported.
    """
    verdicts: list[dict[str, Any]] = results.meta.get("export", {}).get("verdicts", [])
    if not verdicts:
        return None
    languages = sorted({language for entry in verdicts for language in entry["lost_points"]})
    header = ["file", "MB", "ms", "cosine with PyTorch", *(f"top-1 lost, {language}" for language in languages), ""]
    lines = [header, ["---", *["---:"] * (3 + len(languages)), "---"]]
    for entry in verdicts:
        cells = ["", "", "", *[""] * len(languages)]
        if entry["bytes"]:
            cells = [
                f"{entry['bytes'] / 1e6:.2f}",
                f"{entry['ms']:.2f}" if entry["ms"] else "",
                f"{entry['mean_cosine']:.5f}",
            ]
            lost = entry["lost_points"]
            cells += [f"{lost[language]:+.2f}" if language in lost else "" for language in languages]
        note = "" if entry.get("checked", True) else "accuracy unchecked"
        note = note if entry["kept"] else f"refused: {' '.join(entry['reasons'])}"
        lines.append([f"`{entry['file']}`", *cells, note])
    return markdown_table(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
