"""Tables of search, rendered from committed results."""

from collections.abc import Sequence

from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table, percent_cells

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
    lines = [["10 nodes of 32 cores", "Images per second and core", "Images per second", "Hours", "Node hours"]]
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


def adapt_table(results: Results) -> str:
    """Render the recall of models that search an index of an unrelated model, in percent, English / Chinese.

    Args:
        results: Results of `python -m training.studies.search.adapt`.

    Returns:
        Markdown table with three lines for each direction.
    """
    titles = {"no map": "without a map", "dcclip adapt": "with `dcclip adapt`", "own index": "after embedding again"}
    lines = [["Index of", "Queries of", "Index", "recall@1", "recall@5", "recall@10"], ["---"] * 3 + ["---:"] * 3]
    for owner, other in dict.fromkeys((row.set, row.model) for row in results.rows):
        for stage, title in titles.items():
            fields = {"model": other, "set": owner, "stage": stage}
            cells = [
                _pair([results.mean(**fields, language=each, metric=f"t2i_recall@{k}") for each in LANGUAGES])
                for k in (1, 5, 10)
            ]
            lines.append([other if stage == "own index" else str(owner), other, title, *cells])
    return markdown_table(lines)


def growth_table(results: Results) -> str:
    """Render memory and time of an index that grows.

    Args:
        results: Results of `python -m training.studies.search.growth`.

    Returns:
        Markdown table with a line for each number of files; seconds are processor time.
    """
    header = [
        "Files",
        "Peak memory of indexing, MB",
        "Second run, s",
        "First answer, s",
        "Peak memory of a search, MB",
    ]
    lines = [header, ["---:"] * len(header)]
    for size in dict.fromkeys(row.set for row in results.rows):
        peak, again, answer, search = (
            results.mean(set=size, metric=metric) or 0.0
            for metric in ("index_peak_bytes", "unchanged_cpu_s", "first_answer_cpu_s", "search_peak_bytes")
        )
        files = str(size).removesuffix(" files")
        lines.append([files, f"{peak / 1e6:.0f}", f"{again:.2f}", f"{answer:.2f}", f"{search / 1e6:.0f}"])
    return markdown_table(lines)


def scan_table(results: Results) -> str:
    """Render the latency of exact scans.

    Args:
        results: Results of `python -m training.studies.search.scan`.

    Returns:
        Markdown table with a line for each program and type of vectors.
    """
    lines = [["Program and type", "ms per query", "of float32's ten nearest, %", "Bytes per vector"]]
    lines.append(["---", *["---:"] * 3])
    for name in dict.fromkeys(row.model for row in results.rows):
        ms, share, size = (
            results.mean(model=name, metric=metric) or 0.0 for metric in ("ms", "recall_at_10", "bytes_per_vector")
        )
        lines.append([name, f"{ms:.0f}", f"{100 * share:.1f}", f"{size:,.0f}"])
    return markdown_table(lines)


def rclip_table(results: Results) -> str:
    """Render indexing and queries beside rclip.

    Args:
        results: Results of `python -m training.studies.search.rclip`.

    Returns:
        Markdown table with a line for each program.
    """
    lines = [["Program", "Images indexed per second", "Query, s", "Model, MB"], ["---", *["---:"] * 3]]
    for name in dict.fromkeys(row.model for row in results.rows):
        rate, query, size = (
            results.mean(model=name, metric=metric) or 0.0 for metric in ("images_per_s", "query_s", "model_bytes")
        )
        lines.append([name, f"{rate:.1f}", f"{query:.1f}", f"{size / 1e6:.0f}"])
    return markdown_table(lines)


def rates_table(results: Results) -> str:
    """Render the rates of indexing and of its parts.

    Args:
        results: Results of `python -m training.studies.search`.

    Returns:
        Markdown table with a line for each kind of work.
    """
    titles = {
        "index": "`dcclip index`",
        "bare loop": "bare loop: decoding in draft mode, and encoding ready tensors",
        "decoding": "decoding, resizing and normalizing, without encoding",
    }
    header = [
        "Work",
        "Images a second",
        "of the bare loop, %",
        "Images a second of processor time",
        "of the bare loop, %",
    ]
    lines = [header, ["---", *["---:"] * 4]]
    for name, title in titles.items():
        cells = [title]
        for rate, ratio in (("images_per_s", "over_bare_loop"), ("images_per_cpu_s", "over_bare_loop_cpu")):
            share = results.mean(model=name, metric=ratio)
            cells += [
                f"{results.mean(model=name, metric=rate) or 0.0:.0f}",
                "" if share is None else f"{100 * share:.0f}",
            ]
        lines.append(cells)
    return markdown_table(lines)


def kills_table(results: Results) -> str:
    """Render the kill test of indexing.

    Args:
        results: Results of `python -m tests.kills --indexing --output_dir DIR`.

    Returns:
        Markdown table of one line.
    """
    header = ["Kills", "Identical indexes", "Images of each index", "Embedded twice, at most", "In work, at most"]
    metrics = ("kills", "identical", "images", "most_repeated", "most_in_work")
    values = [f"{results.mean(metric=metric) or 0.0:.0f}" for metric in metrics]
    return markdown_table([header, ["---:"] * len(header), values])


def _pair(values: Sequence[float | None]) -> str:
    return " / ".join(percent_cells(values))
