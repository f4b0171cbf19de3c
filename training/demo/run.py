"""The run of the demo: train and evaluate every model, collect the results, write the Hub folder."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import yaml

from training import align, distill
from training.config import AlignRecipe, DistillRecipe
from training.demo import figures, report
from training.demo.example import choose_example, wrong_languages
from training.demo.folders import COMMAND, claim_demo_folder
from training.demo.options import DemoOptions, Plan, load_recipes, without_teacher
from training.engine.inputs import open_teachers
from training.engine.log import LOG_FILE
from training.evaluation.classify import Encoded, encode, score
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.held_out import HeldOut
from training.hub.cards import CARD_FILE, CARDS, CardDetails, count_parameters, write_card
from training.hub.cards.example import classify_example
from training.hub.hub_model import HubModel
from training.students import build_student
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import CLAIM_FOLDER, replace_folder, scratch_folder
from training.utils.output import record_tree
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

STAGE_FOLDERS = ("untrained", "distilled", "aligned", "no_teacher")
CACHE_FOLDER = "teacher_targets"
MODEL_FOLDER = "model"
CROSS_MODEL_FILE = "cross_model.json"
CURVES_FILE, SHEET_FILE = "curves.png", "contact_sheet.png"
EXAMPLE_FILE = "example.png"


class Demo:
    """One run of the demo.

    Args:
        options: Options of the run.
        plan: Steps of the run; prints their headings.

    """

    def __init__(self, options: DemoOptions, plan: Plan):
        self.options, self.plan, self.output_dir = options, plan, Path(options.output_dir)
        self.rows: list[Row] = []
        self.cross_rows: list[Row] = []
        self.teacher: Encoded | None = None
        self.models: dict[report.ModelKey, str] = {}

    def _seed_folders(self) -> dict[int, str]:
        """Prefix of the folders of each seed. The first seed's are in the output folder itself."""
        first = self.options.seeds[0]
        return {seed: "" if seed == first else f"seed-{seed}/" for seed in self.options.seeds}

    def run(self) -> Results:
        """Run every step for every seed. The student of the first seed becomes the Hub folder.

        Raises:
            ValueError: The output folder has files of the user where the demo would write.
        """
        stages = [f"{prefix}{stage}" for prefix in self._seed_folders().values() for stage in STAGE_FOLDERS]
        files = (RESULTS_FILE, CROSS_MODEL_FILE, CURVES_FILE, SHEET_FILE)
        with claim_demo_folder(self.output_dir, [CACHE_FOLDER, *stages], [MODEL_FOLDER], files):
            return self._run()

    def _run(self) -> Results:
        began = time.perf_counter()
        self.plan.start("corpus")
        self.held_out = HeldOut.open(self.options.every)
        distill_recipe, align_recipe = load_recipes(self.options)
        data = self.held_out.training_data(distill_recipe.data)
        distill_recipe, align_recipe = replace(distill_recipe, data=data), replace(align_recipe, data=data)
        self.plan.start("teacher")
        self.teacher = self._evaluate(distill_recipe.all_teachers[0].teacher, "teacher", None, None)
        for seed, prefix in self._seed_folders().items():
            folder = self.output_dir / prefix
            self._train_student(replace(distill_recipe, seed=seed), replace(align_recipe, seed=seed), folder)
        shutil.rmtree(self.output_dir / CACHE_FOLDER)
        self.plan.start("report")
        self._measure_latency()
        meta = make_meta(
            seed=self.options.seeds[0],
            command=command_of("python -m training.demo", self.options),
            seconds=round(time.perf_counter() - began),
            **self.held_out.meta(),
        )
        results = Results(meta, self.rows)
        self._write(results)
        return results

    def _train_student(self, distill_recipe: DistillRecipe, align_recipe: AlignRecipe, folder: Path):
        """Train and evaluate one student: untrained, distilled, aligned and, on request, without a teacher."""
        seed = distill_recipe.seed
        shown_seed = seed if len(self.options.seeds) > 1 else None
        cache = str(self.output_dir / CACHE_FOLDER)
        distill_recipe = replace(distill_recipe, output_dir=str(folder / "distilled"), teacher_cache=cache)
        align_recipe = replace(
            align_recipe, output_dir=str(folder / "aligned"), student=distill_recipe.output_dir, teacher_cache=cache
        )
        self.plan.start("distill", shown_seed)
        self._save_untrained(distill_recipe, folder / "untrained")
        self._evaluate(str(folder / "untrained"), "student", "untrained", seed)
        distill.run(distill_recipe)
        self._evaluate(distill_recipe.output_dir, "student", "distilled", seed)
        self.plan.start("align", shown_seed)
        align.run(align_recipe)
        self._evaluate(align_recipe.output_dir, "student", "aligned", seed)
        if self.options.compare:
            self.plan.start("baseline", shown_seed)
            baseline = replace(
                without_teacher(distill_recipe, align_recipe),
                student=str(folder / "untrained"),
                output_dir=str(folder / "no_teacher"),
            )
            align.run(baseline)
            self._evaluate(baseline.output_dir, "student", "no_teacher", seed)

    def _save_untrained(self, recipe: DistillRecipe, folder: Path):
        """Save the student with random weights in both towers."""
        student = replace(recipe.student, vision_init="random", text_init="random")
        model, processor = build_student(student, list(LANGUAGES), open_teachers(recipe), recipe.seed)
        HubModel(model, processor, recipe).save(folder)
        record_tree(folder, COMMAND)

    def _evaluate(self, folder: str, name: str, stage: str | None, seed: int | None) -> Encoded:
        """Evaluate one model, alone and with each tower of the teacher, and record its size."""
        self.models[name, stage, seed] = folder
        model = replace(ZeroShotModel.from_pretrained(folder), name=name)
        sets, class_names = self.held_out.sets, self.held_out.class_names
        encoded = encode(model, sets, class_names, LANGUAGES)
        self.rows += score(encoded, encoded, sets, class_names, stage=stage, seed=seed)
        if stage in ("distilled", "aligned") and self.teacher is not None:
            for image_model, text_model in ((encoded, self.teacher), (self.teacher, encoded)):
                self.cross_rows += score(image_model, text_model, sets, class_names, stage=stage, seed=seed)
        size = {"parameters": model.model.num_parameters()}
        if (weights := Path(folder) / "model.safetensors").exists():
            size = {"parameters": count_parameters(folder), "bytes": weights.stat().st_size}
        print(report.one_line(self.rows, name, stage, seed), flush=True)
        for metric, value in size.items():
            self.rows.append(Row(model=name, stage=stage, metric=metric, value=value, seed=seed))
        return encoded

    def _measure_latency(self):
        """Measure the latency of all models in turn."""
        models = {key: ZeroShotModel.from_pretrained(folder) for key, folder in self.models.items()}
        latencies = report.measure_latency(models, self.held_out.sets["unseen_style"])
        for ((name, stage, seed), metric), value in latencies.items():
            self.rows.append(Row(model=name, stage=stage, metric=metric, value=value, seed=seed))

    def _write(self, results: Results):
        """Write the Hub folder, the results, the figures and the card."""
        with scratch_folder(self.output_dir / MODEL_FOLDER) as scratch:
            self._write_model(scratch, results)
            record_tree(scratch, COMMAND)
            replace_folder(scratch, self.output_dir / MODEL_FOLDER)

    def _write_model(self, folder: Path, results: Results):
        ignored = shutil.ignore_patterns("checkpoint-*", LOG_FILE, CLAIM_FOLDER)
        shutil.copytree(self.output_dir / "aligned", folder, ignore=ignored, dirs_exist_ok=True)
        model = ZeroShotModel.from_pretrained(folder)
        details = self._add_example(model, folder, results)
        results.write(self.output_dir)
        Results(results.meta, self.cross_rows).write(self.output_dir, CROSS_MODEL_FILE)
        logs = {stage: self.output_dir / stage / LOG_FILE for stage in ("distilled", "aligned")}
        figures.plot_curves(results, logs, self.output_dir / CURVES_FILE)
        sheet = self.output_dir / SHEET_FILE
        figures.plot_contact_sheet(model, self.held_out.sets, self.held_out.class_names, sheet)
        for name in (RESULTS_FILE, CROSS_MODEL_FILE, *details.plots):
            shutil.copy(self.output_dir / name, folder)
        write_card(folder, results, details)

    def _add_example(self, model: ZeroShotModel, folder: Path, results: Results) -> CardDetails:
        """Save the example image, its candidate labels in the card's YAML, and their scores in the results."""
        rows = self.held_out.sets["unseen_style"]
        example = choose_example(model, rows, self.held_out.class_names)
        rows[example.row]["image"].save(folder / EXAMPLE_FILE)
        content = yaml.safe_load((CARDS / "demo.yaml").read_text(encoding="utf-8"))
        content |= {"image": EXAMPLE_FILE, "labels": example.labels}
        (folder / CARD_FILE).write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
        # the scores on the card are those of the zero-shot pipeline, so its best labels are checked, too
        results.meta["example"] = classify_example(folder, EXAMPLE_FILE, example.labels)
        if wrong := wrong_languages(results.meta["example"]["answers"], example.labels):
            print(
                f"No held-out image is labelled correctly in both languages; the card's example is wrong in {wrong}."
            )
        return CardDetails.read(folder / CARD_FILE)
