"""The accuracy gate: compare every exported file with PyTorch on the same images and class names."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from transformers import PreTrainedModel

from modeling_dcclip import DCCLIPProcessor
from training.data import open_image
from training.edge.formats import Format
from training.edge.gate_data import GateData
from training.edge.towers import INPUTS, ExportedTowers, Runner
from training.edge.verdict import Verdict, compare, reasons_against
from training.evaluation.classify import Encoded, encode, score
from training.teachers import DualEncoder
from training.utils.process import interleaved_ms
from training.utils.results import Row

REFERENCE = "PyTorch"
MEASURES = ("bytes", "ms", "ms_share", "largest_difference", "mean_cosine")
BATCH_SIZE = 64  # images that a tool encodes at once


class Gate:
    """Runs PyTorch once, and then every exported file in the runtime of its format.

    Args:
        student: The model in PyTorch.
        data: Images and class names.
        export_format: Format of the files.
        threads: Threads of one operator during the latency measurement.
    """

    def __init__(
        self, student: DualEncoder, data: GateData, export_format: Format, threads: int = 1
    ):
        self.student, self.data, self.format, self.threads = student, data, export_format, threads
        self.reference = self._encode(student, data.sets, data.languages)

    def rows(self) -> list[Row]:
        """Accuracy of PyTorch; no rows without labels."""
        return self._score(self.reference, self.reference, REFERENCE)

    def check(self, tower: str, variant: str, path: Path, fp32: Path) -> tuple[Verdict, list[Row]]:
        """Check a file of one tower.

        Args:
            tower: The tower: `vision` or `text`.
            variant: Number format of the file.
            path: Path of the file.
            fp32: Path of the same tower in fp32.

        Returns:
            The verdict, and result rows of the file.
        """
        try:
            encoded = self._encode_file(tower, path)
        except ValueError as error:
            return self.refuse(tower, variant, path, str(error)), []
        sides = (encoded, self.reference) if tower == "vision" else (self.reference, encoded)
        verdict = replace(
            self.refuse(tower, variant, path, ""),
            **compare(tower, *sides, self.reference, self.data),
        )
        if not math.isfinite(verdict.lowest_cosine):
            return self.refuse(
                tower, variant, path, f"Embeddings of {path.name} are not finite."
            ), []
        ms, ms_share = self._time(tower, path, fp32)
        size = path.stat().st_size
        verdict = replace(
            verdict, bytes=size, bytes_share=size / fp32.stat().st_size, ms=ms, ms_share=ms_share
        )
        rows = self._score(*sides, verdict.file)
        rows += [
            Row(model=verdict.file, metric=name, value=getattr(verdict, name)) for name in MEASURES
        ]
        reasons = reasons_against(verdict)
        return replace(verdict, kept=not reasons, reasons=reasons), rows

    def refuse(self, tower: str, variant: str, path: Path, reason: str) -> Verdict:
        """A verdict without numbers on a file that cannot be run; `reason` is a sentence."""
        file = f"{self.format.name}/{path.name}"
        return Verdict(file, tower, variant, False, [reason], checked=self.data.is_checked)

    def _encode_file(self, tower: str, path: Path) -> Encoded:
        """Embeddings of the images or the class names by a file."""
        runner = self.format.functions.open_tower(path, 0)
        towers = ExportedTowers(self.student.model.config, **{tower: runner})
        sets, languages = (self.data.sets, []) if tower == "vision" else ({}, self.data.languages)
        model = DualEncoder(cast(PreTrainedModel, towers), self.student.processor, path.name)
        return self._encode(model, sets, languages)

    def _encode(
        self, model: DualEncoder, sets: dict[str, Dataset], languages: Sequence[str]
    ) -> Encoded:
        return encode(model, sets, self.data.class_names, languages, self.data.image_column)

    def _score(self, image_encoded: Encoded, text_encoded: Encoded, name: str) -> list[Row]:
        data = self.data
        if data.label_column is None:
            return []
        rows = score(image_encoded, text_encoded, data.sets, data.class_names, data.label_column)
        return [replace(row, model=name) for row in rows]

    def _inputs(self, tower: str) -> list[dict[str, np.ndarray]]:
        """Inputs of the latency measurement: one image, or in each language the class name of median length."""
        if tower == "vision":
            return [{"pixel_values": next(self.data.calibration_images(self.student.processor))}]
        inputs = []
        for language in self.data.languages:
            names = self.data.class_names.in_language(language)
            lengths = self.student.processor.tokenizer(names, return_length=True, verbose=False)[
                "length"
            ]
            median = sorted(range(len(names)), key=lengths.__getitem__)[len(names) // 2]
            tokens = self.student.tokenize([names[median]])
            inputs.append({name: tokens[name].numpy() for name in INPUTS["text"]})
        return inputs

    def _time(self, tower: str, path: Path, fp32: Path) -> tuple[float, float]:
        """Median latency at batch 1 in milliseconds, and the median of its ratios to fp32."""
        files = (("fp32", fp32), ("variant", path))
        runners = {
            name: self.format.functions.open_tower(file, self.threads) for name, file in files
        }
        inputs = self._inputs(tower)
        times = interleaved_ms(
            {name: partial(_run, runner, inputs) for name, runner in runners.items()}
        )
        ratios = [
            variant / full for variant, full in zip(times["variant"], times["fp32"], strict=True)
        ]
        return statistics.median(times["variant"]) / len(inputs), statistics.median(ratios)


def _run(runner: Runner, inputs: list[dict[str, np.ndarray]]):
    for arrays in inputs:
        runner(arrays)


def check_layout(layout: Format, folder: Path, model: DualEncoder, data: GateData) -> Verdict:
    """Check the layout of another tool: the tool must give the embeddings of transformers, on whole images."""
    tool = layout.functions.ToolEncoder(folder)
    # tools resize in Pillow; torchvision, the default of transformers, rounds some pixels differently
    processor = DCCLIPProcessor.from_pretrained(model.name, backend="pil")
    found: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for name, rows in data.sets.items():
        cells = rows.select_columns([data.image_column]).cast_column(
            data.image_column, Image(decode=False)
        )
        tool_parts, parts = [], []
        for batch in cells.iter(BATCH_SIZE):
            images = [_square(open_image(cell)) for cell in batch[data.image_column]]
            tool_parts.append(torch.from_numpy(tool.encode_images(images)))
            # by the processor of the folder: evaluation crops with the rounding of ELEVATER's toolkit
            inputs = (
                processor(images=image, return_tensors="pt")["pixel_values"] for image in images
            )
            parts += [model.embed_images(pixels).cpu() for pixels in inputs]
        found[name], expected[name] = torch.cat(tool_parts), torch.cat(parts)
    names = {language: data.class_names.in_language(language) for language in data.languages}
    texts = {
        language: torch.from_numpy(tool.encode_texts(each)) for language, each in names.items()
    }
    encoded = Encoded(layout.name, found, texts)
    reference = Encoded(
        REFERENCE,
        expected,
        {language: model.encode_texts(each) for language, each in names.items()},
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    verdict = Verdict(
        layout.name, "both", "fp32", False, [], bytes=size, bytes_share=1.0, checked=data.is_checked
    )
    verdict = replace(verdict, **compare("both", encoded, encoded, reference, data))
    reasons = reasons_against(verdict)
    return replace(verdict, kept=not reasons, reasons=reasons)


def _square(image: PILImage.Image) -> PILImage.Image:
    """The upper left square: tools round the margins of a center crop differently, which does not matter here."""
    edge = min(image.size)
    return image.crop((0, 0, edge, edge))
