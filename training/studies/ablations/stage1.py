"""Which choice is worth what: the demo's student, trained as long with one thing changed, over several seeds.

    python -m training.studies.ablations.stage1 --seeds 0 1 2

Every arm starts from the demo's recipes, shortened alike. The arms that leave a stage out train as many steps in the
other one, so that nobody has seen more images. All share one cache of teacher targets.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.evaluation.classify import Encoded, encode, evaluate, score
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
from training.studies.ablations.multilingual import CUT_SIZE, VOCABULARY_SIZE, make_multilingual_teacher
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, Row

NAME = "ablation"
MODULE = "training.studies.ablations.stage1"


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        question: what is asked; arms of one question are compared with each other.
        option: the answer that this arm stands for.
        distil: changes to the recipe of stage 1, given its student's too under `student`.
        stages: `1`, `2` or `1+2`.
        vocabulary: `full` or `cut` takes the teacher with a multilingual vocabulary.
    """

    question: str
    option: str
    distil: dict[str, Any]
    stages: str = "1"
    vocabulary: Literal["full", "cut"] | None = None

    @property
    def label(self) -> str:
        """Its name in the results."""
        return f"{self.question}: {self.option}"


def _wide(recipe: DistillRecipe) -> dict[str, Any]:
    """A text tower as wide as the teacher's, so that it can do without an adapter."""
    return {"text_config": recipe.student.text_config | {"hidden_size": 256, "num_attention_heads": 4}}


ARMS: tuple[Arm, ...] = (
    Arm("target", "feature map", {}),
    Arm("target", "feature map, ten times the weight", {"map_weight": 1.0}),
    Arm("target", "embedding", {"target": "embedding"}),
    Arm("target", "logits", {"target": "logits"}),
    Arm("whitening", "on", {}),
    Arm("whitening", "off", {"whiten": False}),
    Arm("text adapter, equal widths", "on", {"student": _wide, "tower": "text"}),
    Arm("text adapter, equal widths", "off", {"student": _wide, "tower": "text", "adapter": False}),
    Arm("start", "image tower from the teacher", {}),
    Arm("start", "both towers from the teacher", {"student": lambda _: {"text_init": "teacher"}}),
    Arm("start", "random", {"student": lambda _: {"vision_init": "random"}, "freeze": []}),
    Arm("text vocabulary", f"full, {VOCABULARY_SIZE}", {"tower": "text"}, vocabulary="full"),
    Arm("text vocabulary", f"cut to {CUT_SIZE}", {"tower": "text"}, vocabulary="cut"),
    Arm("stages", "1 alone", {}, "1"),
    Arm("stages", "2 alone", {}, "2"),
    Arm("stages", "1 and 2", {}, "1+2"),
)


@dataclass(frozen=True, kw_only=True)
class AblationOptions(ComparisonOptions):
    """What to run.

    Args:
        steps: optimizer steps of every arm, both stages together.
    """

    steps: int = 80
    output_dir: str = "runs/ablation"


class Ablation:
    """All arms with all seeds; arms whose runs are equal share one.

    Args:
        options: what to run.
    """

    def __init__(self, options: AblationOptions):
        self.options, self.output_dir = options, Path(options.output_dir)
        self.held_out = HeldOut.open(options.every)
        self.measured: dict[str, list[Row]] = {}
        self.teacher: Encoded | None = None

    def run(self) -> Results:
        """Train and measure."""
        began, rows = time.perf_counter(), []
        self._make_multilingual_teacher()
        for seed in self.options.seeds:
            for arm in ARMS:
                distil_recipe, align_recipe = self._recipes(arm, seed)
                name = repr((distil_recipe, align_recipe))
                if name not in self.measured:
                    self.measured[name] = self._train(distil_recipe, align_recipe, seed)
                found = [
                    replace(row, model=arm.label, stage="distilled" if arm.stages == "1" else "aligned")
                    for row in self.measured[name]
                ]
                rows += found
                say(seed, arm.label, found)
        return collect(self.options, MODULE, rows, self.held_out, began, steps=self.options.steps)

    def _recipes(self, arm: Arm, seed: int) -> tuple[DistillRecipe | None, AlignRecipe | None]:
        distil_recipe = self._demo_distill()
        align_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        steps = self.options.steps
        first = {"1": steps, "2": 0, "1+2": round(steps * 2 / 3)}[arm.stages]
        folder = self.output_dir
        common = {"seed": seed, "data": distil_recipe.data, "teacher_cache": str(folder / "targets")}
        changes = arm.distil | self._multilingual(arm.vocabulary)
        if (student := changes.pop("student", None)) is not None:
            changes["student"] = replace(distil_recipe.student, **student(distil_recipe))
        distil_recipe = replace(
            distil_recipe,
            **common | changes,
            max_steps=max(first, 1),
            warmup_steps=min(distil_recipe.warmup_steps, steps // 6),
            output_dir=str(folder / "distilled"),
        )
        align_recipe = replace(
            align_recipe,
            **common,
            max_steps=max(steps - first, 1),
            warmup_steps=min(align_recipe.warmup_steps, steps // 6),
            output_dir=str(folder / "aligned"),
            student=str(folder / "distilled") if first else None,
        )
        return distil_recipe if first else None, align_recipe if first < steps else None

    def _demo_distill(self) -> DistillRecipe:
        recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
        return replace(recipe, data=self.held_out.training_data(recipe.data))

    def _multilingual(self, vocabulary: str | None) -> dict[str, Any]:
        """The teacher with a multilingual vocabulary, and a student that reads all of it or a cut."""
        if vocabulary is None:
            return {}
        folder = self.output_dir / "multilingual"
        tokenizer = None if vocabulary == "full" else str(folder / "vocabulary")
        return {
            "teacher": str(folder / "teacher"),
            "teacher_cache": str(folder / f"targets-{vocabulary}"),
            "student": lambda _: {"tokenizer": tokenizer, "vision_init": "random"},
            "freeze": [],
        }

    def _make_multilingual_teacher(self):
        if any(arm.vocabulary for arm in ARMS):
            folder = self.output_dir / "multilingual"
            make_multilingual_teacher(self._demo_distill(), folder, max_steps=4 * self.options.steps)

    def _train(self, distil_recipe: DistillRecipe | None, align_recipe: AlignRecipe | None, seed: int) -> list[Row]:
        folders = [self.output_dir / name for name in ("distilled", "aligned")]
        student = train_stages(distil_recipe, align_recipe, folders)
        if distil_recipe is None or distil_recipe.tower == "both":
            return evaluate(student, self.held_out.sets, self.held_out.class_names, LANGUAGES, seed=seed)
        # a text tower alone reads for the teacher, which sees
        if self.teacher is None:
            model = ZeroShotModel.from_pretrained(distil_recipe.teacher)
            self.teacher = encode(model, self.held_out.sets, self.held_out.class_names, [])
        read = encode(student, {}, self.held_out.class_names, LANGUAGES)
        return score(self.teacher, read, self.held_out.sets, self.held_out.class_names, seed=seed)


def main(argv: list[str] | None = None):
    """Parse, run, write, print the table."""
    options = parse_options(AblationOptions, MODULE, argv)
    results = Ablation(options).run()
    print_and_plot(results, options, NAME)


if __name__ == "__main__":
    main()
