"""Metrics: tensors in, numbers out. `training.evaluation.metrics.modules` wraps them for the `evaluate` library."""

from training.evaluation.metrics.classification import (
    eleven_point_map,
    mean_per_class_accuracy,
    roc_auc,
    top_k_accuracy,
)
from training.evaluation.metrics.intervals import wilson_interval
from training.evaluation.metrics.retrieval import recall_at_k, right_ranks

__all__ = [
    "eleven_point_map",
    "mean_per_class_accuracy",
    "recall_at_k",
    "right_ranks",
    "roc_auc",
    "top_k_accuracy",
    "wilson_interval",
]
