"""The table of the model of photographs, for the README."""

from training.utils.results import Results, markdown_table

MODELS = (
    ("teacher", None, "teacher"),
    ("student", "no_teacher", "same student without a teacher"),
    ("student", "distilled", "student after stage 1"),
    ("student", "stage_2", "student after stage 2"),
    ("student", "aligned", "**dcclip-tiny-photo**: mean of both stages"),
)
RECALL = ("recall@1", "recall@5", "recall@10")
LANGUAGES = ("en", "zh")
HEADER = (
    "R@1 / 5 / 10, text to image, en",
    "zh",
    "image to text, en",
    "zh",
    "CIFAR-10, en / zh",
    "Tiny ImageNet, en / zh",
)


def table(results: Results) -> str:
    """Render recall on Flickr8k and accuracy on labelled sets, in percent.

    Args:
        results: Results of the model, of its teacher and of earlier stages.

    Returns:
        Markdown table with a line for each model that has results.
    """
    lines = [["%", *HEADER], ["---", *["---:"] * len(HEADER)]]
    for model, stage, title in MODELS:
        if results.values(model=model, stage=stage):
            lines.append([title, *_cells(results, {"model": model, "stage": stage})])
    return markdown_table(lines)


def _cells(results: Results, row: dict[str, str | None]) -> list[str]:
    retrieval = [
        " / ".join(
            _percent(results, **row, set="flickr8k_validation", language=language, metric=f"{direction}_{metric}")
            for metric in RECALL
        )
        for direction in ("t2i", "i2t")
        for language in LANGUAGES
    ]
    accuracy = [
        " / ".join(_percent(results, **row, set=name, language=language, metric="top1") for language in LANGUAGES)
        for name in ("cifar-10", "tiny_imagenet")
    ]
    return [*retrieval, *accuracy]


def _percent(results: Results, **fields: str | None) -> str:
    value = results.mean(**fields)
    return "-" if value is None else f"{100 * value:.1f}"
