"""All models on all tasks of a plan."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import evaluate
import torch
from accelerate import PartialState
from datasets import Features, List, Value

from training.evaluation.classify import (
    Measurement,
    joint_name,
    measure,
    require_equal_widths,
    task_metrics,
)
from training.evaluation.encoder import Encoder
from training.evaluation.plan import EvalPlan, EvalTask
from training.evaluation.retrieval import score
from training.teachers import DualEncoder, weights_fingerprint
from training.utils.results import Row

AGREEMENT = "agreement"


class Agreement(evaluate.Metric):
    """Share of images with the same predicted class in all languages, as a metric of the `evaluate` library.

    `compute(predictions=...)` takes the class indices of each image, one column per language, (N, L) int64.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of samples with the same prediction in all languages.",
            citation="",
            inputs_description="predictions: class indices of each sample, one column per language.",
            features=Features({"predictions": List(Value("int64"))}),
        )

    def _compute(self, predictions: list[list[int]]) -> dict[str, float]:
        return {AGREEMENT: sum(len(set(row)) == 1 for row in predictions) / len(predictions)}


@dataclass
class Outcome:
    """Results of a run.

    Args:
        rows: Metrics of all models.
        models: Name, revision, fingerprint of the weights and input preparation of each model, and how many texts it
            truncated; the text model last.
    """

    rows: list[Row] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """Measures models on the tasks of a plan, one model after the other.

    Args:
        plan: Tasks and data.
        state: State of this process among the others.
        trust_remote_code: Whether to run code that comes with a model.
        widths: Numbers of leading dimensions at which the models are measured too, besides all of them.
    """

    plan: EvalPlan
    state: PartialState
    trust_remote_code: bool = False
    widths: Sequence[int] = ()

    def run(self, models: Sequence[str], text_model: str | None = None) -> Outcome:
        """Measure models.

        Args:
            models: Folders or Hub ids, as `DualEncoder.from_pretrained` takes them.
            text_model: A further model, combined with each of `models`: once as text encoder, once as image encoder.

        Raises:
            ValueError: A model, image or label cannot be used, or the embeddings of two models differ in width.
        """
        outcome = Outcome()
        other = None
        if text_model is not None:
            other = self._encode(text_model, outcome)
        for name in models:
            encoder = self._encode(name, outcome)
            for measured in (*(encoder.truncated(width) for width in self.widths), encoder):
                outcome.rows += self.measure(measured, measured)
            if other is not None:
                own, others = encoder.comparable_with(other), other.comparable_with(encoder)
                outcome.rows += self.measure(own, others)
                outcome.rows += self.measure(others, own)
        if other is not None:  # a card describes the first model of the results
            outcome.models.append(outcome.models.pop(0))
        return outcome

    def _encode(self, name: str, outcome: Outcome) -> Encoder:
        """Load a model and encode all images and texts of the plan."""
        model = DualEncoder.from_pretrained(name, trust_remote_code=self.trust_remote_code)
        description = model.describe()  # raises if the model does not state how texts are prepared
        encoder = Encoder(model.to(self.state.device), self.state, name)
        cut: dict[str, int] = {}  # number of truncated texts by set
        for task in self.plan.available_tasks:
            encoder.images(self.plan.sets[task.set], task.squashed)
            encoder.classes(task.candidates, task.templates)
            texts = [
                template.format(name)
                for name in task.candidates
                for template in task.templates.lines
            ]
            cut[f"{task.set}, {task.title}"] = model.count_truncated(texts)
        for retrieval_set in self.plan.retrieval_sets:
            encoder.images(retrieval_set)
            for language, captions in retrieval_set.captions.items():
                encoder.texts(captions)
                cut[f"{retrieval_set.name}, {language}"] = model.count_truncated(captions)
        weights = {"name": name, "weights": weights_fingerprint(model.model)}
        texts_cut = {key: count for key, count in cut.items() if count}
        outcome.models.append(weights | description | {"texts_cut": texts_cut})
        encoder.release()
        del model
        gc.collect()  # before the next model is loaded: two large models may not fit in memory together
        return encoder

    def measure(self, image_encoder: Encoder, text_encoder: Encoder) -> list[Row]:
        """Rows of all tasks, of the agreement of languages, and of retrieval.

        The images are of one model, the texts of the same or a different one.
        """
        name = joint_name(image_encoder.name, text_encoder.name)
        rows: list[Row] = []
        by_set: dict[str, dict[str, Measurement]] = {}  # by language
        for task in self.plan.available_tasks:
            measurement = self._measure_task(task, image_encoder, text_encoder)
            by_set.setdefault(task.set, {})[task.language] = measurement
            rows += measurement.rows(
                model=name, set=task.set, protocol=task.protocol, language=task.language
            )
        for each, measured in by_set.items():
            if len(measured) > 1:
                predictions = torch.stack(
                    [measurement.predictions for measurement in measured.values()], 1
                )
                # in memory: a file on disk would take longer than the measurement
                value = Agreement(keep_in_memory=True).compute(predictions=predictions)[AGREEMENT]
                rows.append(
                    Row(
                        model=name,
                        set=each,
                        language=", ".join(measured),
                        metric=AGREEMENT,
                        value=value,
                    )
                )
        for retrieval_set in self.plan.retrieval_sets:
            for language, captions in retrieval_set.captions.items():
                images, texts = image_encoder.images(retrieval_set), text_encoder.texts(captions)
                require_equal_widths(image_encoder.name, images, text_encoder.name, texts)
                rows += score(retrieval_set, language, images, texts, name)
        return rows

    def _measure_task(
        self, task: EvalTask, image_encoder: Encoder, text_encoder: Encoder
    ) -> Measurement:
        labelled = self.plan.sets[task.set]
        images = image_encoder.images(labelled, task.squashed)
        classes = text_encoder.classes(task.candidates, task.templates)
        require_equal_widths(image_encoder.name, images, text_encoder.name, classes)
        try:
            return measure(
                images, classes, labelled.labels, task_metrics(labelled.labels, task.metric)
            )
        except ValueError as error:
            raise ValueError(f"data: {task.set}: {error}") from error
