"""Train every arm of the claims on photographs, and measure retrieval."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from training import align, distill
from training.config import CONFIGS, AlignRecipe, DataConfig, DistillRecipe, parse_recipe
from training.data import evenly_spaced_rows
from training.evaluation import retrieval
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.retrieval_sets import make_retrieval_set
from training.studies.many_runs import keep_rows, take_over
from training.studies.photographs.claims_options import ClaimsOptions
from training.studies.photographs.short_runs import COLUMNS, pretrained_towers, short_run
from training.studies.photographs.tables import plot
from training.studies.rows import CAPTIONED, open_rows
from training.teachers.lineage import weights_fingerprint
from training.utils.cli import command_of
from training.utils.results import RESULTS_FILE, Results, Row, make_meta
from training.utils.rng import keyed_uniform

PLOT_FILE = "claims.png"
RECIPES = CONFIGS / "photographs"
CONDITIONS = ("data", "validation", "weights", "settings")  # of all runs of one results file
Target = Literal["feature_map", "embedding", "logits"]
TARGETS: tuple[Target, ...] = ("feature_map", "embedding", "logits")


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        stages: Stages that run.
        target: What stage 1 matches; None without stage 1.
        share: Stage 2 has all pairs divided by this number; None without stage 2.
    """

    stages: Literal["1", "2", "1+2"]
    target: Target | None = None
    share: int | None = None

    @property
    def label(self) -> str:
        """Name of the arm in the results."""
        parts = [f"stage {self.stages}"]
        if self.target is not None:
            parts.append(self.target.replace("_", " "))
        if self.share is not None:
            parts.append("all pairs" if self.share == 1 else f"1/{self.share} of the pairs")
        return ", ".join(parts)


def arms_of(shares: Sequence[int]) -> list[Arm]:
    """All arms, those of stage 1 alone first; stage 2 goes on from the one that matches feature maps.

    Args:
        shares: The pairs of stage 2 are all of them divided by each of these numbers.
    """
    both = [Arm("1+2", TARGETS[0], share) for share in shares]
    return [*(Arm("1", target) for target in TARGETS), *both, *(Arm("2", share=share) for share in shares)]


class ClaimsStudy:
    """One run of the study.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """

    def __init__(self, options: ClaimsOptions, program: str):
        self.options, self.folder = options, Path(options.output_dir)
        self.rows = open_rows(options.train, CAPTIONED, "train")
        self.rows = self.rows.select(evenly_spaced_rows(len(self.rows), options.num_images or len(self.rows)))
        validation = open_rows(options.validation, CAPTIONED, "validation")
        self.pairs = make_retrieval_set("validation", validation, COLUMNS, "image", "validation")
        settings = {"image_size", "num_images", "distill_steps", "align_steps", "batch_size"}
        self.results = Results(
            make_meta(
                options.train,
                None,
                command_of(program, options),
                validation=options.validation,
                weights=weights_fingerprint(ZeroShotModel.from_pretrained(options.teacher).model),
                settings={name: getattr(options, name) for name in sorted(settings)},
                images={"training": len(self.rows), "validation": len(validation)},
            )
        )

    def run(self) -> Results:
        """Train and measure what is not yet in results.json, which is written after each run.

        Raises:
            ValueError: results.json is of other data, of another teacher or of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        take_over(self.results, self.folder / RESULTS_FILE, CONDITIONS)
        for seed in self.options.seeds:
            for arm in arms_of(self.options.shares):
                if not self.results.values(model=arm.label, seed=seed):
                    keep_rows(self.results, self._measure(self._train(arm, seed), arm, seed), self.folder)
            shutil.rmtree(self._distilled(seed), ignore_errors=True)
        plot(self.results, self.folder / PLOT_FILE)
        return self.results

    def _distilled(self, seed: int) -> Path:
        """Folder of the student that has matched feature maps, from which stage 2 goes on."""
        return self.folder / f"distilled-{seed}"

    def _train(self, arm: Arm, seed: int) -> Path:
        """Run the stages of an arm, and return the folder of the student."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        start = run if arm.target is None else self._distill(arm.target, run, seed)
        if arm.share is None:
            return start
        data = self._data(arm.share, seed)
        align.run(self._align_recipe(data, run, start, seed) if arm.target else self._alone_recipe(data, run, seed))
        return run

    def _distill(self, target: Target, run: Path, seed: int) -> Path:
        """Run stage 1, unless the student that has matched feature maps is there; return the folder of the student."""
        folder = self._distilled(seed) if target == TARGETS[0] else run
        if not (folder / "model.safetensors").exists():
            shutil.rmtree(folder, ignore_errors=True)
            distill.run(self._distill_recipe(target, folder, seed))
        return folder

    def _distill_recipe(self, target: Target, folder: Path, seed: int) -> DistillRecipe:
        """Recipe of stage 1 for both towers."""
        path = RECIPES / "first_round" / "distill_vision.yaml"
        recipe = parse_recipe(DistillRecipe, ["--config", str(path), "--student", self.options.student])
        size = self.options.image_size or recipe.student.image_size
        recipe = replace(
            recipe,
            teacher=self.options.teacher,
            student=replace(recipe.student, image_size=size),
            tower="both",
            target=target,
            data=self._data(),
            teacher_cache=str(self.folder / "targets"),
            teacher_views=1,
        )
        return short_run(recipe, folder, self.options.distill_steps, self.options.batch_size, seed)

    def _align_recipe(self, data: DataConfig, folder: Path, start: Path, seed: int) -> AlignRecipe:
        """Recipe of stage 2 after stage 1: InfoNCE alone, without a teacher."""
        recipe = parse_recipe(AlignRecipe, ["--config", str(RECIPES / "first_round" / "align.yaml")])
        recipe = replace(
            recipe, student=str(start), teacher=None, anchor_weight=0.0, contrastive_weight=1.0, data=data
        )
        return short_run(recipe, folder, self.options.align_steps, self.options.batch_size, seed)

    def _alone_recipe(self, data: DataConfig, folder: Path, seed: int) -> AlignRecipe:
        """Recipe of stage 2 from pretrained towers, with as many steps as both stages."""
        arguments = ["--config", str(RECIPES / "no_teacher.yaml"), "--new_student", self.options.student]
        recipe = parse_recipe(AlignRecipe, arguments)
        assert recipe.new_student is not None  # set above
        size = self.options.image_size or recipe.new_student.image_size
        student = replace(recipe.new_student, image_size=size, text_init=pretrained_towers(self.folder))
        recipe = replace(recipe, new_student=student, text_text_weight=0.0, data=data)
        steps = self.options.distill_steps + self.options.align_steps
        return short_run(recipe, folder, steps, self.options.batch_size, seed)

    def _data(self, share: int = 1, seed: int = 0) -> DataConfig:
        """All training pairs, or a share of them that is drawn by the seed."""
        rows, path = self.rows, self.folder / ("pairs.parquet" if share == 1 else f"pairs-{share}-{seed}.parquet")
        if share > 1:
            order = keyed_uniform(seed, np.arange(len(rows)), num=1)[:, 0].argsort()
            rows = rows.select(sorted(order[: max(1, len(rows) // share)].tolist()))
        if not path.exists():
            rows.to_parquet(path)
        return DataConfig(train=str(path), caption_columns=COLUMNS, skip_wrong_script=False)

    def _measure(self, folder: Path, arm: Arm, seed: int) -> list[Row]:
        """Recall on the validation photographs, in both directions and languages."""
        model = ZeroShotModel.from_pretrained(folder)
        return retrieval.measure(model, self.pairs, arm.label, stage=arm.stages, seed=seed)
