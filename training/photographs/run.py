"""From a folder of photographs to finished models: prepared data, one training run for each recipe, Hub folders.

A new model is a recipe in training/configs/photographs, and a line in `STAGES`.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file

from training import align, distill
from training.config import CONFIGS, AlignRecipe, DistillRecipe, parse_recipe
from training.data import load_source
from training.data.reader import check_parquet
from training.edge.export import export
from training.edge.formats import ExportOptions
from training.edge.gate_data import SPLITS_FOLDER, VALIDATION_FILE
from training.engine.checkpoint import WEIGHTS_FILE
from training.engine.log import LOG_FILE
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings
from training.evaluation.metrics import top_k_accuracy
from training.evaluation.retrieval import RetrievalSet, open_retrieval_set
from training.hub.cards import CardDetails, write_card
from training.photographs.calibrate import calibrate
from training.photographs.data import VALIDATION_PAGES, prepare
from training.photographs.options import PROGRAM, Options
from training.photographs.pages import KINDS
from training.photographs.towers import save_towers
from training.teachers import DualEncoder
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import (
    CLAIM_FOLDER,
    recover_folder,
    remove_leftovers,
    replace_folder,
    scratch_folder,
    write_text,
)
from training.utils.output import check_replaceable, claim_folder, listed, record_tree
from training.utils.reading import read_mapping
from training.utils.results import RESULTS_FILE, Results, Row, make_meta

Recipe = AlignRecipe | DistillRecipe
COMMAND = "photographs"
RUN_FILE = "run.json"
DATA, TARGETS, TOWERS = "data", "targets", "towers"
ROOT = "runs/photographs/"  # of all paths in the recipes; stands for the output folder
VALIDATION = "_validation.parquet"


@dataclass(frozen=True)
class Stage:
    """One training run.

    Args:
        name: Name of its recipe in training/configs/photographs, without the suffix.
        kind: Class of the recipe.
        model: Name of the model that it finishes. None if a later stage continues.
    """

    name: str
    kind: type[AlignRecipe] | type[DistillRecipe]
    model: str | None = None


STAGES = (
    Stage("teacher", AlignRecipe),
    Stage("distill", DistillRecipe),
    Stage("align", AlignRecipe, "dcclip-tiny-photo"),
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
            self._open_validation()
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

    def _open_validation(self):
        files = sorted(self.photos.glob(f"*{VALIDATION}"))
        if not files:
            raise ValueError(
                f"photos: {str(self.photos)!r} has no file that ends in {VALIDATION}. Keep some captioned "
                "photographs for validation in such a file."
            )
        self.sets = [
            open_retrieval_set(path.name.removesuffix(VALIDATION), str(path)) for path in files
        ]

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
            if Path(source.train).exists():
                check_parquet(source.train, "photos")  # before hours of training
                found.append(source)
            else:
                print(
                    f"photos: {source.train} is missing; {stage.name} runs without it.", flush=True
                )
        if not found:
            raise ValueError(
                f"photos: {str(self.photos)!r} has none of the files that "
                f"training/configs/photographs/{stage.name}.yaml names. Add one."
            )
        changes: dict[str, Any] = {"data": replace(recipe.data, sources=found)}
        if isinstance(recipe, AlignRecipe) and not Path(recipe.classifier or "").is_file():
            changes |= {"class_weight": 0.0, "classifier": None}
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
            distill.run(recipe)
        self.rows = [row for row in self.rows if row.model != stage.name]
        model = DualEncoder.from_pretrained(recipe.output_dir)
        for each in self.sets:
            self.rows += retrieval.measure(model, each, stage.name, seed=recipe.seed)
        pages = self.folder / DATA / VALIDATION_PAGES
        if not pages.exists():
            return
        images = model.encode_images(Dataset.from_parquet(str(pages)))
        labels = torch.arange(len(images)) % len(KINDS["en"])
        for language, kinds in KINDS.items():
            top1 = top_k_accuracy(images @ class_embeddings(model, kinds).T, labels)
            row = Row(model=stage.name, metric="top1", value=top1, set="pages", language=language)
            self.rows.append(replace(row, seed=recipe.seed))

    def _finish(self, stage: Stage, recipe: Recipe):
        """Write the Hub folder of a model in half precision, with ONNX files that pass the accuracy gate."""
        folder = self.folder / str(stage.model)
        if folder.exists():  # of a run that was interrupted during the export
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
            save_file(weights, scratch / WEIGHTS_FILE, {"format": "pt"})
            self._calibrate(scratch, stage, recipe)
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

    def _gate_rows(self) -> Dataset:
        """Photographs of the first validation set, and of those with the same columns: a few hundred are too few."""
        sources = [load_source(each.source) for each in self.sets]
        columns = ["image", *(name for name in LANGUAGES if name in sources[0].column_names)]
        parts = [
            rows.select_columns(columns) for rows in sources if {*columns} <= {*rows.column_names}
        ]
        return concatenate_datasets([each for each in parts if each.features == parts[0].features])

    def _calibrate(self, folder: Path, stage: Stage, recipe: Recipe):
        """Tell the model how likely a photograph fits a query, judged by the classes that photographs show."""
        classifier = recipe.classifier if isinstance(recipe, AlignRecipe) else None
        has_all = all({*LANGUAGES} <= {*each.captions} for each in self.sets)
        if classifier is None or len(self.sets) < 2 or not has_all:
            return
        teacher = DualEncoder.from_pretrained(str(recipe.teacher))
        model = DualEncoder.from_pretrained(folder)
        model.name = stage.name
        model.model.config.fit, rows = calibrate(model, teacher, self.sets, Path(classifier))
        model.model.config.save_pretrained(folder)
        measured = {row.metric for row in rows}
        self.rows = [row for row in self.rows if row.metric not in measured]
        self.rows += rows


def _read_recipe(stage: Stage) -> Recipe:
    path = CONFIGS / "photographs" / f"{stage.name}.yaml"
    return parse_recipe(stage.kind, ["--config", str(path)])
