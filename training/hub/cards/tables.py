"""The tables of a card, in Markdown, from results alone."""

import statistics
from typing import Any

from training.evaluation.sets.class_names import SETS
from training.evaluation.sets.protocols import ELEVATER, METRICS
from training.hub.cards.device_budget import REFERENCE, read_costs, read_pairs
from training.hub.cards.metadata import is_final
from training.utils.results import Results, markdown_table


def accuracy_table(results: Results) -> str | None:
    """Every model and stage that was measured beside this one, by set, language and metric, in percent; exported files
    have a table of their own.
    """
    exported = {entry["file"] for entry in _verdicts(results)} | {"PyTorch"}
    rows = [row for row in results.rows if row.set not in SETS and row.model not in exported]
    ours = Results(results.meta, rows)
    return ours.table() if any(row.language is not None for row in ours.rows) else None


def elevater_table(results: Results) -> str | None:
    """ELEVATER's sets in both languages, each by its own metric, and their mean; a set that was not measured has no
    row and does not count.

    Returns:
        The table; None where none of the twenty was measured.
    """
    rows = [
        row
        for row in results.rows
        # what stands for several languages at once is another table's
        if row.set in ELEVATER and row.metric == ELEVATER[row.set].metric and row.language and "," not in row.language
        if is_final(row.model, row.stage)
    ]
    if not rows:
        return None
    ours = Results(results.meta, rows)
    columns = sorted({(row.language or "", row.protocol or "") for row in rows})
    lines = [["model", "set", "metric", *(f"{language} ({protocol})" for language, protocol in columns)]]
    lines.append(["---"] * 3 + ["---:"] * len(columns))
    for model in dict.fromkeys(row.model for row in rows):
        found: list[list[float]] = [[] for _ in columns]
        for name in sorted({row.set or "" for row in rows if row.model == model}):
            means = [ours.mean(model=model, set=name, language=language, protocol=how) for language, how in columns]
            cells = ["" if mean is None else f"{100 * mean:.1f}" for mean in means]
            lines.append([model, name, METRICS[ELEVATER[name].metric], *cells])
            for values, mean in zip(found, means, strict=True):
                values += [] if mean is None else [mean]
        means_of_sets = [f"{100 * statistics.fmean(values):.1f} ({len(values)})" if values else "" for values in found]
        lines.append([model, f"**mean (sets of {len(ELEVATER)})**", "", *means_of_sets])
    return markdown_table(lines)


def protocols(results: Results) -> list[str]:
    """How the numbers of the accuracy table were measured."""
    return sorted({row.protocol for row in results.rows if row.language and row.protocol and row.set not in SETS})


def size_table(results: Results) -> str | None:
    """Size and speed: a row a model, a column a metric; the teacher, and this model after its last stage.

    Args:
        results: of a run that measured size and speed too.

    Returns:
        The table; None where it did not.
    """
    rows = [row for row in results.rows if row.language is None and row.set is None]
    rows = [row for row in rows if row.model == "teacher" or is_final(row.model, row.stage)]
    if not rows:
        return None
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines = [["model", *(metric.replace("_", " ") for metric in metrics)], ["---", *["---:"] * len(metrics)]]
    for model, stage in dict.fromkeys((row.model, row.stage) for row in rows):
        values = [results.mean(model=model, stage=stage, set=None, language=None, metric=metric) for metric in metrics]
        title = ", ".join(filter(None, (model, stage)))
        lines.append([title, *("" if value is None else _number(value) for value in values)])
    return markdown_table(lines)


def budget_table(results: Results, name: str) -> str | None:
    """Size and speed of one model at batch 1: a row a backend and number of threads; how many times as fast a pair is
    as with the paper's teacher behind the same backend.

    Args:
        results: of a device budget.
        name: of the model in it.

    Returns:
        The table; None where the budget does not have it.
    """
    pairs = [pair for pair in read_pairs(results) if pair.model == name]
    if not pairs:
        return None
    header = ["backend", "threads", "MB", "start, s", "peak, MiB", "an image, ms", "a text, ms", f"x {REFERENCE}"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for pair in pairs:
        costs = read_costs(results, name, pair.backend, pair.threads)
        faster = costs.pop("times_as_fast")
        cells = ["" if value is None else _number(value) for value in costs.values()]
        speed = [_number(pair.ms_image), _number(pair.ms_text), "" if faster is None else f"{faster:.1f}"]
        lines.append([pair.backend, str(pair.threads), *cells, *speed])
    return markdown_table(lines)


def export_table(results: Results) -> str | None:
    """Exported files and what the gate said of each: a row a file, those that were refused too.

    Returns:
        The table; None where nothing was exported.
    """
    verdicts = _verdicts(results)
    if not verdicts:
        return None
    languages = sorted({language for entry in verdicts for language in entry["lost_points"]})
    header = ["file", "MB", "ms", "cosine with PyTorch", *(f"top-1 lost, {language}" for language in languages), ""]
    lines = [header, ["---", *["---:"] * (3 + len(languages)), "---"]]
    for entry in verdicts:
        cells = ["", "", "", *[""] * len(languages)]
        if entry["bytes"]:
            cells = [f"{entry['bytes'] / 1e6:.2f}", f"{entry['ms']:.2f}", f"{entry['mean_cosine']:.5f}"]
            cells += [f"{entry['lost_points'][language]:+.2f}" for language in languages]
        lines.append([f"`{entry['file']}`", *cells, "" if entry["kept"] else f"refused: {' '.join(entry['reasons'])}"])
    return markdown_table(lines)


def _verdicts(results: Results) -> list[dict[str, Any]]:
    return results.meta.get("export", {}).get("verdicts", [])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
