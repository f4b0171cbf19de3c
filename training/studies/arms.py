"""Ways to train a student that a study compares: changes to the recipes of both stages, for equal numbers of steps."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from accelerate.state import AcceleratorState

from training import align, distill
from training.config import AlignRecipe, DataConfig, DistillRecipe
from training.data import load_source
from training.studies.harness import Study
from training.teachers import DualEncoder
from training.utils.rng import keyed_uniform

# stage 2 without a loss of the teacher, which provides the tokenizer and the statistics of the images
INFONCE: dict[str, Any] = {"contrastive_weight": 1.0, "text_text_weight": 0.0}
INFONCE |= {"anchor_weight": 0.0, "affinity_weight": 0.0, "class_weight": 0.0, "classifier": None}


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        name: Name in the results.
        distill: Fields of the recipe of stage 1 that differ, with the student's under `student`. None skips
            stage 1, and stage 2 has the steps of both stages.
        align: Fields of the recipe of stage 2 that differ. None skips stage 2.
        share: Stage 2 has all pairs divided by this number. Stage 1 needs no pairs, and keeps all images and texts.
        longer: Whether stage 1 has the steps of both stages.
    """

    name: str
    distill: dict[str, Any] | None = field(default_factory=dict)
    align: dict[str, Any] | None = None
    share: int = 1
    longer: bool = False


@dataclass(frozen=True)
class Trainer:
    """Trains arms from the same two recipes.

    Args:
        distill: Recipe of stage 1, with the data of both stages.
        align: Recipe of stage 2.
        folder: Folder for runs and targets of the teacher.
        distill_steps: Optimizer steps of stage 1.
        align_steps: Optimizer steps of stage 2.
    """

    distill: DistillRecipe
    align: AlignRecipe
    folder: Path
    distill_steps: int
    align_steps: int

    def train(self, arm: Arm, seed: int) -> DualEncoder:
        """Train an arm, and load its student. Arms with an unchanged stage 1 share its run."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        first = self.distill_recipe(arm, seed)
        if first is not None and not (Path(first.output_dir) / "model.safetensors").exists():
            shutil.rmtree(first.output_dir, ignore_errors=True)
            AcceleratorState._reset_state(reset_partial_state=True)
            distill.run(first)
        second = self.align_recipe(arm, seed)
        if second is not None:
            AcceleratorState._reset_state(reset_partial_state=True)
            align.run(second)
        last = second or first
        assert last is not None, f"{arm.name} has no stage"
        return DualEncoder.from_pretrained(last.output_dir)

    def distill_recipe(self, arm: Arm, seed: int) -> DistillRecipe | None:
        """Recipe of stage 1 of an arm; None without stage 1."""
        if arm.distill is None:
            return None
        changes = dict(arm.distill)
        student = self.distill.student
        for name, value in changes.pop(
            "student", {}
        ).items():  # a config keeps the fields that are not named
            before = getattr(student, name)
            student = replace(
                student, **{name: before | value if isinstance(before, dict) else value}
            )
        steps = self.distill_steps + (self.align_steps if arm.longer else 0)
        recipe = replace(
            self.distill, student=student, teacher_cache=str(self.folder / "targets"), **changes
        )
        shared = f"distilled-{seed}-{crc32(repr((recipe, steps)).encode()):08x}"  # not of a run with other options
        folder = self.folder / ("run" if arm.distill or arm.longer else shared)
        return replace(recipe, **self._run(recipe, folder, steps, seed))

    def align_recipe(self, arm: Arm, seed: int) -> AlignRecipe | None:
        """Recipe of stage 2 of an arm; None without stage 2."""
        if arm.align is None:
            return None
        first = self.distill_recipe(arm, seed)
        data = (
            replace(self.distill.data, train=self.pairs(arm.share, seed))
            if arm.share > 1
            else self.distill.data
        )
        name = (
            "targets" if arm.share == 1 else f"targets-{arm.share}-{seed}"
        )  # the rows of a share are numbered anew
        recipe = replace(self.align, data=data, teacher_cache=str(self.folder / name), **arm.align)
        if first is not None:
            recipe = replace(recipe, student=first.output_dir, new_student=None)
            return replace(recipe, **self._run(recipe, self.folder / "run", self.align_steps, seed))
        student = self.distill.student
        if student.text_init == "teacher":  # which has learned the task already
            student = replace(student, text_init="random")
        recipe = replace(
            recipe, student=None, new_student=student, learning_rate=self.distill.learning_rate
        )
        return replace(
            recipe,
            **self._run(recipe, self.folder / "run", self.distill_steps + self.align_steps, seed),
        )

    def pairs(self, share: int, seed: int) -> str:
        """Write a share of the pairs, drawn by the seed, and return the path of the parquet file."""
        path = self.folder / f"pairs-{share}-{seed}.parquet"
        rows = load_source(str(self.distill.data.train))
        order = keyed_uniform(seed, np.arange(len(rows)), num=1)[:, 0].argsort()
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.select(sorted(order[: max(2, len(rows) // share)].tolist())).to_parquet(path)
        return str(path)

    def _run(self, recipe: Any, folder: Path, steps: int, seed: int) -> dict[str, Any]:
        data: DataConfig = recipe.data
        size = recipe.batch_size
        if isinstance(recipe, AlignRecipe):
            size = min(
                size, len(load_source(str(data.train)))
            )  # a small share may have fewer pairs
        warmup = min(recipe.warmup_steps, steps // 6)
        fields = {
            "output_dir": str(folder),
            "max_steps": steps,
            "warmup_steps": warmup,
            "seed": seed,
        }
        return fields | {"batch_size": size, "save_every": 0}


def compare(
    study: Study, trainer: Trainer, arms: Sequence[Arm], seeds: Sequence[int], measure: Any
):
    """Train every arm with every seed, unless its rows are there; `measure` returns those of a model, arm and seed."""
    for seed in seeds:
        for arm in arms:
            if not study.has(model=arm.name, seed=seed):
                study.add(measure(trainer.train(arm, seed), arm, seed))
        for path in trainer.folder.glob(f"distilled-{seed}-*"):
            shutil.rmtree(path)
    shutil.rmtree(trainer.folder, ignore_errors=True)
