"""Render the tables of every README from committed results, so that no number in a README is typed by hand.

A block starts with `<!-- table: NAME ARGUMENTS -->` and ends with `<!-- end of table -->`.
"""

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from training.experiments.studies import budget, claims
from training.hub.cards.tables import size_table
from training.text.writing_systems import LANGUAGES
from training.utils.files import REPO_ROOT, write_text
from training.utils.results import RESULTS_FILE, Results, Row, markdown_table

BLOCK = re.compile(r"(<!-- table: (\S+)(.*?) -->\n).*?(<!-- end of table -->)", re.S)
COMMITTED = REPO_ROOT / "model_cards" / "results"
BUDGET = COMMITTED / "budget" / RESULTS_FILE
STAGES = COMMITTED / "photographs" / "stages.json"
TEACHER = "dcclip-photo-teacher"
PHOTO_MODELS = (TEACHER, "dcclip-tiny-photo", "dcclip-nano-photo")
BUDGET_MODELS = {name: f"`{name}`" for name in ("tiny", "small", "base")} | {
    "chinese-clip-rn50": "Chinese-CLIP RN50",
    "altclip": "AltCLIP",
}
FLICKR, BING, IMAGENET = "flickr8k_validation", "bing_validation", "tiny-imagenet"
FIND, DESCRIBE, TOP1 = "text_to_image_R@5", "image_to_text_R@5", "top1"
HEADERS = {
    "en": [
        "Model",
        "Parameters",
        "Size in int8",
        "Latency of an image and a text",
        "R@5, en / zh",
        "Names, en / zh",
        "Kept",
    ],
    "zh": [
        "模型",
        "参数量",
        "int8 大小",
        "一张图片加一条文本的延迟",
        "R@5（英 / 中）",
        "名称（英 / 中）",
        "保留",
    ],
}
NOTES = {
    "en": "Latency is for int8, one thread and batch 1, all models in one run; AltCLIP, the paper's teacher, and "
    "dcclip-photo-teacher were timed with random weights. R@5 is text to image on 690 photographs of Flickr8k, *kept* "
    "its share of the teacher's. Names are top-1 on Tiny ImageNet's 200 classes without a template; "
    "EfficientNet-Lite2's classifier teaches them too.",
    "zh": "延迟：int8，单线程，每次一张图片和一条文本，同一次运行测得；"
    "AltCLIP（论文中的教师模型）和 dcclip-photo-teacher 用随机权重测延迟。"
    "R@5：在 Flickr8k 的 690 张照片中以文搜图。"
    "名称：Tiny ImageNet 200 类的 top-1，不用模板。保留：R@5 占教师模型的平均比例；"
    "名称还从 EfficientNet-Lite2 的分类器学习。",
}
MEASURES = {
    (FLICKR, FIND): ("Flickr8k validation, text to image R@5", "Flickr8k 验证集，以文搜图 R@5"),
    (FLICKR, DESCRIBE): (
        "Flickr8k validation, image to text R@5",
        "Flickr8k 验证集，以图搜文 R@5",
    ),
    (BING, FIND): (
        "Bing photographs of the day, text to image R@5",
        "必应每日图片，以文搜图 R@5",
    ),
    (IMAGENET, TOP1): (
        "Tiny ImageNet, bare names, top-1",
        "Tiny ImageNet，不用模板，top-1",
    ),
    ("cifar-10", TOP1): ("CIFAR-10, top-1", "CIFAR-10，top-1"),
    ("mnist", TOP1): ("MNIST, top-1", "MNIST，top-1"),
}
LANCE_MEASURES = {
    "recall": "Recall of the exact ten: captions en / zh / photographs",
    "ms_per_query": "Latency of a query, p50 / p95, ms",
    "peak_mb": "Peak memory of the search, MB",
    "write_s": "Time to write and index, s",
    "bytes_per_vector": "Bytes per vector",
}
FLICKR_5, BING_5 = "Captions, Flickr8k: R@5", "Captions, Bing: R@5"
TEN = "74 everyday queries: right in the first ten"
SEARCH_MEASURES = {
    ("photos_flickr8k", "search_recall_at_5"): FLICKR_5,
    ("photos_flickr8k", "search_recall_at_5_cosine"): f"{FLICKR_5}, by cosine",
    ("photos_bing", "search_recall_at_5"): BING_5,
    ("photos_bing", "search_recall_at_5_cosine"): f"{BING_5}, by cosine",
    ("everyday", "everyday_p10"): TEN,
    ("everyday", "everyday_p10_cosine"): f"{TEN}, by cosine",
    ("names", "fitting_recall"): "ImageNet classes: shown and listed",
    ("names", "fitting_precision"): "ImageNet classes: right of the listed",
    ("names", "nothing_fits"): "ImageNet classes, absent: nothing listed",
    ("nouns", "fitting_recall"): "Nouns of captions: shown and listed",
    ("nouns", "fitting_precision"): "Nouns of captions: right of the listed",
    ("nouns", "answer_lost"): "50 nouns that are there: none or one listed",
    ("nouns", "answer_unsure"): "50 nouns that are there: perhaps",
    ("absent", "answer_found"): "24 absent names: something listed",
    ("dated", "answer_lost"): "10 dated queries with such photographs: none found",
    ("dated", "answer_unsure"): "10 dated queries with such photographs: perhaps",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """No options: every README of the checkout is rendered."""


def models_table(language: str = "en") -> str:
    """The table of models at the head of a README, with a note below, in `en` or `zh`."""
    measured, results = _by_folder(Results.read(BUDGET)), _photo_results()
    lines = [HEADERS[language], ["---", *["---:"] * 6]]
    of_teacher = _percents(results, TEACHER, FLICKR, FIND)
    for name in _measured(results):
        recalls = _percents(results, name, FLICKR, FIND)
        names = _percents(results, name, IMAGENET, TOP1)
        is_shipped = (REPO_ROOT / "model_cards" / name).is_dir()
        title = f"[**{name}**](model_cards/{name})" if is_shipped else name
        kept = fmean(own / of for own, of in zip(recalls, of_teacher, strict=True))
        cells = [f"{_joined(recalls, 0)} %", f"{_joined(names, 0)} %", f"{100 * kept:.0f} %"]
        lines.append([title, *budget.costs(measured, name), *cells])
    altclip = "[AltCLIP](https://huggingface.co/BAAI/AltCLIP)"
    lines.append([altclip, *budget.costs(measured, "altclip"), "-", "-", "-"])
    return f"{markdown_table(lines)}\n\n{NOTES[language]}"


def _photo_results(files: str = "*.json") -> Results:
    """The committed figures of the models of photographs, which several commands measured."""
    rows: list[Row] = []
    for path in sorted((COMMITTED / "photographs").glob(files)):
        rows += Results.read(path).rows
    return _by_folder(Results({}, rows))


def _by_folder(results: Results) -> Results:
    """The same results with models named by their folders alone."""
    return Results({}, [replace(row, model=Path(row.model).name) for row in results.rows])


def _measured(results: Results) -> list[str]:
    return [name for name in PHOTO_MODELS if results.values(model=name)]


def _percents(results: Results, model: str, name: str, metric: str) -> list[float]:
    percents = []
    for language in LANGUAGES:
        value = results.mean(model=model, set=name, metric=metric, language=language)
        if value is not None:
            percents.append(100 * value)
    return percents


def _joined(percents: list[float], digits: int) -> str:
    """Values in English and Chinese, such as `61.2 / 58.0`."""
    return " / ".join(f"{value:.{digits}f}" for value in percents)


def lance_table(results: Results) -> str:
    """A column for each number of vectors in Lance."""
    sizes = sorted({int(row.protocol or 0) for row in results.rows})
    lines = [["Vectors", *(f"{size:,}" for size in sizes)], ["---", *["---:"] * len(sizes)]]
    for metric, title in LANCE_MEASURES.items():
        measured = [results.values(metric=metric, protocol=str(size)) for size in sizes]
        cells = [" / ".join(f"{value:,.4g}" for value in values) for values in measured]
        lines.append([title, *cells])
    return markdown_table(lines)


def photographs_table(language: str = "en") -> str:
    """Recall at 5 and top-1 accuracy of the models of photographs, in percent."""
    results = _photo_results()
    titles = {key: names[language == "zh"] for key, names in MEASURES.items()}
    corner = {"en": "%, English / Chinese", "zh": "%，英 / 中"}[language]
    return _percents_table(results, titles, corner)


def search_table() -> str:
    """What the photo search finds and answers on validation photographs, in percent."""
    return _percents_table(_photo_results("search.json"), SEARCH_MEASURES, "%, English / Chinese")


def _percents_table(results: Results, titles: Mapping[tuple[str, str], str], corner: str) -> str:
    """A row for each set and metric, and a column for each model of photographs."""
    models = _measured(results)
    lines = [[corner, *models], ["---", *["---:"] * len(models)]]
    for (name, metric), title in titles.items():
        cells = [_joined(_percents(results, model, name, metric), 1) or "-" for model in models]
        lines.append([title, *cells])
    return markdown_table(lines)


def stages_table() -> str:
    """Hours and recall at 5 of each training stage of the models of photographs, as their command has written them."""
    results = Results.read(STAGES)
    lines = [["Step", "Hours", "Flickr8k R@5, en / zh", "Bing R@5, en / zh"]]
    lines.append(["---", *["---:"] * 3])
    for name in dict.fromkeys(row.model for row in results.rows):
        seconds = results.meta["seconds"].get(name)
        sets = ("photos_flickr8k", "photos_bing")
        recalls = [_joined(_percents(results, name, each, FIND), 1) for each in sets]
        lines.append([name, f"{seconds / 3600:.1f}" if seconds else "", *recalls])
    return markdown_table(lines)


RENDERERS: dict[str, Callable[..., str | None]] = {
    "models": models_table,
    "photographs": photographs_table,
    "budget": lambda: budget.table(Results.read(BUDGET), BUDGET_MODELS),
    "stages": stages_table,
    "search": search_table,
    "accuracy": lambda path: Results.read(REPO_ROOT / path).table(),
    "sizes": lambda path: size_table(Results.read(REPO_ROOT / path)),
    "lance": lambda path: lance_table(Results.read(REPO_ROOT / path)),
    "claims": lambda path: claims.table(Results.read(REPO_ROOT / path)),
    "verdicts": lambda path: claims.verdicts(Results.read(REPO_ROOT / path)),
}


def render(text: str) -> str:
    """Fill the table blocks of a README.

    Returns:
        The same text with every block rendered anew.

    Raises:
        KeyError: A block names a table that does not exist.
    """

    def fill(block: re.Match[str]) -> str:
        start, name, arguments, end = block.groups()
        return f"{start}{RENDERERS[name](*arguments.split())}\n{end}"

    return BLOCK.sub(fill, text)


def list_readmes() -> list[Path]:
    """Every tracked README of the checkout, in any language."""
    command = ["git", "ls-files", "README*.md", "**/README*.md"]
    names = subprocess.run(
        command, cwd=REPO_ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [REPO_ROOT / name for name in names]


def run(options: Options):
    """Rewrite every README whose tables have changed."""
    for path in list_readmes():
        text = path.read_text(encoding="utf-8")
        if (rendered := render(text)) != text:
            write_text(path, rendered)
            print(path.relative_to(REPO_ROOT))
