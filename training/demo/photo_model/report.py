"""The table of the model of photographs, for the README."""

from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table, percent_cells

# model, stage, title in each language
MODELS = (
    ("ConSE", None, {"en": "ConSE, no training", "zh": "ConSE（不训练）"}),
    (
        "caption heads",
        None,
        {"en": "trained heads on the frozen pretrained towers", "zh": "冻结的预训练编码器，只训练投影头"},
    ),
    ("teacher", None, {"en": "teacher", "zh": "教师模型"}),
    ("student", "no_teacher", {"en": "student without a teacher, 300 steps", "zh": "学生模型，无教师，300 步"}),
    ("student", "distilled", {"en": "student after stage 1", "zh": "学生模型，第一阶段后"}),
    ("student", "aligned", {"en": "**dcclip-tiny-photo**", "zh": "**dcclip-tiny-photo**"}),
)
# title in each language, set and metric
COLUMNS = (
    ({"en": "text to image", "zh": "以文搜图"}, "flickr8k_validation", "t2i_recall@5"),
    ({"en": "image to text", "zh": "以图搜文"}, "flickr8k_validation", "i2t_recall@5"),
    ({"en": "CIFAR-10", "zh": "CIFAR-10"}, "cifar-10", "top1"),
    ({"en": "Tiny ImageNet", "zh": "Tiny ImageNet"}, "tiny_imagenet", "top1"),
)
CORNER = {"en": "%, en / zh", "zh": "%，英 / 中"}


def table(results: Results, words: str = "en") -> str:
    """Render recall at 5 on Flickr8k and top-1 accuracy on labelled sets, in percent, English / Chinese.

    Args:
        results: Results of the model, of its teacher and of earlier stages.
        words: Language of the titles, `en` or `zh`.

    Returns:
        Markdown table with a line for each model that has results.
    """
    lines = [[CORNER[words], *(title[words] for title, _, _ in COLUMNS)], ["---", *["---:"] * len(COLUMNS)]]
    for model, stage, title in MODELS:
        if results.values(model=model, stage=stage):
            lines.append([title[words], *(_cell(results, model, stage, name, metric) for _, name, metric in COLUMNS)])
    return markdown_table(lines)


def _cell(results: Results, model: str, stage: str | None, name: str, metric: str) -> str:
    values = [
        results.mean(model=model, stage=stage, set=name, metric=metric, language=language) for language in LANGUAGES
    ]
    return " / ".join(percent_cells(values))
