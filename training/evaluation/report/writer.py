"""Writes the files of a result."""

from pathlib import Path

from training.evaluation.options import EvalOptions
from training.evaluation.plan import EvalPlan
from training.evaluation.report.details import (
    CLASSES_FOLDER,
    CONFUSION_FOLDER,
    draw_confusion,
    draw_languages,
    write_class_tables,
)
from training.evaluation.report.table import (
    describe,
    elevater_scores,
    published_sources,
    results_table,
    tasks_table,
)
from training.evaluation.retrieval import retrieval_table
from training.evaluation.runner import Outcome
from training.evaluation.sets.protocols import CLASS_NAMES
from training.utils.files import write_text
from training.utils.results import RESULTS_FILE, Results, make_meta

TABLE_FILE, LANGUAGES_FILE = "table.md", "languages.png"
TWO_NUMBERS = "Two numbers in a cell, such as 55.0 / 94.0, are the accuracy of top-1 and top-5, in percent."
REPORT_FILES = (RESULTS_FILE, TABLE_FILE, LANGUAGES_FILE, CLASSES_FOLDER, CONFUSION_FOLDER)


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
        seed=options.seed,
        models=outcome.models,
        eval_tasks=[describe(task, plan) for task in plan.tasks],
        retrieval=[retrieval_set.describe() for retrieval_set in plan.retrieval_sets],
    )
    results = Results(meta, outcome.rows + elevater_scores(outcome.rows, plan))
    parts = [results_table(results.rows, plan, options.published)] if plan.tasks else []
    if options.published:
        parts += [f"published: {line}" for line in published_sources(plan.tasks)]
    if any(task.protocol == CLASS_NAMES for task in plan.tasks):
        parts.append(TWO_NUMBERS)
    parts += [tasks_table(plan)] if plan.tasks else []
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
    """Remove the figures and tables of an earlier run, which this one may not write. Files of the user stay."""
    (folder / LANGUAGES_FILE).unlink(missing_ok=True)
    for name, suffix in ((CLASSES_FOLDER, ".md"), (CONFUSION_FOLDER, ".png")):
        for path in (folder / name).glob(f"*{suffix}"):
            path.unlink()
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()
