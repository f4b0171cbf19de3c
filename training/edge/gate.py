"""Puts every variant beside PyTorch, on the same images and captions."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from training.edge.exported_towers import ExportedTowers, Runner
from training.edge.formats import Format
from training.edge.labelled import Labelled
from training.edge.sessions import open_session
from training.edge.towers import INPUTS, OUTPUTS
from training.edge.verdict import Verdict, closeness, count_losses, reasons_against
from training.evaluation.classify import Encoded, encode, score
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.text.writing_systems import LANGUAGES
from training.utils.results import Row
from training.utils.timing import interleaved_ms

JOINED_DIFFERENCE = 1e-4
REFERENCE = "PyTorch"
MEASURES = ("bytes", "ms", "ms_share", "largest_difference", "mean_cosine")


class Gate:
    """Asks PyTorch once, and then every variant in the runtime of its format.

    Args:
        student: in PyTorch.
        labelled: images and names.
        form: of the files.
        threads: in timings, within one operator.
    """

    def __init__(self, student: ZeroShotModel, labelled: Labelled, form: Format, threads: int = 1):
        self.student, self.labelled, self.form, self.threads = student, labelled, form, threads
        self.reference = self._encode(student, labelled.sets, LANGUAGES)
        self.encoded: dict[Path, Encoded] = {}
        self.image, self.captions = self._image(), [self._caption(language) for language in LANGUAGES]

    def rows(self) -> list[Row]:
        """PyTorch's own accuracy."""
        return self._score(self.reference, self.reference, REFERENCE)

    def judge(self, tower: str, variant: str, path: Path, fp32: Path) -> tuple[Verdict, list[Row]]:
        """Judge a file of one tower.

        Args:
            tower: `vision` or `text`.
            variant: number format.
            path: the file.
            fp32: the same tower's in fp32.
        """
        try:
            encoded = self.encoded[path] = self._encode_file(tower, path)
        except ValueError as error:
            return self.refuse(tower, variant, path, str(error)), []
        seen, read = (encoded, self.reference) if tower == "vision" else (self.reference, encoded)
        return self._verdict(tower, variant, path, fp32, seen, read)

    def judge_joined(
        self, variant: str, path: Path, fp32: Path, parts: dict[str, Path], variants: dict[str, str]
    ) -> tuple[Verdict, list[Row]]:
        """Judge an ONNX file of both towers, whose parts were judged before.

        Args:
            variant: number format.
            path: the file.
            fp32: the joined fp32 graph.
            parts: the file of each tower that went into it.
            variants: the variant of each.
        """
        try:
            session = open_session(path)
        except ValueError as error:
            return self.refuse("both", variant, path, str(error)), []
        for tower, name in OUTPUTS.items():
            (together,) = session.run([name], self._feeds("both")[0])
            (alone,) = open_session(parts[tower]).run(None, self._feeds(tower)[0])
            if not abs(together - alone).max() <= JOINED_DIFFERENCE:
                reason = f"Its {name} are not those of its {tower} tower alone."
                return self.refuse("both", variant, path, reason), []
        seen, read = (self.encoded[parts[tower]] for tower in OUTPUTS)
        verdict, rows = self._verdict("both", variant, path, fp32, seen, read)
        return replace(verdict, parts=variants), rows

    def _verdict(
        self, tower: str, variant: str, path: Path, fp32: Path, seen: Encoded, read: Encoded
    ) -> tuple[Verdict, list[Row]]:
        difference, cosine = closeness(tower, seen, read, self.reference)
        if not math.isfinite(cosine):
            return self.refuse(tower, variant, path, f"Embeddings of {path.name} are not finite."), []
        ms, ms_share = self._time(tower, path, fp32)
        size = path.stat().st_size
        verdict = Verdict(
            file=self.form.file(path),
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
            **asdict(count_losses(seen, read, self.reference, self.labelled)),
        )
        reasons = reasons_against(verdict)
        rows = self._score(seen, read, verdict.file)
        rows += [Row(model=verdict.file, metric=name, value=getattr(verdict, name)) for name in MEASURES]
        return replace(verdict, kept=not reasons, reasons=reasons), rows

    def refuse(self, tower: str, variant: str, path: Path, reason: str) -> Verdict:
        """A verdict on what could not be asked.

        Args:
            tower: `vision`, `text` or `both`.
            variant: number format.
            path: the file.
            reason: a sentence.
        """
        return Verdict(self.form.file(path), tower, variant, False, [reason])

    def _encode_file(self, tower: str, path: Path) -> Encoded:
        """What a file makes of the images or the names; it is closed again before it is timed."""
        towers = ExportedTowers(self.student.model.config, **{tower: self.form.open(path, 0)})
        sets, languages = (self.labelled.sets, ()) if tower == "vision" else ({}, LANGUAGES)
        model = ZeroShotModel(cast(PreTrainedModel, towers), self.student.processor, path.name)
        return self._encode(model, sets, languages)

    def _encode(self, model: ZeroShotModel, sets: dict[str, Dataset], languages: Sequence[str]) -> Encoded:
        return encode(model, sets, self.labelled.class_names, languages, self.labelled.image_column)

    def _score(self, seen: Encoded, read: Encoded, name: str) -> list[Row]:
        labelled = self.labelled
        rows = score(seen, read, labelled.sets, labelled.class_names, labelled.label_column)
        return [replace(row, model=name) for row in rows]

    def _image(self) -> dict[str, np.ndarray]:
        """A real image, as a file takes it."""
        return {"pixel_values": next(self.labelled.calibration_images(self.student.processor))}

    def _caption(self, language: str) -> dict[str, np.ndarray]:
        """The caption of median length, as a file takes it."""
        names = self.labelled.class_names.in_language(language)
        lengths = self.student.processor.tokenizer(names, return_length=True, verbose=False)["length"]
        median = sorted(range(len(names)), key=lengths.__getitem__)[len(names) // 2]
        tokens = self.student.tokenize([names[median]])
        return {name: tokens[name].numpy() for name in INPUTS["text"]}

    def _feeds(self, tower: str) -> list[dict[str, np.ndarray]]:
        """What a file is timed on."""
        if tower == "vision":
            return [self.image]
        return self.captions if tower == "text" else [self.image | caption for caption in self.captions]

    def _time(self, tower: str, path: Path, fp32: Path) -> tuple[float, float]:
        """Median milliseconds at batch 1, and the median of the ratios to fp32."""
        runners = {name: self.form.open(file, self.threads) for name, file in (("fp32", fp32), ("variant", path))}
        feeds = self._feeds(tower)
        calls = {name: partial(_run, runner, feeds) for name, runner in runners.items()}
        times = interleaved_ms(calls)
        ratios = [variant / full for variant, full in zip(times["variant"], times["fp32"], strict=True)]
        return statistics.median(times["variant"]) / len(feeds), statistics.median(ratios)


def _run(runner: Runner, feeds: list[dict[str, np.ndarray]]):
    for feed in feeds:
        runner(feed)
