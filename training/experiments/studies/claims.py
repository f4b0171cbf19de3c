r"""Test the paper's claims with the recipes and the loop that users run.

Examples:
  python -m training.experiments.studies claims --photos DATA --seeds 0
  python -m training.experiments.studies claims --photos DATA --starts ImageNet --lengths 2000 \
      --arms "embedding, both stages" "map with MLP head, both stages"

Both commands write to one folder: the first one scouts with one seed, the second one adds seeds to what decides.

Stage 1 trains each tower apart on the teacher's cached targets: photographs with and without captions, in several
views, and texts with and without photographs. Stage 2 is InfoNCE, alone or with interactive contrast. Every arm of a
start and a seed has the same initial weights. The learning rate of each stage is tuned in every arm on the recall of
held-out photographs, in short runs. Results are measured on validation and test sets.

The text tower starts at random. The image tower is a copy of the teacher's, or a different network with ImageNet's
weights, whose images are larger, so that it takes as long; the lower layers of both keep their weights. Stage 2 alone
has as many steps as both stages together, or equal time. This includes the teacher's, once for each set of targets.

The study takes hours. The same command continues an interrupted one, to the bit.
"""

import itertools
import json
import os
import shutil
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas
import torch
from datasets import Dataset
from pydantic import Field
from scipy import stats

from training import align, distill
from training.config import (
    AlignRecipe,
    AugmentConfig,
    DataConfig,
    DistillRecipe,
    SourceConfig,
    StudentConfig,
)
from training.data import evenly_spaced_rows, load_source
from training.engine.log import LOG_FILE
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.retrieval import open_retrieval_set
from training.experiments.corpus.pretrained import LITE0
from training.experiments.studies.harness import Study, StudyOptions, mean_and_spread
from training.hub import WEIGHTS_FILE, save_model
from training.students import build_student
from training.teachers import DualEncoder
from training.teachers.lineage import weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.keys import digest_file, digest_key, no_key
from training.utils.ranges import Count, Pixels, Positive, Seed
from training.utils.results import Results, Row, markdown_table

PAIRS = "photos_flickr8k_train.parquet"
# what stage 1 has besides the pairs
MORE_PHOTOS = "photos_coco_unlabelled.parquet"
MORE_TEXTS = ("captions_text_en_zh.parquet", "sentences_tatoeba_en_zh.parquet")
RETRIEVAL = "photos_flickr8k_validation.parquet"
LABELED = {"cifar-10": "cifar10_test.parquet", "tiny-imagenet": "tiny_imagenet_val.parquet"}
NUM_LABELED = 2000  # evenly spaced images of each labeled set
NUM_HELD_OUT = 500  # photographs with captions, the last ones of the pairs
MAX_LENGTH = 24  # tokens
TEMPLATES = {"en": ("{}", "a photo of a {}"), "zh": ("{}", "一张{}的照片")}
TUNING, TEACHER_SECONDS = "tuning", "teacher_s"
STEPS = " steps"  # after the length of a run, as the stage of its rows
TUNING_SEED = 0
TUNING_STEPS = 100  # each tower of stage 1 is tuned in so many
ALIGN_SHARE = 0.25  # steps of stage 2 after stage 1, as a share of the steps of each tower
AUGMENT = AugmentConfig(zoom=0.45, stretch=0.25, shift=0.12, flip=0.5, background=124)
MLP = "map with MLP head"
BEST = "map + embedding"  # stage 1 of the claims on both stages
# fields of the recipe of stage 1. With weight 1, maps dominate the gradients of embeddings
TARGETS: dict[str, dict[str, Any]] = {
    "map": {"map_weight": 1.0, "embedding_weight": 0.0},
    MLP: {
        "map_weight": 1.0,
        "embedding_weight": 0.0,
        "map_head": "mlp",
        "map_whitening": "data",
    },
    BEST: {"map_weight": 0.1, "embedding_weight": 1.0},
    "embedding": {"map_weight": 0.0, "embedding_weight": 1.0},
    "logits": {"map_weight": 0.0, "embedding_weight": 0.0, "logits_weight": 1.0},
}
TEXT_CONFIG = {
    "model_type": "bert",
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "max_position_embeddings": MAX_LENGTH,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


LOWER_LAYERS = tuple(
    f"vision_model.timm_model.{name}" for name in ("conv_stem", "bn1", "blocks.0", "blocks.1")
)
# the image tower by its start, with the edge of its images as a multiple of `image_size`. In int8 on one thread,
# Lite0 at 208 pixels takes as long as nano's Lite2 at 160
STARTS: dict[str, tuple[dict[str, Any], float]] = {
    "teacher": ({"vision_init": "teacher"}, 1.0),
    "ImageNet": ({"vision_config": LITE0.config() | {"do_pooling": False}}, 1.3),
}


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        target: What stage 1 matches; None for stage 2 alone.
        aligned: Whether stage 2 follows.
        equal_time: Whether stage 2 alone has the time of both stages, not their steps.
        interactive: Whether stage 2 also contrasts each student tower with the teacher's other tower.
    """

    target: str | None
    aligned: bool = True
    equal_time: bool = False
    interactive: bool = False

    @property
    def name(self) -> str:
        """Name in the results."""
        if self.target is None:
            name = f"stage 2 alone, equal {'time' if self.equal_time else 'steps'}"
        else:
            name = f"{self.target}, {'both stages' if self.aligned else 'stage 1'}"
        return name + (", interactive" if self.interactive else "")


# a map alone trains no projection, so its embeddings are not measured before stage 2; the last arm takes the time of
# others
ARMS = {
    arm.name: arm
    for arm in (
        *(Arm(target, aligned=False) for target in (BEST, "embedding", "logits")),
        *map(Arm, TARGETS),
        Arm(BEST, interactive=True),
        Arm(None),
        Arm(None, interactive=True),
        Arm(None, equal_time=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to train, and how long.

    Args:
        photos: Folder with the data files of `python -m training.experiments.photographs`, and with CIFAR-10 and Tiny
            ImageNet as `cifar10_test.parquet` and `tiny_imagenet_val.parquet`.
        teacher: Folder of the teacher, whose statistics of images the students take.
        image_size: Edge of the student's images in pixels; a network that is not the teacher's has larger ones.
        lengths: Optimizer steps of each tower in stage 1, ascending; stage 2 has a quarter of them. Claims are judged
            at the last length, and the others show whether the curve has flattened.
        batch_size: Photographs in a batch.
        views: Cached views of each photograph.
        rates: Learning rates to choose from.
        seeds: Seeds of the initial weights and the batches.
        starts: Image towers by name: `teacher`, a copy of the teacher's, and `ImageNet`, EfficientNet-Lite0.
        arms: Arms by name, as the table of results has them.
    """

    photos: str = no_key()
    teacher: str = no_key(default="model_cards/dcclip-tiny-photo")
    image_size: Pixels = 160
    lengths: list[Count] = no_key(default_factory=lambda: [500, 1000, 2000])
    batch_size: Annotated[Count, Field(ge=2)] = 64
    views: Count = 8
    rates: list[Positive] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3])
    seeds: list[Seed] = no_key(default_factory=lambda: [0, 1, 2])
    starts: list[Literal["teacher", "ImageNet"]] = no_key(
        default_factory=lambda: ["teacher", "ImageNet"]
    )
    arms: list[str] = no_key(default_factory=lambda: list(ARMS))
    output_dir: str = no_key(default="runs/studies/claims")


class Experiment:
    """The runs of the study, each a folder that a training script writes.

    Args:
        options: Options of the study.
        study: Results.
        teacher: Teacher.
    """

    def __init__(self, options: Options, study: Study, teacher: DualEncoder):
        self.options, self.study, self.teacher = options, study, teacher
        self.photos = Path(options.photos).expanduser()
        self.folder = study.folder / "runs" / digest_key(study.results.meta["settings"])[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        pairs = load_source(str(self.photos / PAIRS), field="photos")
        number = len(pairs) - NUM_HELD_OUT
        held_out = self._write("held_out", pairs.select(range(number, len(pairs))))
        self.held_out = open_retrieval_set("held-out", held_out)
        self.pairs = pairs.select(range(number))
        self.retrieval = open_retrieval_set("flickr8k", str(self.photos / RETRIEVAL))
        self.labeled = {
            name: load_source(str(self.photos / file), field="photos")
            for name, file in LABELED.items()
        }

    def _write(self, name: str, rows: Dataset) -> str:
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            rows.to_parquet(path)
        return str(path)

    def _data(self, *more: str) -> DataConfig:
        """The pairs and more files."""
        sources = [SourceConfig(train=file) for file in (self._write("pairs", self.pairs), *more)]
        return DataConfig(sources=sources)

    def _more(self, tower: str) -> list[str]:
        """Photographs without captions, or texts without photographs."""
        if tower == "text":
            return [str(self.photos / name) for name in MORE_TEXTS]
        photos = load_source(str(self.photos / MORE_PHOTOS), field="photos").select_columns("image")
        for language in LANGUAGES:
            # logits compare with all captions of the data, which have to be the same as those of the pairs
            captions = itertools.islice(itertools.cycle(self.pairs[language]), len(photos))
            photos = photos.add_column(language, list(captions))
        return [self._write("photos", photos)]

    def _fields(self, folder: Path, steps: int, rate: float, seed: int) -> dict[str, Any]:
        """Fields of both recipes."""
        return {
            "output_dir": str(folder),
            "augment": AUGMENT,
            "seed": seed,
            "max_steps": steps,
            "batch_size": self.options.batch_size,
            "learning_rate": rate,
            "warmup_steps": max(1, steps // 10),
            "betas": (0.9, 0.98),
            "save_every": 250,
            "resume": True,
            "overwrite": True,
        }

    def _cached(self, name: str) -> dict[str, Any]:
        """Fields of a recipe with a teacher; each set of data and each grid of maps has its own targets."""
        return {
            "teacher": self.options.teacher,
            "teacher_cache": str(self.folder / name),
            "teacher_views": self.options.views,
        }

    def initial(self, start: str, seed: int) -> str:
        """Folder of the initial student, the same in every arm."""
        folder = self.folder / f"initial-{start}-{seed}"
        fields, scale = STARTS[start]
        config = StudentConfig(
            **fields,
            text_config=TEXT_CONFIG,
            image_size=round(scale * self.options.image_size),
            max_text_length=MAX_LENGTH,
        )
        if not (folder / WEIGHTS_FILE).exists():
            model, processor = build_student(config, list(LANGUAGES), self.teacher, seed)
            if "vision_config" in fields:
                LITE0.load_into(model.vision_model)
            recipe = DistillRecipe(
                student=config,
                data=self._data(),
                teacher=self.options.teacher,
                output_dir=str(folder),
            )
            save_model(folder, model, processor, recipe)
        return str(folder)

    def distill(self, target: str, start: str, rate: float, seed: int, steps: int) -> str:
        """Folder of the student after stage 1: the image tower, then the text tower."""
        name = f"{start}-{target}-{rate:g}-{seed}-{steps}".replace(" ", "_")
        student = self.initial(start, seed)
        size = round(STARTS[start][1] * self.options.image_size)
        inits: dict[str, Any] = {"vision_init": student, "text_init": student, "image_size": size}
        for tower in ("vision", "text"):
            folder = self.folder / f"{name}-{tower}"
            recipe = DistillRecipe(
                student=StudentConfig(**inits, max_text_length=MAX_LENGTH),
                tower=tower,
                data=self._data(*self._more(tower)),
                freeze=list(LOWER_LAYERS) if tower == "vision" else [],
                **TARGETS[target],
                **self._cached(self._targets(tower, start)),
                **self._fields(folder, steps, rate, seed),
            )
            self._run(distill.run, recipe, folder)
            inits |= {"vision_init": str(folder), "text_init": str(folder)}
        return str(folder)

    def align(self, arm: Arm, student: str, start: str, rate: float, seed: int, steps: int) -> str:
        """Folder of a student after stage 2."""
        kind = f"{arm.interactive}-{rate:g}-{seed}-{steps}"
        folder = self.folder / f"{Path(student).name}-aligned-{kind}"
        fields = self._fields(folder, steps, rate, seed)
        if arm.interactive:
            fields |= {"interactive_weight": 1.0, **self._cached("targets-pairs")}
        recipe = AlignRecipe(
            student=student, data=self._data(), freeze=list(LOWER_LAYERS), **fields
        )
        self._run(align.run, recipe, folder)
        return str(folder)

    def _run(self, run: Any, recipe: DistillRecipe | AlignRecipe, folder: Path):
        """Train, or take the finished folder of an earlier run; the first run of some targets records their time."""
        if (folder / WEIGHTS_FILE).exists():
            return
        if recipe.teacher_cache is not None:
            cache = Path(recipe.teacher_cache)
            if not self.study.has(model=cache.name, metric=TEACHER_SECONDS):
                shutil.rmtree(cache, ignore_errors=True)  # an interrupted run left no time for it
                began = time.perf_counter()
                changes: dict[str, Any] = {"max_steps": 1, "output_dir": f"{folder}-first"}
                if isinstance(recipe, DistillRecipe):
                    changes["map_weight"] = 1.0  # with maps for the arms that follow
                run(replace(recipe, **changes))
                seconds = time.perf_counter() - began
                row = Row(model=cache.name, metric=TEACHER_SECONDS, value=seconds)
                self.study.add([row])
        run(recipe)

    def train(self, arm: Arm, start: str, seed: int, length: int) -> str:
        """Train an arm with its tuned rates, and return the folder of its model."""
        rates = self._tuned(arm, start)
        return self._train(arm, start, seed, length, *rates, self.align_steps(arm, start, length))

    def _train(
        self, arm: Arm, start: str, seed: int, length: int, first: float, second: float, steps: int
    ) -> str:
        student = self.initial(start, seed)
        if arm.target is not None:
            student = self.distill(arm.target, start, first, seed, length)
        if arm.aligned:
            student = self.align(arm, student, start, second, seed, steps)
        return student

    def _tuned(self, arm: Arm, start: str) -> tuple[float, float]:
        """Learning rates of both stages: the first with the middle rate of the second, then the second."""
        rates = self.options.rates
        first = second = rates[len(rates) // 2]
        if len(rates) == 1:
            return first, second
        tuned = replace(arm, equal_time=False)  # every length takes the same rates
        if arm.target is not None:
            first = max(rates, key=lambda rate: self._tuning_recall(tuned, start, rate, second))
        if arm.aligned:
            second = max(rates, key=lambda rate: self._tuning_recall(tuned, start, first, rate))
        return first, second

    def _tuning_recall(self, arm: Arm, start: str, first: float, second: float) -> float:
        """Mean recall at 10 of held-out photographs after a short run, over directions and languages."""
        name = f"{arm.name}, rates {first:g}, {second:g}"
        known = self.study.results.mean(model=name, protocol=start, stage=TUNING)
        if known is not None:
            return known
        steps = self.align_steps(arm, start, TUNING_STEPS)
        folder = self._train(arm, start, TUNING_SEED, TUNING_STEPS, first, second, steps)
        rows = retrieval.measure(DualEncoder.from_pretrained(folder), self.held_out, name, ks=(10,))
        value = statistics.fmean(row.value for row in rows)
        row = Row(model=name, metric="recall", value=value, protocol=start, stage=TUNING)
        self.study.add([row])
        return value

    def align_steps(self, arm: Arm, start: str, length: int) -> int:
        """Steps of stage 2 of an arm."""
        after = max(1, round(ALIGN_SHARE * length))
        if arm.target is not None:
            return after
        if not arm.equal_time:
            return length + after
        seed = self.options.seeds[0]
        best, alone = Arm(BEST), Arm(None)
        distilled = self.distill(BEST, start, self._tuned(best, start)[0], seed, length)
        aligned = self.train(best, start, seed, length)
        vision = f"{distilled.removesuffix('text')}vision"
        spent = sum(self._seconds(folder) for folder in (vision, distilled, aligned))
        for tower in ("vision", "text"):  # both towers of the teacher, once
            cache = self._targets(tower, start)
            spent += self.study.results.mean(model=cache, metric=TEACHER_SECONDS) or 0.0
        step = self._seconds(self.train(alone, start, seed, length)) / (length + after)
        return max(1, round(spent / step))

    def _targets(self, tower: str, start: str) -> str:
        """Name of the targets of a tower; students whose images differ in size have maps of their own."""
        return f"targets-{tower}" + (f"-{start}" if tower == "vision" else "")

    def _seconds(self, folder: str) -> float:
        """Wall time of a finished run by the rate in its log, since a resumed run has logged its last part only."""
        lines = (Path(folder) / LOG_FILE).read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-2])  # the last step; the end of the run follows
        return float(last["step"] * self.options.batch_size / last["images_per_s"])

    def measure(
        self, model: DualEncoder, name: str, start: str | None, seed: int | None
    ) -> list[Row]:
        """Recall at 10 on validation photographs, and top-1 on labeled images, in both languages."""
        rows = retrieval.measure(model, self.retrieval, name, ks=(10,), seed=seed)
        for set_name, labeled in self.labeled.items():
            classes = sorted(set(labeled["label"]))
            chosen = labeled.select(evenly_spaced_rows(len(labeled), NUM_LABELED))
            labels = torch.tensor([classes.index(label) for label in chosen["label"]])
            images = torch.as_tensor(model.encode_images(chosen["image"]))
            for language in LANGUAGES:
                class_names = dict(zip(labeled["label"], labeled[language], strict=True))
                texts = class_embeddings(
                    model, [class_names[each] for each in classes], TEMPLATES[language]
                )
                measured = measure(images, texts, labels, ("top1",))
                rows += measured.rows(model=name, set=set_name, language=language, seed=seed)
        return [replace(row, protocol=start) for row in rows]


# what is compared: the claim, the arm that it says is better, and the other one
BOTH, ALONE = "map + embedding, both stages", "stage 2 alone, equal steps"
MAP, MLP_MAP, EMBEDDING = (f"{name}, both stages" for name in ("map", MLP, "embedding"))
CLAIMS = (
    ("Both stages beat stage 2 alone, equal steps", BOTH, ALONE),
    ("Both stages beat stage 2 alone, equal time", BOTH, "stage 2 alone, equal time"),
    # measured in the first study only
    (
        "The same with 1/16 of the pairs, equal steps",
        "map + embedding, both stages, 1/16 of the pairs",
        "stage 2 alone, equal steps, 1/16 of the pairs",
    ),
    ("Both stages beat stage 1 alone", BOTH, "map + embedding, stage 1"),
    ("Feature maps teach more than logits", MAP, "logits, both stages"),
    ("Feature maps teach more than embeddings", MAP, EMBEDDING),
    ("Maps with an MLP head and data statistics teach more than embeddings", MLP_MAP, EMBEDDING),
    ("Feature maps add to embeddings", BOTH, EMBEDDING),
    ("An MLP head and data statistics help maps", MLP_MAP, MAP),
    ("Interactive contrast helps both stages", "map + embedding, both stages, interactive", BOTH),
    (
        "Interactive contrast helps stage 2 alone",
        "stage 2 alone, equal steps, interactive",
        ALONE,
    ),
)
SETS = {"flickr8k": "Recall at 10", "cifar-10": "CIFAR-10", "tiny-imagenet": "Tiny ImageNet"}


def lengths(results: Results) -> list[int]:
    """Steps of each tower in stage 1 of the arms that were measured, ascending; 0 in results of a single length."""
    return sorted({_length(row) for row in results.rows if _is_of_arm(row)}) or [0]


def rows_of_arms(results: Results, length: int | None = None) -> list[Row]:
    """Results of the arms at a length, by default the last one, without the teacher's and those of tuning."""
    chosen = lengths(results)[-1] if length is None else length
    return [row for row in results.rows if _is_of_arm(row) and _length(row) == chosen]


def _is_of_arm(row: Row) -> bool:
    return row.set in SETS and row.seed is not None


def _length(row: Row) -> int:
    return int(row.stage.removesuffix(STEPS)) if row.stage else 0


def arms_measured(results: Results) -> list[tuple[str, str]]:
    """Start and name of each arm that has results, in the order of the study."""
    return list(dict.fromkeys((str(row.protocol), row.model) for row in rows_of_arms(results)))


def by_seed(results: Results, *keys: str, length: int | None = None) -> pandas.Series:
    """Values of the arms by start, arm, set, further keys, and seed: means over what is not a key."""
    rows = pandas.DataFrame(map(vars, rows_of_arms(results, length)))
    return rows.groupby(["protocol", "model", "set", *keys, "seed"])["value"].mean()


def table(results: Results) -> str:
    """Markdown table of all arms, in percent: mean over seeds and standard deviation, in English / Chinese.

    Recall is shown at each length of stage 1, accuracy at the last one.
    """
    at_lengths = lengths(results)
    first, *others = SETS
    columns = [(first, length) for length in at_lengths]
    columns += [(name, at_lengths[-1]) for name in others]
    titles = [SETS[name] for name, _ in columns]
    if len(at_lengths) > 1:
        titles = [f"{SETS[name]}, {length:,} steps" for name, length in columns]
    lines = [["Start, arm", *(f"{title}, en / zh" for title in titles)]]
    lines.append(["---", *["---:"] * len(columns)])
    values = {length: by_seed(results, "language", length=length) for length in at_lengths}
    for start, name in arms_measured(results):
        cells = [f"{start}: {name}"]
        for of, length in columns:
            figures = []
            for language in LANGUAGES:
                found = values[length].get((start, name, of, language), [])
                figures.append(mean_and_spread(list(found)))
            cells.append(" / ".join(figures))
        lines.append(cells)
    return markdown_table(lines)


def verdicts(results: Results) -> str:
    """Markdown table of the claims: difference in points with its 95 % interval over seeds, and what follows.

    A claim holds if its interval is above 0, and is refuted if it is below 0. Otherwise the study leaves it open.
    """
    values = by_seed(results)
    none = pandas.Series(dtype=float)
    lines = [["Claim, start", *SETS.values()], ["---", *["---:"] * len(SETS)]]
    starts = dict.fromkeys(start for start, _ in arms_measured(results))
    for (claim, better, worse), start in itertools.product(CLAIMS, starts):
        cells = [f"{claim}, {start}"]
        for of in SETS:
            first = values.get((start, better, of), none)
            second = values.get((start, worse, of), none)
            differences = 100 * (first - second)
            cells.append(_verdict(differences.dropna()))
        if {*cells[1:]} != {"-"}:  # an arm that this study lacks
            lines.append(cells)
    return markdown_table(lines)


def _verdict(differences: pandas.Series) -> str:
    if len(differences) < 2:
        return "-"
    mean, error = differences.mean(), differences.sem()
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    outcome = "open"
    if mean > half:
        outcome = "yes"
    elif mean < -half:
        outcome = "no"
    return f"{mean:+z.1f} ± {half:.1f}: {outcome}"  # z: no -0.0


def plot(results: Results, folder: Path):
    """Draw recall at 10 of all arms, a panel for each start: the mean, and the range over seeds."""
    values = by_seed(results, "language")
    rows = []
    for (start, name), language in itertools.product(arms_measured(results), LANGUAGES):
        recalls = values[start, name, "flickr8k", language]
        row = Row(
            model=f"Recall at 10, image tower: {start}",
            metric="",  # it is part of the title
            value=recalls.mean(),
            interval=(recalls.min(), recalls.max()),
            set=name,
            language=language,
        )
        rows.append(row)
    Results({}, rows).plot(folder)


def run(options: Options):
    """Train and measure every arm, and print the tables."""
    photos = Path(options.photos).expanduser()
    names = (PAIRS, MORE_PHOTOS, *MORE_TEXTS, RETRIEVAL, *LABELED.values())
    if missing := [name for name in names if not (photos / name).is_file()]:
        raise ValueError(f"photos: {options.photos!r} lacks {', '.join(missing)}. Add these files.")
    if unknown := set(options.arms) - set(ARMS):
        raise ValueError(f"arms: there is no {min(unknown)!r}. Name some of {[*ARMS]}.")
    digests = {name: digest_file(photos / name) for name in names}
    teacher = DualEncoder.from_pretrained(options.teacher, field="teacher")
    options = replace(options, lengths=sorted(options.lengths))
    # a result is the same wherever data and teacher are
    study = Study(
        "claims",
        options,
        options.photos,
        digests=digests,
        weights=weights_fingerprint(teacher.model),
        mixed_precision=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
    )
    experiment = Experiment(options, study, teacher)
    if not study.has(model="teacher", set="flickr8k"):
        study.add(experiment.measure(teacher, "teacher", None, None))
    arms = [arm for name, arm in ARMS.items() if name in options.arms]
    order = itertools.product(options.seeds, options.starts, options.lengths, arms)
    for seed, start, length, arm in order:
        stage = f"{length}{STEPS}"
        if study.has(model=arm.name, protocol=start, seed=seed, stage=stage):
            continue
        model = DualEncoder.from_pretrained(experiment.train(arm, start, seed, length))
        rows = experiment.measure(model, arm.name, start, seed)
        study.add([replace(row, stage=stage) for row in rows])
    plot(study.results, study.folder)
    costs = [row for row in study.results.rows if row.metric == TEACHER_SECONDS]
    seconds = ", ".join(f"{row.value:.0f} s for {row.model}" for row in costs)
    study.finish(
        f"{table(study.results)}\n\n{verdicts(study.results)}\n\n"
        f"The teacher took {seconds}. Equal time counts each set of targets once."
    )
