"""The whole way in one command: corpus, teacher, student, stage 1, stage 2, evaluation, images.

python -m training.demo                      runs/demo/model (a Hub folder), results.json and two images, in minutes
python -m training.demo --full               the same with longer recipes
python -m training.demo --compare            also the same student trained as long without a teacher
python -m training.demo --teacher BAAI/AltCLIP
"""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import transformers
from jsonargparse import ArgumentParser

from training import align, distill
from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.demo import report
from training.engine.inputs import open_teacher
from training.engine.log import LOG_FILE
from training.evaluation.classify import Encoded, encode, score
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.embedded import HeldOut
from training.hub.cards import CARD_FILE, CARDS, CardDetails, count_parameters, write_card
from training.hub.cards.example import answer_example
from training.hub.hub_model import HubModel
from training.students import build_student
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

STAGE_FOLDERS = ("untrained", "distilled", "aligned", "no_teacher")
CACHE_FOLDER = "teacher_targets"
CROSS_MODEL_FILE = "cross_model.json"
EXAMPLE = "fox"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What to run.

    Args:
        teacher: Hub id or folder; None takes the small teacher that comes with the project.
        full: longer recipes, about an hour on two cores.
        compare: also train the same student as long by InfoNCE alone.
        seeds: training seeds; several give several rows.
        output_dir: everything lies under it.
        max_steps: of each stage, in place of the recipes' (for a quick try).
        every: keep each `every`-th concept of the corpus only (for a quick try).
    """

    teacher: str | None = None
    full: bool = False
    compare: bool = False
    seeds: list[int] = field(default_factory=lambda: [0])
    output_dir: str = "runs/demo"
    max_steps: int | None = None
    every: int = 1


class Demo:
    """One run of the demo: it collects rows while it goes.

    Args:
        options: what to run.
    """

    def __init__(self, options: DemoOptions):
        self.options, self.output_dir = options, Path(options.output_dir)
        self.held_out = HeldOut.open(options.every)
        self.rows: list[Row] = []
        self.cross_rows: list[Row] = []
        self.teacher: Encoded | None = None
        self.folders: dict[tuple[str, str | None, int | None], str] = {}

    def run(self) -> Results:
        """Everything, for every seed; the first seed's student is the one that is kept."""
        began = time.perf_counter()
        distill_recipe, align_recipe = self._recipes()
        self.teacher = self._measure(distill_recipe.teacher, "teacher", None, None)
        shutil.rmtree(self.output_dir / CACHE_FOLDER, ignore_errors=True)
        for seed in self.options.seeds:
            folder = self.output_dir if seed == self.options.seeds[0] else self.output_dir / f"seed-{seed}"
            self._train_student(replace(distill_recipe, seed=seed), replace(align_recipe, seed=seed), folder)
        shutil.rmtree(self.output_dir / CACHE_FOLDER, ignore_errors=True)
        self._time()
        meta = make_meta(
            seed=self.options.seeds[0],
            command=command_of("python -m training.demo", self.options),
            seconds=round(time.perf_counter() - began),
            **self.held_out.meta(),
        )
        results = Results(meta, self.rows)
        self._finish(results)
        return results

    def _recipes(self) -> tuple[DistillRecipe, AlignRecipe]:
        distill_recipe = parse_recipe(DistillRecipe, self._configs("demo_distill.yaml"))
        align_recipe = parse_recipe(AlignRecipe, self._configs("demo_align.yaml"))
        if self.options.teacher is not None:
            # another teacher brings its own statistics and width, and no layers to inherit; the small tokenizer stays,
            # so that text targets are pooled
            student = replace(
                distill_recipe.student, tokenizer=distill_recipe.teacher, vision_init="random", text_init="random"
            )
            distill_recipe = replace(distill_recipe, teacher=self.options.teacher, student=student, freeze=[])
            align_recipe = replace(align_recipe, teacher=self.options.teacher, freeze=[])
        if self.options.max_steps is not None:
            distill_recipe = replace(distill_recipe, max_steps=self.options.max_steps)
            align_recipe = replace(align_recipe, max_steps=self.options.max_steps)
        data = self.held_out.training_data(distill_recipe.data)
        return replace(distill_recipe, data=data), replace(align_recipe, data=data)

    def _configs(self, name: str) -> list[str]:
        files = [CONFIGS / name, *([CONFIGS / "longer" / name] if self.options.full else [])]
        return [argument for file in files for argument in ("--config", str(file))]

    def _train_student(self, distill_recipe: DistillRecipe, align_recipe: AlignRecipe, folder: Path):
        """Untrained, distilled, aligned, on demand without a teacher; each is a Hub folder and is measured."""
        for name in STAGE_FOLDERS:  # of an earlier run
            shutil.rmtree(folder / name, ignore_errors=True)
        cache = str(self.output_dir / CACHE_FOLDER)
        distill_recipe = replace(distill_recipe, output_dir=str(folder / "distilled"), teacher_cache=cache)
        align_recipe = replace(
            align_recipe, output_dir=str(folder / "aligned"), student=distill_recipe.output_dir, teacher_cache=cache
        )
        teacher = open_teacher(distill_recipe.teacher, distill_recipe.teacher_dtype)
        untrained = build_student(
            replace(distill_recipe.student, vision_init="random", text_init="random"),
            list(LANGUAGES),
            teacher,
            distill_recipe.seed,
        )
        HubModel(*untrained, distill_recipe).save(folder / "untrained")
        self._measure(str(folder / "untrained"), "student", "untrained", distill_recipe.seed)
        distill.run(distill_recipe)
        self._measure(distill_recipe.output_dir, "student", "distilled", distill_recipe.seed)
        align.run(align_recipe)
        self._measure(align_recipe.output_dir, "student", "aligned", align_recipe.seed)
        if self.options.compare:
            self._train_without_teacher(distill_recipe, align_recipe, folder)

    def _train_without_teacher(self, distill_recipe: DistillRecipe, align_recipe: AlignRecipe, folder: Path):
        """The same towers from random weights, the same images a step, as many steps as both stages together."""
        recipe = replace(
            align_recipe,
            student=str(folder / "untrained"),
            teacher=None,
            teacher_cache=None,
            anchor_weight=0.0,
            contrastive_weight=1.0,
            freeze=[],
            learning_rate=distill_recipe.learning_rate,
            max_steps=distill_recipe.max_steps + align_recipe.max_steps,
            output_dir=str(folder / "no_teacher"),
        )
        align.run(recipe)
        self._measure(recipe.output_dir, "student", "no_teacher", recipe.seed)

    def _measure(self, folder: str, name: str, stage: str | None, seed: int | None) -> Encoded:
        """Accuracy of one model, alone and with the teacher as its other half; and its size."""
        self.folders[name, stage, seed] = folder
        model = replace(ZeroShotModel.from_pretrained(folder), name=name)
        encoded = encode(model, self.held_out.sets, self.held_out.class_names, LANGUAGES)
        self.rows += score(encoded, encoded, self.held_out.sets, self.held_out.class_names, stage=stage, seed=seed)
        if stage in ("distilled", "aligned") and self.teacher is not None:
            for seen, read in ((encoded, self.teacher), (self.teacher, encoded)):
                self.cross_rows += score(
                    seen, read, self.held_out.sets, self.held_out.class_names, stage=stage, seed=seed
                )
        size = {"parameters": model.model.num_parameters()}
        if (weights := Path(folder) / "model.safetensors").exists():
            size = {"parameters": count_parameters(folder), "bytes": weights.stat().st_size}
        print(report.one_line(self.rows, name, stage, seed))
        for metric, value in size.items():
            self.rows.append(Row(model=name, stage=stage, metric=metric, value=value, seed=seed))
        return encoded

    def _time(self):
        """Speed of all models that were measured."""
        models = {key: ZeroShotModel.from_pretrained(folder) for key, folder in self.folders.items()}
        speeds = report.measure_speed(models, self.held_out.sets["unseen_style"])
        for ((name, stage, seed), metric), value in speeds.items():
            self.rows.append(Row(model=name, stage=stage, metric=metric, value=value, seed=seed))

    def _finish(self, results: Results):
        """The Hub folder, the results, the images, the card."""
        model = self.output_dir / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.output_dir / "aligned", model, ignore=shutil.ignore_patterns("checkpoint-*", LOG_FILE))
        shutil.copy(CARDS / "demo.yaml", model / CARD_FILE)
        details = CardDetails.read(model / CARD_FILE)
        self._save_example(model)
        results.meta["example"] = answer_example(model, str(details.image), details.labels)
        results.write(self.output_dir)
        Results(results.meta, self.cross_rows).write(self.output_dir, CROSS_MODEL_FILE)
        logs = {stage: self.output_dir / stage / LOG_FILE for stage in ("distilled", "aligned")}
        report.plot_curves(results, logs, self.output_dir / "curves.png")
        report.plot_contact_sheet(
            ZeroShotModel.from_pretrained(model),
            self.held_out.sets,
            self.held_out.class_names,
            self.output_dir / "contact_sheet.png",
        )
        for name in (RESULTS_FILE, CROSS_MODEL_FILE, *details.plots):
            shutil.copy(self.output_dir / name, model)
        write_card(model, results, details)

    def _save_example(self, folder: Path):
        """An image that was never trained on, for those who want to try the folder."""
        rows = self.held_out.sets["unseen_style"]
        labels = list(rows["label"])
        rows[labels.index(EXAMPLE) if EXAMPLE in labels else 0]["image"].save(folder / "example.png")


def main(argv: list[str] | None = None):
    """Parse, run, print the table."""
    parser = ArgumentParser(prog="python -m training.demo", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--teacher", type=str | None, default=None, help="Hub id or folder; default: the one that comes along"
    )
    parser.add_argument("--full", action="store_true", help="longer recipes, about an hour on two cores")
    parser.add_argument("--compare", action="store_true", help="also train the same student as long without a teacher")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="training seeds")
    parser.add_argument("--output_dir", type=str, default="runs/demo", help="everything lies under it")
    parser.add_argument("--max_steps", type=int | None, default=None, help="of each stage, for a quick try")
    parser.add_argument("--every", type=int, default=1, help="keep each n-th concept only, for a quick try")
    options = DemoOptions(**vars(parser.parse_args(argv)))
    # one bar for each long step is enough
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    results = Demo(options).run()
    print(report.summary(results))
    print(f"\n{report.cross_model(Results.read(Path(options.output_dir) / CROSS_MODEL_FILE))}")
    print(
        f"\nHub folder: {options.output_dir}/model   numbers: {options.output_dir}/{RESULTS_FILE}   took "
        f"{results.meta['seconds']} s"
    )


if __name__ == "__main__":
    main()
