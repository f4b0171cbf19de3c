"""The front matter of a card: what the Hub searches, filters and draws its widget by."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from training.hub.cards.details import CardDetails
from training.hub.cards.facts import ModelFacts
from training.utils.results import Results

TASK = "zero-shot-image-classification"
TAGS = ["dcclip", "clip", "bilingual", "chinese", "distillation"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
MAX_DECIMALS = 4


def front_matter(
    facts: ModelFacts,
    details: CardDetails,
    results: Results | None,
    title: str,
    sources: list[str],
    repo_id: str | None = None,
) -> ModelCardData:
    """The metadata of a card.

    Args:
        facts: what the model is.
        details: what its people say.
        results: of this model, if it was evaluated.
        title: its name.
        sources: what it was trained on, as its recipes name it.
        repo_id: NAMESPACE/NAME on the Hub, where it is known.
    """
    lineage = (details.teacher or facts.teacher or "", *details.base_model)
    base_model = [name for name in lineage if is_hub_id(name)]
    datasets = [name for name in (*details.datasets, *sources) if is_hub_id(name)]
    evaluated = eval_results(results)
    more: dict[str, Any] = {"inference": {"parameters": {"hypothesis_template": "{}"}}}
    if details.image is not None:
        more["widget"] = widget(details, repo_id)
    return ModelCardData(
        language=list(facts.languages),
        license=facts.teacher_license or "apache-2.0",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=TAGS,
        base_model=list(dict.fromkeys(base_model)) or None,
        datasets=list(dict.fromkeys(datasets)) or None,
        metrics=["accuracy"] if evaluated else None,
        model_name=title if evaluated else None,
        eval_results=evaluated or None,
        **more,
    )


def is_hub_id(name: str) -> bool:
    """Whether a name can be NAMESPACE/NAME on the Hub; folders of this checkout are none."""
    return HUB_ID.fullmatch(name) is not None and not name.startswith(("runs/", "training/"))


def widget(details: CardDetails, repo_id: str | None = None) -> list[dict[str, str]]:
    """One example a language, as `@huggingface/tasks` types an image with candidate labels: `src`, and all labels in
    one string with commas.
    """
    titles = {"en": "English", "zh": "中文"}
    image = str(details.image)
    if repo_id is not None and not image.startswith("https://"):
        image = f"https://huggingface.co/{repo_id}/resolve/main/{image}"
    return [
        {
            "src": image,
            "candidate_labels": ", ".join(labels),
            "example_title": f"{titles.get(language, language)}: {labels[0]}",
        }
        for language, labels in details.labels.items()
    ]


def eval_results(results: Results | None) -> list[EvalResult]:
    """One entry a set, language and metric, of the student after its last stage."""
    if results is None:
        return []
    rows = [row for row in results.rows if is_final(row.model, row.stage) and row.language is not None]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=row.set or "",
            dataset_name=f"{row.set} ({row.language})",
            dataset_config=row.language,  # rows that differ in nothing else would be merged into one result
            metric_type="accuracy" if row.metric in METRICS else row.metric,
            metric_name=METRICS.get(row.metric, row.metric.replace("_", " ")),
            metric_value=round(row.value, MAX_DECIMALS),
        )
        for row in rows
    ]


def is_final(model: str, stage: str | None) -> bool:
    """Whether a row is about the model that is published, and not about its teacher or an earlier stage."""
    return model != "teacher" and stage in ("aligned", None)
