"""Report of a curation: counts and samples per cause in report.json and report.md, and similarity.png."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.prepare.curate.causes import CAUSES, CODES, KEPT
from training.prepare.curate.decide import Decisions, ReadText
from training.prepare.curate.facts import CaptionFacts
from training.prepare.curate.options import CurateOptions
from training.utils.files import atomic_write
from training.utils.results import markdown_table

REPORT_FILES = REPORT_FILE, MARKDOWN_FILE, PLOT_FILE = "report.json", "report.md", "similarity.png"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLOURS = ("#2a78d6", "#d6452a", "#1a7f37", "#8250df")
MAX_SAMPLE_LENGTH = 120  # characters of a caption in report.md


@dataclass(frozen=True)
class Report:
    """The report of one run.

    Args:
        content: Content of report.json.
    """

    content: dict[str, Any]

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """Counts of the rows and of the captions of each language: `in`, `out`, and `dropped` by cause."""
        return {"rows": self.content["rows"], **self.content["captions"]}

    def table(self) -> str:
        """A Markdown table with a line per cause and a column for the rows and for each language."""
        columns = self.columns
        lines = [["cause", "threshold", *columns], ["---", "---", *["---:"] * len(columns)]]
        lines.append(["input", "", *(f"{column['in']:,}" for column in columns.values())])
        for cause in CAUSES:
            counts = [column["dropped"].get(cause, 0) for column in columns.values()]
            thresholds = {name: self.content["options"][name] for name in CAUSES[cause]}
            is_on = any(value is not None and value != [] and value != {} for value in thresholds.values())
            if cause != KEPT and (is_on or any(counts)):
                values = ", ".join(f"{name} {_plain(value)}" for name, value in thresholds.items())
                lines.append([cause, values, *(f"{count:,}" for count in counts)])
        lines.append(["kept", "", *(f"**{column['out']:,}**" for column in columns.values())])
        return markdown_table(lines)

    def markdown(self) -> str:
        """Content of report.md: the table, further counts, and samples of dropped captions."""
        meta = self.content["meta"]
        parts = [f"# Curation of {meta['data']}"]
        parts += [f"Command: `{meta['command']}` (commit {meta['commit']}, {meta['date']})", self.table()]
        parts.append(
            "Each row and caption is counted under the first cause that applies, in the order of the table. Captions "
            "of a dropped row are dropped with it."
        )
        for language, counts in self.content["traditional"].items():
            parts.append(
                f"Captions in traditional Chinese ({language}): {counts['in']:,} in the input, {counts['out']:,} kept."
            )
        for name, counts in self.content["excluded"].items():
            parts.append(
                f"Excluded source {name}: {counts['hashed']:,} images; {counts['rows']:,} rows match one of them."
            )
        for language, numbers in self.content["similarity"].items():
            quantiles = ", ".join(f"{share}: {value:.3f}" for share, value in numbers["quantiles"].items())
            threshold = "not set" if numbers["threshold"] is None else f"{numbers['threshold']:.3f}"
            parts.append(
                f"Cosine of image and caption ({language}): {numbers['scored']:,} captions scored; quantiles "
                f"{quantiles}; threshold {threshold}."
            )
        for cause, by_language in self.content["samples"].items():
            parts.append(f"## Samples: {cause}")
            parts += ["\n".join(_sample_line(name, sample) for name in by_language for sample in by_language[name])]
        return "\n\n".join(parts) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items()) or "off"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "off"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "off" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _sample_line(language: str, sample: dict[str, Any]) -> str:
    text = " ".join((sample["text"] or "").split())
    text = f"{text[:MAX_SAMPLE_LENGTH]}…" if len(text) > MAX_SAMPLE_LENGTH else text
    match = ""
    if "like_row" in sample:
        match = f" (near-duplicate of row {sample['like_row']}{_quoted(sample.get('like_text'))})"
    return f"- {language}, row {sample['row']}:{_quoted(text)}{match}"


def _quoted(text: str | None) -> str:
    return "" if not text else f" `{text.replace('`', ' ')}`"


def write_report(
    folder: Path,
    decisions: Decisions,
    excluded: dict[str, np.ndarray],
    options: CurateOptions,
    meta: dict[str, Any],
    read_text: ReadText,
) -> Report:
    """Write report.json, report.md and, if a teacher scored the captions, similarity.png.

    Args:
        folder: Folder to write to.
        decisions: Facts with the final causes.
        excluded: Hashes (E,) uint64 of the images of each excluded source.
        options: Options of the run.
        meta: Provenance of the numbers, as returned by `training.utils.results.make_meta`.
        read_text: Function that returns the text of a caption.
    """
    facts = decisions.facts
    chinese = {language: captions for language, captions in facts.captions.items() if language == "zh"}
    content = {
        "meta": meta,
        "options": options.key(),
        "rows": _count(facts.cause),
        "captions": {language: _count(captions.cause) for language, captions in facts.captions.items()},
        "traditional": {
            language: {
                "in": int(captions.traditional.sum()),
                "out": int((captions.traditional & captions.kept).sum()),
            }
            for language, captions in chinese.items()
        },
        "excluded": _count_excluded(decisions, excluded),
        "similarity": {
            language: numbers
            for language, captions in facts.captions.items()
            if (numbers := _summarise(captions, decisions.thresholds.get(language)))
        },
        "samples": _samples(decisions, options.samples, read_text),
    }
    report = Report(content)
    _write(folder / REPORT_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    _write(folder / MARKDOWN_FILE, report.markdown())
    if content["similarity"]:
        plot_similarity(decisions, folder / PLOT_FILE)
    return report


def _write(path: Path, text: str):
    # a caption may contain a lone surrogate, which UTF-8 cannot encode
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="replace")


def _count(cause: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(cause, minlength=len(CAUSES))
    dropped = {name: int(counts[code]) for name, code in CODES.items() if name != KEPT and counts[code]}
    return {"in": len(cause), "out": int(counts[CODES[KEPT]]), "dropped": dropped}


def _count_excluded(decisions: Decisions, excluded: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    counts, first = {}, 0
    for name, hashes in excluded.items():
        matches = (decisions.excluded_by >= first) & (decisions.excluded_by < first + len(hashes))
        counts[name] = {"hashed": len(hashes), "rows": int(matches.sum())}
        first += len(hashes)
    return counts


def _summarise(captions: CaptionFacts, threshold: float | None) -> dict[str, Any] | None:
    scored = captions.similarity[~np.isnan(captions.similarity)]
    if not len(scored):
        return None
    quantiles = {str(share): round(float(np.quantile(scored, share)), 6) for share in QUANTILES}
    return {"scored": len(scored), "threshold": threshold, "quantiles": quantiles}


def _samples(decisions: Decisions, num: int, read_text: ReadText) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The first `num` dropped captions of each cause and language."""
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cause, code in CODES.items():
        for language, captions in decisions.facts.captions.items():
            dropped = np.flatnonzero(captions.cause == code)[:num]
            if cause != KEPT and len(dropped):
                samples.setdefault(cause, {})[language] = [
                    _sample(decisions, language, int(index), cause, read_text) for index in dropped
                ]
    return samples


def _sample(decisions: Decisions, language: str, index: int, cause: str, read_text: ReadText) -> dict[str, Any]:
    captions = decisions.facts.captions[language]

    def text_of(caption: int) -> str | None:
        number = int(captions.number[caption])
        return None if number < 0 else read_text(language, int(captions.row[caption]), number)

    row = int(captions.row[index])
    sample: dict[str, Any] = {"row": row, "text": text_of(index)}
    if cause == "low similarity":
        sample["similarity"] = round(float(captions.similarity[index]), 6)
    elif cause == "near-duplicate image":
        sample["like_row"] = int(decisions.image_like[row])
    elif cause == "near-duplicate caption":
        match = int(decisions.caption_like[language][index])
        sample |= {"like_row": int(captions.row[match]), "like_text": text_of(match)}
    return sample


def plot_similarity(decisions: Decisions, path: Path):
    """Plot a histogram of the cosines of each language, with its threshold as a dashed line.

    Args:
        decisions: Facts with similarities, and the thresholds.
        path: Path of the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axis = figure.subplots()
    for (language, captions), colour in zip(decisions.facts.captions.items(), COLOURS, strict=False):
        scored = captions.similarity[~np.isnan(captions.similarity)]
        if not len(scored):
            continue
        axis.hist(scored, bins=50, histtype="step", color=colour, label=f"{language}, {len(scored):,} captions")
        if language in decisions.thresholds:
            axis.axvline(decisions.thresholds[language], color=colour, ls="--", lw=1)
    axis.set(title="Cosine of image and caption (dashed: threshold)", xlabel="cosine", ylabel="number of captions")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")
