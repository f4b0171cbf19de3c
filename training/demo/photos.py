"""The demo with photographs: from pretrained towers to a finished model, by the two training stages.

data        the training files of the recipes, or the two splits of a user's own photographs
teacher     pretrained towers from pip packages, whose new projections stage 2 aligns on the captions
distill     stage 1: the student learns the teacher
align       stage 2: the student learns the captions
report      the Hub folder
export      ONNX files behind the accuracy gate

Each finished step is recorded in `run.json` with its duration. The same command continues an interrupted run there,
and training continues at its last checkpoint.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file

from training import align, distill
from training.config import AlignRecipe, DataConfig, DistillRecipe
from training.corpus.free_photos import FREE_PHOTOS
from training.data import load_source
from training.data.sources import check_parquet
from training.demo.calibrate import calibrate
from training.demo.options import DemoOptions, Plan, load_photo_recipes
from training.demo.pages import KINDS, write_pages
from training.demo.pretrained import TowersOptions, save_classifier, save_towers
from training.demo.run import COMMAND, MODEL_FOLDER
from training.edge.export import export
from training.edge.formats import ExportOptions
from training.edge.gate_data import SPLITS_FOLDER, VALIDATION_FILE
from training.engine.checkpoint import WEIGHTS_FILE
from training.engine.log import LOG_FILE
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings
from training.evaluation.metrics import top_k_accuracy
from training.evaluation.retrieval import RetrievalSet, open_retrieval_set
from training.evaluation.zero_shot_model import ZeroShotModel
from training.finetuning.options import FinetuneOptions
from training.finetuning.plan import batch_size_for
from training.finetuning.prepare import prepare
from training.hub.cards import CardDetails, write_card
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import (
    CLAIM_FOLDER,
    read_mapping,
    recover_folder,
    remove_leftovers,
    replace_folder,
    scratch_folder,
    write_text,
)
from training.utils.output import check_replaceable, claim_folder, listed, record_tree
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results, Row, make_meta

RUN_FILE = "run.json"
DATA, TOWERS, TARGETS, TEACHER, DISTILLED, ALIGNED = (
    "data",
    "towers",
    "targets",
    "teacher",
    "distilled",
    "aligned",
)
CLASSIFIER = "classifier.safetensors"
VALIDATION = "_validation.parquet"
# files of the folder, whose names the model learns
CLASS_NAMES, NOUNS, OBJECT_NAMES = (
    "imagenet_class_names_en_zh.json",
    "wordnet_zh_cow.tab",
    "names.parquet",
)
SENTENCES, PAGES, NUM_PAGES, NUM_VALIDATION_PAGES = (
    "sentences_tatoeba_en_zh.parquet",
    "pages.parquet",
    2000,
    400,
)
CORRECTED = {
    "leopard": "豹",
    "porcupine": "豪猪",
}  # jaguar and hedgehog in the list of Chinese-CLIP


class PhotoDemo:
    """One run of the demo with photographs.

    Args:
        options: Options of the run; `photos` is set.
        plan: Steps of the run; prints their headings.
    """

    def __init__(self, options: DemoOptions, plan: Plan):
        self.options, self.plan, self.folder = options, plan, plan.output_dir
        self.recipes = load_photo_recipes(options)
        recipes = {step: asdict(recipe) for step, recipe in self.recipes.items()}
        self.state: dict[str, Any] = {"photos": options.photos, "seconds": {}, "recipes": recipes}
        self.state = json.loads(json.dumps(self.state))  # as it is read from the file
        self.rows: list[Row] = []
        self.sets: list[RetrievalSet] = []

    def run(self) -> Results:
        """Run every step that an earlier run has not finished.

        Raises:
            ValueError: The photographs cannot be used, the output folder has files of the user where the demo would
                write, or an earlier run in it had other options.
        """
        folders = (DATA, TOWERS, TARGETS, TEACHER, DISTILLED, ALIGNED, MODEL_FOLDER)
        recover_folder(self.folder / MODEL_FOLDER)
        with claim_folder(
            self.folder, (*folders, RESULTS_FILE, PLOT_FILE, RUN_FILE), command=COMMAND, flag=None
        ):
            if (self.folder / MODEL_FOLDER).exists():
                remove_leftovers(self.folder / MODEL_FOLDER)  # of an export that was interrupted
                check_replaceable(self.folder / MODEL_FOLDER)
            self._continue()
            self._step("data", self._prepare)
            self._open_data()
            self._step("teacher", self._train_teacher)
            self._step("distill", self._distill)
            self._step("align", self._align)
            self._step("report", self._write_model)
            self._step("export", self._export)
            self._results().plot(self.folder)
        return self._results()

    def _continue(self):
        """Take over the finished steps of an earlier run with the same options."""
        if not (path := self.folder / RUN_FILE).exists():
            return
        earlier = read_mapping(path, "output_dir", photos=str, recipes=dict, seconds=dict)
        before, now = _flat(earlier["recipes"]), _flat(self.state["recipes"])
        changed = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        changed = ["photos"] * (earlier["photos"] != self.state["photos"]) + changed
        if changed:
            raise ValueError(
                f"output_dir: {str(self.folder)!r} has a run with other values of {listed(changed)}. Remove the "
                "folder, or choose a different one."
            )
        self.state = earlier
        if (self.folder / RESULTS_FILE).exists():
            self.rows = Results.read(self.folder / RESULTS_FILE).rows

    def _step(self, name: str, action: Callable[[], None]):
        """Run a step and record it, or say that it is finished."""
        finished = name in self.state["seconds"]
        self.plan.start(name, ": finished" if finished else "")
        if finished:
            return
        began = time.perf_counter()
        action()
        self.state["seconds"][name] = round(time.perf_counter() - began)
        self._results().write(self.folder)
        write_text(
            self.folder / RUN_FILE, json.dumps(self.state, indent=1, ensure_ascii=False) + "\n"
        )

    def _results(self) -> Results:
        command = command_of("python -m training.demo", self.options)
        meta = make_meta(
            str(self.options.photos), self.options.seed, command, seconds=self.state["seconds"]
        )
        return Results(meta, self.rows)

    # data

    @property
    def _source(self) -> Path:
        """Folder of the training and validation files."""
        photos = Path(str(self.options.photos)).expanduser()
        return photos if photos.is_dir() else self.folder / DATA

    def _prepare(self):
        """Read the names of a folder, or divide one file of photographs into a training and a validation split."""
        photos = str(self.options.photos)
        if Path(photos).expanduser().is_dir():
            self._prepare_names()
            return
        options = FinetuneOptions(
            model="",
            data=photos,
            output_dir=str(self.folder),
            image_column="image",
            caption_columns={language: language for language in LANGUAGES},
            seed=self.options.seed,
        )
        # near-duplicates are on one side
        prepared = prepare(options, self.folder / DATA)
        print(prepared, flush=True)
        if missing := [language for language in LANGUAGES if language not in prepared.languages]:
            raise ValueError(
                f"photos: {photos!r} has no captions in the column {missing[0]!r}. The demo trains in both languages: "
                "add captions, or use training/finetune.py, which takes one language."
            )
        prepared.validation.rename(self.folder / DATA / f"photos{VALIDATION}")
        self.state["num_training"] = prepared.num_training
        record_tree(self.folder / DATA, COMMAND)

    def _prepare_names(self):
        """Write the classifier with its class names, names as captions without images, and pages that are drawn."""
        folder = self.folder / DATA
        folder.mkdir(exist_ok=True)
        if self._has(CLASS_NAMES, "the model does not learn the names of ImageNet's classes"):
            save_classifier(folder / CLASSIFIER, read_class_names(self._source / CLASS_NAMES))
        if self._has(NOUNS, "the model does not learn rare names"):
            write_object_names(self._source / NOUNS, folder / OBJECT_NAMES)
        if self._has(SENTENCES, "the model does not learn pages, such as receipts"):
            sentences = pq.read_table(self._source / SENTENCES, columns=list(LANGUAGES)).to_pydict()
            photos, seed = [photo.open() for photo in FREE_PHOTOS], self.options.seed
            write_pages(folder / PAGES, NUM_PAGES, sentences, photos, held_out=False, seed=seed)
            path = folder / f"pages{VALIDATION}"
            write_pages(path, NUM_VALIDATION_PAGES, sentences, photos, held_out=True, seed=seed)
        record_tree(folder, COMMAND)

    def _has(self, name: str, otherwise: str) -> bool:
        found = (self._source / name).exists()
        if not found:
            print(f"photos: {self._source / name} is missing, so {otherwise}.", flush=True)
        return found

    def _open_data(self):
        """Open the validation sets, and give the recipes their data and folders."""
        files = sorted(self._source.glob(f"*{VALIDATION}"))
        if not files:
            raise ValueError(
                f"photos: {str(self._source)!r} has no file that ends in {VALIDATION}. Keep some captioned "
                "photographs for validation in such a file."
            )
        self.sets = [
            open_retrieval_set(path.name.removesuffix(VALIDATION), str(path)) for path in files
        ]
        folders = {"teacher": TEACHER, "distill": DISTILLED, "align": ALIGNED}
        for name, recipe in self.recipes.items():
            fields: dict[str, Any] = {
                "output_dir": str(self.folder / folders[name]),
                "data": self._data(name, recipe),
            }
            if count := self.state.get("num_training"):
                fields["batch_size"] = min(recipe.batch_size, batch_size_for(count))
            fields["teacher_cache"] = str(self.folder / TARGETS / name)
            if isinstance(recipe, AlignRecipe):
                path = self.folder / DATA / CLASSIFIER
                fields |= {"class_weight": recipe.class_weight if path.exists() else 0.0}
                fields |= {"classifier": str(path) if fields["class_weight"] else None}
            # continues at the last checkpoint; a finished stage whose step was not recorded is written again
            self.recipes[name] = replace(recipe, resume=True, overwrite=True, **fields)

    def _data(self, name: str, recipe: AlignRecipe | DistillRecipe) -> DataConfig:
        """The data of a recipe, read from the folder of this run. Sources without a file are left out."""
        if "num_training" in self.state:
            # the preparation has left out captions without a letter of their language
            return DataConfig(
                train=str(self._source / "train.parquet"), allow_paths=True, skip_wrong_script=False
            )
        found = []
        for source in recipe.data.sources:
            file = Path(str(source.train)).name
            if file in (OBJECT_NAMES, PAGES):
                if (path := self.folder / DATA / file).exists():
                    found.append(replace(source, train=str(path)))
            elif self._has(file, f"{name} learns nothing from it"):
                check_parquet(
                    train := str(self._source / file), "photos"
                )  # before hours of training
                found.append(replace(source, train=train))
        if not found:
            raise ValueError(
                f"photos: {str(self._source)!r} has none of the training files of {name}, which "
                "training/configs/photographs names. For photographs of your own, give a parquet file."
            )
        return replace(recipe.data, sources=found)

    # stages

    def _train_teacher(self):
        towers = self.folder / TOWERS
        if not towers.exists():
            save_towers(TowersOptions(output_dir=str(towers), seed=self.options.seed))
            record_tree(towers, COMMAND)
        recipe = self.recipes["teacher"]
        assert isinstance(recipe, AlignRecipe)
        align.run(replace(recipe, student=str(towers), teacher=str(towers)))
        self._measure(recipe.output_dir, "teacher", None)

    def _distill(self):
        recipe, teacher = self.recipes["distill"], str(self.folder / TEACHER)
        assert isinstance(recipe, DistillRecipe)
        distill.run(replace(recipe, teacher=teacher))
        self._measure(recipe.output_dir, "student", DISTILLED)

    def _align(self):
        recipe, student = self.recipes["align"], str(self.folder / DISTILLED)
        assert isinstance(recipe, AlignRecipe)
        align.run(replace(recipe, student=student, teacher=str(self.folder / TEACHER)))
        self._measure(recipe.output_dir, "student", ALIGNED)

    def _measure(self, folder: str, name: str, stage: str | None):
        """Measure retrieval on the validation photographs, and which kinds of pages the model recognises."""
        model = replace(ZeroShotModel.from_pretrained(folder), name=name)
        self.rows = [row for row in self.rows if (row.model, row.stage) != (name, stage)]
        for each in self.sets:
            self.rows += retrieval.measure(model, each, name, stage=stage, seed=self.options.seed)
        pages = self.folder / DATA / f"pages{VALIDATION}"
        if pages.exists() and "num_training" not in self.state:
            images = model.encode_images(Dataset.from_parquet(str(pages)))
            labels = torch.arange(len(images)) % len(KINDS["en"])
            for language, kinds in KINDS.items():
                top1 = top_k_accuracy(images @ class_embeddings(model, kinds).T, labels)
                self.rows.append(
                    Row(
                        model=name,
                        metric="top1",
                        value=top1,
                        stage=stage,
                        set="pages",
                        language=language,
                    )
                )

    # result

    def _write_model(self):
        """Write the Hub folder, in half precision. Exported files are checked on the validation photographs in it."""
        ignored = shutil.ignore_patterns("checkpoint-*", LOG_FILE, CLAIM_FOLDER)
        source = Path(str(self.options.photos)).name
        details = CardDetails(
            summary="It was trained on captioned photographs, and recognises what they show.",
            data=f"Photographs with captions in English and Chinese, from `{source}`.",
        )
        with scratch_folder(self.folder / MODEL_FOLDER) as scratch:
            shutil.copytree(self.folder / ALIGNED, scratch, ignore=ignored, dirs_exist_ok=True)
            weights = load_file(scratch / WEIGHTS_FILE)
            weights = {
                name: each.half() if each.is_floating_point() else each
                for name, each in weights.items()
            }
            save_file(weights, scratch / WEIGHTS_FILE, {"format": "pt"})
            self._calibrate(scratch)
            (scratch / SPLITS_FOLDER).mkdir()
            # of the first validation set, and of those with the same columns: a point of a few hundred is chance
            sources = [load_source(each.source) for each in self.sets]
            columns = ["image", *(name for name in LANGUAGES if name in sources[0].column_names)]
            parts = [
                rows.select_columns(columns)
                for rows in sources
                if {*columns} <= {*rows.column_names}
            ]
            rows = concatenate_datasets(
                [part for part in parts if part.features == parts[0].features]
            )
            rows.to_parquet(scratch / SPLITS_FOLDER / VALIDATION_FILE)
            results = self._results()
            results.write(scratch)
            write_card(scratch, details, title="dcclip-photos")
            record_tree(scratch, COMMAND)
            replace_folder(scratch, self.folder / MODEL_FOLDER)

    def _calibrate(self, folder: Path):
        """Tell the model how likely a photograph fits a query, which the classes of photographs show."""
        classifier = self.folder / DATA / CLASSIFIER
        if (
            not classifier.exists()
            or len(self.sets) < 2
            or any({*LANGUAGES} - {*each.captions} for each in self.sets)
        ):
            return
        teacher = ZeroShotModel.from_pretrained(self.folder / TEACHER)
        model = replace(ZeroShotModel.from_pretrained(folder), name="student")
        model.model.config.fit, rows = calibrate(model, teacher, self.sets, classifier)
        model.model.config.save_pretrained(folder)
        measured = {row.metric for row in rows}  # by an earlier run of this step
        self.rows = [row for row in self.rows if row.metric not in measured]
        self.rows += [replace(row, stage=ALIGNED) for row in rows]

    def _export(self):
        model = str(self.folder / MODEL_FOLDER)
        for verdict in export(ExportOptions(folder=model, output_dir=model)):
            print(verdict.line(), flush=True)


def read_class_names(path: Path) -> dict[str, list[str]]:
    """Read the names of ImageNet's classes, in the order of their WordNet ids.

    Args:
        path: JSON file, {id: {language: name}}.

    Raises:
        ValueError: The file is damaged, or a class has no name in a language.
    """
    entries = sorted(read_mapping(path, "photos").items())
    for number, entry in entries:
        if not (
            isinstance(entry, dict)
            and all(isinstance(entry.get(language), str) for language in LANGUAGES)
        ):
            raise ValueError(
                f"photos: in {path}, {number!r} needs a name in {' and '.join(LANGUAGES)}. Add it."
            )
    names = {language: [entry[language] for _, entry in entries] for language in LANGUAGES}
    names["zh"] = [CORRECTED.get(en, zh) for en, zh in zip(names["en"], names["zh"], strict=True)]
    return names


def write_object_names(nouns: Path, path: Path):
    """Write the names of ImageNet-21k's synsets as captions without images.

    English names come with timm. Names with a capital letter are left out, unless a synset has no other: most are
    Latin. Synsets are numbered as in WordNet 3.0.

    Args:
        nouns: File of Chinese Open WordNet, with lines such as `02131777-n<TAB>cmn:lemma<TAB>熊`.
        path: Parquet file to write, with the lists `en` and `zh`.

    Raises:
        ValueError: The file of nouns has no Chinese name.
    """
    chinese: dict[str, list[str]] = {}
    for line in nouns.read_text(encoding="utf-8", errors="replace").splitlines():
        synset, _, lemma = line.partition("\tcmn:lemma\t")
        chinese.setdefault(synset, []).append(lemma.replace("+", ""))
    rows = []
    for line in (
        (files("timm.data") / "_info/imagenet_synset_to_lemma.txt")
        .read_text(encoding="utf-8")
        .splitlines()
    ):
        synset, lemmas = line.split("\t")
        first, *others = (lemma.strip() for lemma in lemmas.split(","))
        lower = [lemma for lemma in others if lemma == lemma.lower()]
        rows.append({"en": [first, *lower], "zh": chinese.get(f"{synset[1:]}-n", [])})
    if not any(row["zh"] for row in rows):
        raise ValueError(
            f"photos: {nouns} has no Chinese names of nouns. Copy Chinese Open WordNet again."
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


def _flat(recipes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Fields of all recipes by STEP.FIELD."""
    return {
        f"{step}.{name}": value
        for step, recipe in recipes.items()
        for name, value in recipe.items()
    }
