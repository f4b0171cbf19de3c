"""The metrics as modules of the `evaluate` library, for code that is built on it.

`training/eval.py` calls the functions instead; `training.evaluation.measure` says why.

A module accumulates batches from one process or several and downloads nothing. Predictions are scores, one row per
sample, stored as float32 in a file under `cache_dir`; float64 scores are rounded. With several processes, each gets
the same `num_process`, `experiment_id` and (shared) `cache_dir`, and its own `process_id`. Each adds its share of the
samples and calls `compute`, which returns the result in process 0 and None in the others.
"""

from collections.abc import Sequence

import evaluate
import torch
from datasets import Features, List, Value
from torch import Tensor

from training.evaluation.metrics.checks import check_k, check_scores
from training.evaluation.metrics.classification import (
    eleven_point_map,
    mean_per_class_accuracy,
    roc_auc,
    top_k_accuracy,
)
from training.evaluation.metrics.retrieval import right_ranks

_ELEVATER = "https://arxiv.org/abs/2204.08790"


def _describe(description: str, predictions: str, references: str, feature: Value | List, url: str):
    info = evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=f"\nPredictions: {predictions}\nReferences: {references}\n",
        features=Features({"predictions": List(Value("float32")), "references": feature}),
        reference_urls=[url],
    )
    # set after construction, because the constructor rejects a format for rows of lists; without it, rows are Python
    # lists of eight times the size
    info.format = "torch"
    return info


def _matrix(rows: Tensor | list[Tensor]) -> Tensor:
    """Rows as a matrix; `evaluate` passes a list if their lengths differ."""
    if isinstance(rows, Tensor):
        return rows
    lengths = sorted({len(row) for row in rows})
    raise ValueError(
        f"predictions: rows of {lengths} scores, need equal lengths. Give every sample a score in each column."
    )


class Accuracy(evaluate.Metric):
    """Module of `top_k_accuracy`.

    Predictions are rows of C scores, references class indices. `compute(ks=(1,))` returns `{"top1": ...}`, with one
    entry per k.
    """

    def _info(self):
        return _describe("Top-k accuracy.", "rows of C scores.", "class indices in 0..C-1.", Value("int64"), _ELEVATER)

    def _compute(self, predictions, references, ks: Sequence[int] = (1,)):
        scores = _matrix(predictions)
        return {f"top{k}": top_k_accuracy(scores, references, k) for k in ks}


class MeanPerClass(evaluate.Metric):
    """Module of `mean_per_class_accuracy`.

    Predictions are rows of C scores, references class indices. `compute()` returns `{"mean_per_class": ...}`.
    """

    def _info(self):
        return _describe(
            "Mean of per-class recall.", "rows of C scores.", "class indices in 0..C-1.", Value("int64"), _ELEVATER
        )

    def _compute(self, predictions, references):
        return {"mean_per_class": mean_per_class_accuracy(_matrix(predictions), references)}


class ElevenPointMAP(evaluate.Metric):
    """Module of `eleven_point_map`.

    Predictions are rows of C scores, references rows of C zeros and ones. `compute()` returns `{"11_point_map": ...}`.
    """

    def _info(self):
        return _describe(
            "11-point interpolated mean average precision.",
            "rows of C scores.",
            "rows of C numbers, 1 where the sample has the label, else 0.",
            List(Value("int8")),
            _ELEVATER,
        )

    def _compute(self, predictions, references):
        return {"11_point_map": eleven_point_map(_matrix(predictions), _matrix(references))}


class RocAuc(evaluate.Metric):
    """Module of `roc_auc`.

    Predictions are rows of 2 scores, references 0 or 1. `compute()` returns `{"roc_auc": ...}`.
    """

    def _info(self):
        return _describe(
            "Area under the ROC curve.", "rows of 2 scores; the second is used.", "0 or 1.", Value("int64"), _ELEVATER
        )

    def _compute(self, predictions, references):
        return {"roc_auc": roc_auc(_matrix(predictions), references)}


class Recall(evaluate.Metric):
    """Module of `recall_at_k`, in one direction.

    A sample is a query: predictions are rows of scores over all G candidates, references rows of the indices of the
    correct candidates, one or more. `compute(ks=(1, 5, 10))` returns `{"recall@1": ...}`, with one entry per k.
    """

    def _info(self):
        return _describe(
            "Share of queries with a correct candidate among the k highest scores.",
            "rows of G scores, one per query.",
            "rows of indices in 0..G-1 of the correct candidates, one or more per query.",
            List(Value("int64")),
            "https://arxiv.org/abs/2211.01335",
        )

    def _compute(self, predictions, references, ks: Sequence[int] = (1, 5, 10)):
        scores = _matrix(predictions)
        check_scores(scores)  # before the references, which cannot be concatenated without samples
        counts = torch.tensor([len(row) for row in references], dtype=torch.int64)
        queries = torch.arange(len(counts)).repeat_interleave(counts)
        pairs = torch.stack([queries, torch.cat(list(references)).long()], dim=1)
        ranks = right_ranks(scores, pairs)
        for k in ks:
            check_k(k, scores.shape[1], "candidates")
        return {f"recall@{k}": int((ranks < k).sum()) / len(ranks) for k in ks}
