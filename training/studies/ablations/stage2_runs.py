"""Arms of the stage 2 ablation, and their training runs."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from training.config import CONFIGS, AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.data import load_source
from training.evaluation.classify import Encoded, encode, score
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.ablations.comparison import collect, open_held_out, print_arm, train_stages
from training.studies.ablations.options import Stage2Options
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, Row


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Loss terms of stage 2, as fields of `AlignRecipe`. The contrastive term always has the weight 1.

    Args:
        loss: Contrastive loss.
        anchor_weight: Weight of the cosine distance to the teacher's embeddings; the demo uses 5.
        affinity_weight: Weight of the divergence between the similarities of teacher and student.
        interactive_weight: Weight of InfoNCE between student and teacher embeddings.
        text_text_weight: Weight of InfoNCE between the captions of one image in both languages.
    """

    loss: Literal["infonce", "sigmoid"] = "infonce"
    anchor_weight: float = 0.0
    affinity_weight: float = 0.0
    interactive_weight: float = 0.0
    text_text_weight: float = 0.0


@dataclass(frozen=True)
class Arm:
    """One way to align.

    Args:
        start: Starting point of stage 2; the first half of the arm's name.
        terms: Description of the loss terms; the second half of the arm's name.
        losses: Loss terms of stage 2; None evaluates the distilled student without stage 2.
        only: Stage to run alone, `distil` or `align`, from the start of stage 1 and for the steps of both stages; None
            runs both.
        concept_stride: Stage 2 uses the pairs of each `concept_stride`-th concept; stage 1 needs no pairs and uses all
            images and captions.
    """

    start: str
    terms: str
    losses: LossTerms | None = LossTerms()
    only: Literal["distil", "align"] | None = None
    concept_stride: int = 1

    @property
    def label(self) -> str:
        """Name of the arm in the results."""
        return f"{self.start}: {self.terms}"


ARMS: tuple[Arm, ...] = (
    Arm("no stage 1", "InfoNCE", only="align"),
    Arm("no stage 2", "stage 1 for the same number of steps", only="distil"),
    Arm("stage 1", "starting point", None),
    Arm("stage 1", "InfoNCE"),
    Arm("stage 1", "sigmoid", LossTerms(loss="sigmoid")),
    Arm("stage 1", "InfoNCE, anchor", LossTerms(anchor_weight=5.0)),
    Arm("stage 1", "InfoNCE, affinity", LossTerms(affinity_weight=1.0)),
    Arm("stage 1", "InfoNCE, interactive", LossTerms(interactive_weight=1.0)),
    Arm("stage 1", "InfoNCE, text-text", LossTerms(text_text_weight=1.0)),
    Arm(
        "full recipe",
        "InfoNCE, anchor, affinity, interactive",
        LossTerms(anchor_weight=5.0, affinity_weight=1.0, interactive_weight=1.0),
    ),
)


class Stage2Ablation:
    """Trains and evaluates all arms with all seeds.

    Args:
        options: What to run.
        arms: Arms to compare.
        program: Command as users type it, without options.
    """

    def __init__(self, options: Stage2Options, arms: Sequence[Arm], program: str):
        self.options, self.arms, self.program = options, arms, program
        self.output_dir = Path(options.output_dir)
        self.held_out = open_held_out(options.every)
        self.all_steps = options.distil_steps + options.align_steps

    def run(self) -> Results:
        """Train and evaluate."""
        began, rows = time.perf_counter(), []
        for seed in self.options.seeds:
            distil_recipe = self._distil(seed, self.options.distil_steps, "distilled")
            distilled = train_stages(distil_recipe, None, [Path(distil_recipe.output_dir)])
            for arm in self.arms:
                student, stage = distilled, "distilled"
                if arm.only == "distil":
                    longer = self._distil(seed, self.all_steps, "distilled_longer")
                    student = train_stages(longer, None, [Path(longer.output_dir)])
                elif arm.losses is not None:
                    recipe = self._align(arm, arm.losses, distil_recipe)
                    student, stage = train_stages(None, recipe, [Path(recipe.output_dir)]), "aligned"
                arm_rows = [replace(row, model=arm.label, stage=stage) for row in self._evaluate(student, seed)]
                rows += arm_rows
                print_arm(seed, arm.label, arm_rows)
        steps = f"{self.options.distil_steps} + {self.options.align_steps}"
        return collect(self.options, self.program, rows, self.held_out, began, steps)

    @cached_property
    def teacher(self) -> Encoded:
        """The teacher's text embeddings of the class names."""
        model = ZeroShotModel.from_pretrained(self._distil(0, 1, "distilled").all_teachers[0].teacher)
        return encode(model, {}, self.held_out.class_names, LANGUAGES)

    def _evaluate(self, student: ZeroShotModel, seed: int) -> list[Row]:
        """Accuracy with the student's own text embeddings of the class names, and with the teacher's."""
        sets, names = self.held_out.sets, self.held_out.class_names
        encoded = encode(student, sets, names, LANGUAGES)
        own_texts = score(encoded, encoded, sets, names, seed=seed)
        teacher_texts = score(encoded, self.teacher, sets, names, seed=seed)
        return own_texts + [replace(row, metric=f"{row.metric}_teacher_texts") for row in teacher_texts]

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

    def _align(self, arm: Arm, losses: LossTerms, distil_recipe: DistillRecipe) -> AlignRecipe:
        """Recipe of stage 2: the demo's with the loss terms of the arm.

        Without stage 1 it has stage 1's learning rate and the steps of both stages.
        """
        recipe = parse_recipe(AlignRecipe, ["--config", str(CONFIGS / "demo_align.yaml")])
        steps, rate = self.options.align_steps, recipe.learning_rate
        if arm.only:
            steps, rate = self.all_steps, distil_recipe.learning_rate
        data, cache, batch_size = distil_recipe.data, distil_recipe.teacher_cache, recipe.batch_size
        if (stride := arm.concept_stride) > 1:
            pairs = self._pairs(data, stride)
            data, cache = replace(data, train=pairs), f"{cache}-{stride}"
            batch_size = min(batch_size, len(load_source(pairs)))  # of a part of the corpus, with --every
        return replace(
            recipe,
            **asdict(losses),
            contrastive_weight=1.0,
            seed=distil_recipe.seed,
            data=data,
            teacher_cache=cache,
            student=distil_recipe.output_dir if not arm.only else None,
            new_student=distil_recipe.student if arm.only else None,
            max_steps=steps,
            batch_size=batch_size,
            learning_rate=rate,
            warmup_steps=min(recipe.warmup_steps, steps // 6),
            output_dir=str(self.output_dir / "aligned"),
        )

    def _pairs(self, data: DataConfig, stride: int) -> str:
        """Write a parquet file with the pairs of each `stride`-th concept; return its path."""
        path = self.output_dir / f"pairs-{stride}.parquet"
        if not path.exists():
            assert data.train is not None
            rows = load_source(data.train)
            groups = rows["group"][:]
            kept = set(list(dict.fromkeys(groups))[::stride])
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.select([number for number, group in enumerate(groups) if group in kept]).to_parquet(path)
        return str(path)
