"""Metrics as pure functions of tensors.

checks.py          checks of the inputs, and the chunks in which scores are compared
classification.py  the four metrics of ELEVATER
intervals.py       confidence intervals
modules.py         the metrics as modules of the `evaluate` library, for code that is built on it
retrieval.py       ranks and recall at k
"""

from training.evaluation.metrics.classification import (
    eleven_point_map,
    mean_per_class_accuracy,
    roc_auc,
    top_k_accuracy,
)
from training.evaluation.metrics.intervals import grouped_interval, wilson_interval
from training.evaluation.metrics.retrieval import recall_at_k, right_ranks

__all__ = [
    "eleven_point_map",
    "grouped_interval",
    "mean_per_class_accuracy",
    "recall_at_k",
    "right_ranks",
    "roc_auc",
    "top_k_accuracy",
    "wilson_interval",
]
