"""The table of the model of photographs, for the README."""

from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table

MODELS = (
    ("ConSE", None, "ConSE, no training"),
    ("caption heads", None, "heads on the same frozen towers, trained on captions"),
    ("teacher", None, "teacher"),
    ("student", "no_teacher", "same student without a teacher, 300 steps"),
    ("student", "distilled", "student after stage 1 of the second round"),
    ("student", "aligned", "**dcclip-tiny-photo**"),
)
# title, set and metric
COLUMNS = (
    ("text to image", "flickr8k_validation", "t2i_recall@5"),
    ("image to text", "flickr8k_validation", "i2t_recall@5"),
    ("CIFAR-10", "cifar-10", "top1"),
    ("Tiny ImageNet", "tiny_imagenet", "top1"),
)


def table(results: Results) -> str:
    """Render recall at 5 on Flickr8k and top-1 accuracy on labelled sets, in percent, English / Chinese.

    Args:
        results: Results of the model, of its teacher and of earlier stages.

    Returns:
        Markdown table with a line for each model that has results.
    """
    lines = [["%, en / zh", *(title for title, _, _ in COLUMNS)], ["---", *["---:"] * len(COLUMNS)]]
    for model, stage, title in MODELS:
        if results.values(model=model, stage=stage):
            lines.append([title, *(_cell(results, model, stage, name, metric) for _, name, metric in COLUMNS)])
    return markdown_table(lines)


def _cell(results: Results, model: str, stage: str | None, name: str, metric: str) -> str:
    values = [
        results.mean(model=model, stage=stage, set=name, metric=metric, language=language) for language in LANGUAGES
    ]
    return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in values)
