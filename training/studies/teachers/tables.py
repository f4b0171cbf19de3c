"""Tables of the studies of teachers."""

from training.studies.many_runs import mean_and_spread
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table

METRICS = (("validation", "t2i_recall@10", "R@10"), ("class_images", "top1", "top-1"))


def _percent(values: list[float]) -> str:
    return mean_and_spread(values) if values else ""


def widths_table(results: Results) -> str:
    """Recall at 10 and top-1 accuracy at each width, and the share of the recall at the full width of the model.

    Args:
        results: Results of the study of widths.
    """
    names = list(dict.fromkeys(row.model for row in results.rows))
    widths = sorted({int(str(row.protocol).split()[0]) for row in results.rows}, reverse=True)
    columns = [(*metric, language) for metric in METRICS for language in LANGUAGES]
    header = ["Embeddings", "Dimensions", *(f"{title} {language}" for *_, title, language in columns), "kept"]
    lines = [header, ["---", "---:", *["---:"] * (len(columns) + 1)]]
    full = [_recall(results, names[0], widths[0], language) for language in LANGUAGES]
    for name in names:
        for width in widths:
            row = {"model": name, "protocol": f"{width} dimensions"}
            cells = [
                _percent(results.values(**row, set=group, metric=metric, language=language))
                for group, metric, _, language in columns
            ]
            own = [_recall(results, name, width, language) for language in LANGUAGES]
            kept = " / ".join(f"{100 * value / whole:.1f} %" for value, whole in zip(own, full, strict=True))
            lines.append([name, str(width), *cells, kept])
    return markdown_table(lines)


def _recall(results: Results, name: str, width: int, language: str) -> float:
    fields = {"model": name, "protocol": f"{width} dimensions", "language": language}
    return results.mean(**fields, set="validation", metric="t2i_recall@10") or 0.0


def targets_table(results: Results) -> str:
    """Recall at 10 of teachers and students in each language: mean and standard deviation over the seeds.

    Args:
        results: Results of the study of targets.
    """
    lines = [["Model", *(f"R@10 {language}" for language in LANGUAGES)], ["---", *["---:"] * len(LANGUAGES)]]
    for name in dict.fromkeys(row.model for row in results.rows):
        lines.append([name, *(_percent(results.values(model=name, language=language)) for language in LANGUAGES)])
    return markdown_table(lines)
