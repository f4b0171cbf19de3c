"""Options and recipes of the demo, without torch and transformers, so that the plan appears at once."""

from dataclasses import dataclass, replace
from typing import TypeVar

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.utils.files import REPO_ROOT
from training.utils.results import RESULTS_FILE, Results

PROGRAM = "python -m training.demo"
RESULTS = REPO_ROOT / "model_cards" / "results" / "demo" / RESULTS_FILE
MAX_EVERY = 200  # fewer concepts leave too few names to choose from

Recipe = TypeVar("Recipe", AlignRecipe, DistillRecipe)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demo.

    Args:
        seed: Seed of the training.
        output_dir: Folder of the Hub folder, the results and the intermediate models.
        max_steps: Number of steps of each stage, instead of the recipes' own. For a quick trial.
        every: Use only every n-th concept of the emoji. For a quick trial.
    """

    seed: int = 0
    output_dir: str = "runs/demo"
    max_steps: int | None = None
    every: int = 1

    def __post_init__(self):
        if not 1 <= self.every <= MAX_EVERY:
            raise ValueError(f"every: must be in 1..{MAX_EVERY}, got {self.every}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps: must be at least 1, got {self.max_steps}.")


def load_recipes(options: DemoOptions) -> tuple[DistillRecipe, AlignRecipe]:
    """Load the recipes of both stages."""
    distill_recipe = _read(DistillRecipe, "demo_distill.yaml", options)
    return distill_recipe, _read(AlignRecipe, "demo_align.yaml", options)


def _read(kind: type[Recipe], name: str, options: DemoOptions) -> Recipe:
    recipe = parse_recipe(kind, ["--config", str(CONFIGS / name)])
    return replace(recipe, seed=options.seed, max_steps=options.max_steps or recipe.max_steps)


def make_plan(options: DemoOptions) -> str:
    """Steps of the demo in words. It has a duration if the committed run had the same settings."""
    distill_recipe, align_recipe = load_recipes(options)
    duration = ""
    if options.max_steps is None and options.every == 1:
        minutes = round(Results.read(RESULTS).meta["seconds"] / 60)
        duration = f", about {minutes} minutes on two CPU cores"
    return (
        f"DC-CLIP demo{duration}, output in {options.output_dir}\n"
        "  1. open the embedded corpus, which is rendered on the first run\n"
        "  2. evaluate the teacher on held-out images\n"
        f"  3. stage 1: distill the teacher into the student, {distill_recipe.max_steps} steps\n"
        f"  4. stage 2: align images and captions in two languages, {align_recipe.max_steps} steps\n"
        "  5. measure latency, write table and model card"
    )
