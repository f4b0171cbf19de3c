"""What each term of stage 2 is worth: the demo's student, aligned with one thing added, over several seeds.

    python -m training.studies.ablations.stage2 --seeds 0 1 2

All arms of a seed go on from one distilled student, which is an arm of its own; the arms of one stage train as many
steps as both stages of the others, so that nobody has seen more images. All share one cache of teacher targets. Each
student is also asked with the teacher's reading of the names, which tells whether the two still share a space.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from training.config import CONFIGS, AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.data import load_source
from training.evaluation.classify import Encoded, encode, score
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.embedded import HeldOut
from training.studies.ablations.arms import (
    ComparisonOptions,
    collect,
    parse_options,
    print_and_plot,
    say,
    train_stages,
)
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, Row

NAME = "alignment"
MODULE = "training.studies.ablations.stage2"

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
        only: the one stage that it has, `distil` or `align`, from where stage 1 begins and for the steps of both.
        pairs_of: stage 2 has the pairs of each `pairs_of`-th concept alone; stage 1, which needs no pairs, has it all.
    """

    start: str
    terms: str
    changes: dict[str, Any] | None = field(default_factory=dict)
    only: str | None = None
    pairs_of: int = 1

    @property
    def label(self) -> str:
        """Its name in the results."""
        return f"{self.start}: {self.terms}"


ARMS: tuple[Arm, ...] = (
    Arm("no stage 1", "InfoNCE", only="align"),
    Arm("no stage 2", "stage 1 for as long", only="distil"),
    Arm("stage 1", "as it is", None),
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
        arms: of the comparison.
        module: its command.
    """

    def __init__(self, options: AlignmentOptions, arms: Sequence[Arm], module: str):
        self.options, self.arms, self.module, self.output_dir = options, arms, module, Path(options.output_dir)
        self.held_out = HeldOut.open(options.every)
        self.all_steps = options.distil_steps + options.align_steps

    def run(self) -> Results:
        """Train and measure."""
        began, rows = time.perf_counter(), []
        for seed in self.options.seeds:
            distil_recipe = self._distil(seed, self.options.distil_steps, "distilled")
            distilled = train_stages(distil_recipe, None, [Path(distil_recipe.output_dir)])
            for arm in self.arms:
                student, stage = distilled, "distilled"
                if arm.only == "distil":
                    longer = self._distil(seed, self.all_steps, "distilled_longer")
                    student = train_stages(longer, None, [Path(longer.output_dir)])
                elif arm.changes is not None:
                    recipe = self._align(arm, distil_recipe)
                    student, stage = train_stages(None, recipe, [Path(recipe.output_dir)]), "aligned"
                found = [replace(row, model=arm.label, stage=stage) for row in self._measure(student, seed)]
                rows += found
                say(seed, arm.label, found)
        steps = f"{self.options.distil_steps} + {self.options.align_steps}"
        return collect(self.options, self.module, rows, self.held_out, began, steps=steps)

    @cached_property
    def teacher(self) -> Encoded:
        """The names as the teacher reads them."""
        model = ZeroShotModel.from_pretrained(self._distil(0, 1, "distilled").teacher)
        return encode(model, {}, self.held_out.class_names, LANGUAGES)

    def _measure(self, student: ZeroShotModel, seed: int) -> list[Row]:
        """Accuracy with its own reading of the names, and with the teacher's."""
        sets, names = self.held_out.sets, self.held_out.class_names
        encoded = encode(student, sets, names, LANGUAGES)
        alone, crossed = (score(encoded, texts, sets, names, seed=seed) for texts in (encoded, self.teacher))
        return alone + [replace(row, metric=f"{row.metric}_teacher_reads") for row in crossed]

    def _distil(self, seed: int, steps: int, folder: str) -> DistillRecipe:
        recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
        return replace(
            recipe,
            seed=seed,
            data=self.held_out.training_data(recipe.data),
            teacher_cache=str(self.output_dir / "targets"),
            max_steps=steps,
            warmup_steps=min(recipe.warmup_steps, steps // 6),
            output_dir=str(self.output_dir / folder),
        )

    def _align(self, arm: Arm, distil_recipe: DistillRecipe) -> AlignRecipe:
        """The demo's stage 2 with the arm's terms alone; without stage 1, at the rate and length of both stages."""
        recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        steps, rate = self.options.align_steps, recipe.learning_rate
        if arm.only:
            steps, rate = self.all_steps, distil_recipe.learning_rate
        data, cache = distil_recipe.data, distil_recipe.teacher_cache
        if arm.pairs_of > 1:
            data, cache = replace(data, train=self._pairs(data, arm.pairs_of)), f"{cache}-{arm.pairs_of}"
        alone = {"contrastive_weight": 1.0, "anchor_weight": 0.0, "affinity_weight": 0.0, "interactive_weight": 0.0}
        return replace(
            recipe,
            **alone | {"text_text_weight": 0.0} | (arm.changes or {}),
            seed=distil_recipe.seed,
            data=data,
            teacher_cache=cache,
            student=distil_recipe.output_dir if not arm.only else None,
            max_steps=steps,
            learning_rate=rate,
            warmup_steps=min(recipe.warmup_steps, steps // 6),
            output_dir=str(self.output_dir / "aligned"),
        )

    def _pairs(self, data: DataConfig, every: int) -> str:
        """A parquet file with the pairs of each `every`-th concept."""
        path = self.output_dir / f"pairs-{every}.parquet"
        if not path.exists():
            assert data.train is not None
            rows = load_source(data.train)
            groups = rows["group"][:]
            kept = set(list(dict.fromkeys(groups))[::every])
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.select([number for number, group in enumerate(groups) if group in kept]).to_parquet(path)
        return str(path)


def main(argv: list[str] | None = None):
    """Parse, run, write, print the table."""
    options = parse_options(AlignmentOptions, MODULE, argv)
    print_and_plot(Alignment(options, ARMS, MODULE).run(), options, NAME)


if __name__ == "__main__":
    main()
