r"""Test the paper's claims with the recipes and the loop that users run.

Examples:
  python -m training.experiments.studies claims --photos DATA --seeds 0
  python -m training.experiments.studies claims --photos DATA --steps 2000 --starts ImageNet \
      --arms "embedding, both stages" "map + embedding, both stages"

Stage 1 trains each tower apart on the teacher's cached targets: photographs with and without captions, in several
views, and texts with and without photographs. Stage 2 is InfoNCE. Every arm of a start and a seed has the same initial
weights. Results are measured on validation and test sets.

The text tower starts at random. The image tower is a copy of the teacher's, or a different network with ImageNet's
weights, whose images are larger, so that it takes as long; the lower layers of both keep their weights. Stage 2 alone
has as many steps as both stages together, or equal time. This includes the teacher's time.

The study takes hours. The same command continues after the last finished run.
"""

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas
import torch
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
from training.evaluation import retrieval
from training.evaluation.classify import class_embeddings, measure
from training.evaluation.retrieval import open_retrieval_set
from training.experiments.corpus.pretrained import LITE0
from training.hub import WEIGHTS_FILE, save_model
from training.students import build_student
from training.teachers import DualEncoder
from training.teachers.lineage import weights_fingerprint
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.keys import differences, digest_file, make_key, no_key
from training.utils.ranges import Count, Pixels, Positive, Seed
from training.utils.results import RESULTS_FILE, Results, Row, make_meta, markdown_table

PROGRAM = "python -m training.experiments.studies claims"
PAIRS = "photos_flickr8k_train.parquet"
# what stage 1 has besides the pairs
MORE_PHOTOS = "photos_coco_unlabelled.parquet"
MORE_TEXTS = ("captions_text_en_zh.parquet", "sentences_tatoeba_en_zh.parquet")
RETRIEVAL = "photos_flickr8k_validation.parquet"
LABELED = {"cifar-10": "cifar10_test.parquet", "tiny-imagenet": "tiny_imagenet_val.parquet"}
NUM_LABELED = 2000  # evenly spaced images of each labeled set
MAX_LENGTH = 24  # tokens
SECONDS = "seconds"  # wall time of a run, with the teacher's if the run computes the targets
TEMPLATES = {"en": ("{}", "a photo of a {}"), "zh": ("{}", "一张{}的照片")}
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
    """

    target: str | None
    aligned: bool = True
    equal_time: bool = False

    @property
    def name(self) -> str:
        """Name in the results."""
        if self.target is None:
            return f"stage 2 alone, equal {'time' if self.equal_time else 'steps'}"
        return f"{self.target}, {'both stages' if self.aligned else 'stage 1'}"


# a map alone trains no projection, so its embeddings are not measured before stage 2
ARMS = {
    arm.name: arm
    for arm in (
        Arm(BEST),
        *(Arm(target) for target in TARGETS if target != BEST),
        *(Arm(target, aligned=False) for target in (BEST, "embedding", "logits")),
        Arm(None),
        Arm(None, equal_time=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, and how long.

    Args:
        photos: Folder with the data files of `python -m training.experiments.photographs`, and with CIFAR-10 and Tiny
            ImageNet as `cifar10_test.parquet` and `tiny_imagenet_val.parquet`.
        teacher: Folder of the teacher, whose statistics of images the students take.
        image_size: Edge of the student's images in pixels; a network that is not the teacher's has larger ones.
        steps: Optimizer steps of each tower in stage 1; stage 2 has a quarter of them.
        batch_size: Photographs in a batch.
        views: Cached views of each photograph.
        rate: Learning rate of both stages.
        seeds: Seeds of the initial weights and the batches.
        starts: Image towers by name: `teacher`, a copy of the teacher's, and `ImageNet`, EfficientNet-Lite0.
        arms: Arms by name, as the table of results has them.
        output_dir: Folder for results.json and the runs. Runs whose results are already there are not repeated.
    """

    photos: str = no_key()
    teacher: str = no_key(default="model_cards/dcclip-tiny-photo")
    image_size: Pixels = 160
    steps: Count = 2000
    batch_size: Count = 64
    views: Count = 8
    rate: Positive = 1e-3
    seeds: list[Seed] = no_key(default_factory=lambda: [0, 1, 2])
    starts: list[Literal["teacher", "ImageNet"]] = no_key(
        default_factory=lambda: ["teacher", "ImageNet"]
    )
    arms: list[str] = no_key(default_factory=lambda: list(ARMS))
    output_dir: str = no_key(default="runs/studies/claims")


# names of the folders of the arm whose time stage 2 alone gets
RUNS_OF_BEST = (f"{BEST}-vision", f"{BEST}-text", f"{BEST}-text-aligned")


class Experiment:
    """The runs of one start and seed, each a folder that a training script writes.

    Args:
        options: Options of the study.
        results: Results, which get the wall time of each run.
        teacher: Teacher.
        start: Name of the image tower.
        seed: Seed.
    """

    def __init__(
        self, options: Options, results: Results, teacher: DualEncoder, start: str, seed: int
    ):
        self.options, self.results, self.teacher = options, results, teacher
        self.start, self.seed = start, seed
        self.photos = Path(options.photos).expanduser()
        self.runs = Path(options.output_dir) / "runs"
        self.folder = self.runs / f"{start}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.size = round(STARTS[start][1] * options.image_size)

    def train(self, arm: Arm) -> str:
        """Train an arm, and return the folder of its model."""
        student = str(self.folder / "initial")
        if not (self.folder / "initial" / WEIGHTS_FILE).exists():
            self._save_initial(Path(student))
        steps = max(1, round(ALIGN_SHARE * self.options.steps))
        if arm.target is not None:
            for tower in ("vision", "text"):
                student = self._distill(arm.target, tower, student)
        elif arm.equal_time:
            steps = self._steps_in_equal_time(steps + self.options.steps)
        else:
            steps += self.options.steps
        if not arm.aligned:
            return student
        kind = ", equal time" if arm.equal_time else ""
        folder = self.folder / f"{Path(student).name}-aligned{kind}"
        recipe = AlignRecipe(
            student=student,
            data=self._data(),
            freeze=list(LOWER_LAYERS),
            **self._fields(folder, steps),
        )
        return self._run(align.run, recipe)

    def _save_initial(self, folder: Path):
        fields = STARTS[self.start][0]
        config = StudentConfig(
            **fields, text_config=TEXT_CONFIG, image_size=self.size, max_text_length=MAX_LENGTH
        )
        model, processor = build_student(config, list(LANGUAGES), self.teacher, self.seed)
        if "vision_config" in fields:
            LITE0.load_into(model.vision_model)
        recipe = DistillRecipe(
            student=config,
            data=self._data(),
            teacher=self.options.teacher,
            output_dir=str(folder),
        )
        save_model(folder, model, processor, recipe)

    def _distill(self, target: str, tower: str, student: str) -> str:
        """Train one tower of a student in stage 1."""
        folder = self.folder / f"{target}-{tower}"
        cache = self.runs / f"targets-{tower}-{self.size}"
        recipe = DistillRecipe(
            student=StudentConfig(
                vision_init=student,
                text_init=student,
                image_size=self.size,
                max_text_length=MAX_LENGTH,
            ),
            tower="vision" if tower == "vision" else "text",
            data=self._data(*(MORE_TEXTS if tower == "text" else [self._more_photos()])),
            freeze=list(LOWER_LAYERS) if tower == "vision" else [],
            teacher=self.options.teacher,
            teacher_cache=str(cache),
            teacher_views=self.options.views,
            **TARGETS[target],
            **self._fields(folder, self.options.steps),
        )
        return self._run(distill.run, recipe)

    def _more_photos(self) -> str:
        """Photographs without captions, with those of the pairs: logits compare with all captions of the data."""
        path = self.runs.absolute() / "photos.parquet"
        if not path.exists():
            pairs = load_source(str(self.photos / PAIRS), field="photos")
            photos = load_source(str(self.photos / MORE_PHOTOS), field="photos")
            photos = photos.select_columns("image")
            for language in LANGUAGES:
                captions = itertools.islice(itertools.cycle(pairs[language]), len(photos))
                photos = photos.add_column(language, list(captions))
            photos.to_parquet(path)
        return str(path)

    def _data(self, *more: str) -> DataConfig:
        """The pairs and more files."""
        files = [str(self.photos / name) for name in (PAIRS, *more)]
        return DataConfig(sources=[SourceConfig(train=file) for file in files])

    def _fields(self, folder: Path, steps: int) -> dict[str, Any]:
        """Fields of both recipes."""
        return {
            "output_dir": str(folder),
            "augment": AUGMENT,
            "seed": self.seed,
            "max_steps": steps,
            "batch_size": self.options.batch_size,
            "learning_rate": self.options.rate,
            "warmup_steps": max(1, steps // 10),
            "betas": (0.9, 0.98),
            "overwrite": True,
        }

    def _run(self, run: Callable[[Any], Any], recipe: DistillRecipe | AlignRecipe) -> str:
        """Train, or take the finished folder of an earlier run, and record the wall time."""
        folder = Path(recipe.output_dir)
        about: dict[str, Any] = {
            "model": folder.name,
            "metric": SECONDS,
            "protocol": self.start,
            "seed": self.seed,
        }
        if not self.results.values(**about):
            cache = recipe.teacher_cache
            if cache and not self.results.values(metric=SECONDS, stage=Path(cache).name):
                shutil.rmtree(cache, ignore_errors=True)  # an interrupted run left no time for it
            began = time.perf_counter()
            run(recipe)
            seconds = time.perf_counter() - began
            stage = Path(cache).name if cache else None
            self.results.rows.append(Row(**about, value=seconds, stage=stage))
            self.results.write(self.options.output_dir)
        return str(folder)

    def _steps_in_equal_time(self, steps: int) -> int:
        """Steps of stage 2 alone in the time of both stages; the first seed has computed the targets."""
        timed = [row for row in self.results.rows if row.metric == SECONDS]
        both = [row for row in timed if row.protocol == self.start and row.model in RUNS_OF_BEST]
        spent = sum(row.value for row in both if row.seed == both[0].seed)
        alone = Path(self.train(Arm(None))).name
        seconds = self.results.values(
            metric=SECONDS, model=alone, protocol=self.start, seed=self.seed
        )
        return max(1, round(steps * spent / seconds[0]))


def measure_model(photos: Path, model: DualEncoder, name: str, seed: int | None) -> list[Row]:
    """Recall at 10 on validation photographs, and top-1 on labeled images, in both languages."""
    pairs = open_retrieval_set("flickr8k", str(photos / RETRIEVAL))
    rows = retrieval.measure(model, pairs, name, ks=(10,), seed=seed)
    for set_name, file in LABELED.items():
        labeled = load_source(str(photos / file), field="photos")
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
    return rows


# what is compared: the claim, the arm that it says is better, and the other one
BOTH, ALONE = "map + embedding, both stages", "stage 2 alone, equal steps"
MAP, MLP_MAP, EMBEDDING = (f"{name}, both stages" for name in ("map", MLP, "embedding"))
CLAIMS = (
    ("Both stages beat stage 2, equal steps", BOTH, ALONE),
    ("Both stages beat stage 2, equal time", BOTH, "stage 2 alone, equal time"),
    # measured in the first study only
    (
        "Equal steps, 1/16 of the pairs",
        "map + embedding, both stages, 1/16 of the pairs",
        "stage 2 alone, equal steps, 1/16 of the pairs",
    ),
    ("Both stages beat stage 1", BOTH, "map + embedding, stage 1"),
    ("Maps beat logits", MAP, "logits, both stages"),
    ("Maps beat embeddings", MAP, EMBEDDING),
    ("Maps with an MLP head and data statistics beat embeddings", MLP_MAP, EMBEDDING),
    ("Maps add to embeddings", BOTH, EMBEDDING),
    ("An MLP head and data statistics help maps", MLP_MAP, MAP),
)
SETS = {"flickr8k": "Recall at 10", "cifar-10": "CIFAR-10", "tiny-imagenet": "Tiny ImageNet"}


def rows_of_arms(results: Results) -> list[Row]:
    """Results of the arms, without the teacher's and without times."""
    return [row for row in results.rows if row.set in SETS and row.seed is not None]


def by_seed(results: Results, *keys: str) -> pandas.Series:
    """Values of the arms by start, arm, set, further keys, and seed: means over what is not a key."""
    rows = pandas.DataFrame(map(vars, rows_of_arms(results)))
    keys = ("protocol", "model", "set", *keys, "seed")
    return rows.groupby([*keys])["value"].mean()


def table(results: Results) -> str:
    """Markdown table of all arms, in percent: mean over seeds and standard deviation, in English / Chinese."""
    values = by_seed(results, "language")
    lines = [["Start, arm", *(f"{title}, en / zh" for title in SETS.values())]]
    lines.append(["---", *["---:"] * len(SETS)])
    for start, name in dict.fromkeys((row.protocol, row.model) for row in rows_of_arms(results)):
        cells = [f"{start}: {name}"]
        for of in SETS:
            figures = [values.get((start, name, of, language), []) for language in LANGUAGES]
            cells.append(" / ".join(mean_and_spread([*each]) for each in figures))
        lines.append(cells)
    return markdown_table(lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean of fractions in percent, with the standard deviation if there are several, such as `61.2 ± 0.4`."""
    if not values:
        return "-"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def verdicts(results: Results) -> str:
    """Markdown table of the claims: difference in points with its 95 % interval over seeds, and what follows.

    A claim holds (`yes`) if its interval is above 0, and is refuted (`no`) if it is below 0. Otherwise it is open.
    """
    values = by_seed(results)
    none = pandas.Series(dtype=float)
    lines = [["Claim, start", *SETS.values()], ["---", *["---:"] * len(SETS)]]
    starts = dict.fromkeys(row.protocol for row in rows_of_arms(results))
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
    outcome = ""
    if abs(mean) > half:
        outcome = ": yes" if mean > 0 else ": no"
    return f"{mean:+z.1f} ± {half:.1f}{outcome}"  # z: no -0.0


def run(options: Options):
    """Train and measure every arm, and print the tables."""
    photos = Path(options.photos).expanduser()
    names = (PAIRS, MORE_PHOTOS, *MORE_TEXTS, RETRIEVAL, *LABELED.values())
    if missing := [name for name in names if not (photos / name).is_file()]:
        raise ValueError(f"photos: {options.photos!r} lacks {', '.join(missing)}. Add these files.")
    if unknown := set(options.arms) - set(ARMS):
        raise ValueError(f"arms: there is no {min(unknown)!r}. Name some of {[*ARMS]}.")
    arms = [arm for name, arm in ARMS.items() if name in options.arms]
    if Arm(BEST) not in arms and any(arm.equal_time for arm in arms):
        raise ValueError(f"arms: equal time is that of {Arm(BEST).name!r}. Add this arm.")
    teacher = DualEncoder.from_pretrained(options.teacher, field="teacher")
    results = open_results(
        options,
        # a result is the same wherever data and teacher are
        digests={name: digest_file(photos / name) for name in names},
        weights=weights_fingerprint(teacher.model),
        mixed_precision=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
    )
    if not results.values(model="teacher", set="flickr8k"):
        results.rows += measure_model(photos, teacher, "teacher", None)
    for seed, start, arm in itertools.product(options.seeds, options.starts, arms):
        if not results.values(model=arm.name, protocol=start, seed=seed):
            folder = Experiment(options, results, teacher, start, seed).train(arm)
            rows = measure_model(photos, DualEncoder.from_pretrained(folder), arm.name, seed)
            results.rows += [replace(row, protocol=start) for row in rows]
            results.write(options.output_dir)
    print(f"\n{table(results)}\n\n{verdicts(results)}\n\n{results.write(options.output_dir)}")


def open_results(options: Options, **conditions: Any) -> Results:
    """Open the results of an earlier command, or new ones.

    Args:
        options: Options of the study. A later call may change fields made by `no_key`.
        conditions: Further facts on which the results depend, such as digests of data and weights.

    Raises:
        ValueError: The folder has results of other settings.
    """
    settings = make_key(options) | conditions
    command = command_of(PROGRAM, options)
    results = Results(make_meta(options.photos, None, command, settings=settings))
    path = Path(options.output_dir) / RESULTS_FILE
    if path.exists():
        earlier = Results.read(path)
        if changed := differences(earlier.meta.get("settings", {}), settings):
            raise ValueError(
                f"output_dir: {str(path)!r} has results of other settings ({changed[0]}). Name a "
                "different folder, or remove that file."
            )
        results.rows = earlier.rows
    return results
