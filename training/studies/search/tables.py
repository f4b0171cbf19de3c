"""Tables of search, rendered from committed results."""

from collections.abc import Sequence

from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table

NUM_IMAGES, NUM_NODES, CORES_PER_NODE = 100_000_000, 10, 32


def recall_table(results: Results) -> str:
    """Render the recall of each stored type, in percent, English / Chinese.

    Args:
        results: Results of `python -m training.studies.search.recall`.

    Returns:
        Markdown table with a line for each type and each set of photographs.
    """
    header = ["%, en / zh", "Bytes a vector", "recall@10", "of float32's recall@10", "of float32's ten nearest"]
    lines = [header, ["---", *["---:"] * 4]]
    for size in dict.fromkeys(row.set for row in results.rows):
        for name in dict.fromkeys(row.model for row in results.rows if row.set == size):
            recall, reference, nearest = (
                [results.mean(set=size, language=each, model=model, metric=metric) or 0.0 for each in LANGUAGES]
                for model, metric in ((name, "recall_at_10"), ("float32", "recall_at_10"), (name, "nearest_at_10"))
            )
            kept = [each / best if best else 0.0 for each, best in zip(recall, reference, strict=True)]
            num_bytes = results.mean(set=size, model=name, metric="bytes_per_vector") or 0.0
            lines.append([f"{name}, {size}", f"{num_bytes:,.0f}", *map(_pair, (recall, kept, nearest))])
    return markdown_table(lines)


def compatible_table(results: Results) -> str:
    """Render how a teacher and its student search each other's images, in percent, English / Chinese.

    Args:
        results: Results of the model of photographs, with those of `training/eval.py --text_model TEACHER`.

    Returns:
        Markdown table with a line for each pair of models.
    """
    names = {"teacher": "teacher", "student": "dcclip-tiny-photo"}
    lines = [["Index", "Queries", "recall@5", "recall@10"], ["---", "---", "---:", "---:"]]
    for images, texts in (
        ("teacher", "teacher"),
        ("student", "student"),
        ("teacher", "student"),
        ("student", "teacher"),
    ):
        model = images if images == texts else f"{images} images, {texts} texts"
        fields = {"model": model, "set": "flickr8k_validation", "stage": None if model == "teacher" else "aligned"}
        cells = [
            _pair([results.mean(**fields, language=each, metric=f"t2i_recall@{k}") for each in LANGUAGES])
            for k in (5, 10)
        ]
        lines.append([names[images], names[texts], *cells])
    return markdown_table(lines)


def scale_table(results: Results) -> str:
    """Render the time that 100 million images take on 10 nodes, by arithmetic from rates of one core.

    Args:
        results: Results of `python -m training.studies.search`.

    Returns:
        Markdown table with a line for each kind of node.
    """
    lines = [["10 nodes of 32 cores", "Images a second and core", "Images a second", "Hours", "Node hours"]]
    lines.append(["---", *["---:"] * 4])
    for title, work in (
        ("without GPU: decoding and the int8 model", "index"),
        ("with a GPU that waits for decoding", "decoding"),
    ):
        rate = results.mean(model=work, metric="images_per_cpu_s") or 0.0
        total = rate * NUM_NODES * CORES_PER_NODE
        hours = NUM_IMAGES / total / 3600
        lines.append([title, f"{rate:,.0f}", f"{total:,.0f}", f"{hours:,.1f}", f"{hours * NUM_NODES:,.0f}"])
    return markdown_table(lines)


def _pair(values: Sequence[float | None]) -> str:
    return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in values)
