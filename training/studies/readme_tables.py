"""Render the tables of every README from committed results.

    python -m training.studies.readme_tables

A block starts with `<!-- table: NAME ARGUMENTS -->` and ends with `<!-- end of table -->`, so that no number in
a README is typed by hand.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from training.demo import report
from training.demo.photo_model import report as photo_report
from training.hub.cards.device_budget import read_costs, read_pairs
from training.hub.cards.facts import count_parameters
from training.hub.cards.tables import export_table
from training.studies.ablations import arms
from training.studies.finetuning.tables import finetuning_table
from training.studies.photographs import captions, classes, spellings
from training.studies.photographs import tables as photographs_tables
from training.studies.search import tables as search_tables
from training.studies.teachers import tables as teachers_tables
from training.studies.tools.tables import tools_table
from training.utils.files import REPO_ROOT, write_text
from training.utils.results import RESULTS_FILE, Results, markdown_table

BLOCK = re.compile(r"(<!-- table: (\S+)(.*?) -->\n).*?(<!-- end of table -->)", re.S)
BUDGET = REPO_ROOT / "model_cards" / "results" / "budget" / RESULTS_FILE
LATER_BUDGET = BUDGET.with_name("photo_model.json")  # of the finished model beside `tiny`
DEMO = REPO_ROOT / "model_cards" / "results" / "demo" / RESULTS_FILE
PHOTO_MODEL = REPO_ROOT / "model_cards" / "dcclip-tiny-photo"
SIZES = ("tiny", "small", "base")
BASELINES = {"chinese-clip-rn50": "Chinese-CLIP RN50", "altclip": "AltCLIP"}
WORDS = {
    "en": {
        "header": ["Model", "Parameters", "Size", "Latency of an image and a text", "Quality, en / zh", "Status"],
        "photographs": "[in this repository](model_cards/dcclip-tiny-photo)",
        "demo": "trained by the quick start",
        "size": "recipe, weights not published",
        "baseline": "baseline",
        "note": "Latency: one thread, int8; the demo in PyTorch, fp32; `dcclip-tiny-photo` in a later run, where "
        "`tiny` takes {tiny:.1f} ms. The models without a quality had random weights. R@5: text to image, 690 "
        "photographs. Top-5: 3,944 emoji names, unseen skin tones.",
    },
    "zh": {
        "header": ["模型", "参数量", "大小", "一张图片加一条文本的延迟", "效果（英 / 中）", "状态"],
        "photographs": "[在本仓库中](model_cards/dcclip-tiny-photo)",
        "demo": "由快速开始训练得到",
        "size": "训练配方，权重未发布",
        "baseline": "基线模型",
        "note": "延迟为单线程 int8 的结果，演示模型为 PyTorch fp32，"
        "`dcclip-tiny-photo` 为后来单独测得（同次测得 `tiny` 为 {tiny:.1f} ms）。"
        "未列效果的模型使用随机权重。"
        "R@5：在 690 张照片中以文搜图。top-5：在 3,944 个表情名称中，图片为未见过的肤色变体。",
    },
}


def models_table(language: str = "en") -> str:
    """The table of models at the head of a README.

    Args:
        language: Language of the words, `en` or `zh`.

    Returns:
        Markdown table with a note below.
    """
    words = WORDS[language]
    header = words["header"]
    lines = [header, ["---", "---:", "---:", "---:", "---:", "---"]]
    lines += [_photo_line(str(words["photographs"])), _demo_line(str(words["demo"]))]
    budget = Results.read(BUDGET)
    for name in SIZES:
        lines.append(_budget_line(budget, name, f"`{name}`", str(words["size"])))
    for name, title in BASELINES.items():
        lines.append(_budget_line(budget, name, title, str(words["baseline"])))
    note = str(words["note"]).format(tiny=_pair_ms(Results.read(LATER_BUDGET), "tiny"))
    return f"{markdown_table(lines)}\n\n{note}"


def _photo_line(status: str) -> list[str]:
    results = Results.read(PHOTO_MODEL / RESULTS_FILE)
    files = [entry for entry in results.meta["export"]["verdicts"] if entry["kept"] and entry["variant"] == "int8"]
    found = {"model": "student", "stage": "aligned", "set": "flickr8k_validation", "metric": "t2i_recall@5"}
    recall = " / ".join(f"{100 * (results.mean(**found, language=name) or 0.0):.0f} %" for name in ("en", "zh"))
    return [
        f"**{PHOTO_MODEL.name}**",
        f"{count_parameters(PHOTO_MODEL) / 1e6:.1f} M",
        f"{sum(entry['bytes'] for entry in files) / 1e6:.0f} MB (int8)",
        f"{_pair_ms(Results.read(LATER_BUDGET), PHOTO_MODEL.name):.1f} ms",
        f"R@5 {recall}",
        status,
    ]


def _demo_line(status: str) -> list[str]:
    results = Results.read(DEMO)
    row = {"model": "student", "stage": "aligned"}

    def mean(metric: str, **more: str) -> float:
        return results.mean(**row, metric=metric, **more) or 0.0

    top5 = " / ".join(f"{100 * mean('top5', set='unseen_combination', language=name):.0f} %" for name in ("en", "zh"))
    return [
        "demo",
        f"{mean('parameters') / 1e6:.1f} M",
        f"{mean('bytes') / 1e6:.1f} MB (fp32)",
        f"{mean('ms_per_image') + mean('ms_per_text'):.1f} ms",
        f"top-5 {top5}",
        status,
    ]


def _budget_line(budget: Results, name: str, title: str, status: str) -> list[str]:
    megabytes = read_costs(budget, name, "onnx-int8", 1)["MB"] or 0.0
    parameters = budget.mean(model=name, metric="parameters") or 0.0
    return [
        title,
        f"{parameters / 1e6:.1f} M",
        f"{megabytes:.0f} MB (int8)",
        f"{_pair_ms(budget, name):.1f} ms",
        "",
        status,
    ]


def _pair_ms(budget: Results, name: str) -> float:
    """Milliseconds of an image and a text in int8 on one thread."""
    (ms,) = [
        pair.ms for pair in read_pairs(budget) if (pair.model, pair.backend, pair.threads) == (name, "onnx-int8", 1)
    ]
    return ms


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


def _read(path: str) -> Results:
    return Results.read(REPO_ROOT / path)


RENDERERS: dict[str, Callable[..., str | None]] = {
    "models": models_table,
    "photographs": lambda path, words="en": photo_report.table(_read(path), words),
    "demo": lambda path: _fenced(report.summary(_read(path))),
    "cross-model": lambda path: _fenced(report.cross_model(_read(path))),
    "arms": lambda path: arms.table(_read(path)),
    "export": lambda path: export_table(_read(path)),
    "recall": lambda path: search_tables.recall_table(_read(path)),
    "compatible": lambda path: search_tables.compatible_table(_read(path)),
    "widths": lambda path: teachers_tables.widths_table(_read(path)),
    "targets": lambda path: teachers_tables.targets_table(_read(path)),
    "tools": lambda path: tools_table(_read(path)),
    "scale": lambda path: search_tables.scale_table(_read(path)),
    "finetuning": lambda path: finetuning_table(_read(path)),
    "photograph-arms": lambda path: photographs_tables.arms_table(_read(path)),
    "spellings": lambda path: spellings.table(_read(path)),
    "captions": lambda path: captions.table(_read(path)),
    "classes": lambda path: classes.table(_read(path)),
    "search-rates": lambda path: search_tables.rates_table(_read(path)),
    "search-growth": lambda path: search_tables.growth_table(_read(path)),
    "search-scan": lambda path: search_tables.scan_table(_read(path)),
    "search-rclip": lambda path: search_tables.rclip_table(_read(path)),
    "search-adapt": lambda path: search_tables.adapt_table(_read(path)),
    "search-kills": lambda path: search_tables.kills_table(_read(path)),
}


def render(text: str) -> str:
    """Fill the table blocks of a README.

    Args:
        text: Markdown with blocks, filled or empty.

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
    names = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [REPO_ROOT / name for name in names]


def main():
    """Rewrite every README whose tables have changed."""
    for path in list_readmes():
        text = path.read_text(encoding="utf-8")
        if (rendered := render(text)) != text:
            write_text(path, rendered)
            print(path.relative_to(REPO_ROOT))


if __name__ == "__main__":
    main()
