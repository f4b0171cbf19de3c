"""Encode photographs and captions in every tool, rank, and compare with transformers."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from training.edge.verdict import ALLOWED_POINTS
from training.studies.tools.agreement import TIE, agreement
from training.studies.tools.encoder import Encoder, Tool
from training.studies.tools.options import ToolsOptions
from training.studies.tools.photographs import Photographs, write_photographs
from training.studies.tools.runtimes import js_versions
from training.studies.tools.table import REFERENCE, REFERENCES, TOOLS
from training.utils.cli import command_of
from training.utils.files import scratch_folder
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

MIN_SAME = 0.99  # of the queries of a tool in fp32
PILLOW_PREFIX = "pillow_"  # of the metrics of agreement with transformers where Pillow resizes
# the embeddings of the queries of each language
Texts = dict[str, np.ndarray]


def measure_tools(options: ToolsOptions, program: str) -> Results:
    """Compare the tools with transformers, and write results.json.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.

    Returns:
        For each tool, number format and language: the shares of `Agreement` with transformers in fp32, and again with
        images that Pillow resizes (`pillow_same_set`, ...); `recall_at_10`; and the largest difference of a component
        of the text embeddings; without a language, that of the image embeddings.

    Raises:
        ValueError: A tool does not exist, is not installed or lacks a file, or the data cannot be used.
    """
    model, folder = Path(options.model), Path(options.output_dir)
    tools = chosen_tools(options.tools)
    for tool in (*REFERENCES, *tools):
        tool.check(model)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder / ".tools") as scratch:
        photographs = write_photographs(options, scratch)
        settings = {
            "model": options.model,
            "images": len(photographs.files),
            "queries": options.num_queries,
            "width": options.width,
            "tie": TIE,
        }
        results = _earlier(folder, options.data, settings)
        run = _Run(model, photographs)
        for tool in tqdm([*REFERENCES, *tools], desc="tools"):
            rows = list(run.rows(tool))
            measured = results.meta.get("tools", {}) | {tool.name: tool.versions() or js_versions()}
            meta = make_meta(options.data, None, command_of(program, options), **settings, tools=measured)
            order = [each.name for each in (*REFERENCES, *TOOLS)]
            kept = [row for row in results.rows if row.model != tool.name]
            results = Results(meta, sorted([*kept, *rows], key=lambda row: order.index(row.model)))
            results.write(folder)
    return results


def _earlier(folder: Path, data: str, settings: dict) -> Results:
    """The results of an earlier run with the same options; without one, empty results."""
    path = folder / RESULTS_FILE
    if path.exists():
        earlier = Results.read(path)
        if {name: earlier.meta.get(name) for name in ("data", *settings)} == {"data": data} | settings:
            return earlier
    return Results({})


def chosen_tools(names: list[str] | None) -> list[Tool]:
    """The tools of these names, in the order of the table; all of them by default.

    Raises:
        ValueError: There is no such tool.
    """
    known = [tool.name for tool in TOOLS]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"tools: there is no {unknown[0]!r}. Expected: {'; '.join(known)}.")
    return [tool for tool in TOOLS if names is None or tool.name in names]


def shortfalls(results: Results) -> list[str]:
    """What falls short, a sentence each.

    In fp32, 99 % of the queries must have the same ten images as in transformers, in any order, with one of its two
    ways to resize images. In int8, the recall at 10 may fall as far as the accuracy check of an export allows.
    """
    found = []
    for row in results.rows:
        if row.metric == "tied_set" and row.stage == "fp32":
            fields = {"model": row.model, "stage": row.stage, "language": row.language}
            same = max([row.value, *results.values(**fields, metric=f"{PILLOW_PREFIX}tied_set")])
            if same >= MIN_SAME:
                continue
            found.append(
                f"{row.model}, fp32: {100 * same:.1f} % of the queries in {row.language} have the "
                f"same ten best images; {100 * MIN_SAME:.0f} % are required."
            )
        if row.metric == "recall_at_10" and row.stage == "int8":
            reference = results.mean(model=REFERENCE.name, metric="recall_at_10", language=row.language) or 0.0
            lost = 100 * (reference - row.value)
            if lost > ALLOWED_POINTS["int8"] + 1e-9:
                found.append(
                    f"{row.model}, int8: loses {lost:.2f} points of recall at 10 in {row.language}; "
                    f"{ALLOWED_POINTS['int8']} are allowed."
                )
    return found


@dataclass(frozen=True)
class _Encoded:
    """The photographs and the queries in one tool."""

    encoder: Encoder
    images: np.ndarray
    texts: Texts


class _Run:
    """The photographs, and what transformers makes of them, with its own way to resize images and with Pillow's."""

    def __init__(self, model: Path, photographs: Photographs):
        self.model, self.photographs = model, photographs
        self.references = {tool.name: self._encode(tool, "fp32") for tool in REFERENCES}
        own, pillow = self.references.values()
        self.images, self.texts, self.of_pillow = own.images, own.texts, pillow.images

    def _encode(self, tool: Tool, variant: str) -> _Encoded:
        encoder = tool.open(self.model, variant)
        images = encoder.encode_images(self.photographs.files)
        texts = {language: encoder.encode_texts(queries) for language, queries in self.photographs.texts.items()}
        return _Encoded(encoder, images, texts)

    def rows(self, tool: Tool) -> Iterator[Row]:
        """Encode and rank in one tool."""
        for variant in tool.variants:
            encoded = self.references.get(tool.name) or self._encode(tool, variant)
            images, texts = encoded.images, encoded.texts
            difference = float(abs(images - self.images).max())
            yield Row(model=tool.name, stage=variant, metric="largest_difference", value=difference)
            for language, embeddings in texts.items():
                found = encoded.encoder.rank(
                    self.photographs.files, images, self.photographs.texts[language], embeddings
                )
                hits = (found == self.photographs.targets[language][:, None]).any(1)
                values = asdict(agreement(found, self.texts[language] @ self.images.T))
                by_pillow = asdict(agreement(found, self.texts[language] @ self.of_pillow.T))
                values |= {f"{PILLOW_PREFIX}{metric}": value for metric, value in by_pillow.items()}
                values["recall_at_10"] = float(hits.mean())
                values["largest_difference"] = float(abs(embeddings - self.texts[language]).max())
                for metric, value in values.items():
                    yield Row(model=tool.name, stage=variant, language=language, metric=metric, value=value)
