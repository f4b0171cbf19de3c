"""Zero-shot classification: encode class names, score images against them, and evaluate during training."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import DataConfig, EvalConfig
from training.evaluation.encoder import encode_shared
from training.evaluation.metrics import (
    eleven_point_map,
    mean_per_class_accuracy,
    roc_auc,
    top_k_accuracy,
    wilson_interval,
)
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labeled_sets import Source, open_set
from training.teachers import DualEncoder
from training.utils.results import Row

MAX_TEXTS = 8192  # texts whose embeddings are in memory together
TOP = "top"  # the metrics top1, top5 ... are shares of images, so they have an interval
ELEVATER_SCALE = 100.0  # fixed by ELEVATER, whatever logit scale the model learned


@dataclass(frozen=True)
class Measurement:
    """Metrics of one model on one set with one list of class names.

    Args:
        values: Value of each metric, in 0..1.
        intervals: 95 % interval of each metric that is a share of images.
        predictions: Most similar class of each image, (N,) int64.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    predictions: Tensor

    def rows(self, **fields: Any) -> list[Row]:
        """One row per metric; `fields` are all other fields of `Row`, such as `model`, `set` and `language`."""
        return [
            Row(metric=metric, value=value, interval=self.intervals.get(metric), **fields)
            for metric, value in self.values.items()
        ]


def measure(images: Tensor, classes: Tensor, labels: Tensor, metrics: Sequence[str]) -> Measurement:
    """Score image embeddings against class embeddings.

    Top-k accuracy and mean per class rank the similarities themselves: in their softmax, low similarities underflow to
    0 and tie.

    Args:
        images: Image embeddings, (N, D), L2-normalized.
        classes: Class embeddings, (C, D), L2-normalized.
        labels: Class indices, (N,) int64, or one column per class, (N, C) int8, with 1 where the image has the label.
        metrics: Names of metrics: `top{k}`, `mean_per_class`, `11_point_map`, `roc_auc`. Top-k metrics with k greater
            than C are left out.

    Raises:
        ValueError: A metric is undefined for these labels, such as ROC AUC where all labels are equal.

    Source: ELEVATER (arXiv 2204.08790) computes 11-point mAP and ROC AUC from the softmax over classes of 100 times
        the similarity, also for the several labels per image of VOC 2007.
    """
    similarities = images @ classes.T  # (N, C)
    several_labels = labels.ndim == 2
    targets = labels if several_labels else F.one_hot(labels, len(classes)).to(torch.int8)
    values: dict[str, float] = {}
    for name in metrics:
        if name == "mean_per_class":
            values[name] = mean_per_class_accuracy(similarities, labels)
        elif name == "11_point_map":
            values[name] = eleven_point_map(_probabilities(similarities), targets)
        elif name == "roc_auc":
            values[name] = roc_auc(_probabilities(similarities), targets.argmax(1))
        elif several_labels and name == "top1":  # correct if the prediction is one of the labels
            hits = targets.gather(1, similarities.argmax(1, keepdim=True))
            values[name] = hits.double().mean().item()
        elif (k := int(name.removeprefix(TOP))) <= len(classes):
            values[name] = top_k_accuracy(similarities, labels, k)
    intervals = {
        name: wilson_interval(value, len(labels))
        for name, value in values.items()
        if name.startswith(TOP)
    }
    return Measurement(values, intervals, similarities.argmax(1))


def _probabilities(similarities: Tensor) -> Tensor:
    return (ELEVATER_SCALE * similarities).softmax(1)


def task_metrics(labels: Tensor, metric: str) -> tuple[str, ...]:
    """The metrics that are reported for a set.

    Returns:
        Top-1, top-5 and mean per class, or top-1 and 11-point mAP where images have several labels; then the metric of
        the protocol, if it is defined for these labels.
    """
    names = ("top1", "11_point_map") if labels.ndim == 2 else ("top1", "top5", "mean_per_class")
    return names if metric in (*names, "mean_per_class") else (*names, metric)


def class_embeddings(
    model: DualEncoder, names: Sequence[str], templates: Sequence[str] = ("{}",)
) -> Tensor:
    """One embedding per class: fill in every prompt template, encode, normalize, average and normalize again.

    Args:
        model: Model that encodes the texts.
        names: One name per class.
        templates: Prompt templates, each with one `{}`.

    Returns:
        (C, D) float32, L2-normalized.

    Source: ELEVATER (arXiv 2204.08790), which ensembles prompts as CLIP (arXiv 2103.00020) does.
    """
    classes_at_once = max(1, MAX_TEXTS // len(templates))
    means = []
    for start in range(0, len(names), classes_at_once):
        part = names[start : start + classes_at_once]
        texts = [template.format(name) for name in part for template in templates]
        embeddings = torch.as_tensor(model.encode_texts(texts, truncate=True))  # (C * T, D)
        means.append(embeddings.unflatten(0, (len(part), -1)).mean(1))  # (C, D)
    return F.normalize(torch.cat(means), dim=-1)


def make_evaluate(
    config: EvalConfig, processor: DCCLIPProcessor, data: DataConfig
) -> Callable[[DCCLIPModel], dict[str, float]] | None:
    """Make the evaluation that runs during training. The validation set is opened now, not at the first evaluation.

    Args:
        config: Validation set and its class names.
        processor: Processor of the student.
        data: Training data, with the languages, and whether images may be named by path.

    Returns:
        A function that all processes call, which share the images: from a model in eval mode to its top-1 and top-5
        accuracy by name, `top1_zh` in one language, `top1` as the mean over languages. None if the config names no
        set.

    Raises:
        ValueError: The set, its class names, a label or a language is missing.
    """
    if config.data is None or config.class_names is None:
        return None
    class_names = ClassNames.read(config.class_names, data.languages)
    names = {language: class_names.in_language(language) for language in data.languages}
    labeled = open_set("eval.data", Source(config.data, allow_paths=data.allow_paths), class_names)
    wanted = ["top1", "top5"] if labeled.labels.ndim == 1 else ["top1"]

    def evaluate(model: DCCLIPModel) -> dict[str, float]:
        student = DualEncoder(model, processor, "student")
        rows = labeled.rows
        images = encode_shared(
            PartialState(),
            len(rows),
            lambda numbers: student.encode_images(rows.select(numbers)["image"]),
        )
        metrics: dict[str, float] = {}
        by_metric = defaultdict(list)
        for language, classes in names.items():
            found = measure(images, class_embeddings(student, classes), labeled.labels, wanted)
            for name, value in found.values.items():
                metrics[f"{name}_{language}"] = value
                by_metric[name].append(value)
        return metrics | {name: statistics.fmean(values) for name, values in by_metric.items()}

    return evaluate
