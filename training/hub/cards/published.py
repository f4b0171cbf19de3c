"""Render the committed cards of the published models from their YAML files, recipes and results."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from training.config import CONFIGS, StudentConfig, read_recipe
from training.engine.inputs import open_teacher
from training.hub.cards.card import render_card
from training.hub.cards.details import CARDS, CardDetails
from training.hub.cards.facts import ModelFacts
from training.students.build import load_size, student_from_config
from training.utils.files import REPO_ROOT, write_text
from training.utils.results import RESULTS_FILE, Results

BUDGET = REPO_ROOT / "model_cards" / "results" / "budget" / RESULTS_FILE


def list_published() -> list[str]:
    """Names of the committed cards, from their YAML files."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def render_published(name: str) -> str:
    """Render the card of a published model.

    Args:
        name: Name of the YAML file without its suffix, such as `tiny`.

    Returns:
        The card in Markdown, with front matter.

    Raises:
        ValueError: There is no such card, its YAML cannot be read, or it names neither results nor a size.
    """
    if name not in list_published():
        raise ValueError(f"names: there is no card {name!r}. Expected: {', '.join(list_published())}.")
    details = CardDetails.read(CARDS / f"{name}.yaml")
    recipes = {recipe: _resolve(read_recipe(CONFIGS / recipe), details.size) for recipe in details.recipes}
    results = Results.read(REPO_ROOT / details.results / RESULTS_FILE) if details.results else None
    budget = Results.read(BUDGET) if BUDGET.exists() else None
    facts = _facts_of_size(details, recipes) if details.size else _facts_of_run(recipes, results)
    return render_card(facts, details, recipes, results, budget, title=name)


def _resolve(recipe: dict[str, Any], size: str | None) -> dict[str, Any]:
    """The recipe with the student of a size in place of the name of a student file."""
    if size is None or not str(recipe.get("student")).startswith("students/"):
        return recipe
    return recipe | {"student": asdict(load_size(size))}


def _facts_of_size(details: CardDetails, recipes: dict[str, dict[str, Any]]) -> ModelFacts:
    """Facts of a size that is not trained yet: the shapes of its parameters are known without weights."""
    student = load_size(str(details.size), vision_init="random", text_init="random")
    with torch.device("meta"):
        model = student_from_config(student)
    parameters = sum(p.numel() for name, p in model.named_parameters() if name != "logit_scale")
    return ModelFacts(
        parameters=parameters,
        bytes=None,
        image_size=int(student.image_size or 0),
        max_text_length=student.max_text_length,
        projection_dim=int(student.projection_dim or 0),
        languages=("en", "zh"),
        teacher=next((recipe["teacher"] for recipe in recipes.values()), None),
        teacher_license=details.teacher_license,
    )


def _facts_of_run(recipes: dict[str, dict[str, Any]], results: Results | None) -> ModelFacts:
    """Facts of a run whose folder is not committed, from its results, its recipe and its teacher."""
    if results is None:
        raise ValueError("card: it names neither results nor a size. Add `results` or `size` to the YAML.")
    name, recipe = next((name, recipe) for name, recipe in recipes.items() if recipe.get("student"))
    student = StudentConfig(**_read_student(CONFIGS / name, recipe["student"]))
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


def _read_student(recipe: Path, student: dict[str, Any] | str) -> dict[str, Any]:
    """Fields of a student that a recipe describes itself, or in a YAML file that it names by a relative path."""
    return student if isinstance(student, dict) else yaml.safe_load((recipe.parent / student).read_text("utf-8"))


def write_published(names: list[str]) -> list[Path]:
    """Render cards and write them to model_cards/cards.

    Args:
        names: Names of the YAML files without their suffix.

    Returns:
        Paths of the written cards.
    """
    paths = []
    for name in names:
        path = CARDS / f"{name}.md"
        write_text(path, render_published(name))
        paths.append(path)
    return paths
