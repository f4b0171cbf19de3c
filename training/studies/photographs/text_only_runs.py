"""Train every arm of text-only alignment, and measure retrieval, classification and processor time."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from training import align, distill
from training.config import AlignRecipe, DistillRecipe, SourceConfig, StudentConfig, parse_recipe
from training.evaluation import retrieval
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.retrieval_sets import make_retrieval_set
from training.studies.labelled import LabelledPhotographs
from training.studies.many_runs import keep_rows, take_over
from training.studies.photographs.short_runs import COLUMNS, pretrained_towers, short_run
from training.studies.photographs.tables import MINUTES, K, plot
from training.studies.photographs.text_only_options import TextOnlyOptions
from training.studies.rows import CAPTIONED, open_rows
from training.teachers import Teacher
from training.teachers.lineage import weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

PLOT_FILE = "text_only.png"
TEACHER = "teacher"
CONDITIONS = ("data", "validation", "labelled", "weights", "settings")  # of all runs of one results file


@dataclass(frozen=True)
class Arm:
    """One way to train the text tower.

    Args:
        captions: Whether captions of photographs join the parallel sentences; None without the teacher's embeddings.
        languages: Languages of the texts that the teacher encodes; a text in another one takes the target of its
            translation.
        pairs: Whether pairs of photographs and captions follow.
    """

    captions: bool | None = None
    languages: tuple[str, ...] = ("en",)
    pairs: bool = False

    @property
    def label(self) -> str:
        """Name of the arm in the results."""
        if self.captions is None:
            return "pairs alone"
        texts = "sentences and captions" if self.captions else "sentences"
        teacher = "English teacher" if self.languages == ("en",) else "bilingual teacher"
        return f"{texts}, {teacher}{', then pairs' if self.pairs else ''}"


ARMS = (
    Arm(captions=False),
    Arm(captions=False, pairs=True),
    Arm(captions=True),
    Arm(captions=True, pairs=True),
    Arm(pairs=True),
    Arm(captions=True, languages=LANGUAGES),
)


class TextOnlyStudy:
    """One run of the study.

    Args:
        options: Options of the command.
        program: Command as users type it, without options.
    """

    def __init__(self, options: TextOnlyOptions, program: str):
        self.options, self.folder = options, Path(options.output_dir)
        self.distill = parse_recipe(DistillRecipe, ["--config", options.distill])
        self.align = parse_recipe(AlignRecipe, ["--config", options.align])
        self.teacher = self.distill.all_teachers[0].teacher
        open_rows(options.train, CAPTIONED, "train")  # refused before anything is trained
        validation = open_rows(options.validation, CAPTIONED, "validation")
        self.pairs = make_retrieval_set("validation", validation, COLUMNS, "image", "validation")
        self.labelled = LabelledPhotographs.open(options.labelled, options.num_labelled)
        settings = ("distill_steps", "align_steps", "batch_size", "num_labelled")
        self.results = Results(
            make_meta(
                options.train,
                None,
                command_of(program, options),
                validation=options.validation,
                labelled=options.labelled,
                weights=weights_fingerprint(ZeroShotModel.from_pretrained(self.teacher).model),
                settings={name: getattr(options, name) for name in settings},
                images={"validation": len(validation), "labelled": len(self.labelled.rows)},
            )
        )

    def run(self) -> Results:
        """Train and measure what is not yet in results.json, which is written after each run.

        Raises:
            ValueError: results.json is of other data, of another teacher or of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        take_over(self.results, self.folder / RESULTS_FILE, CONDITIONS)
        if not self.results.values(model=TEACHER):
            keep_rows(self.results, self._measure(self.teacher, TEACHER), self.folder)
        for seed in self.options.seeds:
            for arm in ARMS:
                if not self.results.values(model=arm.label, seed=seed):
                    keep_rows(self.results, self._train(arm, seed), self.folder)
            for arm in ARMS:
                shutil.rmtree(self._distilled(arm, seed), ignore_errors=True)
        plot(self.results, self.folder / PLOT_FILE)
        return self.results

    def _train(self, arm: Arm, seed: int) -> list[Row]:
        """Train an arm, and measure it; an arm with pairs goes on from the one without."""
        start = time.process_time()
        folder = self._align(arm, seed) if arm.pairs else self._distill(arm, seed)
        seconds = time.process_time() - start
        earlier = self.results.values(model=replace(arm, pairs=False).label, seed=seed, metric=MINUTES)
        minutes = seconds / 60 + (sum(earlier) if arm.pairs and arm.captions is not None else 0)
        return [
            *self._measure(str(folder), arm.label, seed),
            Row(model=arm.label, seed=seed, metric=MINUTES, value=minutes),
        ]

    def _distilled(self, arm: Arm, seed: int) -> Path:
        """Folder of a model whose text tower has learned from the teacher."""
        return self.folder / "-".join(
            ["distilled", "captions" if arm.captions else "sentences", *arm.languages, str(seed)]
        )

    def _distill(self, arm: Arm, seed: int) -> Path:
        folder = self._distilled(arm, seed)
        shutil.rmtree(folder, ignore_errors=True)
        recipe = self.distill
        teachers = [replace(recipe.teachers[0], languages=None if arm.languages == LANGUAGES else list(arm.languages))]
        sources = list(recipe.data.sources)
        if arm.captions:  # as many captions as sentences
            captions = SourceConfig(train=self.options.train, weight=sum(source.weight for source in sources))
            sources.append(captions)
        student = replace(recipe.student, text_init=pretrained_towers(self.folder))
        recipe = replace(recipe, teachers=teachers, student=student, data=replace(recipe.data, sources=sources))
        distill.run(short_run(recipe, folder, self.options.distill_steps, self.options.batch_size, seed))
        return folder

    def _new_student(self) -> StudentConfig:
        """The student with the teacher's image tower, for a run without a teacher."""
        teacher = Teacher.from_pretrained(self.teacher, ("vision",))
        return replace(
            self.distill.student,
            vision_init=self.teacher,
            text_init=pretrained_towers(self.folder),
            image_size=teacher.image_size,
            image_mean=list(teacher.image_processor.image_mean),
            image_std=list(teacher.image_processor.image_std),
            projection_dim=teacher.projection_dim,
        )

    def _align(self, arm: Arm, seed: int) -> Path:
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        recipe = replace(self.align, data=replace(self.align.data, train=self.options.train))
        if arm.captions is None:
            recipe = replace(recipe, student=None, new_student=self._new_student())
        else:
            without_pairs = replace(arm, pairs=False)
            start = self._distilled(without_pairs, seed)
            if not (start / "model.safetensors").exists():  # a killed study has measured it, and lost it
                self._distill(without_pairs, seed)
            recipe = replace(recipe, student=str(start))
        align.run(short_run(recipe, folder, self.options.align_steps, self.options.batch_size, seed))
        return folder

    def _measure(self, folder: str, name: str, seed: int | None = None) -> list[Row]:
        model = ZeroShotModel.from_pretrained(folder)
        rows = retrieval.measure(model, self.pairs, name, (K,), seed=seed)
        return [*rows, *self.labelled.measure(model, name, seed=seed)]
