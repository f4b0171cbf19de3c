"""The table of tools for model_cards/README.md, rendered from committed results."""

from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table

SHARES = ("same_set", "tied_order", "pillow_same_set", "pillow_tied_order")


def tools_table(results: Results) -> str:
    """Render how far each tool agrees with transformers in fp32, English / Chinese.

    Args:
        results: Results of `python -m training.studies.tools`.

    Returns:
        Markdown table with a line for each tool and number format, and a line on the data.
    """
    header = ["Tool", "Version", "Format", "Same ten images, %", "In the same order, %", "Pillow: same ten, %"]
    header += ["In the same order, %", "Largest difference, texts", "Images", "Recall@10, %"]
    lines = [header, ["---", "---", "---", *["---:"] * (len(header) - 3)]]
    for tool, variant in dict.fromkeys((row.model, row.stage) for row in results.rows):
        fields = {"model": tool, "stage": variant}
        versions = list(results.meta["tools"][tool].values())
        (images,) = results.values(**fields, language=None, metric="largest_difference")
        texts = max(results.mean(**fields, language=each, metric="largest_difference") or 0.0 for each in LANGUAGES)
        line = [tool, ", ".join(versions), variant or ""]
        line += [_pair(results, metric, **fields) for metric in SHARES]
        line += [f"{value:.0e}" if value else "0" for value in (texts, images)]
        lines.append([*line, _pair(results, "recall_at_10", **fields)])
    meta = results.meta
    size = f"JPEG files of {meta['width']} x {meta['width'] * 3 // 4} pixels" if meta["width"] else "files as stored"
    note = f"{meta['queries']} captions in each language, {meta['images']} photographs, {size}."
    return f"{markdown_table(lines)}\n\n{note}"


def _pair(results: Results, metric: str, **fields: str | None) -> str:
    values = [results.mean(**fields, language=each, metric=metric) or 0.0 for each in LANGUAGES]
    return " / ".join(f"{100 * value:.1f}" for value in values)
