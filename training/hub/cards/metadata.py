"""The front matter of a card: metadata for the search, the filters and the widget of the Hub."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from training.evaluation.sets.protocols import SETS
from training.hub.cards.facts import ModelFacts, TrainingRun, is_hub_id
from training.utils.results import Results, with_several_protocols

TASK = "zero-shot-image-classification"
RETRIEVAL_TASK = "image-text-retrieval"
RETRIEVAL = "retrieval"  # protocol of rows that belong to the second task
TAGS = ["dcclip", "clip", "bilingual", "chinese", "sentence-transformers"]
ACCURACY = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
# metrics of the Hub, by ours; the type of all others begins with `OWN`, as that of a set without an id does
RECALL = "recall"  # the Hub has one type for recall at any number of results
HUB_METRICS = {"top1": "accuracy", "top5": "accuracy", "roc_auc": "roc_auc"}
OWN = "dcclip-"
HUB_SETS = {"flickr8k_validation": "nlphuji/flickr8k"}  # a part of its photographs
TITLES = {"en": "English", "zh": "中文"}


def front_matter(
    facts: ModelFacts,
    runs: Sequence[TrainingRun],
    results: Results | None,
    title: str,
    sources: Sequence[str],
    example: Mapping[str, Any] | None,
    repo_id: str | None,
) -> ModelCardData:
    """The metadata of a card.

    Args:
        facts: Facts about the model.
        runs: Training runs of the model.
        results: Results of the model; None if it was not evaluated.
        title: Title of the card.
        sources: Training data, as named in the recipes.
        example: Image and labels by language for the widget; None leaves the widget out.
        repo_id: Id of the repo that has the image.
    """
    evaluated = eval_results(results)
    ids = {RECALL, *HUB_METRICS.values()}
    more: dict[str, Any] = {"inference": {"parameters": {"hypothesis_template": "{}"}}}
    if example is not None:
        folder = f"https://huggingface.co/{repo_id}/resolve/main/" if repo_id else ""
        more["widget"] = [
            {
                "src": f"{folder}{example['image']}",
                "candidate_labels": ", ".join(names),
                "example_title": f"{TITLES.get(language, language)}: {names[0]}",
            }
            for language, names in example["labels"].items()
        ]
    lineage = [facts.origin or "", *(name for run in runs for name in run.initial_weights)]
    base_model = [name for name in dict.fromkeys(lineage) if is_hub_id(name)]
    if facts.base_model is not None and base_model:
        more["base_model_relation"] = "finetune"
    tags = [*TAGS, "distillation"] if facts.teacher else [*TAGS]
    if results is not None:
        tags += results.meta.get("export", {}).get("tags", [])
    return ModelCardData(
        language=facts.languages,
        license=facts.license,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=tags,
        base_model=base_model or None,
        datasets=[name for name in sources if is_hub_id(name)] or None,
        metrics=sorted({result.metric_type for result in evaluated if result.metric_type in ids})
        or None,
        model_name=title if evaluated else None,
        eval_results=evaluated or None,
        **more,
    )


def eval_results(results: Results | None) -> list[EvalResult]:
    """Results of the final student for the model index: one entry for each set, language and metric.

    Several protocols of a set have an entry each.
    """
    if results is None:
        return []
    # training/eval.py also measures baselines
    models = results.meta.get("models")
    rows = []
    for row in results.rows:
        is_own = not models or row.model == models[0]["name"]
        if is_own and row.language is not None and is_final(row.model, row.stage):
            rows.append(row)
    several = {(name, language) for name, language, _ in with_several_protocols(rows)}
    found = []
    for row in rows:
        # the Hub merges results that differ in nothing else
        config = str(row.language)
        if (row.set, row.language) in several:
            config += f", {row.protocol}"
        # a part of a set has its number of images in the name
        name = str(row.set)
        known = SETS.get(name.partition(" (")[0])
        own = name if is_hub_id(name) else f"{OWN}{name}"
        hub_id = known.hub if known is not None else HUB_SETS.get(name, own)
        metric = HUB_METRICS.get(row.metric, f"{OWN}{row.metric}")
        found.append(
            EvalResult(
                task_type=RETRIEVAL_TASK if row.protocol == RETRIEVAL else TASK,
                dataset_type=hub_id,
                dataset_name=f"{row.set} ({config})",
                dataset_config=config,
                dataset_split=known.split if known is not None else None,
                metric_type=RECALL if "@" in row.metric else metric,
                metric_name=ACCURACY.get(row.metric, row.metric.replace("_", " ")),
                metric_value=round(row.value, 4),
            )
        )
    return found


def is_final(model: str, stage: str | None) -> bool:
    """Whether a result row with this `model` and `stage` is about the published model."""
    return model != "teacher" and stage in ("aligned", "finetuned", None)
