"""Files of a result: results.json, and table.md with one row per model and one column per set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from training.evaluation.figures import (
    CLASSES_FOLDER,
    CONFUSION_FOLDER,
    draw_confusion,
    draw_languages,
    write_class_tables,
)
from training.evaluation.options import EvalOptions
from training.evaluation.plan import EvalPlan, EvalTask, group_reasons, tasks_by_language
from training.evaluation.retrieval import retrieval_table
from training.evaluation.runner import AGREEMENT, Outcome
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.protocols import CLASS_NAMES, CN_CLIP_TEN, ELEVATER, IMAGENET, METRICS
from training.evaluation.sets.templates import CLIP_BENCHMARK, CN_CLIP
from training.utils.files import write_text
from training.utils.results import RESULTS_FILE, Results, Row, make_meta, markdown_table

TABLE_FILE, LANGUAGES_FILE = "table.md", "languages.png"
REPORT_FILES = (RESULTS_FILE, TABLE_FILE, LANGUAGES_FILE, CLASSES_FOLDER, CONFUSION_FOLDER)
TWO_NUMBERS = "Two numbers in a cell, such as 55.0 / 94.0, are the accuracy of top-1 and top-5, in percent."
SCORE = "elevater_score"
MISSING = "missing data"
SCORED_PROTOCOLS = ("elevater-en", "elevater-zh")  # protocols with an ELEVATER score


@dataclass(frozen=True)
class Published:
    """One row of a table published by other authors.

    Each publisher used a protocol of its own, and for ImageNet its own class names and templates.

    Args:
        model: Model name with its parameters in millions.
        language: Language of the class names.
        values: Metric in percent by set.
        source: Publication of the table.
        protocol: Closest protocol of this project; None if only ImageNet is published.
    """

    model: str
    language: str
    values: dict[str, float]
    source: str
    protocol: str | None = None


def _cn_clip(model: str, *percent: float) -> Published:
    values = dict(zip((*CN_CLIP_TEN, IMAGENET), percent, strict=True))
    return Published(model, "zh", values, "Chinese-CLIP, arXiv 2211.01335 and its Results.md", "cn-clip-compat")


def _imagenet(model: str, percent: float, source: str) -> Published:
    return Published(model, "en", {IMAGENET: percent}, source)


PUBLISHED = (
    _cn_clip("CN-CLIP RN50 (77 M)", 72.7, 40.6, 36.9, 27.0, 21.9, 5.4, 30.2, 50.2, 47.7, 82.1, 33.5),
    _cn_clip("CN-CLIP ViT-B/16 (188 M)", 92.0, 64.4, 43.6, 46.9, 47.2, 12.8, 33.5, 67.6, 54.0, 83.3, 48.3),
    _imagenet("CLIP RN50", 59.8, "CLIP, arXiv 2103.00020"),
    _imagenet("CLIP ViT-B/32", 63.3, "CLIP, arXiv 2103.00020"),
    _imagenet("CLIP ViT-L/14", 75.5, "CLIP, arXiv 2103.00020"),
    _imagenet("TinyCLIP ViT-8M/16", 41.1, "TinyCLIP, arXiv 2309.12314"),
    _imagenet("TinyCLIP ViT-39M/16", 63.5, "TinyCLIP, arXiv 2309.12314"),
    _imagenet("TinyCLIP ViT-40M/32", 59.8, "TinyCLIP, arXiv 2309.12314"),
    _imagenet("MobileCLIP-S0 (11.4 + 42.4 M)", 67.8, "MobileCLIP, arXiv 2311.17049"),
    # text tower by open_clip's config; the README of apple/ml-mobileclip lists 42.4 M
    _imagenet("MobileCLIP2-S0 (11.4 + 63.4 M)", 71.5, "MobileCLIP2, arXiv 2508.20691"),
)


def write_report(options: EvalOptions, plan: EvalPlan, outcome: Outcome) -> tuple[Results, str]:
    """Write results.json, table.md and languages.png, and optionally class tables and confusion matrices.

    Args:
        options: Options of the run.
        plan: Tasks and data of the run.
        outcome: Results of the run.

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
    parts = [results_table(results.rows, plan, options.published)] if plan.tasks else []
    if options.published:
        models: dict[str, list[str]] = {}
        for row in _published([task.set for task in plan.tasks], _protocols(plan.tasks)):
            models.setdefault(row.source, []).append(row.model)
        parts += [f"published: {source}: {', '.join(names)}" for source, names in models.items()]
    if any(task.protocol == CLASS_NAMES for task in plan.tasks):
        parts.append(TWO_NUMBERS)
    parts += [_tasks_table(plan)] if plan.tasks else []
    parts += [retrieval_table(results.rows, plan.retrieval_sets)] if plan.retrieval_sets else []
    text = "\n\n".join(parts)
    _remove_earlier(folder)
    paths = [results.write(folder), folder / TABLE_FILE]
    write_text(folder / TABLE_FILE, f"{text}\n")
    figure = draw_languages(results.rows, plan.tasks, folder / LANGUAGES_FILE)
    paths += [figure] if figure else []
    if options.per_class:
        paths += write_class_tables(outcome.details, folder)
    if options.confusion:
        paths += draw_confusion(outcome.details, folder)
    return results, "\n\n".join([text, "\n".join(map(str, paths))])


def _remove_earlier(folder: Path):
    """Remove the figures and tables of an earlier run, which this run may not write. The user's own files stay."""
    (folder / LANGUAGES_FILE).unlink(missing_ok=True)
    for name, suffix in ((CLASSES_FOLDER, ".md"), (CONFUSION_FOLDER, ".png")):
        for path in (folder / name).glob(f"*{suffix}"):
            path.unlink()
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()


def elevater_scores(rows: Sequence[Row], plan: EvalPlan) -> list[Row]:
    """The ELEVATER score of every model and protocol: the mean of the protocol's metric over the twenty sets.

    A protocol with a missing set, or a set that differs from its test split, has no score.
    """
    values, score_rows = _values(rows), []
    for protocol, language in _protocols(plan.tasks):
        metrics = {task.set: task.metric for task in plan.tasks if task.protocol == protocol and task.set in ELEVATER}
        complete = [name for name in metrics if name in plan.sets and not plan.sets[name].differences]
        if len(complete) < len(ELEVATER) or protocol not in SCORED_PROTOCOLS:
            continue
        for model in _models(rows):
            mean = fmean(values[model, name, protocol, language, metrics[name]] for name in complete)
            score_rows.append(Row(model=model, protocol=protocol, language=language, metric=SCORE, value=mean))
    return score_rows


def results_table(rows: Sequence[Row], plan: EvalPlan, published: bool = False) -> str:
    """One row per model and protocol, one column per set, in percent; `published` adds results of other authors."""
    columns = list(dict.fromkeys(task.set for task in plan.tasks))
    protocols, values = _protocols(plan.tasks), _values(rows)
    together = {(row.model, row.set, row.metric): row.value for row in rows if row.language and ", " in row.language}
    set_metrics = {name: group[0].metric for name, group in tasks_by_language(plan.tasks).items()}
    with_score = any(protocol in SCORED_PROTOCOLS for protocol, _ in protocols)
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
            cells += [_score_cell(score, protocol, metrics, plan.sets)] if with_score else []
            lines.append([model, f"{protocol}, {language}" if protocol == CLASS_NAMES else protocol, *cells])
        for title, metric in (("mean over languages", None), ("same prediction in all languages", AGREEMENT)):
            found = [together.get((model, name, metric or set_metrics.get(name, ""))) for name in columns]
            if any(value is not None for value in found):
                cells = ["" if value is None else f"{100 * value:.1f}" for value in found]
                lines.append([model, title, *cells, *([""] if with_score else [])])
    for row in _published(columns, protocols) if published else ():
        cells = [f"{row.values[name]:.1f}" if name in row.values else "" for name in columns]
        title = f"published, {row.language}, {row.protocol or 'its own'}"
        lines.append([row.model, title, *cells, *(["not published"] if with_score else [])])
    return markdown_table(lines)


def _score_cell(score: float | None, protocol: str, metrics: dict[str, str], sets: dict[str, LabelledSet]) -> str:
    """The score, or how many of the sets are there and how many of them differ from the protocol."""
    if protocol not in SCORED_PROTOCOLS:
        return ""
    if score is not None:
        return f"{100 * score:.1f}"
    available = [name for name in metrics if name in ELEVATER and name in sets]
    num_different = sum(bool(sets[name].differences) for name in available)
    return f"{len(available)} of {len(ELEVATER)}" + (f", {num_different} differ" if num_different else "")


def _tasks_table(plan: EvalPlan) -> str:
    """Metric, data, class names and templates of every task, its differences from the protocol, and missing sets."""
    lines = [["set", "protocol", "metric", "images", "source", "revision", "names", "templates", "differs"]]
    lines.append(["---"] * len(lines[0]))
    for task in plan.available_tasks:
        fields = _describe(task, plan)
        templates = f"{fields['templates']}, {fields['num_templates']}"
        source = " ".join(filter(None, (fields["source"], fields["split"])))
        cells = [task.set, task.title, METRICS[task.metric], f"{fields['images']:,}", source]
        lines.append([*cells, fields["revision"], fields["names"], templates, "; ".join(fields["differs"])])
    reasons = group_reasons(plan.missing)
    notes = [f"{MISSING}: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return "\n\n".join([markdown_table(lines), *notes])


def _describe(task: EvalTask, plan: EvalPlan) -> dict[str, Any]:
    """Facts about a task and its data for `results.json`."""
    labelled = plan.sets.get(task.set)
    differs = [*labelled.differences] if labelled else []
    owner = {"elevater-en": "ELEVATER's", "cn-clip-compat": "Chinese-CLIP's"}.get(task.protocol)
    if labelled and owner and not task.templates.source.startswith((CLIP_BENCHMARK, CN_CLIP)):
        differs.append(f"templates are not {owner}")
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
        "differs": differs,
        "missing": plan.missing.get(task.set),
    }


def _published(columns: Iterable[str], protocols: Iterable[tuple[str, str]]) -> list[Published]:
    languages, sets = {language for _, language in protocols}, set(columns)
    return [row for row in PUBLISHED if row.language in languages and sets & set(row.values)]


def _protocols(tasks: Iterable[EvalTask]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((task.protocol, task.language) for task in tasks))


def _models(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _values(rows: Iterable[Row]) -> dict[tuple[str | None, ...], float]:
    return {(row.model, row.set, row.protocol, row.language, row.metric): row.value for row in rows}
