"""Options, recipes and plan of the demo, without torch and transformers, so that the plan appears at once."""

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.utils.ending import publish_command
from training.utils.files import REPO_ROOT
from training.utils.results import RESULTS_FILE, Results

RESULTS = REPO_ROOT / "model_cards" / "results"
MAX_EVERY = 200  # fewer concepts leave too few names to choose from
CORES = "on two CPU cores"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demo.

    Args:
        photos: Your own captioned photographs instead of emoji, such as a parquet file with the columns `image`, `en`
            and `zh`. A caption cell is a string or a list of strings. Needs the extras `photos` and `edge`. Outputs
            are in the folder `photos` of `output_dir`.
        teacher: Hub id or folder of the teacher. Default: the small teacher in training/demo/mini_teacher; with
            `photos`, the teacher of photographs.
        full: Whether to use longer recipes, which take about an hour on two CPU cores.
        compare: Whether to also train the same student without a teacher, for as many steps as both stages.
        seeds: Training seeds. The student of the first seed becomes the Hub folder.
        output_dir: Folder of the Hub folder, the results, the figures and the intermediate models.
        max_steps: Number of steps of each stage, instead of the recipes' own. For a quick trial.
        every: Use only every n-th concept of the corpus. For a quick trial.
    """

    photos: str | None = None
    teacher: str | None = None
    full: bool = False
    compare: bool = False
    seeds: list[int] = field(default_factory=lambda: [0])
    output_dir: str = "runs/demo"
    max_steps: int | None = None
    every: int = 1

    def __post_init__(self):
        if not 1 <= self.every <= MAX_EVERY:
            raise ValueError(f"every: must be in 1..{MAX_EVERY}, got {self.every}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: must be different numbers, at least one, got {self.seeds}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps: must be at least 1, got {self.max_steps}.")
        if self.photos is not None:
            used = [name for name in ("full", "compare") if getattr(self, name)]
            used += ["every"] if self.every != 1 else []
            used += ["seeds"] if len(self.seeds) > 1 else []
            if used:
                raise ValueError(f"{used[0]}: is an option of the demo with emoji. Leave it out with --photos.")


def load_recipes(options: DemoOptions) -> tuple[DistillRecipe, AlignRecipe]:
    """Load the recipes of both stages."""
    distill_recipe = parse_recipe(DistillRecipe, _config_arguments("demo_distill.yaml", options))
    align_recipe = parse_recipe(AlignRecipe, _config_arguments("demo_align.yaml", options))
    if options.teacher is not None:
        # image statistics and embedding width come from the other teacher, and there are no layers to start from; the
        # tokenizer stays, so the text targets are pooled
        student = replace(
            distill_recipe.student, tokenizer=distill_recipe.teacher, vision_init="random", text_init="random"
        )
        distill_recipe = replace(distill_recipe, teacher=options.teacher, student=student, freeze=[])
        align_recipe = replace(align_recipe, teacher=options.teacher, freeze=[])
    if options.max_steps is not None:
        distill_recipe = replace(distill_recipe, max_steps=options.max_steps)
        align_recipe = replace(align_recipe, max_steps=options.max_steps)
    return distill_recipe, align_recipe


def _config_arguments(name: str, options: DemoOptions) -> list[str]:
    files = [CONFIGS / name, *([CONFIGS / "longer" / name] if options.full else [])]
    return [argument for file in files for argument in ("--config", str(file))]


def without_teacher(distill_recipe: DistillRecipe, align_recipe: AlignRecipe) -> AlignRecipe:
    """Recipe of the baseline: InfoNCE alone from random weights, with the batch size and the steps of both stages."""
    return replace(
        align_recipe,
        teacher=None,
        teacher_cache=None,
        anchor_weight=0.0,
        contrastive_weight=1.0,
        freeze=[],
        learning_rate=distill_recipe.learning_rate,
        max_steps=distill_recipe.max_steps + align_recipe.max_steps,
    )


def estimate_minutes(options: DemoOptions) -> int | None:
    """Minutes that a run takes, from the committed results; None if no committed run has the same settings."""
    if options.teacher is not None or options.max_steps is not None or options.every != 1:
        return None
    results = Results.read(RESULTS / ("demo_full" if options.full else "demo") / RESULTS_FILE)
    # the baseline trains for as many steps as both stages
    return round(results.meta["seconds"] * len(options.seeds) * (2 if options.compare else 1) / 60)


class Plan:
    """Steps of a run.

    Args:
        options: Options of the run.
    """

    name = "DC-CLIP demo"

    def __init__(self, options: DemoOptions):
        distill_recipe, align_recipe = load_recipes(options)
        self.output_dir = Path(options.output_dir)
        self.minutes = estimate_minutes(options)
        self.titles = {
            "corpus": "open the embedded corpus, which is rendered on the first run",
            "teacher": "evaluate the teacher on held-out images",
            "distill": f"stage 1: distil the teacher into the student, {distill_recipe.max_steps} steps",
            "align": f"stage 2: align images and captions in two languages, {align_recipe.max_steps} steps",
            "baseline": "baseline: train the same student without a teacher, "
            f"{distill_recipe.max_steps + align_recipe.max_steps} steps",
            "report": "measure latency, write table, figures and model card",
        }
        if not options.compare:
            del self.titles["baseline"]

    def __str__(self) -> str:
        duration = "" if self.minutes is None else f", about {self.minutes} minutes {CORES}"
        lines = [f"{self.name}: {len(self.titles)} steps{duration}, output in {self.output_dir}"]
        return "\n".join([*lines, *(f"  {number}. {title}" for number, title in enumerate(self.titles.values(), 1))])

    def start(self, step: str, seed: int | None = None):
        """Print the heading of a step.

        Args:
            step: Key of the step in `titles`.
            seed: Training seed, for the steps that run once per seed.
        """
        number = list(self.titles).index(step) + 1
        suffix = "" if seed is None else f", seed {seed}"
        print(f"\n[{number}/{len(self.titles)}] {self.titles[step]}{suffix}", flush=True)


def next_commands(output_dir: Path, corpus: Path) -> list[str]:
    """Return commands that use the finished model: export, evaluate, publish.

    Args:
        output_dir: Output folder of the demo.
        corpus: Folder of the rendered corpus, for the evaluation.
    """
    model = str(output_dir / "model")
    test_set = ["--data", f"unseen_style={corpus}/unseen_style.parquet", "--class_names", f"{corpus}/class_names.json"]
    evaluate = ["--model", model, *test_set, "--output_dir", f"{output_dir}/eval"]
    return [
        shlex.join(["python", "training/export.py", model, "--output_dir", f"{output_dir}/edge"]),
        shlex.join(["python", "training/eval.py", *evaluate]),
        publish_command(model, "dcclip-demo"),
    ]
