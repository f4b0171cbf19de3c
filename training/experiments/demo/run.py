"""Train and evaluate every model, collect the results, write the Hub folder."""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image as PILImage

from training import align, distill
from training.config import AlignRecipe, DistillRecipe
from training.data import open_image
from training.engine.inputs import open_teacher
from training.engine.log import LOG_FILE
from training.evaluation.encoder import Embeddings
from training.evaluation.options import EvalOptions
from training.evaluation.run import BARE_NAME, EvalTask, Evaluation
from training.evaluation.sets.protocols import CLASS_NAMES
from training.experiments.corpus.emoji import ATTRIBUTION
from training.experiments.corpus.held_out import HeldOut
from training.experiments.demo.options import PROGRAM, DemoOptions, load_recipes
from training.hub import WEIGHTS_FILE, save_model
from training.hub.cards import CardDetails, classify_example, count_parameters, write_card
from training.students import build_student
from training.teachers import DualEncoder
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import CLAIM_FOLDER, recover_folder, replace_folder, scratch_folder
from training.utils.output import check_replaceable, claim_folder, record_tree
from training.utils.process import find_processes, interleaved_ms
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results, Row, make_meta

COMMAND = "demo"
STAGE_FOLDERS = ("untrained", "distilled", "aligned")
CACHE_FOLDER = "teacher_targets"
MODEL_FOLDER = "model"
CROSS_MODEL_FILE = "cross_model.json"
EXAMPLE_FILE = "example.png"
EXAMPLE_SET = "unseen_style"
CARD = Path(__file__).with_name("card.yaml")
METRICS = ("top1", "top5")
NUM_CANDIDATES = 3  # class names of the card's example
TIMED_TEXT = "woman farmer: medium-dark skin tone"
ModelKey = tuple[str, str | None]  # model, stage


class Demo:
    """One run of the demo.

    Args:
        options: Options of the run.
    """

    def __init__(self, options: DemoOptions):
        self.options = options
        self.output_dir = Path(options.output_dir)
        self.rows: list[Row] = []
        self.cross_rows: list[Row] = []
        self.models: dict[ModelKey, str] = {}

    def run(self) -> Results:
        """Run every step, in a folder that `claim_demo_folder` has claimed."""
        began = time.perf_counter()
        print("\n[1/5] corpus", flush=True)
        self.held_out = HeldOut.open(self.options.every)
        options = EvalOptions(model=[""], output_dir="", class_names="emoji", data=["emoji"])
        tasks = [
            EvalTask(name, CLASS_NAMES, language, self.held_out.class_names, "emoji", BARE_NAME)
            for name in self.held_out.sets
            for language in LANGUAGES
        ]
        self.evaluation = Evaluation(options, tasks, self.held_out.sets)
        distill_recipe, align_recipe = self._recipes()
        print("\n[2/5] teacher", flush=True)
        self.teacher = self._evaluate(str(distill_recipe.teacher), "teacher", None)
        print("\n[3/5] stage 1", flush=True)
        self._save_untrained(distill_recipe)
        self._evaluate(str(self.output_dir / "untrained"), "student", "untrained")
        distill.run(distill_recipe)
        self._evaluate(distill_recipe.output_dir, "student", "distilled")
        print("\n[4/5] stage 2", flush=True)
        align.run(align_recipe)
        self._evaluate(align_recipe.output_dir, "student", "aligned")
        shutil.rmtree(self.output_dir / CACHE_FOLDER)
        print("\n[5/5] report", flush=True)
        self._measure_latency()
        meta = make_meta(
            seed=self.options.seed,
            command=command_of(PROGRAM, self.options),
            seconds=round(time.perf_counter() - began),
            data=f"{self.held_out.corpus.name}; {ATTRIBUTION}",
            test_images={name: len(each.labels) for name, each in self.held_out.sets.items()},
        )
        results = Results(meta, self.rows)
        with scratch_folder(self.output_dir / MODEL_FOLDER) as scratch:
            self._write_model(scratch, results)
            record_tree(scratch, COMMAND)
            replace_folder(scratch, self.output_dir / MODEL_FOLDER)
        return results

    def _recipes(self) -> tuple[DistillRecipe, AlignRecipe]:
        """The recipes with the data and the folders of this run."""
        distill_recipe, align_recipe = load_recipes(self.options)
        data = distill_recipe.data
        if self.options.every > 1:  # the same concepts as in the test sets
            data = replace(data, train=str(self.held_out.corpus / "train.parquet"))
        cache = str(self.output_dir / CACHE_FOLDER)
        fields: dict[str, Any] = {"data": data, "teacher_cache": cache}
        distilled = str(self.output_dir / "distilled")
        aligned = str(self.output_dir / "aligned")
        return (
            replace(distill_recipe, output_dir=distilled, **fields),
            replace(align_recipe, output_dir=aligned, student=distilled, **fields),
        )

    def _save_untrained(self, recipe: DistillRecipe):
        """Save the student with random weights in both towers."""
        folder = self.output_dir / "untrained"
        student = replace(recipe.student, vision_init="random", text_init="random")
        model, processor = build_student(
            student, list(LANGUAGES), open_teacher(recipe), recipe.seed
        )
        save_model(folder, model, processor, recipe)
        record_tree(folder, COMMAND)

    def _row(self, model: str, stage: str | None, metric: str, value: float) -> Row:
        seed = None if model == "teacher" else self.options.seed
        return Row(model=model, stage=stage, metric=metric, value=value, seed=seed)

    def _evaluate(self, folder: str, name: str, stage: str | None) -> Embeddings:
        """Evaluate one model, alone and with each tower of the teacher, and record its size."""
        self.models[name, stage] = folder
        encoded, _ = self.evaluation.encode(folder, find_processes())
        encoded = replace(encoded, name=name)
        rows = self._measure(encoded, encoded, stage)
        shown = []
        for row in rows:
            if row.metric == "top5":
                shown.append(f"{row.set} {row.language} {100 * row.value:.0f} %")
        title = ", ".join(filter(None, (name, stage)))
        print(f"{title}: top-5 {', '.join(shown)}".replace("_", " "), flush=True)
        if stage in ("distilled", "aligned"):
            self.cross_rows += self._measure(encoded, self.teacher, stage)
            self.cross_rows += self._measure(self.teacher, encoded, stage)
        weights = Path(folder) / WEIGHTS_FILE
        self.rows += [
            *rows,
            self._row(name, stage, "parameters", count_parameters(folder)),
            self._row(name, stage, "bytes", weights.stat().st_size),
        ]
        return encoded

    def _measure(self, images: Embeddings, texts: Embeddings, stage: str | None) -> list[Row]:
        """Top-1 and top-5 on the test sets."""
        seed = None if stage is None else self.options.seed
        rows = self.evaluation.measure(images, texts)
        return [replace(row, stage=stage, seed=seed) for row in rows if row.metric in METRICS]

    @torch.inference_mode()
    def _measure_latency(self):
        """Add the median milliseconds of each model for one preprocessed image and for one text, at batch 1.

        The models take turns, so that load on the machine affects all of them.
        """
        calls: dict[tuple[ModelKey, str], Callable[[], object]] = {}
        for key, folder in self.models.items():
            model = DualEncoder.from_pretrained(folder)
            pixels = model.processor.image_processor([self._example()], return_tensors="pt")
            tokens = model.processor.tokenizer([TIMED_TEXT], return_tensors="pt")
            calls[key, "ms_per_image"] = partial(model.model.get_image_features, **pixels)
            calls[key, "ms_per_text"] = partial(model.model.get_text_features, **tokens)
        for (key, metric), times in interleaved_ms(calls).items():
            self.rows.append(self._row(*key, metric, round(statistics.median(times), 2)))

    def _write_model(self, folder: Path, results: Results):
        """Write the Hub folder, the results and the card."""
        ignored = shutil.ignore_patterns("checkpoint-*", LOG_FILE, CLAIM_FOLDER)
        shutil.copytree(self.output_dir / "aligned", folder, ignore=ignored, dirs_exist_ok=True)
        details = self._add_example(folder, results)
        results.write(self.output_dir)
        results.plot(self.output_dir)
        Results(results.meta, self.cross_rows).write(self.output_dir, CROSS_MODEL_FILE)
        for name in (RESULTS_FILE, CROSS_MODEL_FILE):
            shutil.copy(self.output_dir / name, folder)
        write_card(folder, details, title="dcclip-demo")

    def _example(self) -> PILImage.Image:
        """The first image of a test set, which the card shows."""
        return open_image(self.held_out.sets[EXAMPLE_SET].rows[0]["image"])

    def _add_example(self, folder: Path, results: Results) -> CardDetails:
        """Save the example image, and add its candidate labels, the correct one first, and their scores."""
        numbers = dict.fromkeys(self.held_out.sets[EXAMPLE_SET].labels.tolist())
        candidates = list(numbers)[:NUM_CANDIDATES]
        labels = {}
        for language, names in self.held_out.class_names.names.items():
            labels[language] = [names[number] for number in candidates]
        self._example().save(folder / EXAMPLE_FILE)
        results.meta["example"] = classify_example(folder, EXAMPLE_FILE, labels)
        return CardDetails(**yaml.safe_load(CARD.read_text(encoding="utf-8")))


@contextmanager
def claim_demo_folder(output_dir: Path) -> Iterator[None]:
    """Claim the output folder for the `with` block, and remove the intermediate folders of an earlier run.

    Args:
        output_dir: Output folder, which can also contain a user's own files.

    Raises:
        ValueError: The user has a file with a name that the demo writes, or in one of its folders. Nothing is removed.
    """
    intermediate = (CACHE_FOLDER, *STAGE_FOLDERS)
    names = (*intermediate, MODEL_FOLDER, RESULTS_FILE, PLOT_FILE, CROSS_MODEL_FILE)
    recover_folder(output_dir / MODEL_FOLDER)
    with claim_folder(output_dir, names, command=COMMAND, flag=None):
        for name in (*intermediate, MODEL_FOLDER):
            check_replaceable(output_dir / name)
        for name in intermediate:  # the model stays until the new one is complete
            shutil.rmtree(output_dir / name, ignore_errors=True)
        yield
