"""The demo on a user's photographs: prepare, assemble the teacher, train, measure, write the Hub folder, export."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from training import align, distill
from training.config import AlignRecipe, DistillRecipe
from training.data import load_source
from training.demo.folders import COMMAND, claim_demo_folder
from training.demo.options import DemoOptions
from training.demo.packaged_weights import LITE0, save_backbone
from training.demo.photo_plan import TOKENIZER, PhotoPlan, load_photo_recipes, training_data
from training.demo.photo_teacher import assemble
from training.demo.photo_vocabulary import relate_vocabulary
from training.edge.export import export
from training.edge.model_data import SPLITS_FOLDER
from training.edge.options import ExportOptions
from training.edge.verdict import Verdict
from training.engine.inputs import open_teacher
from training.engine.log import LOG_FILE
from training.evaluation import retrieval
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.retrieval_sets import RetrievalSet, make_retrieval_set
from training.finetuning.options import FinetuneOptions
from training.finetuning.plan import batch_size_for
from training.finetuning.prepare import Prepared, prepare
from training.finetuning.spelling import unify_spelling
from training.hub.cards import CARD_FILE, CardDetails, write_card
from training.students import load_student
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import CLAIM_FOLDER, replace_folder, scratch_folder
from training.utils.output import record_tree
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

TEACHER, BACKBONE, VOCABULARY, TARGETS, DISTILLED, ALIGNED, DATA, MODEL = (
    "teacher", "backbone", "vocabulary", "teacher_targets", "distilled", "aligned", "data", "model"
)  # fmt: skip
VALIDATION = "validation"


class PhotoDemo:
    """One run of the demo on a user's photographs.

    Args:
        options: Options of the run; `photos` is set.
        plan: Steps of the run; prints their headings.
    """

    def __init__(self, options: DemoOptions, plan: PhotoPlan):
        self.options, self.plan, self.output_dir = options, plan, plan.output_dir
        self.rows: list[Row] = []
        self.pairs: RetrievalSet | None = None

    def run(self) -> tuple[Results, list[Verdict]]:
        """Run every step.

        Returns:
            The results, and the verdict on each exported file.

        Raises:
            ValueError: The photographs cannot be used, or the output folder has files of the user where the demo would
                write.
        """
        folders = (DATA, TEACHER, BACKBONE, VOCABULARY, TARGETS, DISTILLED, ALIGNED)
        with claim_demo_folder(self.output_dir, folders, [MODEL], [RESULTS_FILE]):
            return self._run()

    def _run(self) -> tuple[Results, list[Verdict]]:
        began = time.perf_counter()
        self.plan.start("data")
        prepared = self._prepare()
        print(prepared, flush=True)
        self.plan.start("teacher")
        teacher = self._teacher()
        self._measure(teacher, "teacher", None)
        distill_recipe, align_recipe = self._recipes(prepared, teacher)
        self.plan.start("distill")
        save_backbone(LITE0, self.output_dir / BACKBONE)
        record_tree(self.output_dir / BACKBONE, COMMAND)
        distill.run(distill_recipe)
        self._measure(distill_recipe.output_dir, "student", DISTILLED)
        self.plan.start("align")
        align.run(align_recipe)
        unify_spelling(Path(align_recipe.output_dir), *load_student(align_recipe.output_dir))
        self._measure(align_recipe.output_dir, "student", ALIGNED)
        shutil.rmtree(self.output_dir / TARGETS)
        self.plan.start("report")
        images = {"training": prepared.num_training, "validation": prepared.num_validation}
        meta = make_meta(
            str(self.options.photos),
            self.options.seeds[0],
            command_of("python -m training.demo", self.options),
            seconds=round(time.perf_counter() - began),
            images=images,
        )
        results = Results(meta, self.rows)
        results.write(self.output_dir)
        self._write_model(prepared, results)
        self.plan.start("export")
        model = str(self.output_dir / MODEL)
        return results, export(ExportOptions(folder=model, output_dir=model))

    def _prepare(self) -> Prepared:
        """Divide the photographs into a training and a validation split, near-duplicates on one side."""
        folder = self.output_dir / DATA
        options = FinetuneOptions(
            model="",
            data=str(self.options.photos),
            output_dir=str(self.output_dir),
            image_column="image",
            caption_columns={language: language for language in LANGUAGES},
            seed=self.options.seeds[0],
        )
        prepared = prepare(options, folder)
        record_tree(folder, COMMAND)
        for language in LANGUAGES:
            if language not in prepared.languages:
                raise ValueError(
                    f"photos: {self.options.photos!r} has no captions in the column {language!r}. The demo trains in "
                    "both languages: add captions, or use training/finetune.py, which takes one language."
                )
        rows = load_source(str(prepared.validation))
        columns = {language: language for language in LANGUAGES}
        self.pairs = make_retrieval_set(VALIDATION, rows, columns, "image", prepared.validation.name)
        return prepared

    def _teacher(self) -> str:
        """Folder or Hub id of the teacher, which is written if none is named."""
        if self.options.teacher is not None:
            return self.options.teacher
        folder = str(self.output_dir / TEACHER)
        assemble.run(assemble.AssembleOptions(output_dir=folder))
        return folder

    def _tokenizer(self, teacher: str) -> str:
        """Folder of the student's tokenizer, with its relation to the teacher's if it was cut from it."""
        vocabulary = relate_vocabulary(TOKENIZER, open_teacher(teacher, "float32").tokenizer)
        if vocabulary is None:
            return str(TOKENIZER)
        vocabulary.save(self.output_dir / VOCABULARY)
        record_tree(self.output_dir / VOCABULARY, COMMAND)
        return str(self.output_dir / VOCABULARY)

    def _recipes(self, prepared: Prepared, teacher: str) -> tuple[DistillRecipe, AlignRecipe]:
        """The recipes with the data, the teacher and the folders of this run."""
        distill_recipe, align_recipe = load_photo_recipes(self.options)
        cache, data = str(self.output_dir / TARGETS), training_data(prepared.training)
        batch_size = batch_size_for(prepared.num_training)
        student = replace(
            distill_recipe.student, vision_init=str(self.output_dir / BACKBONE), tokenizer=self._tokenizer(teacher)
        )
        distill_recipe = replace(
            distill_recipe,
            output_dir=str(self.output_dir / DISTILLED),
            teacher=teacher,
            student=student,
            data=data,
            batch_size=batch_size,
            teacher_cache=cache,
        )
        align_recipe = replace(
            align_recipe,
            output_dir=str(self.output_dir / ALIGNED),
            student=distill_recipe.output_dir,
            teacher=teacher,
            data=data,
            batch_size=batch_size,
            teacher_cache=cache,
            teacher_views=distill_recipe.teacher_views,
            augment=distill_recipe.augment,  # the cached views are those of stage 1
        )
        return distill_recipe, align_recipe

    def _measure(self, folder: str, name: str, stage: str | None):
        """Measure retrieval on the validation photographs, in both directions and languages."""
        assert self.pairs is not None  # _prepare comes first
        model = replace(ZeroShotModel.from_pretrained(folder), name=name)
        self.rows += retrieval.measure(model, self.pairs, name, stage=stage, seed=self.options.seeds[0])

    def _card(self, prepared: Prepared) -> dict[str, Any]:
        """The part of the card that is not measured."""
        content: dict[str, Any] = {
            "name": "dcclip-photos",
            "summary": f"It was trained on {prepared.num_training:,} captioned photographs, and knows what they show.",
            "data": f"{prepared.num_training:,} photographs with captions in English and Chinese, from "
            f"`{Path(str(self.options.photos)).name}`. {prepared.num_validation:,} others were measured.",
            "labels": {"en": ["a cat", "a dog"], "zh": ["猫", "狗"]},
        }
        return content if self.options.teacher is not None else content | {"teacher": "photo_teacher"}

    def _write_model(self, prepared: Prepared, results: Results):
        """Write the Hub folder, with the validation split, on which exported files are checked."""
        ignored = shutil.ignore_patterns("checkpoint-*", LOG_FILE, CLAIM_FOLDER)
        with scratch_folder(self.output_dir / MODEL) as scratch:
            shutil.copytree(self.output_dir / ALIGNED, scratch, ignore=ignored, dirs_exist_ok=True)
            (scratch / SPLITS_FOLDER).mkdir()
            shutil.copy(prepared.validation, scratch / SPLITS_FOLDER)
            results.write(scratch)
            # the card is rendered again when files are exported
            content = yaml.safe_dump(self._card(prepared), allow_unicode=True, sort_keys=False)
            (scratch / CARD_FILE).write_text(content, encoding="utf-8")
            write_card(scratch, results, CardDetails.read(scratch / CARD_FILE))
            record_tree(scratch, COMMAND)
            replace_folder(scratch, self.output_dir / MODEL)
