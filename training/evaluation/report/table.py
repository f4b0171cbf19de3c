"""Results as Markdown: a row a model, a column a set, and what every column was measured on."""

from collections.abc import Iterable, Sequence

from training.evaluation.report.published import PUBLISHED, Published
from training.evaluation.run import AGREEMENT
from training.evaluation.sets.eval_tasks import EvalTask
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.packages import CLIP_BENCHMARK, CN_CLIP
from training.evaluation.sets.protocols import CLASS_NAMES, ELEVATER, METRICS
from training.utils.results import Row, markdown_table

SCORE = "elevater_score"
MISSING = "missing data"


def scores(rows: Sequence[Row], eval_tasks: Sequence[EvalTask], sets: dict[str, LabelledSet]) -> list[Row]:
    """The ELEVATER score of every model and protocol: the plain mean of the twenty sets, each as the protocol has it.

    With a set missing, or another test split than the protocol's, there is none.
    """
    found = []
    for protocol, language in _protocols(eval_tasks):
        wanted = {task.set: task.metric for task in eval_tasks if task.protocol == protocol and task.set in ELEVATER}
        whole = [name for name in wanted if name in sets and not sets[name].differs]
        if len(whole) < len(ELEVATER) or not protocol.startswith("elevater-"):
            continue
        for model in _models(rows):
            values = [_value(rows, model, protocol, language, name, wanted[name]) for name in whole]
            mean = sum(value for value in values if value is not None) / len(values)
            found.append(Row(model=model, protocol=protocol, language=language, metric=SCORE, value=mean))
    return found


def results_table(
    rows: Sequence[Row], eval_tasks: Sequence[EvalTask], sets: dict[str, LabelledSet], published: bool = False
) -> str:
    """One row a model and protocol, one column a set, in percent.

    Args:
        rows: of a result.
        eval_tasks: what was asked.
        sets: the test sets that could be had.
        published: whether to add the rows that others published.
    """
    columns = list(dict.fromkeys(task.set for task in eval_tasks))
    protocols = _protocols(eval_tasks)
    metrics = {task.set: task.metric for task in eval_tasks}
    with_score = any(protocol.startswith("elevater-") for protocol, _ in protocols)
    lines = [["model", "protocol", *columns, *(["ELEVATER score"] if with_score else [])]]
    lines.append(["---"] * len(lines[0]))
    for model in _models(rows):
        for protocol, language in protocols:
            metrics = {task.set: task.metric for task in eval_tasks if task.protocol == protocol}
            cells = [_cell(rows, model, protocol, language, name, metrics, sets) for name in columns]
            score = [_score_cell(rows, model, protocol, language, metrics, sets)] if with_score else []
            lines.append([model, f"{protocol}, {language}" if protocol == CLASS_NAMES else protocol, *cells, *score])
        for title, metric in (("mean over languages", None), ("same answer in all languages", AGREEMENT)):
            cells = [_over_languages(rows, model, name, metric or metrics.get(name)) for name in columns]
            if any(cells):
                lines.append([model, title, *cells, *([""] if with_score else [])])
    if published:
        lines += [_published_line(row, columns, with_score) for row in _published(columns, protocols)]
    return markdown_table(lines)


def exams_table(eval_tasks: Sequence[EvalTask], sets: dict[str, LabelledSet], missing: dict[str, str]) -> str:
    """What every column of the results was measured on, how it differs from the protocol, and which are missing."""
    lines = [["set", "protocol", "metric", "images", "source", "revision", "names", "templates", "differs"]]
    lines.append(["---"] * len(lines[0]))
    for task in (task for task in eval_tasks if task.set in sets):
        fields = describe(task, sets, missing)
        templates = f"{fields['templates']}, {fields['num_templates']}"
        place = " ".join(filter(None, (fields["source"], fields["split"])))
        cells = [task.set, task.title, METRICS[task.metric], f"{fields['images']:,}", place]
        lines.append([*cells, fields["revision"], fields["names"], templates, "; ".join(fields["differs"])])
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    notes = [f"{MISSING}: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return "\n\n".join([markdown_table(lines), *notes])


def describe(task: EvalTask, sets: dict[str, LabelledSet], missing: dict[str, str]) -> dict:
    """What stands beside a result: protocol, names, templates, source, test size, revision, and how it differs."""
    found = sets.get(task.set)
    return {
        "set": task.set,
        "protocol": task.protocol,
        "language": task.language,
        "metric": task.metric,
        "classes": len(task.candidates),
        "names": task.names_source,
        "templates": task.templates.source,
        "num_templates": len(task.templates.lines),
        "images_are": "squashed" if task.squashed else "cropped",
        "source": found and found.source,
        "split": found and found.split,
        "revision": found and (found.revision or found.digest),
        "images": found and len(found.rows),
        "differs": [*found.differs, *_other_templates(task)] if found else [],
        "missing": missing.get(task.set),
    }


def _other_templates(task: EvalTask) -> list[str]:
    """Whether a protocol with sentences of its own had to do with ours."""
    owners = {"elevater-en": "ELEVATER's", "cn-clip-compat": "Chinese-CLIP's"}
    if task.protocol not in owners or task.templates.source.startswith((CLIP_BENCHMARK, CN_CLIP)):
        return []
    return [f"templates are not {owners[task.protocol]}"]


def published_sources(eval_tasks: Sequence[EvalTask]) -> list[str]:
    """Where the published rows are from, a line each."""
    rows = _published([task.set for task in eval_tasks], _protocols(eval_tasks))
    models: dict[str, list[str]] = {}
    for row in rows:
        models.setdefault(row.source, []).append(row.model)
    return [f"{source}: {', '.join(names)}" for source, names in models.items()]


def _published(columns: Iterable[str], protocols: Iterable[tuple[str, str]]) -> list[Published]:
    languages, wanted = {language for _, language in protocols}, set(columns)
    return [row for row in PUBLISHED if row.language in languages and wanted & set(row.values)]


def _published_line(row: Published, columns: Sequence[str], with_score: bool) -> list[str]:
    cells = [f"{row.values[name]:.1f}" if name in row.values else "" for name in columns]
    protocol = f"published, {row.language}, {row.protocol or 'its own'}"
    return [row.model, protocol, *cells, *(["not published"] if with_score else [])]


def _protocols(eval_tasks: Iterable[EvalTask]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((task.protocol, task.language) for task in eval_tasks))


def _models(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _value(rows: Iterable[Row], model: str, protocol: str, language: str, name: str, metric: str) -> float | None:
    wanted = (model, name, protocol, language, metric)
    return next((r.value for r in rows if (r.model, r.set, r.protocol, r.language, r.metric) == wanted), None)


def _cell(
    rows: Sequence[Row], model: str, protocol: str, language: str, name: str, metrics: dict[str, str],
    sets: dict[str, LabelledSet],
) -> str:  # fmt: skip
    if name not in metrics:
        return ""
    if name not in sets:
        return MISSING
    shown = [metrics[name], *(["top5"] if protocol == CLASS_NAMES else [])]
    values = [_value(rows, model, protocol, language, name, metric) for metric in shown]
    return " / ".join(f"{100 * value:.1f}" for value in values if value is not None)


def _score_cell(
    rows: Sequence[Row], model: str, protocol: str, language: str, metrics: dict[str, str],
    sets: dict[str, LabelledSet],
) -> str:  # fmt: skip
    if not protocol.startswith("elevater-"):
        return ""
    score = next((r.value for r in rows if (r.model, r.protocol, r.metric) == (model, protocol, SCORE)), None)
    if score is not None:
        return f"{100 * score:.1f}"
    there = [name for name in metrics if name in ELEVATER and name in sets]
    differ = sum(bool(sets[name].differs) for name in there)
    return f"{len(there)} of {len(ELEVATER)}" + (f", {differ} differ" if differ else "")


def _over_languages(rows: Iterable[Row], model: str, name: str, metric: str | None) -> str:
    wanted = (model, name, metric)
    values = [r.value for r in rows if (r.model, r.set, r.metric) == wanted and r.language and ", " in r.language]
    return f"{100 * values[0]:.1f}" if values else ""
