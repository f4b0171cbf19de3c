"""Measurements of stage 1 with a full-size AltCLIP as the teacher."""

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import AltCLIPModel, AltCLIPProcessor, CLIPImageProcessor

from modeling_dcclip import DCCLIPModel
from training import distill
from training.config import DataConfig, DistillRecipe, StudentConfig
from training.data import load_source
from training.students import SIZES, build_student, load_size
from training.studies.benchmarks.benchmark import TOKENIZER, Benchmark
from training.studies.benchmarks.options import Stage1Options
from training.studies.benchmarks.peak import peak_of
from training.studies.budget.baselines import altclip_config
from training.tasks.losses import embedding_loss, feature_map_loss
from training.teachers import Teacher
from training.text.tokenizers import load_tokenizer
from training.utils.results import RESULTS_FILE

IMAGE_SIZE = 224


def make_teacher(folder: Path):
    """Save an AltCLIP of its full size (ViT-L/14 and XLM-R large) with random weights and a small tokenizer."""
    torch.manual_seed(0)
    AltCLIPModel(altclip_config()).save_pretrained(folder)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=mean,
        image_std=std,
    )
    AltCLIPProcessor(image_processor, load_tokenizer(TOKENIZER)).save_pretrained(folder)


class Stage1Benchmark(Benchmark):
    """One run of the stage 1 benchmark.

    Args:
        options: What to measure.
        program: Command as users type it, without options.
    """

    def __init__(self, options: Stage1Options, program: str):
        super().__init__(options, program)
        self.options = options
        self.teacher = self.folder / "teacher"

    def run(self) -> Path:
        """Measure everything in one run, so that rates are comparable; return the path of results.json."""
        if not (self.teacher / "preprocessor_config.json").exists():
            make_teacher(self.teacher)
        for size in SIZES:
            self.compare_cache(size)
        self.compare_loop()
        for tower in ("vision", "text"):
            self.measure_memory(tower)
        self.write(self.options.data, teacher="AltCLIP at full size, random weights")
        shutil.rmtree(self.teacher)
        return self.folder / RESULTS_FILE

    def student(self, size: str) -> StudentConfig:
        """Config of a size with random weights and the teacher's small tokenizer, which need no download."""
        return load_size(size, vision_init="random", text_init="random", tokenizer=TOKENIZER)

    def recipe(self, size: str, name: str, train: str | None = None, **fields: Any) -> DistillRecipe:
        """Recipe of stage 1 for one tower.

        Args:
            size: Size of the student.
            name: Name of the output folder.
            train: Source of the images; default: the data of the options.
            fields: Further fields of the recipe.
        """
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        data = DataConfig(train=train or self.options.data, in_memory=True)
        return DistillRecipe(
            output_dir=str(folder),
            teacher=str(self.teacher),
            student=self.student(size),
            data=data,
            **(dict[str, Any](tower="vision", teacher_views=1) | fields),
        )

    def train(self, recipe: DistillRecipe) -> float:
        """Run stage 1; return images per second."""
        AcceleratorState._reset_state(reset_partial_state=True)
        return distill.run(recipe).images_per_s

    def compare_cache(self, size: str):
        """Compare an epoch with the live teacher with the same epoch from cached targets."""
        options = self.options
        fields: dict[str, Any] = {
            "batch_size": options.batch_size,
            "max_steps": options.num_images // options.batch_size,
            "train": self.some_images(),
        }
        live = self.train(self.recipe(size, "live", **fields))
        cache = str(self.folder / f"targets-{size}")
        cached_recipe = self.recipe(size, "cached", teacher_cache=cache, **fields)
        cached = self.train(cached_recipe)
        self.add(size, "live_images_per_s", live)
        self.add(size, "cached_images_per_s", cached)
        self.add(size, "cached_over_live", cached / live)

    def some_images(self) -> str:
        """Write the first images of the data to a parquet file; return its path."""
        path = self.folder / "images.parquet"
        if not path.exists():
            load_source(self.options.data).select(range(self.options.num_images)).to_parquet(path)
        return str(path)

    def compare_loop(self):
        """Compare stage 1 of `tiny` from cached targets with a bare loop over the same tower and ready tensors."""
        options, rates = self.options, []
        fields: dict[str, Any] = {
            "batch_size": options.loop_batch_size,
            "max_steps": options.loop_steps,
            "teacher_cache": str(self.folder / "targets-loop"),
            "train": self.some_images(),
        }
        self.train(self.recipe("tiny", "loop", **fields | {"max_steps": 1}))  # fills the cache
        for _ in range(3):
            rates.append((self.bare_rate(), self.train(self.recipe("tiny", "loop", **fields))))
        bare, loop = (statistics.median(values) for values in zip(*rates, strict=True))
        self.add("tiny", "bare_images_per_s", bare)
        self.add("tiny", "loop_images_per_s", loop)
        self.add("tiny", "loop_over_bare", statistics.median(loop_rate / bare_rate for bare_rate, loop_rate in rates))

    def bare_rate(self) -> float:
        """Images per second of forward, backward and optimizer step, with all tensors in memory."""
        batch_size, steps = self.options.loop_batch_size, self.options.loop_steps
        teacher = Teacher.from_pretrained(str(self.teacher), towers=())
        student, _ = build_student(self.student("tiny"), ["en", "zh"], teacher)
        vision_width, vision_grid = int(student.config.vision_width or 0), student.config.vision_grid or (0, 0)
        adapter = nn.Conv2d(vision_width, teacher.vision_width, 1)
        towers = [student.vision_model, student.visual_projection, adapter]
        parameters = [
            parameter for tower in towers for parameter in tower.to(memory_format=torch.channels_last).parameters()
        ]
        optimizer = torch.optim.AdamW(parameters)
        images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE).contiguous(memory_format=torch.channels_last)
        maps = torch.randn(batch_size, teacher.vision_width, *vision_grid)
        embeddings = torch.randn(batch_size, teacher.projection_dim)
        student.train()
        began = time.perf_counter()
        for _ in range(steps):
            outputs = student.get_image_features(images)
            loss = feature_map_loss(adapter(outputs.feature_map), maps)
            loss = loss + embedding_loss(outputs.pooler_output, embeddings)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 3.0)
            optimizer.step()
        return steps * batch_size / (time.perf_counter() - began)

    def measure_memory(self, tower: str):
        """Measure peak memory of one tower of `tiny` with the live teacher, and compare it with the allowed memory.

        Args:
            tower: `vision` or `text`.
        """
        recipe = self.recipe(
            "tiny", f"memory-{tower}", tower=tower, batch_size=self.options.memory_batch_size, max_steps=2
        )
        _, peak = peak_of("distill", recipe)
        teacher = Teacher.from_pretrained(str(self.teacher), towers=(tower,))
        student: DCCLIPModel = build_student(recipe.student, ["en", "zh"], teacher)[0]
        allowed = 4 * teacher.model.num_parameters() + 4 * 4 * student.num_parameters() + 1.5e9
        self.add("tiny", f"peak_bytes_{tower}", peak)
        self.add("tiny", f"allowed_bytes_{tower}", allowed)
        self.add("tiny", f"peak_over_allowed_{tower}", peak / allowed)
