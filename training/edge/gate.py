"""The accuracy gate: compare every exported file with PyTorch on the same images and class names."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from training.edge.formats import Format
from training.edge.gate_data import GateData
from training.edge.towers import INPUTS, OUTPUTS, ExportedTowers, Runner
from training.edge.verdict import Verdict, closeness, count_losses, reasons_against
from training.evaluation.classify import Encoded, encode, score
from training.evaluation.zero_shot_model import ZeroShotModel
from training.utils.process import interleaved_ms
from training.utils.results import Row

MAX_JOINED_DIFFERENCE = 1e-4
REFERENCE = "PyTorch"
MEASURES = ("bytes", "ms", "ms_share", "largest_difference", "mean_cosine")


class Gate:
    """Runs PyTorch once, and then every exported file in the runtime of its format.

    Args:
        student: The model in PyTorch.
        data: Images and class names.
        export_format: Format of the files.
        threads: Threads of one operator during the latency measurement.
    """

    def __init__(self, student: ZeroShotModel, data: GateData, export_format: Format, threads: int = 1):
        self.student, self.data, self.format, self.threads = student, data, export_format, threads
        self.reference = self._encode(student, data.sets, data.languages)
        self.encoded: dict[Path, Encoded] = {}
        self.image, self.texts = self._image(), [self._text(language) for language in data.languages]

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
            encoded = self.encoded[path] = self._encode_file(tower, path)
        except ValueError as error:
            return self.refuse(tower, variant, path, str(error)), []
        sides = (encoded, self.reference) if tower == "vision" else (self.reference, encoded)
        return self._verdict(tower, variant, path, fp32, *sides)

    def check_joined(
        self, variant: str, path: Path, fp32: Path, parts: dict[str, Path], variants: dict[str, str]
    ) -> tuple[Verdict, list[Row]]:
        """Check an ONNX file of both towers whose parts were checked before.

        Args:
            variant: Number format of the file.
            path: Path of the file.
            fp32: Path of the joined fp32 graph.
            parts: Path of each tower's file that was joined.
            variants: Number format of each tower.

        Returns:
            The verdict, and result rows of the file.
        """
        from training.edge.graphs import open_session  # only ONNX has files of both towers

        try:
            session = open_session(path)
        except ValueError as error:
            return self.refuse("both", variant, path, str(error)), []
        for tower, name in OUTPUTS.items():
            (joined,) = session.run([name], self._inputs("both")[0])
            single = self.format.open(parts[tower], 0)(self._inputs(tower)[0])
            if not abs(joined - single).max() <= MAX_JOINED_DIFFERENCE:
                reason = f"Its {name} differ from the output of the single {tower} tower."
                return self.refuse("both", variant, path, reason), []
        sides = [self.encoded[parts[tower]] for tower in OUTPUTS]
        verdict, rows = self._verdict("both", variant, path, fp32, *sides)
        return replace(verdict, parts=variants), rows

    def _verdict(
        self, tower: str, variant: str, path: Path, fp32: Path, image_encoded: Encoded, text_encoded: Encoded
    ) -> tuple[Verdict, list[Row]]:
        difference, cosine = closeness(tower, image_encoded, text_encoded, self.reference)
        if not math.isfinite(cosine):
            return self.refuse(tower, variant, path, f"Embeddings of {path.name} are not finite."), []
        ms, ms_share = self._time(tower, path, fp32)
        size = path.stat().st_size
        verdict = Verdict(
            file=self.format.repo_path(path),
            tower=tower,
            variant=variant,
            kept=True,
            reasons=[],
            bytes=size,
            bytes_share=size / fp32.stat().st_size,
            largest_difference=difference,
            mean_cosine=cosine,
            ms=ms,
            ms_share=ms_share,
            checked=self.data.is_checked,
        )
        if self.data.is_checked:
            verdict = replace(verdict, **count_losses(image_encoded, text_encoded, self.reference, self.data))
        reasons = reasons_against(verdict)
        rows = self._score(image_encoded, text_encoded, verdict.file)
        rows += [Row(model=verdict.file, metric=name, value=getattr(verdict, name)) for name in MEASURES]
        return replace(verdict, kept=not reasons, reasons=reasons), rows

    def refuse(self, tower: str, variant: str, path: Path, reason: str) -> Verdict:
        """A verdict without numbers on a file that cannot be run; `reason` is a sentence."""
        file = self.format.repo_path(path)
        return Verdict(file, tower, variant, False, [reason], checked=self.data.is_checked)

    def _encode_file(self, tower: str, path: Path) -> Encoded:
        """Embeddings of the images or the class names by a file."""
        towers = ExportedTowers(self.student.model.config, **{tower: self.format.open(path, 0)})
        sets, languages = (self.data.sets, []) if tower == "vision" else ({}, self.data.languages)
        model = ZeroShotModel(cast(PreTrainedModel, towers), self.student.processor, path.name)
        return self._encode(model, sets, languages)

    def _encode(self, model: ZeroShotModel, sets: dict[str, Dataset], languages: Sequence[str]) -> Encoded:
        return encode(model, sets, self.data.class_names, languages, self.data.image_column)

    def _score(self, image_encoded: Encoded, text_encoded: Encoded, name: str) -> list[Row]:
        data = self.data
        if data.label_column is None:
            return []
        rows = score(image_encoded, text_encoded, data.sets, data.class_names, data.label_column)
        return [replace(row, model=name) for row in rows]

    def _image(self) -> dict[str, np.ndarray]:
        """Inputs of one image of the data."""
        return {"pixel_values": next(self.data.calibration_images(self.student.processor))}

    def _text(self, language: str) -> dict[str, np.ndarray]:
        """Inputs of the class name of median length."""
        names = self.data.class_names.in_language(language)
        lengths = self.student.processor.tokenizer(names, return_length=True, verbose=False)["length"]
        median = sorted(range(len(names)), key=lengths.__getitem__)[len(names) // 2]
        tokens = self.student.tokenize([names[median]])
        return {name: tokens[name].numpy() for name in INPUTS["text"]}

    def _inputs(self, tower: str) -> list[dict[str, np.ndarray]]:
        """Inputs of the latency measurement."""
        if tower == "vision":
            return [self.image]
        return self.texts if tower == "text" else [self.image | text for text in self.texts]

    def _time(self, tower: str, path: Path, fp32: Path) -> tuple[float, float]:
        """Median latency at batch 1 in milliseconds, and the median of its ratios to fp32."""
        runners = {name: self.format.open(file, self.threads) for name, file in (("fp32", fp32), ("variant", path))}
        inputs = self._inputs(tower)
        calls = {name: partial(_run, runner, inputs) for name, runner in runners.items()}
        times = interleaved_ms(calls)
        ratios = [variant / full for variant, full in zip(times["variant"], times["fp32"], strict=True)]
        return statistics.median(times["variant"]) / len(inputs), statistics.median(ratios)


def _run(runner: Runner, inputs: list[dict[str, np.ndarray]]):
    for arrays in inputs:
        runner(arrays)
