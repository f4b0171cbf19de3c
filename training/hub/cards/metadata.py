"""The front matter of a card: metadata for the search, the filters and the widget of the Hub."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from training.hub.cards.details import CardDetails
from training.hub.cards.facts import ModelFacts
from training.utils.results import Results, with_several_protocols

TASK = "zero-shot-image-classification"
TAGS = ["dcclip", "clip", "bilingual", "chinese", "distillation"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILE_SUFFIXES = (".parquet", ".tar", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".zip", ".arrow")
METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
MAX_DECIMALS = 4
EXPORT_REFERENCE = "PyTorch"  # the model in front of its export, in rows of the accuracy check
TITLES = {"en": "English", "zh": "中文"}


def front_matter(
    facts: ModelFacts,
    details: CardDetails,
    results: Results | None,
    title: str,
    lineage: list[str],
    sources: list[str],
    repo_id: str | None = None,
) -> ModelCardData:
    """The metadata of a card.

    Args:
        facts: Facts about the model.
        details: The part of the card that is written by hand.
        results: Results of the model; None if it was not evaluated.
        title: Title of the card.
        lineage: Hub ids or folders of the models that the weights come from: teacher and initial weights.
        sources: Training data, as named in the recipes.
        repo_id: Id of the repo on the Hub, NAMESPACE/NAME, if it is known.

    Returns:
        The metadata.
    """
    base_model = [name for name in lineage if is_hub_id(name)]
    datasets = [name for name in (*details.datasets, *sources) if is_hub_id(name)]
    evaluated = eval_results(results)
    more: dict[str, Any] = {"inference": {"parameters": {"hypothesis_template": "{}"}}}
    if details.image is not None:
        more["widget"] = widget(details, repo_id)
    if facts.base_model is not None and base_model:
        more["base_model_relation"] = "finetune"
    return ModelCardData(
        language=list(facts.languages),
        license=facts.license,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=TAGS if facts.base_model is None or facts.teacher else [tag for tag in TAGS if tag != "distillation"],
        base_model=list(dict.fromkeys(base_model)) or None,
        datasets=list(dict.fromkeys(datasets)) or None,
        metrics=["accuracy"] if evaluated else None,
        model_name=title if evaluated else None,
        eval_results=evaluated or None,
        **more,
    )


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repo id NAMESPACE/NAME on the Hub. Files and existing folders are not repo ids."""
    is_local = name.startswith(("runs/", "training/")) or name.lower().endswith(FILE_SUFFIXES) or Path(name).exists()
    return HUB_ID.fullmatch(name) is not None and not is_local


def widget(details: CardDetails, repo_id: str | None = None) -> list[dict[str, str]]:
    """One widget example for each language, in the format of `@huggingface/tasks`.

    Args:
        details: Image and labels of the example.
        repo_id: Id of the repo on the Hub, for the URL of an image in the repo. None keeps the file name.

    Returns:
        `src`, `candidate_labels` (all labels in one string, separated by commas) and `example_title` for each.
    """
    image = str(details.image)
    if repo_id is not None and not image.startswith("https://"):
        image = f"https://huggingface.co/{repo_id}/resolve/main/{image}"
    return [
        {
            "src": image,
            "candidate_labels": ", ".join(labels),
            "example_title": f"{TITLES.get(language, language)}: {labels[0]}",
        }
        for language, labels in details.labels.items()
    ]


def eval_results(results: Results | None) -> list[EvalResult]:
    """Results of the final student for the model index: one entry for each set, language and metric, and for
    each protocol if there are several.

    The accuracy check of an export compares files with PyTorch. Its rows are no results of the model: their data is
    the embedded corpus by default, whatever the model was trained for.
    """
    if results is None:
        return []
    exported = export_models(results)
    rows = [row for row in results.rows if is_final(row.model, row.stage) and row.language is not None]
    rows = [row for row in rows if row.model not in exported and _is_own(row.model, results)]
    several = {(name, language) for name, language, _ in with_several_protocols(rows)}
    # the Hub merges results that differ in nothing else
    configs = [
        f"{row.language}, {row.protocol}" if (row.set, row.language) in several else str(row.language) for row in rows
    ]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=row.set or "",
            dataset_name=f"{row.set} ({config})",
            dataset_config=config,
            metric_type="accuracy" if row.metric in METRICS else row.metric,
            metric_name=METRICS.get(row.metric, row.metric.replace("_", " ")),
            metric_value=round(row.value, MAX_DECIMALS),
        )
        for row, config in zip(rows, configs, strict=True)
    ]


def _is_own(model: str, results: Results) -> bool:
    """Whether rows of this name are of the published model: `training/eval.py` also measures others and widths."""
    measured = [entry["name"] for entry in results.meta.get("models", [])]
    return not measured or model == measured[0]


def export_models(results: Results) -> set[str]:
    """Names under which the accuracy check of an export wrote its rows: those of its files, and `PyTorch`."""
    verdicts = results.meta.get("export", {}).get("verdicts", [])
    return {entry["file"] for entry in verdicts} | {EXPORT_REFERENCE}


def is_final(model: str, stage: str | None) -> bool:
    """Whether a result row is about the published model, and not its teacher or an earlier stage.

    Args:
        model: The `model` of the row.
        stage: The `stage` of the row.
    """
    return model != "teacher" and stage in ("aligned", "finetuned", None)
