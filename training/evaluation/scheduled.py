"""Evaluation during training, as the callable that the training loop takes."""

import statistics
from collections.abc import Callable

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import DataConfig, EvalConfig
from training.data import load_source, require_allowed, require_columns, rules_for
from training.evaluation.classify import evaluate
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames

KS = (1, 5)


def make_evaluate(
    config: EvalConfig, best_metric: str, processor: DCCLIPProcessor, data: DataConfig
) -> Callable[[DCCLIPModel], dict[str, float]] | None:
    """Open the validation set before training starts, not at the first evaluation.

    Args:
        config: Validation set and its class names.
        best_metric: Metric that selects the best checkpoint; one of those that are measured.
        processor: Processor of the student.
        data: Training data, which state whether images may be named by URL or path.

    Returns:
        A function from a model in eval mode to its top-1 and top-5 accuracy by name: `top1_zh` in one language, `top1`
        as the mean over languages. None if the config names no set.

    Raises:
        ValueError: The set, its class names or a language is missing, or `best_metric` is not measured.
    """
    if config.data is None or config.class_names is None:
        return None
    class_names = ClassNames.read(config.class_names, "en", config.languages)
    for language in config.languages:
        class_names.in_language(language)
    measured = [name for k in KS for name in (f"top{k}", *(f"top{k}_{language}" for language in config.languages))]
    if best_metric not in measured:
        raise ValueError(
            f"best_metric: {best_metric!r} is not measured, only {', '.join(measured)}. Name one of these."
        )
    rows = load_source(config.data, config.split)
    rows = require_columns(rows, [config.image_column], config.data, "Name the right one.", "eval.image_column")
    rules = rules_for(config.data, data.allow_urls, data.allow_paths)
    sets = {"eval": require_allowed(rows, config.image_column, rules, config.data, "eval.data")}

    def measure(model: DCCLIPModel) -> dict[str, float]:
        rows = evaluate(
            ZeroShotModel(model, processor, "student"),
            sets,
            class_names,
            config.languages,
            label_column=config.label_column,
            image_column=config.image_column,
            ks=KS,
        )
        metrics = {f"{row.metric}_{row.language}": row.value for row in rows}
        for name in dict.fromkeys(row.metric for row in rows):
            metrics[name] = statistics.fmean(row.value for row in rows if row.metric == name)
        return metrics

    return measure
