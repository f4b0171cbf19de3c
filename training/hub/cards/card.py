"""The card of a model: the template, filled in."""

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from training.config import RECIPE_FILE
from training.hub.cards.details import CARD_FILE, CARDS, CardDetails
from training.hub.cards.facts import ModelFacts
from training.hub.cards.metadata import front_matter
from training.hub.cards.notice import weights_terms
from training.hub.cards.tables import accuracy_table, budget_table, elevater_table, export_table, protocols, size_table
from training.utils.files import write_text
from training.utils.results import RESULTS_FILE, Results

TEMPLATE = CARDS / "template.md"
# a card without this line belongs to whoever took it out, and is left alone
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
    """The text of a card; equal arguments give equal text.

    Args:
        facts: what the model is.
        details: what its people say.
        recipes: what it was trained by, under the names that the card shows.
        results: of this model; without them the card says that there are none.
        budget: size and speed of the published sizes.
        title: where the details give no name.
        repo_id: NAMESPACE/NAME on the Hub; default: the title.
        revision: that the examples pin; default: the details' one.
    """
    title = details.name or title or "DC-CLIP"
    sources = list(dict.fromkeys(source for recipe in recipes.values() for source in _sources(recipe)))
    size = budget and budget_table(budget, details.size or title)
    card = ModelCard.from_template(
        front_matter(facts, details, results, title, sources, repo_id),
        template_path=str(TEMPLATE),
        mark=MARK,
        facts=facts,
        details=details,
        labels={language: _as_code(labels) for language, labels in details.labels.items()},
        all_labels=_as_code([label for labels in details.labels.values() for label in labels]),
        title=title,
        repo_id=repo_id or title,
        revision=revision or details.revision,
        teacher=details.teacher or facts.teacher,
        recipes=recipes,
        sources=[without_folder(source) for source in sources],
        meta=results.meta if results else None,
        accuracy=results and accuracy_table(results),
        protocols=results and ", ".join(protocols(results)),
        elevater=results and elevater_table(results),
        exports=results and export_table(results),
        example=results.meta.get("example") if results else None,
        size=size or (results and size_table(results)),
        size_meta=budget.meta if budget and size else results and results.meta,
        terms=weights_terms(details.teacher or facts.teacher, facts.teacher_license),
    )
    return card.content.rstrip() + "\n"


def _sources(recipe: dict[str, Any]) -> list[str]:
    """Where a recipe's data come from: one source, its shards, or a mixture."""
    data = recipe["data"]
    named = [data.get("train"), *(source["train"] for source in data.get("sources") or [])]
    return [name for train in named if train for name in (train if isinstance(train, list) else [train])]


def _as_code(labels: list[str]) -> str:
    return json.dumps(labels, ensure_ascii=False)


def without_folder(name: str) -> str:
    """An absolute path cut down to its last name: nobody else has that folder."""
    return Path(name).name if Path(name).is_absolute() else name


def write_card(
    folder: str | Path,
    results: Results | None = None,
    details: CardDetails | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
):
    """Write `README.md`.

    Args:
        folder: a finished Hub folder with config.json, recipe.yaml and model.safetensors.
        results: of this model; without them the card says that there are none.
        details: what its people say.
        repo_id: NAMESPACE/NAME on the Hub; default: the folder's name.
        revision: that the examples pin.
    """
    folder = Path(folder)
    recipe = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    text = render_card(
        ModelFacts.from_folder(folder),
        details or CardDetails(),
        {RECIPE_FILE: recipe},
        results,
        title=Path(recipe["output_dir"]).name,
        repo_id=repo_id,
        revision=revision,
    )
    write_text(folder / "README.md", text)


def find_details(folder: str | Path, card: str | None = None) -> CardDetails:
    """What a person says about a folder's model: in the YAML `card`, in card.yaml in the folder, or nothing."""
    source = Path(folder) / CARD_FILE
    if card is None and not source.exists():
        return CardDetails()
    return CardDetails.read(card or source)


def refresh_card(folder: str | Path, card: str | None = None, repo_id: str | None = None, revision: str | None = None):
    """Render a folder's card anew, with the results that lie beside it, unless somebody has made it theirs.

    Args:
        folder: a finished Hub folder.
        card: YAML of [`CardDetails`]; default: card.yaml in the folder, if there is one.
        repo_id: where it is about to go.
        revision: that the examples pin.

    Raises:
        ValueError: the YAML is not readable, or the card was edited by hand although a YAML is given.
    """
    folder = Path(folder)
    readme = folder / "README.md"
    if readme.exists() and MARK not in readme.read_text(encoding="utf-8"):
        if card is not None:
            raise ValueError(f"card: {readme} was written by hand, {card} would replace it. Remove one of them.")
        return
    results = Results.read(folder / RESULTS_FILE) if (folder / RESULTS_FILE).exists() else None
    write_card(folder, results, find_details(folder, card), repo_id, revision)


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe as it is written, without defaults."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
