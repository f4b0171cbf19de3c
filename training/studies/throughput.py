"""Measure the training loop: images per second of stage 1 relative to a bare loop on ready tensors.

Examples:
  python -m training.studies throughput
  python -m training.studies throughput --rounds 1 --steps 2

Both loops train the image tower of `tiny` on targets of the demo's teacher, with the same batch size. They alternate,
and the median ratio over rounds counts.
"""

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from torch import nn

from training import distill
from training.config import DataConfig, DistillRecipe
from training.corpus.emoji import load_train
from training.demo.make_teacher import TEACHER_FOLDER
from training.students import build_student, load_size
from training.studies.harness import Study, StudyOptions
from training.tasks.losses import embedding_loss, feature_map_loss
from training.teachers import DualEncoder
from training.utils.keys import no_key
from training.utils.results import Row, markdown_table

IMAGE_SIZE = 224
LOOP, BARE = "stage 1, cached targets", "bare loop"


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to measure.

    Args:
        batch_size: Images in a batch.
        steps: Optimizer steps of one run.
        rounds: Runs of each loop, after one that is not counted.
    """

    batch_size: int = 64
    steps: int = 6
    rounds: int = 3
    output_dir: str = no_key(default="runs/studies/throughput")

    def __post_init__(self):
        self.require_at_least(1, "steps", "rounds")
        self.require_at_least(2, "batch_size")


def run(options: Options):
    """Measure, and print the table."""
    study = Study("throughput", options, "embedded emoji", threads=torch.get_num_threads())
    scratch = study.folder / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    rows = load_train().select(range(options.batch_size * options.steps))
    rows.to_parquet(scratch / "images.parquet")
    recipe = make_recipe(options, scratch)
    rates = [(loop_rate(recipe), bare_rate(recipe)) for _ in range(options.rounds + 1)][1:]
    medians = [statistics.median(each) for each in zip(*rates, strict=True)]
    ratio = statistics.median(loop / bare for loop, bare in rates)
    study.results.rows = []
    for name, value in zip((LOOP, BARE), medians, strict=True):
        study.add([Row(model=name, metric="images_per_s", value=round(value, 3))])
    study.add([Row(model=LOOP, metric="loop_over_bare", value=round(ratio, 3))])
    shutil.rmtree(scratch)
    lines = [["Loop", "Images per second"], ["---", "---:"]]
    lines += [[name, f"{value:.1f}"] for name, value in zip((LOOP, BARE), medians, strict=True)]
    study.finish(markdown_table([*lines, ["ratio", f"{ratio:.2f}"]]))


def make_recipe(options: Options, folder: Path) -> DistillRecipe:
    """Recipe of stage 1 on the images of a folder."""
    tokenizer = str(TEACHER_FOLDER)
    student = load_size("tiny", vision_init="random", text_init="random", tokenizer=tokenizer)
    return DistillRecipe(
        output_dir=str(folder / "distilled"),
        teacher=tokenizer,
        student=student,
        tower="vision",
        teacher_views=1,
        teacher_cache=str(folder / "targets"),
        data=DataConfig(train=str(folder / "images.parquet"), in_memory=True),
        batch_size=options.batch_size,
        max_steps=options.steps,
    )


def loop_rate(recipe: DistillRecipe) -> float:
    """Images per second of `training/distill.py`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    shutil.rmtree(recipe.output_dir, ignore_errors=True)
    return distill.run(recipe).images_per_s


def bare_rate(recipe: DistillRecipe) -> float:
    """Images per second of forward, backward and optimizer step of the image tower, with all tensors in memory."""
    teacher = DualEncoder.from_pretrained(str(recipe.teacher), towers=(), field="teacher")
    student, _ = build_student(recipe.student, ["en", "zh"], teacher)
    width, grid = int(student.config.vision_width or 0), student.config.vision_grid or (0, 0)
    adapter = nn.Conv2d(width, teacher.vision_width, 1)
    towers = nn.ModuleList([student.vision_model, student.visual_projection, adapter])
    towers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(towers.parameters())
    images = torch.randn(recipe.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = images.to(memory_format=torch.channels_last)
    maps = torch.randn(recipe.batch_size, teacher.vision_width, *grid)
    embeddings = torch.randn(recipe.batch_size, teacher.projection_dim)
    student.train()
    began = time.perf_counter()
    for _ in range(recipe.max_steps):
        outputs = student.get_image_features(images)
        loss = feature_map_loss(adapter(outputs.feature_map), maps)
        loss = loss + embedding_loss(outputs.pooler_output, embeddings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(towers.parameters(), 3.0)
        optimizer.step()
    return recipe.max_steps * recipe.batch_size / (time.perf_counter() - began)
