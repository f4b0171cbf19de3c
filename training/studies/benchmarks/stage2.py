"""What stage 2 costs: its rate against open_clip's own trainer, and the memory of gradient caching.

    python -m training.studies.benchmarks.stage2 --output_dir runs/stage2

The rate is of one machine in one state: the same timm backbone and the same transformer, the same batch, precision and
images, from encoded files to the optimizer's step, both trainers in turn; their ratio is the median over the rounds.
The memory is the peak of a fresh process with the loaded model, the batch's own uint8 pixels and one matrix of
similarities a language taken off; the total stands beside it. TargetSpec the extra `bench`.
"""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import AcceleratorState
from jsonargparse import ArgumentParser

from training import align
from training.config import AlignRecipe, AugmentConfig, DataConfig, StudentConfig
from training.data import load_source
from training.demo.make_teacher import TEXT_CONFIG
from training.students import build_student
from training.studies.benchmarks.benchmark import TOKENIZER, Benchmark
from training.studies.benchmarks.open_clip_trainer import open_clip_rate
from training.studies.benchmarks.peak import peak_of
from training.utils.results import RESULTS_FILE, Results

MODULE = "training.studies.benchmarks.stage2"
# one whose pooled width is that of its map, which open_clip expects
BACKBONE = "tf_efficientnet_lite0"
TEXT = TEXT_CONFIG | {"hidden_dropout_prob": 0.0}
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Stage2Options:
    """What to measure.

    Args:
        data: images and captions, as in a recipe's `data.train`.
        image_size: edge of the images in pixels, in the comparison of rates.
        batch_size: of the comparison of rates.
        steps: of each run of it.
        rounds: runs of each trainer, in turn.
        memory_batches: batch sizes of the measurement of memory; the last is compared with the first.
        memory_image_size: of that measurement; with smaller images, what is not of a chunk weighs more.
        chunk_size: of that measurement.
        memory_steps: of that measurement.
        output_dir: results.json and the runs, which are removed at the end.
    """

    data: str = "training.corpus.emoji:load_train"
    image_size: int = 224
    batch_size: int = 64
    steps: int = 6
    rounds: int = 3
    memory_batches: tuple[int, ...] = (256, 4096)
    memory_image_size: int = 96
    chunk_size: int = 64
    memory_steps: int = 2
    output_dir: str = "runs/stage2"


class Stage2Benchmark(Benchmark):
    """One run.

    Args:
        options: what to measure.
    """

    def __init__(self, options: Stage2Options):
        super().__init__(MODULE, options)

    def run(self) -> Results:
        """Everything, in one go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.images = self.folder / "images.parquet"
        rows = load_source(self.options.data)
        most = min(len(rows), max(self.options.memory_batches))
        rows.select(range(most)).to_parquet(self.images)
        self.save_student(self.options.image_size)
        self.compare_rates()
        self.save_student(self.options.memory_image_size)
        self.compare_memory()
        results = self.write(
            towers=f"{BACKBONE} at {self.options.image_size} px, {TEXT['model_type']} {TEXT['hidden_size']} x "
            f"{TEXT['num_hidden_layers']}",
        )
        for scratch in ("student", "aligned", "memory"):
            shutil.rmtree(self.folder / scratch, ignore_errors=True)
        self.images.unlink()
        return results

    def save_student(self, image_size: int):
        """A student of random weights, and the config of its text tower for open_clip."""
        config = StudentConfig(
            vision_config={"model_type": "timm_wrapper", "architecture": BACKBONE},
            text_config=TEXT,
            tokenizer=TOKENIZER,
            image_size=image_size,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            max_text_length=64,
            vision_pooling="tower",
            projection_dim=256,
        )
        student, processor = build_student(config, ["en", "zh"], None, 0)
        student.save_pretrained(self.folder / "student")
        processor.save_pretrained(self.folder / "student")
        student.config.text_config.save_pretrained(self.folder / "student" / "text")

    def recipe(self, name: str, languages: tuple[str, ...], **fields) -> AlignRecipe:
        """Stage 2 of that student, from encoded images."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        data = DataConfig(train=str(self.images), caption_columns={language: language for language in languages})
        return AlignRecipe(
            output_dir=str(folder),
            student=str(self.folder / "student"),
            data=data,
            augment=AugmentConfig(),
            language_weights=dict.fromkeys(languages, 1.0),
            **fields,
        )

    def compare_rates(self):
        """Images a second, with one caption an image, which is all that open_clip takes."""
        options, ours, theirs = self.options, [], []
        shared = {"batch_size": options.batch_size, "log_every": options.steps, "freeze_batch_norm": False}
        for number in range(options.rounds + 1):
            steps = options.steps if number else 1  # what is built once, such as kernels, does not count
            AcceleratorState._reset_state(reset_partial_state=True)
            ours.append(align.run(self.recipe("aligned", ("en",), max_steps=steps, **shared)).images_per_s)
            theirs.append(
                open_clip_rate(
                    self.folder / "student", BACKBONE, self.images, options.image_size, options.batch_size, steps
                )
            )
        self.add("ours", "images_per_s", statistics.median(ours[1:]))
        self.add("open_clip", "images_per_s", statistics.median(theirs[1:]))
        ratios = [mine / other for mine, other in zip(ours[1:], theirs[1:], strict=True)]
        self.add("ours", "rate_over_open_clip", statistics.median(ratios))

    def compare_memory(self):
        """The memory of each batch size in a process of its own, and how it grows."""
        above = []
        for batch_size in self.options.memory_batches:
            recipe = self.recipe(
                "memory",
                ("en", "zh"),
                batch_size=batch_size,
                chunk_size=self.options.chunk_size,
                max_steps=self.options.memory_steps,
            )
            loaded, peak = peak_of("align", recipe)
            pixels = batch_size * 3 * self.options.memory_image_size**2
            matrix = 2 * 4 * batch_size**2
            above.append(peak - loaded - pixels - matrix)
            name = f"batch {batch_size}, chunk {self.options.chunk_size}"
            for metric, value in (
                ("loaded", loaded),
                ("pixels", pixels),
                ("similarities", matrix),
                ("above", above[-1]),
                ("total", peak),
            ):
                self.add(name, f"{metric}_mib", value / MIB)
        self.add("gradient caching", "memory_growth", above[-1] / above[0])


def main(argv: list[str] | None = None):
    """Parse, measure, write."""
    parser = ArgumentParser(prog=f"python -m {MODULE}", allow_abbrev=False)
    parser.add_class_arguments(Stage2Options)
    options = Stage2Options(**vars(parser.parse_args(argv)))
    Stage2Benchmark(options).run()
    print(Path(options.output_dir) / RESULTS_FILE)


if __name__ == "__main__":
    main()
