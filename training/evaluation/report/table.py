"""Results as Markdown: one row per model, one column per set, and the source of every column."""

from collections.abc import Iterable, Sequence
from typing import Any

from training.evaluation.plan import EvalPlan, group_reasons
from training.evaluation.report.published import PUBLISHED, Published
from training.evaluation.runner import AGREEMENT
from training.evaluation.sets.eval_tasks import EvalTask, tasks_by_language
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.packages import CLIP_BENCHMARK, CN_CLIP
from training.evaluation.sets.protocols import CLASS_NAMES, ELEVATER, METRICS
from training.utils.results import Row, markdown_table

SCORE = "elevater_score"
MISSING = "missing data"
SCORED_PROTOCOLS = ("elevater-en", "elevater-zh")  # protocols with an ELEVATER score


def elevater_scores(rows: Sequence[Row], plan: EvalPlan) -> list[Row]:
    """The ELEVATER score of every model and protocol: the mean of the protocol's metric over the twenty sets.

    There is no score if a set is missing, or differs from the test split of the protocol.

    Args:
        rows: Rows of all models.
        plan: Tasks and data of the run.
    """
    score_rows = []
    for protocol, language in _protocols(plan.tasks):
        metrics = {task.set: task.metric for task in plan.tasks if task.protocol == protocol and task.set in ELEVATER}
        complete = [name for name in metrics if name in plan.sets and not plan.sets[name].differences]
        if len(complete) < len(ELEVATER) or protocol not in SCORED_PROTOCOLS:
            continue
        for model in _models(rows):
            values = [_value(rows, model, protocol, language, name, metrics[name]) for name in complete]
            mean = sum(value for value in values if value is not None) / len(values)
            score_rows.append(Row(model=model, protocol=protocol, language=language, metric=SCORE, value=mean))
    return score_rows


def results_table(rows: Sequence[Row], plan: EvalPlan, published: bool = False) -> str:
    """One row per model and protocol, one column per set, in percent.

    Args:
        rows: Rows of a result.
        plan: Tasks and data of the run.
        published: Whether to add rows of published results.
    """
    tasks = plan.tasks
    columns = list(dict.fromkeys(task.set for task in tasks))
    protocols = _protocols(tasks)
    set_metrics = {name: group[0].metric for name, group in tasks_by_language(tasks).items()}
    with_score = any(protocol in SCORED_PROTOCOLS for protocol, _ in protocols)
    lines = [["model", "protocol", *columns, *(["ELEVATER score"] if with_score else [])]]
    lines.append(["---"] * len(lines[0]))
    for model in _models(rows):
        for protocol, language in protocols:
            metrics = {task.set: task.metric for task in tasks if task.protocol == protocol}
            cells = [_cell(rows, model, protocol, language, name, metrics, plan.sets) for name in columns]
            score = [_score_cell(rows, model, protocol, metrics, plan.sets)] if with_score else []
            lines.append([model, f"{protocol}, {language}" if protocol == CLASS_NAMES else protocol, *cells, *score])
        for title, metric in (("mean over languages", None), ("same prediction in all languages", AGREEMENT)):
            cells = [_over_languages(rows, model, name, metric or set_metrics.get(name, "")) for name in columns]
            if any(cells):
                lines.append([model, title, *cells, *([""] if with_score else [])])
    if published:
        lines += [_published_line(row, columns, with_score) for row in _published(columns, protocols)]
    return markdown_table(lines)


def tasks_table(plan: EvalPlan) -> str:
    """Metric, data, class names and templates of every task, its differences from the protocol, and the missing sets.

    Args:
        plan: Tasks and data of the run.
    """
    lines = [["set", "protocol", "metric", "images", "source", "revision", "names", "templates", "differs"]]
    lines.append(["---"] * len(lines[0]))
    for task in plan.available_tasks:
        fields = describe(task, plan)
        templates = f"{fields['templates']}, {fields['num_templates']}"
        source = " ".join(filter(None, (fields["source"], fields["split"])))
        cells = [task.set, task.title, METRICS[task.metric], f"{fields['images']:,}", source]
        lines.append([*cells, fields["revision"], fields["names"], templates, "; ".join(fields["differs"])])
    reasons = group_reasons(plan.missing)
    notes = [f"{MISSING}: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return "\n\n".join([markdown_table(lines), *notes])


def describe(task: EvalTask, plan: EvalPlan) -> dict[str, Any]:
    """Facts about a task for `results.json`.

    Args:
        task: Task of the plan.
        plan: Tasks and data of the run.

    Returns:
        Protocol, class names, templates, source, size and revision of the data, and differences from the protocol.
    """
    labelled = plan.sets.get(task.set)
    return {
        "set": task.set,
        "protocol": task.protocol,
        "language": task.language,
        "metric": task.metric,
        "classes": len(task.candidates),
        "names": task.names_source,
        "templates": task.templates.source,
        "num_templates": len(task.templates.lines),
        "images_are": {True: "squashed", False: "cropped", None: "prepared by the model"}[task.squashed],
        "source": labelled and labelled.source,
        "split": labelled and labelled.split,
        "revision": labelled and (labelled.revision or labelled.digest),
        "images": labelled and len(labelled.rows),
        "differs": [*labelled.differences, *_template_differences(task)] if labelled else [],
        "missing": plan.missing.get(task.set),
    }


def _template_differences(task: EvalTask) -> list[str]:
    """Whether our templates replace those of the protocol, which were not installed."""
    owners = {"elevater-en": "ELEVATER's", "cn-clip-compat": "Chinese-CLIP's"}
    if task.protocol not in owners or task.templates.source.startswith((CLIP_BENCHMARK, CN_CLIP)):
        return []
    return [f"templates are not {owners[task.protocol]}"]


def published_sources(tasks: Sequence[EvalTask]) -> list[str]:
    """One line per source of the published results: the source, and the models that it reports."""
    rows = _published([task.set for task in tasks], _protocols(tasks))
    models: dict[str, list[str]] = {}
    for row in rows:
        models.setdefault(row.source, []).append(row.model)
    return [f"{source}: {', '.join(names)}" for source, names in models.items()]


def _published(columns: Iterable[str], protocols: Iterable[tuple[str, str]]) -> list[Published]:
    languages, sets = {language for _, language in protocols}, set(columns)
    return [row for row in PUBLISHED if row.language in languages and sets & set(row.values)]


def _published_line(row: Published, columns: Sequence[str], with_score: bool) -> list[str]:
    cells = [f"{row.values[name]:.1f}" if name in row.values else "" for name in columns]
    protocol = f"published, {row.language}, {row.protocol or 'its own'}"
    return [row.model, protocol, *cells, *(["not published"] if with_score else [])]


def _protocols(tasks: Iterable[EvalTask]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((task.protocol, task.language) for task in tasks))


def _models(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _value(rows: Iterable[Row], model: str, protocol: str, language: str, name: str, metric: str) -> float | None:
    key = (model, name, protocol, language, metric)
    return next((r.value for r in rows if (r.model, r.set, r.protocol, r.language, r.metric) == key), None)


def _cell(
    rows: Sequence[Row],
    model: str,
    protocol: str,
    language: str,
    name: str,
    metrics: dict[str, str],
    sets: dict[str, LabelledSet],
) -> str:
    if name not in metrics:
        return ""
    if name not in sets:
        return MISSING
    shown = [metrics[name], *(["top5"] if protocol == CLASS_NAMES else [])]
    values = [_value(rows, model, protocol, language, name, metric) for metric in shown]
    return " / ".join(f"{100 * value:.1f}" for value in values if value is not None)


def _score_cell(
    rows: Sequence[Row], model: str, protocol: str, metrics: dict[str, str], sets: dict[str, LabelledSet]
) -> str:
    if protocol not in SCORED_PROTOCOLS:
        return ""
    score = next((r.value for r in rows if (r.model, r.protocol, r.metric) == (model, protocol, SCORE)), None)
    if score is not None:
        return f"{100 * score:.1f}"
    available = [name for name in metrics if name in ELEVATER and name in sets]
    num_different = sum(bool(sets[name].differences) for name in available)
    return f"{len(available)} of {len(ELEVATER)}" + (f", {num_different} differ" if num_different else "")


def _over_languages(rows: Iterable[Row], model: str, name: str, metric: str) -> str:
    key = (model, name, metric)
    values = [r.value for r in rows if (r.model, r.set, r.metric) == key and r.language and ", " in r.language]
    return f"{100 * values[0]:.1f}" if values else ""
