"""Report of a curation: counts and samples of each cause in report.json and report.md."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.prepare.curation import CAUSES, CODES, KEPT, Decisions, ReadText
from training.prepare.curation_options import CurateOptions
from training.utils.files import atomic_write, portable
from training.utils.results import markdown_table, portable_values

REPORT_FILES = REPORT_FILE, MARKDOWN_FILE = "report.json", "report.md"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SAMPLES = 5  # dropped captions of each cause and language
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
        """A Markdown table with a line for each cause that applied, and a column for the rows and each language."""
        columns = self.columns
        lines = [["cause", *columns], ["---", *["---:"] * len(columns)]]
        lines.append(["input", *(f"{column['in']:,}" for column in columns.values())])
        for cause in CAUSES:
            counts = [column["dropped"].get(cause, 0) for column in columns.values()]
            if any(counts):
                lines.append([cause, *(f"{count:,}" for count in counts)])
        lines.append(["kept", *(f"**{column['out']:,}**" for column in columns.values())])
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
    """Write report.json and report.md.

    Args:
        folder: Folder to write to.
        decisions: Facts with the final causes.
        excluded: Hashes (E,) uint64 of the images of each excluded source.
        options: Options of the run.
        meta: Provenance of the numbers, as returned by `training.utils.results.make_meta`.
        read_text: Function that returns the text of a caption.
    """
    facts, languages = decisions.facts, list(options.caption_columns)
    counts, first = {}, 0
    for name, hashes in excluded.items():
        matches = (decisions.excluded_by >= first) & (decisions.excluded_by < first + len(hashes))
        counts[portable(name)] = {"hashed": len(hashes), "rows": int(matches.sum())}
        first += len(hashes)
    similarity = {}
    for number, language in enumerate(languages):
        scored = facts.similarity[(facts.language == number) & ~np.isnan(facts.similarity)]
        if len(scored):
            quantiles = {str(share): round(float(np.quantile(scored, share)), 6) for share in QUANTILES}
            threshold = decisions.thresholds.get(language)
            similarity[language] = {"scored": len(scored), "threshold": threshold, "quantiles": quantiles}
    causes = {language: facts.text_cause[facts.language == number] for number, language in enumerate(languages)}
    content = {
        "meta": meta,
        "options": portable_values(options.key()),
        "rows": _count(facts.cause),
        "captions": {language: _count(cause) for language, cause in causes.items()},
        "excluded": counts,
        "similarity": similarity,
        "samples": _samples(decisions, languages, read_text),
    }
    report = Report(content)
    for name, text in (
        (REPORT_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n"),
        (MARKDOWN_FILE, report.markdown()),
    ):
        with atomic_write(folder / name) as scratch:
            # a caption may contain a lone surrogate, which UTF-8 cannot encode
            scratch.write_text(text, encoding="utf-8", errors="replace")
    return report


def _count(cause: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(cause, minlength=len(CAUSES))
    dropped = {name: int(counts[code]) for name, code in CODES.items() if name != KEPT and counts[code]}
    return {"in": len(cause), "out": int(counts[CODES[KEPT]]), "dropped": dropped}


def _samples(decisions: Decisions, languages: list[str], read_text: ReadText) -> dict[str, dict[str, list[dict]]]:
    """The first dropped captions of each cause and language."""
    facts = decisions.facts

    def text_of(caption: int) -> str | None:
        number = int(facts.number[caption])
        return None if number < 0 else read_text(languages[facts.language[caption]], int(facts.row[caption]), number)

    samples: dict[str, dict[str, list[dict]]] = {}
    for cause, code in CODES.items():
        for position, language in enumerate(languages):
            dropped = np.flatnonzero((facts.text_cause == code) & (facts.language == position))[:SAMPLES].tolist()
            for index in dropped if cause != KEPT else ():
                row, match = int(facts.row[index]), int(decisions.caption_like[index])
                sample: dict[str, Any] = {"row": row, "text": text_of(index)}
                if cause == "low similarity":
                    sample["similarity"] = round(float(facts.similarity[index]), 6)
                elif cause == "near-duplicate image":
                    sample["like_row"] = int(decisions.image_like[row])
                elif cause == "near-duplicate caption":
                    sample |= {"like_row": int(facts.row[match]), "like_text": text_of(match)}
                samples.setdefault(cause, {}).setdefault(language, []).append(sample)
    return samples
