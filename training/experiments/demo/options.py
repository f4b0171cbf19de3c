"""Options and recipes of the demo, without torch and transformers, so that the plan appears at once."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.utils.ranges import Count, Seed

PROGRAM = "python -m training.demo"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demo.

    Args:
        seed: Seed of the training.
        output_dir: Folder of the Hub folder, the results and the intermediate models.
        max_steps: Number of steps of each stage, instead of the recipes' own. For a quick trial.
        every: Use only every n-th concept of the emoji. For a quick trial.
    """

    seed: Seed = 0
    output_dir: str = "runs/demo"
    max_steps: Count | None = None
    # more leave too few names to choose from
    every: Annotated[int, Field(ge=1, le=200)] = 1


def load_recipes(options: DemoOptions) -> tuple[DistillRecipe, AlignRecipe]:
    """Load the recipes of both stages."""
    distill_recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
    align_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
    fields: dict[str, Any] = {"seed": options.seed}
    if options.max_steps is not None:
        fields["max_steps"] = options.max_steps
    return replace(distill_recipe, **fields), replace(align_recipe, **fields)


def make_plan(options: DemoOptions) -> str:
    """Steps of the demo in words."""
    distill_recipe, align_recipe = load_recipes(options)
    return (
        f"DC-CLIP demo, output in {options.output_dir}\n"
        "  1. open the embedded corpus, which is rendered on the first run\n"
        "  2. evaluate the teacher on held-out images\n"
        f"  3. stage 1: distill the teacher into the student, {distill_recipe.max_steps} steps\n"
        f"  4. stage 2: align images and captions in two languages, {align_recipe.max_steps} steps\n"
        "  5. measure latency, write table and model card"
    )
