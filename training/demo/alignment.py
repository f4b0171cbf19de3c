"""What each term of stage 2 is worth: the demo's student, aligned with one thing added, over several seeds.

    python -m training.demo.alignment --seeds 0 1 2

All arms of a seed go on from one distilled student; the arm without stage 1 trains as many steps as both stages of the
others, so that nobody has seen more pictures. All share one cache of teacher targets.
"""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.demo.arms import ComparisonOptions, collect, parse_options, print_and_plot, say, train_stages
from training.demo.held_out import LANGUAGES, HeldOut
from training.results import Results, Row
from training.zero_shot.classify import evaluate

NAME = "alignment"
MODULE = "training.demo.alignment"

# weights beside a contrastive term of 1; the anchor's is the demo's, and all are zero where an arm does not name them
ANCHOR = {"anchor_weight": 5.0}
AFFINITY = {"affinity_weight": 1.0}
INTERACTIVE = {"interactive_weight": 1.0}
TEXT_TEXT = {"text_text_weight": 1.0}


@dataclass(frozen=True)
class Arm:
    """One way to align.

    Args:
        start: what it goes on from.
        terms: its name beside that.
        changes: to the recipe of stage 2; None measures the distilled student as it is.
        after_stage_1: whether it goes on from the distilled student, or from where stage 1 began.
    """

    start: str
    terms: str
    changes: dict[str, Any] | None = field(default_factory=dict)
    after_stage_1: bool = True

    @property
    def label(self) -> str:
        """Its name in the results."""
        return f"{self.start}: {self.terms}"


ARMS: tuple[Arm, ...] = (
    Arm("no stage 1", "InfoNCE", after_stage_1=False),
    Arm("stage 1", "alone", None),
    Arm("stage 1", "InfoNCE"),
    Arm("stage 1", "sigmoid", {"loss": "sigmoid"}),
    Arm("stage 1", "InfoNCE, anchor", ANCHOR),
    Arm("stage 1", "InfoNCE, affinity", AFFINITY),
    Arm("stage 1", "InfoNCE, interactive", INTERACTIVE),
    Arm("stage 1", "InfoNCE, text-text", TEXT_TEXT),
    Arm("full recipe", "InfoNCE, anchor, affinity, interactive", ANCHOR | AFFINITY | INTERACTIVE),
)


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(ComparisonOptions):
    """What to run.

    Args:
        distil_steps: of stage 1, once a seed.
        align_steps: of stage 2, in every arm.
    """

    distil_steps: int = 240
    align_steps: int = 80
    output_dir: str = "runs/alignment"


class Alignment:
    """All arms with all seeds.

    Args:
        options: what to run.
    """

    def __init__(self, options: AlignmentOptions):
        self.options, self.output_dir = options, Path(options.output_dir)
        self.held_out = HeldOut.open(options.every)

    def run(self) -> Results:
        """Train and measure."""
        began, rows = time.perf_counter(), []
        shutil.rmtree(self.output_dir / "targets", ignore_errors=True)
        for seed in self.options.seeds:
            distil_recipe = self._distil(seed)
            distilled = train_stages(distil_recipe, None, [Path(distil_recipe.output_dir)])
            for arm in ARMS:
                student, stage = distilled, "distilled"
                if arm.changes is not None:
                    recipe = self._align(arm, distil_recipe)
                    student, stage = train_stages(None, recipe, [Path(recipe.output_dir)]), "aligned"
                found = evaluate(student, self.held_out.sets, self.held_out.class_names, LANGUAGES, seed=seed)
                rows += (found := self._labelled(found, arm, stage))
                say(seed, arm.label, found)
        steps = f"{self.options.distil_steps} + {self.options.align_steps}"
        return collect(self.options, MODULE, rows, self.held_out, began, steps=steps)

    def _labelled(self, rows: list[Row], arm: Arm, stage: str) -> list[Row]:
        return [replace(row, model=arm.label, stage=stage) for row in rows]

    def _distil(self, seed: int) -> DistillRecipe:
        recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
        return replace(
            recipe,
            seed=seed,
            data=self.held_out.training_data(recipe.data),
            teacher_cache=str(self.output_dir / "targets"),
            max_steps=self.options.distil_steps,
            warmup_steps=min(recipe.warmup_steps, self.options.distil_steps // 6),
            output_dir=str(self.output_dir / "distilled"),
        )

    def _align(self, arm: Arm, distil_recipe: DistillRecipe) -> AlignRecipe:
        """The demo's stage 2 with the arm's terms alone; without stage 1, at the rate and length of both stages."""
        recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        steps, rate = self.options.align_steps, recipe.learning_rate
        if not arm.after_stage_1:
            steps, rate = steps + distil_recipe.max_steps, distil_recipe.learning_rate
        alone = {"contrastive_weight": 1.0, "anchor_weight": 0.0, "affinity_weight": 0.0, "interactive_weight": 0.0}
        return replace(
            recipe,
            **alone | {"text_text_weight": 0.0} | (arm.changes or {}),
            seed=distil_recipe.seed,
            data=distil_recipe.data,
            teacher_cache=distil_recipe.teacher_cache,
            student=distil_recipe.output_dir if arm.after_stage_1 else None,
            max_steps=steps,
            learning_rate=rate,
            warmup_steps=min(recipe.warmup_steps, steps // 6),
            output_dir=str(self.output_dir / "aligned"),
        )


def main(argv: list[str] | None = None):
    """Parse, run, write, print the table."""
    options = parse_options(AlignmentOptions, MODULE, argv)
    print_and_plot(Alignment(options).run(), options, NAME)


if __name__ == "__main__":
    main()
