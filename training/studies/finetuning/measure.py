"""Train every arm, and measure what was gained on a test split and kept on general sets."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from modeling_dcclip.image_dcclip import squashes
from training.evaluation import retrieval
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.general import general_pairs
from training.evaluation.sets.retrieval_sets import RetrievalSet, make_retrieval_set
from training.finetuning.measure import general_rows
from training.finetuning.options import FinetuneOptions
from training.students import load_student
from training.studies.finetuning.arms import train
from training.studies.finetuning.options import GENERAL_ARM, FinetuningOptions, K
from training.studies.finetuning.pool import Pool
from training.studies.finetuning.tables import PHOTOGRAPHS, START, TEST, plot
from training.studies.labelled import LabelledPhotographs
from training.studies.many_runs import keep_rows, take_over
from training.studies.rows import CAPTIONED, open_rows
from training.teachers.lineage import weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

PLOT_FILE, RUN_FOLDER, START_FOLDER = "finetuning.png", "run", "start"
CONDITIONS = ("data", "model", "weights", "images", "steps", "image_size")  # of all runs of one results file


class FinetuningStudy:
    """One run of the study.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """

    def __init__(self, options: FinetuningOptions, program: str):
        self.options, self.folder, self.model = options, Path(options.output_dir), options.model
        self.pool = Pool.open(options.data, options.test)
        self.sets = [
            _retrieval_set(TEST, self.pool.test),
            _retrieval_set(PHOTOGRAPHS, open_rows(options.photographs, CAPTIONED, "photographs", options.num_general)),
        ]
        self.labelled = LabelledPhotographs.open(options.labelled, options.num_general)
        self.general = general_pairs(LANGUAGES, held_out=True)
        self.results = Results(
            make_meta(
                " ".join(options.data),
                None,
                command_of(program, options),
                model=options.model,
                general_data=options.general_data,
                weights=weights_fingerprint(load_student(options.model, "model")[0]),
                images={
                    "test": len(self.pool.test),
                    "training": len(self.pool.training),
                    "photographs": len(self.sets[1].rows),
                    "labelled": len(self.labelled.rows),
                },
                steps=options.max_steps,
                image_size=options.image_size,
            )
        )

    def run(self) -> Results:
        """Train and measure what is not yet in results.json, which is written after each run.

        Raises:
            ValueError: results.json is of other data, of another model, or of runs of another length or image size.
        """
        take_over(self.results, self.folder / RESULTS_FILE, CONDITIONS)
        if self.options.image_size is not None:
            self.model = _resized(self.options.model, self.options.image_size, self.folder / START_FOLDER)
        if not self.results.values(model=START):
            keep_rows(self.results, list(self._measure(Path(self.model), START)), self.folder)
        for size in self.options.sizes:
            for seed in self.options.seeds:
                for arm in self.options.arms:
                    if not self.results.values(model=arm, stage=_stage(size), seed=seed):
                        keep_rows(self.results, self._train(arm, size, seed), self.folder)
        shutil.rmtree(self.folder / START_FOLDER, ignore_errors=True)
        self.results.write(self.folder)
        plot(self.results, self.folder / PLOT_FILE)
        return self.results

    def _train(self, arm: str, size: int, seed: int) -> list[Row]:
        """Train one arm, measure it, and delete the run."""
        run = self.folder / RUN_FOLDER
        shutil.rmtree(run, ignore_errors=True)
        data = self.pool.write(run / "pairs.parquet", size, seed)
        options = FinetuneOptions(
            model=self.model,
            data=str(data),
            output_dir=str(run / arm),
            general_data=self.options.general_data.get(arm.removeprefix(GENERAL_ARM)),
            max_steps=self.options.max_steps,
            seed=seed,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        folder = train(arm, options)
        minutes = {"minutes": time.perf_counter() - wall, "cpu_minutes": time.process_time() - cpu}
        rows = list(self._measure(folder, arm, _stage(size), seed))
        rows += [
            Row(model=arm, stage=_stage(size), seed=seed, metric=name, value=seconds / 60)
            for name, seconds in minutes.items()
        ]
        shutil.rmtree(run)
        return rows

    def _measure(self, folder: Path, arm: str, stage: str | None = None, seed: int | None = None) -> Iterator[Row]:
        """Recall on the test split and on photographs, top-1 on labelled photographs, accuracy on general texts."""
        model = ZeroShotModel.from_pretrained(folder)
        for name in self.sets:
            yield from retrieval.measure(model, name, arm, (K,), stage, seed)
        yield from self.labelled.measure(model, arm, stage, seed)
        for row in general_rows(model, self.general, stage, seed):
            yield replace(row, model=arm)


def _resized(model: str, image_size: int, folder: Path) -> str:
    """Write a copy of a model with a smaller input; returns its folder."""
    student, processor = load_student(model, "model")
    student.config.image_size, images = image_size, processor.image_processor
    square = {"height": image_size, "width": image_size}
    images.size, images.crop_size = square if squashes(images) else {"shortest_edge": image_size}, square
    for part in (student, processor):
        part.save_pretrained(folder)
    return str(folder)


def _stage(size: int) -> str:
    return f"{size} pairs"


def _retrieval_set(name: str, rows: Dataset) -> RetrievalSet:
    return make_retrieval_set(name, rows, {language: language for language in LANGUAGES}, "image", name)
