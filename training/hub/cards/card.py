"""Render the card of a model from the template."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from training.config import RECIPE_FILE, read_recipe
from training.hub.cards.details import CARD_FILE, CARDS, CardDetails
from training.hub.cards.example import check_example
from training.hub.cards.facts import ModelFacts, split_teachers
from training.hub.cards.finetuning import Finetuning
from training.hub.cards.metadata import front_matter
from training.hub.cards.notice import weights_terms
from training.hub.cards.tables import accuracy_table, budget_table, elevater_table, export_table, protocols, size_table
from training.hub.cards.training_runs import TrainingRun, teacher_space, unique_sources, unique_stages, without_folder
from training.text.writing_systems import LANGUAGE_NAMES
from training.utils.files import write_text
from training.utils.results import RESULTS_FILE, Results

TEMPLATE = CARDS / "template.md"
WEIGHT = re.compile(r" \([\d.e+-]+\)$")  # of one of several teachers
EARLIER_RECIPES = "recipe_*.yaml"
# a card without this line was edited by hand and is never rendered again
MARK = "<!-- Rendered by training/hub/cards. Remove this line to keep your own edits when the model is published. -->"


def render_card(
    facts: ModelFacts,
    details: CardDetails,
    recipes: dict[str, dict[str, Any]],
    results: Results | None = None,
    budget: Results | None = None,
    title: str | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
) -> str:
    """Render a card. Equal arguments give equal text.

    Args:
        facts: Facts about the model.
        details: The part of the card that is written by hand.
        recipes: Recipes that trained the model, keyed by the names that the card shows.
        results: Results of the model; None if it was not evaluated.
        budget: Results of a device budget that includes the model; None leaves its table out.
        title: Title of the card, if `details` has no name.
        repo_id: Id of the repo on the Hub, NAMESPACE/NAME. Default: the title.
        revision: Revision that the examples pin. Default: the revision of `details`.

    Returns:
        The card in Markdown, with front matter.
    """
    title = details.name or title or "DC-CLIP"
    runs = _runs(recipes, results)
    finetuned = Finetuning.of(facts, runs, results)
    sources = [finetuned.data] if finetuned is not None else unique_sources(runs)
    teacher = details.teacher or facts.teacher
    lineage = _lineage(facts.base_model or teacher, details, runs)
    size = budget and budget_table(budget, details.size or title)
    predictions = check_example(details, results)
    card = ModelCard.from_template(
        front_matter(facts, details, results, title, lineage, sources, repo_id),
        template_path=str(TEMPLATE),
        mark=MARK,
        facts=facts,
        details=details,
        languages=[LANGUAGE_NAMES.get(language, language) for language in facts.languages],
        labels={language: _as_code(labels) for language, labels in details.labels.items()},
        all_labels=_as_code([label for labels in details.labels.values() for label in labels]),
        title=title,
        repo_id=repo_id or title,
        revision=revision or details.revision,
        teacher=teacher,
        finetuned=finetuned,
        runs=runs,
        stages=", then ".join(unique_stages(runs)),
        space=teacher_space(runs),
        sources=[without_folder(source) for source in sources],
        **_tables(results),
        predictions=predictions,
        wrong_predictions=[prediction for prediction in predictions.values() if not prediction.is_correct],
        size=size or (results and size_table(results)),
        size_meta=budget.meta if budget and size else results and results.meta,
        terms=weights_terms(teacher, facts.teacher_license, facts.base_model, facts.base_model_license),
    )
    return card.content.rstrip() + "\n"


def _runs(recipes: dict[str, dict[str, Any]], results: Results | None) -> list[TrainingRun]:
    """The training runs; the last one with the steps that a fine-tuning has recorded."""
    runs = [TrainingRun(name, recipe) for name, recipe in recipes.items()]
    if runs and results is not None:
        runs[-1] = replace(runs[-1], steps=results.meta.get("finetune", {}).get("steps"))
    return runs


def _lineage(origin: str | None, details: CardDetails, runs: list[TrainingRun]) -> list[str]:
    """Names of the models that the weights come from."""
    origins = [WEIGHT.sub("", name) for name in split_teachers(origin or "")]
    return [*origins, *details.base_model, *(name for run in runs for name in run.initial_weights)]


def _tables(results: Results | None) -> dict[str, Any]:
    """Provenance and tables of the results; None for each that there is not."""
    return {
        "meta": results and results.meta,
        "accuracy": results and accuracy_table(results),
        "protocols": results and ", ".join(protocols(results)),
        "elevater": results and elevater_table(results),
        "exports": results and export_table(results),
    }


def _as_code(labels: list[str]) -> str:
    return json.dumps(labels, ensure_ascii=False)


def write_card(
    folder: str | Path,
    results: Results | None = None,
    details: CardDetails | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
):
    """Write the card of a folder to `README.md`.

    Args:
        folder: A finished Hub folder with config.json, recipe.yaml and model.safetensors. The recipes of earlier
            stages are in `recipe_*.yaml`, in the order of their names.
        results: Results of the model; None if it was not evaluated.
        details: The part of the card that is written by hand. None takes the defaults.
        repo_id: Id of the repo on the Hub, NAMESPACE/NAME. Default: the name of the folder.
        revision: Revision that the examples pin. Default: the revision of `details`.
    """
    folder = Path(folder)
    recipe = read_recipe(folder / RECIPE_FILE)
    text = render_card(
        ModelFacts.from_folder(folder),
        details or CardDetails(),
        {path.name: read_recipe(path) for path in sorted(folder.glob(EARLIER_RECIPES))} | {RECIPE_FILE: recipe},
        results,
        title=Path(recipe["output_dir"]).name,
        repo_id=repo_id,
        revision=revision,
    )
    write_text(folder / "README.md", text)


def find_details(folder: str | Path, card: str | None = None) -> CardDetails:
    """Read the hand-written part of a folder's card.

    Args:
        folder: A finished Hub folder.
        card: Path of the card's YAML. Default: `card.yaml` in the folder, if there is one.

    Returns:
        The contents of the YAML, or the defaults if there is none.

    Raises:
        ValueError: The YAML cannot be read or has unknown keys.
    """
    path = Path(folder) / CARD_FILE
    if card is None and not path.exists():
        return CardDetails()
    return CardDetails.read(card or path)


def refresh_card(folder: str | Path, card: str | None = None, repo_id: str | None = None, revision: str | None = None):
    """Render a folder's card again with the results in the folder. A card edited by hand is kept.

    Args:
        folder: A finished Hub folder.
        card: Path of the card's YAML. Default: `card.yaml` in the folder, if there is one.
        repo_id: Id of the repo that the folder will be published to. Default: the name of the folder.
        revision: Revision that the examples pin. Default: the revision of the YAML.

    Raises:
        ValueError: The YAML cannot be read, or `card` is given although the card was edited by hand.
    """
    folder = Path(folder)
    readme = folder / "README.md"
    if readme.exists() and MARK not in readme.read_text(encoding="utf-8"):
        if card is not None:
            raise ValueError(f"card: {readme} was edited by hand, and {card} would replace it. Remove one of them.")
        return
    results = Results.read(folder / RESULTS_FILE) if (folder / RESULTS_FILE).exists() else None
    write_card(folder, results, find_details(folder, card), repo_id, revision)
