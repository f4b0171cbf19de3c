"""From a folder of photographs to finished models: prepared data, one training run for each recipe, Hub folders.

A new model is a recipe in training/configs/photographs, and a line in `STAGES`.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file
from torch import Tensor

from training import align, distill
from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.data import load_source
from training.data.reader import check_parquet
from training.edge.export import export
from training.edge.formats import ExportOptions
from training.edge.gate_data import SPLITS_FOLDER, VALIDATION_FILE
from training.engine.log import LOG_FILE
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings
from training.evaluation.metrics import top_k_accuracy
from training.evaluation.retrieval import RetrievalSet
from training.experiments.photographs.data import (
    CLASSIFIER,
    NAMES,
    NOUNS,
    VALIDATION_PAGES,
    prepare,
)
from training.experiments.photographs.options import PROGRAM, Options
from training.experiments.photographs.search import (
    encode_bank,
    fit_search,
    open_validation,
    save_bank,
)
from training.experiments.photographs.targets import write_named_targets
from training.experiments.photographs.towers import save_towers
from training.experiments.photographs.words import simplified_pieces
from training.hub import WEIGHTS_FILE
from training.hub.cards import CardDetails, write_card
from training.hub.cards.facts import CONFIG_NAME
from training.students.average import average_weights
from training.teachers import DualEncoder
from training.text.tokenizers import load_tokenizer
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import (
    CLAIM_FOLDER,
    atomic_write,
    recover_folder,
    remove_leftovers,
    replace_folder,
    scratch_folder,
    write_json,
    write_text,
)
from training.utils.output import check_replaceable, claim_folder, listed, record_tree
from training.utils.reading import read_mapping
from training.utils.results import RESULTS_FILE, Results, Row, make_meta
from training.utils.trust import FUNCTION

Recipe = AlignRecipe | DistillRecipe
COMMAND = "photographs"
RUN_FILE = "run.json"
DATA, TARGETS, TOWERS = "data", "targets", "towers"
ROOT = "runs/photographs/"  # prefix of all paths in the recipes, replaced by the output folder

COMMITTED = "model_cards/"  # prefix of the folders of finished models, relative to the checkout


@dataclass(frozen=True)
class Stage:
    """One training run.

    Args:
        name: Name of the run.
        kind: Class of the recipe.
        recipe: Name of the recipe in training/configs/photographs, without the suffix.
        options: Fields that differ from the recipe, with values as on the command line.
        shares: Shares of other weights in those that the run leaves; the rest is trained. Names are output folders of
            earlier runs, or folders under `model_cards/`.
        model: Name of the model that it finishes. None if it is not published.
    """

    name: str
    kind: type[AlignRecipe] | type[DistillRecipe]
    recipe: str
    options: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    model: str | None = None


# layers of multilingual-e5-small: they keep what they learned from far more text
LOWER_LAYERS = (
    "[text_model.embeddings, text_model.encoder.layer.0, text_model.encoder.layer.1, "
    "text_model.encoder.layer.2, text_model.encoder.layer.3]"
)
# options of the two steps in which the teacher's text tower learns embeddings
TEACHER_TEXTS = {
    "student": str(CONFIGS / "students/photographs_teacher.yaml"),
    "named_targets": "null",
    "map_weight": "0",
    "freeze": LOWER_LAYERS,
}
# first layers of the image tower
LOWER_BLOCKS = (
    "[vision_model.timm_model.conv_stem, vision_model.timm_model.bn1, "
    "vision_model.timm_model.blocks.0, vision_model.timm_model.blocks.1]"
)
# options of stage 1 of nano
NANO = {
    "teacher": f"{ROOT}dcclip-tiny-photo",
    "student": str(CONFIGS / "students/photographs_nano.yaml"),
}

STAGES = (
    # the image tower learns captions with a light text tower, half of its lower layers frozen
    Stage("tower_teacher", AlignRecipe, "tower_teacher"),
    Stage("tower_distill", DistillRecipe, "tower_distill"),
    Stage("tower_align", AlignRecipe, "tower_align"),
    # multilingual-e5-small learns the embeddings of the light text tower, then both towers learn all data
    Stage(
        "teacher_distill",
        DistillRecipe,
        "distill_text",
        options=TEACHER_TEXTS
        | {
            "output_dir": f"{ROOT}teacher_distilled",
            "teacher": f"{ROOT}tower_aligned",
            "max_steps": "1000",
            "learning_rate": "4e-4",
        },
    ),
    Stage("teacher_align", AlignRecipe, "teacher", shares={"teacher_distilled": 0.5}),
    # the text tower learns to read with the students' tokenizer, so that they can learn its feature maps
    Stage(
        "teacher",
        DistillRecipe,
        "distill_text",
        options=TEACHER_TEXTS
        | {
            "output_dir": f"{ROOT}dcclip-photo-teacher",
            "teacher": f"{ROOT}teacher_aligned",
            "student.vision_init": f"{ROOT}teacher_aligned",
            "student.text_init": f"{ROOT}teacher_aligned",
            "student.tokenizer": "model_cards/dcclip-tiny-photo",
            "max_steps": "160",
            "learning_rate": "2e-4",
            "warmup_steps": "20",
        },
    ),
    Stage("tiny_image", DistillRecipe, "distill_image"),
    Stage(
        "tiny_distill",
        DistillRecipe,
        "distill_text",
        options={
            "student.vision_init": f"{ROOT}tiny_image",
            "student.text_init": f"{ROOT}tower_aligned",
        },
    ),
    Stage(
        "tiny_align",
        AlignRecipe,
        "align",
        shares={"tower_aligned": 0.3, "tiny_distilled": 0.35},
        model="dcclip-tiny-photo",
    ),
    Stage(
        "nano_image",
        DistillRecipe,
        "distill_image",
        options=NANO
        | {
            "output_dir": f"{ROOT}nano_image",
            "freeze": "[]",
            "max_steps": "400",
            "learning_rate": "4e-4",
        },
    ),
    Stage(
        "nano_distill",
        DistillRecipe,
        "distill_text",
        options=NANO
        | {
            "output_dir": f"{ROOT}nano_distilled",
            "named_targets": f"{ROOT}{DATA}/nano_named_targets.safetensors",
            "student.vision_init": f"{ROOT}nano_image",
            "max_steps": "6000",
        },
    ),
    Stage(
        "nano_align",
        AlignRecipe,
        "align",
        options={
            "output_dir": f"{ROOT}nano_aligned",
            "student": f"{ROOT}nano_distilled",
            "freeze": "[]",
            "max_steps": "100",
        },
        shares={"nano_distilled": 0.5},
    ),
    # stage 1 again: after 400 steps, the image tower had not learned all that it can of tiny's feature maps
    Stage(
        "nano_image_2",
        DistillRecipe,
        "distill_image",
        options=NANO
        | {
            "output_dir": f"{ROOT}nano_image_2",
            "student.vision_init": f"{ROOT}nano_aligned",
            "student.text_init": f"{ROOT}nano_aligned",
            "freeze": LOWER_BLOCKS,
            "max_steps": "1300",
        },
        shares={"nano_aligned": 0.3},
        model="dcclip-nano-photo",
    ),
)


class Run:
    """One run of the command. Steps that an earlier run in the same folder has finished are skipped.

    Args:
        options: Options of the command.
    """

    def __init__(self, options: Options):
        self.options = options
        self.photos = Path(options.photos).expanduser()
        self.folder = Path(options.output_dir)
        self.models = [stage.model for stage in STAGES if stage.model]
        self.steps: dict[str, dict[str, Any]] = {}  # finished ones, with seconds and recipe
        self.rows: list[Row] = []
        self.sets: list[RetrievalSet] = []

    def run(self) -> Results:
        """Run every step that is not finished.

        Raises:
            ValueError: The data cannot be used, the output folder has files of the user where the command would
                write, or an earlier run in it had a different recipe.
        """
        outputs = [Path(_read_recipe(stage).output_dir).name for stage in STAGES]
        names = [DATA, TARGETS, TOWERS, RESULTS_FILE, RUN_FILE, *outputs, *self.models]
        for model in self.models:
            recover_folder(self.folder / model)
        with claim_folder(self.folder, names, command=COMMAND, flag=None):
            if (self.folder / RUN_FILE).exists():
                self.steps = read_mapping(self.folder / RUN_FILE, "output_dir", steps=dict)["steps"]
                self.rows = Results.read(self.folder / RESULTS_FILE).rows
            self.sets = open_validation(self.photos)
            self._step("data", {}, self._prepare)
            recipes = {stage.name: self._recipe(stage) for stage in STAGES}
            for stage in STAGES:
                recipe = recipes[stage.name]
                self._step(stage.name, asdict(recipe), partial(self._train, stage, recipe))
                if stage.model:
                    self._step(stage.model, {}, partial(self._finish, stage, recipe))
        return self._results()

    def _step(self, name: str, recipe: dict[str, Any], action: Callable[[], None]):
        """Run and record a step, or say that it is finished."""
        recipe = json.loads(json.dumps(recipe))  # as it is in the file
        if name in self.steps:
            before = self.steps[name]["recipe"]
            if changed := [key for key in recipe if before.get(key) != recipe[key]]:
                raise ValueError(
                    f"output_dir: {str(self.folder)!r} has a run of {name} with other values of "
                    f"{listed(changed)}. Remove the folder, or choose a different one."
                )
            print(f"{name}: finished", flush=True)
            return
        print(f"{name}: started", flush=True)
        began = time.perf_counter()
        action()
        self.steps[name] = {"seconds": round(time.perf_counter() - began), "recipe": recipe}
        self._results().write(self.folder)
        write_text(self.folder / RUN_FILE, json.dumps({"steps": self.steps}, indent=1) + "\n")

    def _results(self) -> Results:
        seconds = {name: step["seconds"] for name, step in self.steps.items()}
        command = command_of(PROGRAM, self.options)
        return Results(
            make_meta(str(self.photos), self.options.seed, command, seconds=seconds), self.rows
        )

    def _prepare(self):
        towers = self.folder / TOWERS
        shutil.rmtree(towers, ignore_errors=True)
        save_towers(towers, seed=self.options.seed)
        (self.folder / DATA).mkdir(exist_ok=True)
        prepare(self.photos, self.folder / DATA, self.options.seed)

    def _recipe(self, stage: Stage) -> Recipe:
        """The recipe of a stage with the folders of this run, without the sources that have no file."""
        recipe = self._place(_read_recipe(stage))
        found = []
        for source in recipe.data.sources:
            if FUNCTION.fullmatch(source.train) or Path(source.train).exists():
                check_parquet(source.train, "photos")  # before hours of training
                found.append(source)
            else:
                print(
                    f"photos: {source.train} is missing; {stage.name} runs without it.", flush=True
                )
        if not found:
            raise ValueError(
                f"photos: {str(self.photos)!r} has none of the files that "
                f"training/configs/photographs/{stage.recipe}.yaml names. Add one."
            )
        changes: dict[str, Any] = {"data": replace(recipe.data, sources=found)}
        if isinstance(recipe, AlignRecipe) and not Path(recipe.classifier or "").is_file():
            changes |= {"class_weight": 0.0, "classifier": None}
        if isinstance(recipe, DistillRecipe) and not all(
            (self.folder / DATA / name).is_file() for name in (CLASSIFIER, NAMES, NOUNS)
        ):
            changes["named_targets"] = None
        # continues at the last checkpoint; a finished stage that was not recorded is written again
        changes |= {"seed": self.options.seed, "resume": True, "overwrite": True}
        changes["max_steps"] = self.options.max_steps or recipe.max_steps
        return replace(recipe, **changes)

    def _place(self, value: Any) -> Any:
        """A value of a recipe with every path in this run's folder, or in the user's if the data file is there."""
        if is_dataclass(value) and not isinstance(value, type):
            placed = {each.name: self._place(getattr(value, each.name)) for each in fields(value)}
            return replace(value, **placed)
        if isinstance(value, list):
            return [self._place(each) for each in value]
        if not isinstance(value, str) or not value.startswith(ROOT):
            return value
        path = self.folder / value.removeprefix(ROOT)
        given = self.photos / path.name
        return str(given if path.parent.name == DATA and given.exists() else path)

    def _train(self, stage: Stage, recipe: Recipe):
        """Train a stage, and measure retrieval and the kinds of pages that its model recognizes."""
        if isinstance(recipe, AlignRecipe):
            align.run(recipe)
        else:
            if recipe.named_targets is not None:
                write_named_targets(
                    Path(recipe.named_targets),
                    DualEncoder.from_pretrained(str(recipe.teacher)),
                    *(self.folder / DATA / name for name in (CLASSIFIER, NAMES, NOUNS)),
                )
            distill.run(recipe)
        if stage.shares:
            self._average(stage, Path(recipe.output_dir) / WEIGHTS_FILE)
        self.rows = [row for row in self.rows if row.model != stage.name]
        model = DualEncoder.from_pretrained(recipe.output_dir)
        for each in self.sets:
            self.rows += retrieval.measure(model, each, stage.name, seed=recipe.seed)
        pages = self.folder / DATA / VALIDATION_PAGES
        if not pages.exists():
            return
        rows = Dataset.from_parquet(str(pages))
        images = torch.as_tensor(model.encode_images(rows["image"]))
        for language in LANGUAGES:
            names = [captions[0] for captions in rows[language]]
            kinds = sorted({*names})
            labels = torch.tensor([kinds.index(name) for name in names])
            top1 = top_k_accuracy(images @ class_embeddings(model, kinds).T, labels)
            row = Row(model=stage.name, metric="top1", value=top1, set="pages", language=language)
            self.rows.append(replace(row, seed=recipe.seed))

    def _average(self, stage: Stage, path: Path):
        """Mix the weights of earlier runs into those of a run."""
        folders = [
            Path(name) if name.startswith(COMMITTED) else self.folder / name
            for name in stage.shares
        ]
        others = [_load_float(folder / WEIGHTS_FILE) for folder in folders]
        shares = [1 - sum(stage.shares.values()), *stage.shares.values()]
        weights = average_weights([_load_float(path), *others], lambda name: shares)
        with atomic_write(path) as scratch:
            save_file(weights, scratch, {"format": "pt"})
        config, *configs = [
            read_mapping(each / CONFIG_NAME, "config") for each in (path.parent, *folders)
        ]
        # a mean of two spaces is in neither
        if any(each.get("teacher_weights") != config.get("teacher_weights") for each in configs):
            write_json(path.parent / CONFIG_NAME, config | {"teacher_weights": None})

    def _finish(self, stage: Stage, recipe: Recipe):
        """Write the Hub folder of a model in half precision, with ONNX files that pass the accuracy gate."""
        folder = self.folder / str(stage.model)
        if folder.exists():  # left by a run that was interrupted during the export
            remove_leftovers(folder)
            check_replaceable(folder)
        details = CardDetails(
            summary="It was trained on captioned photographs, and recognizes what they show.",
            data=f"Photographs with captions in English and Chinese, from `{self.photos.name}`.",
        )
        ignored = shutil.ignore_patterns("checkpoint-*", LOG_FILE, CLAIM_FOLDER)
        with scratch_folder(folder) as scratch:
            shutil.copytree(recipe.output_dir, scratch, ignore=ignored, dirs_exist_ok=True)
            weights = load_file(scratch / WEIGHTS_FILE)
            for name, each in weights.items():
                weights[name] = each.half() if each.is_floating_point() else each
            # captions are in simplified Chinese
            pieces = simplified_pieces(load_tokenizer(str(scratch)).get_vocab())
            table = weights["text_model.embeddings.word_embeddings.weight"]
            table[[*pieces]] = table[[*pieces.values()]]
            save_file(weights, scratch / WEIGHTS_FILE, {"format": "pt"})
            bank = encode_bank(DualEncoder.from_pretrained(scratch), self.photos)
            self._calibrate(scratch, stage, bank)
            (scratch / SPLITS_FOLDER).mkdir()
            self._gate_rows().to_parquet(scratch / SPLITS_FOLDER / VALIDATION_FILE)
            rows = [
                replace(row, model=str(stage.model)) for row in self.rows if row.model == stage.name
            ]
            Results(self._results().meta, rows).write(scratch)
            write_card(scratch, details, title=str(stage.model))
            record_tree(scratch, COMMAND)
            replace_folder(scratch, folder)
        for verdict in export(ExportOptions(folder=str(folder), output_dir=str(folder))):
            print(verdict.line(), flush=True)
        save_bank(folder, bank)
        record_tree(folder, COMMAND)

    def _gate_rows(self) -> Dataset:
        """Photographs of the first validation set, and of those with the same columns: a few hundred are too few."""
        sources = [load_source(each.source) for each in self.sets]
        columns = ["image", *(name for name in LANGUAGES if name in sources[0].column_names)]
        parts = [
            rows.select_columns(columns) for rows in sources if {*columns} <= {*rows.column_names}
        ]
        return concatenate_datasets([each for each in parts if each.features == parts[0].features])

    def _calibrate(self, folder: Path, stage: Stage, bank: np.ndarray):
        """Tell the model how likely a photograph fits a query, judged by the classes that photographs show."""
        classifier = self.folder / DATA / CLASSIFIER
        has_all = all({*LANGUAGES} <= {*each.captions} for each in self.sets)
        if classifier.exists() and len(self.sets) > 1 and has_all:
            towers = self.folder / TOWERS
            rows = fit_search(folder, stage.name, towers, self.sets, classifier, bank)
            measured = {(row.model, row.metric) for row in rows}
            self.rows = [row for row in self.rows if (row.model, row.metric) not in measured]
            self.rows += rows


def _load_float(path: Path) -> dict[str, Tensor]:
    """Weights in fp32; those of finished models are stored in fp16."""
    weights = load_file(path)
    return {
        name: each.float() if each.is_floating_point() else each for name, each in weights.items()
    }


def _read_recipe(stage: Stage) -> Recipe:
    path = CONFIGS / "photographs" / f"{stage.recipe}.yaml"
    options = [part for name, value in stage.options.items() for part in (f"--{name}", value)]
    return parse_recipe(stage.kind, ["--config", str(path), *options])
