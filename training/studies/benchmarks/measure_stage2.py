"""Measurements of stage 2: rate against open_clip's trainer, and memory of gradient caching."""

import shutil
import statistics
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from training import align
from training.config import AlignRecipe, AugmentConfig, DataConfig, StudentConfig
from training.data import load_source
from training.demo.make_teacher import TEXT_CONFIG
from training.students import build_student
from training.studies.benchmarks.benchmark import TOKENIZER, Benchmark
from training.studies.benchmarks.open_clip_trainer import open_clip_rate
from training.studies.benchmarks.options import Stage2Options
from training.studies.benchmarks.peak import peak_of
from training.utils.results import RESULTS_FILE

# open_clip requires a backbone whose pooled width equals the width of its feature map
BACKBONE = "tf_efficientnet_lite0"
TEXT = TEXT_CONFIG | {"hidden_dropout_prob": 0.0}
MIB = 2**20


class Stage2Benchmark(Benchmark):
    """One run of the stage 2 benchmark.

    Args:
        options: What to measure.
        program: Command as users type it, without options.
    """

    def __init__(self, options: Stage2Options, program: str):
        super().__init__(options, program)
        self.options, self.images = options, self.folder / "images.parquet"

    def run(self) -> Path:
        """Measure rates and memory; return the path of results.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = load_source(self.options.data)
        most = min(len(rows), max(self.options.memory_batches))
        rows.select(range(most)).to_parquet(self.images)
        self.save_student(self.options.image_size)
        self.compare_rates()
        self.save_student(self.options.memory_image_size)
        self.compare_memory()
        self.write(
            self.options.data,
            towers=f"{BACKBONE} at {self.options.image_size} px, {TEXT['model_type']} {TEXT['hidden_size']} x "
            f"{TEXT['num_hidden_layers']}",
        )
        for scratch in ("student", "aligned", "memory"):
            shutil.rmtree(self.folder / scratch, ignore_errors=True)
        self.images.unlink()
        return self.folder / RESULTS_FILE

    def save_student(self, image_size: int):
        """Save a student with random weights, and the config of its text tower for open_clip.

        Args:
            image_size: Edge of the images in pixels.
        """
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
        student.text_model.config.save_pretrained(self.folder / "student" / "text")

    def recipe(self, name: str, languages: tuple[str, ...], **fields: Any) -> AlignRecipe:
        """Recipe of stage 2 for that student, from encoded images.

        Args:
            name: Name of the output folder.
            languages: Languages of the captions.
            fields: Further fields of the recipe.
        """
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
        """Compare images per second, with one caption per image, which is what open_clip supports."""
        options, own_rates, open_clip_rates = self.options, [], []
        shared: dict[str, Any] = {
            "batch_size": options.batch_size,
            "log_every": options.steps,
            "freeze_batch_norm": False,
        }
        for number in range(options.rounds + 1):
            steps = options.steps if number else 1  # the first run, which includes one-time setup, is not counted
            AcceleratorState._reset_state(reset_partial_state=True)
            own_rates.append(align.run(self.recipe("aligned", ("en",), max_steps=steps, **shared)).images_per_s)
            open_clip_rates.append(
                open_clip_rate(
                    self.folder / "student", BACKBONE, self.images, options.image_size, options.batch_size, steps
                )
            )
        self.add("ours", "images_per_s", statistics.median(own_rates[1:]))
        self.add("open_clip", "images_per_s", statistics.median(open_clip_rates[1:]))
        ratios = [own / other for own, other in zip(own_rates[1:], open_clip_rates[1:], strict=True)]
        self.add("ours", "rate_over_open_clip", statistics.median(ratios))

    def compare_memory(self):
        """Measure the memory of each batch size in a new process, and its growth."""
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
