"""Files of a result: results.json, its plot, and table.md with one row per model and one column per set."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from training.evaluation.options import EvalOptions
from training.evaluation.plan import EvalPlan, EvalTask, group_reasons
from training.evaluation.retrieval import retrieval_table
from training.evaluation.runner import AGREEMENT, Outcome
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.protocols import CLASS_NAMES, ELEVATER, METRICS, PROTOCOLS
from training.evaluation.sets.templates import CLIP_BENCHMARK
from training.utils.files import write_text
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results, Row, make_meta, markdown_table

TABLE_FILE = "table.md"
REPORT_FILES = (RESULTS_FILE, TABLE_FILE, PLOT_FILE)
TWO_NUMBERS = (
    "Two numbers in a cell, such as 55.0 / 94.0, are the accuracy of top-1 and top-5, in percent."
)
SCORE = "elevater_score"
MISSING = "missing data"


def write_report(options: EvalOptions, plan: EvalPlan, outcome: Outcome) -> tuple[Results, str]:
    """Write results.json, table.md and results.png.

    Returns:
        The results, and the text to print: the tables and the paths of the files.
    """
    folder = Path(options.output_dir)
    meta = make_meta(
        data=" ".join([*options.data, *options.retrieval]) or "hub",
        seed=None,
        models=outcome.models,
        eval_tasks=[_describe(task, plan) for task in plan.tasks],
        retrieval=[retrieval_set.describe() for retrieval_set in plan.retrieval_sets],
    )
    results = Results(meta, outcome.rows + elevater_scores(outcome.rows, plan))
    parts = [results_table(results.rows, plan)] if plan.tasks else []
    if any(task.protocol == CLASS_NAMES for task in plan.tasks):
        parts.append(TWO_NUMBERS)
    parts += [_tasks_table(plan)] if plan.tasks else []
    parts += [retrieval_table(results.rows, plan.retrieval_sets)] if plan.retrieval_sets else []
    text = "\n\n".join(parts)
    paths = [results.write(folder), folder / TABLE_FILE, results.plot(folder)]
    write_text(folder / TABLE_FILE, f"{text}\n")
    return results, "\n\n".join([text, "\n".join(map(str, paths))])


def elevater_scores(rows: Sequence[Row], plan: EvalPlan) -> list[Row]:
    """The ELEVATER score of every model and protocol: the mean of the protocol's metric over the twenty sets.

    A protocol with a missing set, or a set that differs from its test split, has no score.
    """
    values, score_rows = _values(rows), []
    for protocol, language in _protocols(plan.tasks):
        metrics = {
            task.set: task.metric
            for task in plan.tasks
            if task.protocol == protocol and task.set in ELEVATER
        }
        complete = [
            name for name in metrics if name in plan.sets and not plan.sets[name].differences
        ]
        if len(complete) < len(ELEVATER):
            continue
        for model in _models(rows):
            mean = fmean(
                values[model, name, protocol, language, metrics[name]] for name in complete
            )
            score_rows.append(
                Row(model=model, protocol=protocol, language=language, metric=SCORE, value=mean)
            )
    return score_rows


def results_table(rows: Sequence[Row], plan: EvalPlan) -> str:
    """One row per model and protocol, one column per set, in percent."""
    columns = list(dict.fromkeys(task.set for task in plan.tasks))
    protocols, values = _protocols(plan.tasks), _values(rows)
    with_score = any(protocol in PROTOCOLS for protocol, _ in protocols)
    lines = [["model", "protocol", *columns, *(["ELEVATER score"] if with_score else [])]]
    lines.append(["---"] * len(lines[0]))
    for model in _models(rows):
        for protocol, language in protocols:
            metrics = {task.set: task.metric for task in plan.tasks if task.protocol == protocol}
            cells = []
            for name in columns:
                shown = [metrics[name]] if name in metrics and name in plan.sets else []
                shown += ["top5"] if shown and protocol == CLASS_NAMES else []
                found = [values.get((model, name, protocol, language, metric)) for metric in shown]
                cell = " / ".join(f"{100 * value:.1f}" for value in found if value is not None)
                cells.append(MISSING if name in metrics and name not in plan.sets else cell)
            score = values.get((model, None, protocol, language, SCORE))
            cells += [_score_cell(score, metrics, plan.sets)] if with_score else []
            lines.append(
                [model, f"{protocol}, {language}" if protocol == CLASS_NAMES else protocol, *cells]
            )
        same = {
            row.set: f"{100 * row.value:.1f}"
            for row in rows
            if (row.model, row.metric) == (model, AGREEMENT)
        }
        if same:
            cells = [same.get(name, "") for name in columns]
            lines.append(
                [model, "same prediction in all languages", *cells, *([""] if with_score else [])]
            )
    return markdown_table(lines)


def _score_cell(score: float | None, metrics: dict[str, str], sets: dict[str, LabelledSet]) -> str:
    """The score, or how many of the sets are there and how many of them differ from the protocol."""
    if score is not None:
        return f"{100 * score:.1f}"
    available = [name for name in metrics if name in ELEVATER and name in sets]
    num_different = sum(bool(sets[name].differences) for name in available)
    return f"{len(available)} of {len(ELEVATER)}" + (
        f", {num_different} differ" if num_different else ""
    )


def _tasks_table(plan: EvalPlan) -> str:
    """Metric, data, class names and templates of every task, its differences from the protocol, and missing sets."""
    lines = [
        [
            "set",
            "protocol",
            "metric",
            "images",
            "source",
            "revision",
            "names",
            "templates",
            "differs",
        ]
    ]
    lines.append(["---"] * len(lines[0]))
    for task in plan.available_tasks:
        fields = _describe(task, plan)
        templates = f"{fields['templates']}, {fields['num_templates']}"
        source = " ".join(filter(None, (fields["source"], fields["split"])))
        cells = [task.set, task.title, METRICS[task.metric], f"{fields['images']:,}", source]
        lines.append(
            [*cells, fields["revision"], fields["names"], templates, "; ".join(fields["differs"])]
        )
    reasons = group_reasons(plan.missing)
    notes = [f"{MISSING}: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return "\n\n".join([markdown_table(lines), *notes])


def _describe(task: EvalTask, plan: EvalPlan) -> dict[str, Any]:
    """Facts about a task and its data for `results.json`."""
    labelled = plan.sets.get(task.set)
    differs = [*labelled.differences] if labelled else []
    if labelled and task.protocol == "elevater-en" and task.templates.source != CLIP_BENCHMARK:
        differs.append("templates are not ELEVATER's")
    return {
        "set": task.set,
        "protocol": task.protocol,
        "language": task.language,
        "metric": task.metric,
        "classes": len(task.candidates),
        "names": task.names_source,
        "templates": task.templates.source,
        "num_templates": len(task.templates.lines),
        "images_are": {True: "squashed", False: "cropped", None: "prepared by the model"}[
            task.squashed
        ],
        "source": labelled and labelled.source,
        "split": labelled and labelled.split,
        "revision": labelled and (labelled.revision or labelled.version),
        "images": labelled and len(labelled.rows),
        "differs": differs,
        "missing": plan.missing.get(task.set),
    }


def _protocols(tasks: Iterable[EvalTask]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((task.protocol, task.language) for task in tasks))


def _models(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _values(rows: Iterable[Row]) -> dict[tuple[str | None, ...], float]:
    return {(row.model, row.set, row.protocol, row.language, row.metric): row.value for row in rows}
