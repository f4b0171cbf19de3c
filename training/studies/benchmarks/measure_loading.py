"""Measurements of data loading: streams against plain Pillow and against ready tensors."""

import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from training.config import (
    CONFIGS,
    AlignRecipe,
    AugmentConfig,
    DataConfig,
    DistillRecipe,
    StudentConfig,
    parse_recipe,
)
from training.corpus.emoji import ATTRIBUTION
from training.data import BatchPlan, CaptionTokenizer, make_loader
from training.data.batch import Batch
from training.data.transforms import Augment, Normalize
from training.engine.inputs import open_pairs
from training.students import build_student, load_size
from training.studies.benchmarks.benchmark import TOKENIZER, Benchmark
from training.studies.benchmarks.loading_baselines import load_plain, load_plain_tar, write_images
from training.studies.benchmarks.options import LoadingOptions
from training.tasks import AlignTask
from training.text.writing_systems import LANGUAGES
from training.utils.results import RESULTS_FILE
from training.utils.timing import torch_threads

PREFETCHED = 2  # batches that each decoding process prepares ahead, the default of DataLoader


class LoadingBenchmark(Benchmark):
    """One run of the loading benchmark.

    Args:
        options: What to measure.
        program: Command as users type it, without options.
    """

    def __init__(self, options: LoadingOptions, program: str):
        super().__init__(options, program)
        self.options = options
        self.scratch = self.folder / "images"

    def run(self) -> Path:
        """Measure decoding and steps for each student; return the path of results.json."""
        for name in self.options.students:
            config = student_config(name)
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.extension = write_images(self.options, name, self.scratch)
            with torch_threads(1):
                self.compare_decoding(name, config)
            self.compare_steps(name, config)
        self.write(self.options.data or ATTRIBUTION)
        shutil.rmtree(self.scratch)
        return self.folder / RESULTS_FILE

    def data(self, kind: str) -> DataConfig:
        """The images as a stream of `tar` shards or `parquet`."""
        fields: dict[str, Any] = {"train": str(self.scratch / "pairs.parquet")}
        if kind == "tar":
            fields = {
                "train": str(self.scratch / "*.tar"),
                "image_column": self.extension,
                "caption_columns": {language: f"{language}.txt" for language in LANGUAGES},
            }
        return DataConfig(**fields, streaming=True, skip_wrong_script=False, shuffle_buffer=256)

    def batches(self, kind: str, config: StudentConfig, steps: int, workers: int = 0) -> Iterator[Batch]:
        """Batches of the stream for a student.

        Args:
            kind: `tar` or `parquet`.
            config: Config of the student.
            steps: Number of batches.
            workers: Processes that decode images; 0 decodes in this process.
        """
        _, processor = build_student(config, list(LANGUAGES))
        tokens = CaptionTokenizer(processor.tokenizer, config.max_text_length)
        pairs = open_pairs(replace(self.data(kind), workers=workers), tokens, config.image_size)
        return iter(make_loader(pairs, BatchPlan(self.options.batch_size, 0, 0, 0, steps)))

    def compare_decoding(self, name: str, config: StudentConfig):
        """Compare images per second of the loader alone with plain Pillow on the same images.

        Args:
            name: Name of the student.
            config: Config of the student.
        """
        files = sorted((self.scratch / "files").iterdir())
        num_images, num_batches = len(files), len(files) // self.options.batch_size
        files = files[: num_batches * self.options.batch_size]
        shards = sorted(self.scratch.glob("*.tar"))
        size = config.image_size or 0
        rates: dict[str, list[float]] = {"pillow": [], "pillow_from_tar": [], "tar": [], "parquet": []}
        for _ in range(self.options.rounds):
            rates["pillow"].append(measure_rate(lambda: [load_plain(file, size) for file in files], len(files)))
            rates["pillow_from_tar"].append(
                measure_rate(lambda: [load_plain_tar(shard, self.extension, size) for shard in shards], num_images)
            )
            for kind in ("tar", "parquet"):
                stream = self.batches(kind, config, 2 * num_batches)
                next(stream)  # fills the shuffle buffer, which happens once per run
                rates[kind].append(measure_rate(lambda: list(islice(stream, num_batches)), len(files)))  # noqa: B023
        for kind, values in rates.items():
            self.add(name, f"{kind}_images_per_s", statistics.median(values))
        for kind, peer in (("tar", "pillow"), ("tar", "pillow_from_tar"), ("parquet", "pillow")):
            pairs = zip(rates[kind], rates[peer], strict=True)
            self.add(name, f"{kind}_over_{peer}", statistics.median(rate / baseline for rate, baseline in pairs))

    def compare_steps(self, name: str, config: StudentConfig):
        """Compare images per second of stage 2 on the stream with the same batches in a list.

        Args:
            name: Name of the student.
            config: Config of the student.
        """
        options = self.options
        step, num = make_step(config), options.steps * options.batch_size
        ready = list(self.batches("tar", config, options.steps))
        ahead = max(1, PREFETCHED * options.workers)
        streamed = self.batches("tar", config, options.rounds * (ahead + options.steps), options.workers)
        rates: dict[str, list[float]] = {"ready": [], "streamed": []}
        for _ in range(options.rounds):
            # an untimed step absorbs one-time setup; no images are decoded meanwhile
            train_on(ready[:1], step)
            rates["ready"].append(measure_rate(lambda: train_on(ready, step), num))
            train_on(islice(streamed, ahead), step)  # consumes the batches that were decoded ahead
            rates["streamed"].append(measure_rate(lambda: train_on(islice(streamed, options.steps), step), num))
        for kind, values in rates.items():
            self.add(name, f"{kind}_images_per_s", statistics.median(values))
        pairs = zip(rates["streamed"], rates["ready"], strict=True)
        self.add(name, "streamed_over_ready", statistics.median(rate / baseline for rate, baseline in pairs))


def student_config(name: str) -> StudentConfig:
    """Config of a student with random weights and the mini teacher's tokenizer, which need no download.

    Args:
        name: `demo`, or the name of a size.

    Raises:
        ValueError: If there is no such student.
    """
    random = {"vision_init": "random", "text_init": "random", "tokenizer": TOKENIZER}
    if name == "demo":
        recipe = parse_recipe(DistillRecipe, ["--config", str(CONFIGS / "demo_distill.yaml")])
        fields = vars(recipe.student) | random
        return StudentConfig(**fields | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "projection_dim": 256})
    return load_size(name, **random)


def make_step(config: StudentConfig) -> Callable[[Batch], object]:
    """Build a function that runs one optimizer step of stage 2 without a teacher.

    Args:
        config: Config of the student.
    """
    student, processor = build_student(config, list(LANGUAGES))
    normalize = Normalize.from_processor(processor.image_processor, student.config.image_size)
    recipe = AlignRecipe(output_dir="", data=DataConfig(train=""))
    task = AlignTask(student, Augment(AugmentConfig(), 0), normalize, None, recipe, list(LANGUAGES))
    # torch declares no overload with a memory format alone
    task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.train()
    optimizer = torch.optim.AdamW(task.parameters())

    def step(batch: Batch):
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 3.0)
        optimizer.step()

    return step


def train_on(batches: Iterable[Batch], step: Callable[[Batch], object]):
    """Run one step per batch.

    Args:
        batches: Batches to train on.
        step: Function that runs one step.
    """
    for batch in batches:
        step(batch)


def measure_rate(call: Callable[[], object], num_images: int) -> float:
    """Images per second of one call.

    Args:
        call: Function to time.
        num_images: Number of images that it handles.
    """
    began = time.perf_counter()
    call()
    return num_images / (time.perf_counter() - began)
