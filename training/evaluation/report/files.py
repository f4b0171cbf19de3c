"""The files of a result."""

from collections.abc import Sequence
from pathlib import Path

from training.evaluation.options import EvalOptions
from training.evaluation.report.details import draw_confusion, draw_languages, write_class_tables
from training.evaluation.report.table import describe, exams_table, published_sources, results_table, scores
from training.evaluation.retrieval import retrieval_table
from training.evaluation.run import Outcome
from training.evaluation.sets.eval_tasks import EvalTask
from training.evaluation.sets.labelled_sets import LabelledSet
from training.evaluation.sets.pairs import PairSet
from training.utils.files import write_text
from training.utils.results import Results, make_meta

TABLE_FILE, LANGUAGES_FILE = "table.md", "languages.png"


def write_report(
    options: EvalOptions,
    eval_tasks: Sequence[EvalTask],
    sets: dict[str, LabelledSet],
    missing: dict[str, str],
    outcome: Outcome,
    pair_sets: Sequence[PairSet] = (),
) -> tuple[Results, str]:
    """Write results.json, table.md, languages.png, and on demand tables of classes and images of confusion.

    Args:
        options: what was asked.
        eval_tasks: in detail.
        sets: the test sets that could be had, by id.
        missing: why the others could not.
        outcome: what came out.
        pair_sets: what was searched.

    Returns:
        The results, and what is shown: the tables and the files.
    """
    folder = Path(options.output_dir)
    meta = make_meta(
        data=" ".join([*options.data, *options.retrieval]) or "hub",
        seed=options.seed,
        models=outcome.models,
        eval_tasks=[describe(task, sets, missing) for task in eval_tasks],
        retrieval=[pairs.describe() for pairs in pair_sets],
    )
    results = Results(meta, outcome.rows + scores(outcome.rows, eval_tasks, sets))
    parts = [results_table(results.rows, eval_tasks, sets, options.published)] if eval_tasks else []
    if options.published:
        parts += [f"published: {line}" for line in published_sources(eval_tasks)]
    parts += [exams_table(eval_tasks, sets, missing)] if eval_tasks else []
    parts += [retrieval_table(results.rows, pair_sets)] if pair_sets else []
    text = "\n\n".join(parts)
    paths = [results.write(folder), folder / TABLE_FILE]
    write_text(folder / TABLE_FILE, f"{text}\n")
    drawn = draw_languages(results.rows, eval_tasks, folder / LANGUAGES_FILE)
    paths += [drawn] if drawn else []
    if options.per_class:
        paths += write_class_tables(outcome.details, folder)
    if options.confusion:
        paths += draw_confusion(outcome.details, folder)
    return results, "\n\n".join([text, "\n".join(map(str, paths))])
