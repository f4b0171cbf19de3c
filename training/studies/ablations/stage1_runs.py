"""Arms of the stage 1 ablation, and their training runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.evaluation.classify import Encoded, encode, evaluate, score
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.ablations.comparison import collect, open_held_out, print_arm, train_stages
from training.studies.ablations.multilingual import CUT_SIZE, VOCABULARY_SIZE, make_multilingual_teacher
from training.studies.ablations.options import Stage1Options
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, Row

Change = Callable[[DistillRecipe], DistillRecipe]
Recipes = tuple[DistillRecipe | None, AlignRecipe | None]


def _no_change(recipe: DistillRecipe) -> DistillRecipe:
    return recipe


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        factor: Choice that is varied; arms with the same factor are compared with each other.
        setting: Setting of the factor in this arm.
        change: Function that applies the setting to the recipe of stage 1.
        stages: Stages to run: `1`, `2` or `1+2`.
        vocabulary: Vocabulary of the student under the multilingual teacher, `full` or `cut`; None uses the teacher of
            the demo.
    """

    factor: str
    setting: str
    change: Change = _no_change
    stages: Literal["1", "2", "1+2"] = "1"
    vocabulary: Literal["full", "cut"] | None = None

    @property
    def label(self) -> str:
        """Name of the arm in the results."""
        return f"{self.factor}: {self.setting}"


def _text_tower(recipe: DistillRecipe) -> DistillRecipe:
    return replace(recipe, tower="text")


def _equal_widths(recipe: DistillRecipe) -> DistillRecipe:
    """Train a text tower of the teacher's width, which does not need an adapter."""
    text_config = (recipe.student.text_config or {}) | {"hidden_size": 256, "num_attention_heads": 4}
    return replace(recipe, tower="text", student=replace(recipe.student, text_config=text_config))


def _random_start(recipe: DistillRecipe) -> DistillRecipe:
    return replace(recipe, freeze=[], student=replace(recipe.student, vision_init="random"))


def _text_from_teacher(recipe: DistillRecipe) -> DistillRecipe:
    return replace(recipe, student=replace(recipe.student, text_init="teacher"))


ARMS: tuple[Arm, ...] = (
    Arm("target", "feature map"),
    Arm("target", "feature map, ten times the weight", lambda recipe: replace(recipe, map_weight=1.0)),
    Arm("target", "embedding", lambda recipe: replace(recipe, target="embedding")),
    Arm("target", "logits", lambda recipe: replace(recipe, target="logits")),
    Arm("whitening", "on"),
    Arm("whitening", "off", lambda recipe: replace(recipe, whiten=False)),
    Arm("text adapter, equal widths", "on", _equal_widths),
    Arm("text adapter, equal widths", "off", lambda recipe: replace(_equal_widths(recipe), adapter=False)),
    Arm("start", "image tower from the teacher"),
    Arm("start", "both towers from the teacher", _text_from_teacher),
    Arm("start", "random", _random_start),
    Arm("text vocabulary", f"full, {VOCABULARY_SIZE}", _text_tower, vocabulary="full"),
    Arm("text vocabulary", f"cut to {CUT_SIZE}", _text_tower, vocabulary="cut"),
    Arm("stages", "1 alone"),
    Arm("stages", "2 alone", stages="2"),
    Arm("stages", "1 and 2", stages="1+2"),
)


class Stage1Ablation:
    """Trains and evaluates all arms with all seeds. Arms with equal recipes share a run.

    Args:
        options: What to run.
        arms: Arms to compare.
        program: Command as users type it, without options.
    """

    def __init__(self, options: Stage1Options, arms: Sequence[Arm], program: str):
        self.options, self.arms, self.program = options, arms, program
        self.output_dir = Path(options.output_dir)
        self.held_out = open_held_out(options.every)
        self.measured: dict[str, list[Row]] = {}
        self.teacher: Encoded | None = None

    def run(self) -> Results:
        """Train and evaluate."""
        began, rows = time.perf_counter(), []
        self._make_multilingual_teacher()
        for seed in self.options.seeds:
            for arm in self.arms:
                recipes = self._recipes(arm, seed)
                key = repr(recipes)
                if key not in self.measured:
                    self.measured[key] = self._train(recipes, seed)
                stage = "distilled" if arm.stages == "1" else "aligned"
                arm_rows = [replace(row, model=arm.label, stage=stage) for row in self.measured[key]]
                rows += arm_rows
                print_arm(seed, arm.label, arm_rows)
        return collect(self.options, self.program, rows, self.held_out, began, self.options.steps)

    def _recipes(self, arm: Arm, seed: int) -> Recipes:
        """The recipes of both stages; None for a stage that the arm does not have."""
        steps = self.options.steps
        distil_steps = {"1": steps, "2": 0, "1+2": round(steps * 2 / 3)}[arm.stages]
        demo = self._demo_distill()
        cache = str(self.output_dir / "targets")
        distil_recipe = arm.change(replace(demo, seed=seed, teacher_cache=cache))
        if arm.vocabulary is not None:
            distil_recipe = self._with_multilingual_teacher(distil_recipe, arm.vocabulary)
        distil_recipe = replace(
            distil_recipe,
            max_steps=max(distil_steps, 1),
            warmup_steps=min(demo.warmup_steps, steps // 6),
            output_dir=str(self.output_dir / "distilled"),
        )
        align_recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        align_recipe = replace(
            align_recipe,
            seed=seed,
            data=demo.data,
            teacher_cache=cache,
            max_steps=max(steps - distil_steps, 1),
            warmup_steps=min(align_recipe.warmup_steps, steps // 6),
            output_dir=str(self.output_dir / "aligned"),
            student=distil_recipe.output_dir if distil_steps else None,
            new_student=None if distil_steps else distil_recipe.student,
        )
        return distil_recipe if distil_steps else None, align_recipe if distil_steps < steps else None

    def _demo_distill(self) -> DistillRecipe:
        recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
        return replace(recipe, data=self.held_out.training_data(recipe.data))

    def _with_multilingual_teacher(self, recipe: DistillRecipe, vocabulary: Literal["full", "cut"]) -> DistillRecipe:
        """A recipe with the multilingual teacher, and a student with all of its vocabulary or a cut."""
        folder = self.output_dir / "multilingual"
        tokenizer = None if vocabulary == "full" else str(folder / "vocabulary")
        return replace(
            recipe,
            teacher=str(folder / "teacher"),
            teacher_cache=str(folder / f"targets-{vocabulary}"),
            student=replace(recipe.student, tokenizer=tokenizer, vision_init="random"),
            freeze=[],
        )

    def _make_multilingual_teacher(self):
        if any(arm.vocabulary for arm in self.arms):
            folder = self.output_dir / "multilingual"
            make_multilingual_teacher(self._demo_distill(), folder, max_steps=4 * self.options.steps)

    def _train(self, recipes: Recipes, seed: int) -> list[Row]:
        distil_recipe, _ = recipes
        student = train_stages(*recipes, [self.output_dir / name for name in ("distilled", "aligned")])
        if distil_recipe is None or distil_recipe.tower == "both":
            return evaluate(student, self.held_out.sets, self.held_out.class_names, LANGUAGES, seed=seed)
        # a text tower alone is evaluated with the teacher's image embeddings
        if self.teacher is None:
            model = ZeroShotModel.from_pretrained(distil_recipe.all_teachers[0].teacher)
            self.teacher = encode(model, self.held_out.sets, self.held_out.class_names, [])
        texts = encode(student, {}, self.held_out.class_names, LANGUAGES)
        return score(self.teacher, texts, self.held_out.sets, self.held_out.class_names, seed=seed)
