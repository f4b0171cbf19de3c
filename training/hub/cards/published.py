"""The committed cards of the published sizes, rendered from their YAML, their recipes and their results."""

from pathlib import Path
from typing import Any

from training.config import CONFIGS, StudentConfig
from training.engine.inputs import open_teacher
from training.hub.cards.card import read_recipe, render_card
from training.hub.cards.details import CARDS, CardDetails
from training.hub.cards.facts import ModelFacts
from training.students.build import student_model
from training.students.sizes import load_size
from training.utils.files import REPO_ROOT
from training.utils.results import RESULTS_FILE, Results

BUDGET = REPO_ROOT / "model_cards" / "results" / "budget" / RESULTS_FILE


def list_published() -> list[str]:
    """Names of the cards, by their YAML files."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def render_published(name: str) -> str:
    """The card of a published model.

    Args:
        name: of its YAML, such as `tiny`.

    Raises:
        ValueError: the YAML is damaged, or names results that are not there.
    """
    details = CardDetails.read(CARDS / f"{name}.yaml")
    recipes = {recipe: read_recipe(CONFIGS / recipe) for recipe in details.recipes}
    results = Results.read(REPO_ROOT / details.results / RESULTS_FILE) if details.results else None
    budget = Results.read(BUDGET) if BUDGET.exists() else None
    facts = _facts_of_size(details) if details.size else _facts_of_run(recipes, results)
    return render_card(facts, details, recipes, results, budget, title=name)


def _facts_of_size(details: CardDetails) -> ModelFacts:
    """Of a recipe that was not run: the shapes alone say how large it is."""
    import torch

    student = load_size(str(details.size), vision_init="random", text_init="random")
    with torch.device("meta"):
        model = student_model(student)
    parameters = sum(p.numel() for name, p in model.named_parameters() if name != "logit_scale")
    return ModelFacts(
        parameters=parameters,
        bytes=None,
        image_size=int(student.image_size or 0),
        max_text_length=student.max_text_length,
        projection_dim=int(student.projection_dim or 0),
        languages=("en", "zh"),
        teacher=details.teacher,
        teacher_license=details.teacher_license,
    )


def _facts_of_run(recipes: dict[str, dict[str, Any]], results: Results | None) -> ModelFacts:
    """Of a run whose folder is not committed: its results give the size, its recipe and its teacher the rest."""
    if results is None:
        raise ValueError("card: name results, or a size.")
    recipe = next(recipe for recipe in recipes.values() if "student" in recipe and isinstance(recipe["student"], dict))
    student = StudentConfig(**recipe["student"])
    teacher = open_teacher(str(REPO_ROOT / recipe["teacher"]), "float32")
    size = {m: results.mean(model="student", stage="aligned", metric=m) for m in ("parameters", "bytes")}
    return ModelFacts(
        parameters=int(size["parameters"] or 0),
        bytes=int(size["bytes"] or 0),
        image_size=student.image_size or teacher.image_size,
        max_text_length=student.max_text_length,
        projection_dim=student.projection_dim or teacher.projection_dim,
        languages=("en", "zh"),
        teacher=recipe["teacher"],
        teacher_license=teacher.license,
    )


def write_published(names: list[str]) -> list[Path]:
    """Write the cards of these names; returns their files."""
    paths = []
    for name in names:
        path = CARDS / f"{name}.md"
        path.write_text(render_published(name), encoding="utf-8")
        paths.append(path)
    return paths
