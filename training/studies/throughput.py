"""Measure training throughput: stage 1 relative to a bare loop, stage 2 relative to open_clip's trainer.

Examples:
  python -m training.studies throughput
  python -m training.studies throughput --rounds 1 --steps 2

Both sides of a ratio alternate on the same images, towers and batch size, and the median over rounds counts.
Stage 1 trains the image tower of `tiny` on cached targets of the demo's teacher. Stage 2 trains from encoded image
files to the optimizer step, with English captions alone, as open_clip does.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, Subset

from training import align, distill
from training.config import AlignRecipe, DataConfig, DistillRecipe, StudentConfig
from training.data import load_source, open_image
from training.demo.make_teacher import TEACHER_FOLDER, TEXT_CONFIG
from training.students import build_student, load_size
from training.studies.harness import Study, StudyOptions, open_rows
from training.tasks.losses import embedding_loss, feature_map_loss
from training.teachers import DualEncoder
from training.utils.results import Results, Row, markdown_table

IMAGE_SIZE, MAX_LENGTH = 224, 64
BACKBONE = "tf_efficientnet_lite0"  # open_clip needs a backbone whose pooled width equals the width of its map
TOKENIZER = str(TEACHER_FOLDER)  # a teacher of both languages, which needs no download
TITLES = {
    "loop_over_bare": "stage 1, cached targets, relative to a bare loop on ready tensors",
    "align_over_open_clip": "stage 2, relative to open_clip's trainer",
}


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """What to measure.

    Args:
        data: Images and captions, as `data.train` in a recipe.
        batch_size: Images in a batch.
        steps: Optimizer steps of one run.
        rounds: Runs of each side of a ratio, after one that is not counted.
    """

    data: str = "training.corpus.emoji:load_train"
    batch_size: int = 64
    steps: int = 6
    rounds: int = 3
    output_dir: str = "runs/studies/throughput"

    def __post_init__(self):
        self.require_at_least(1, "steps", "rounds")
        self.require_at_least(2, "batch_size")


def run(options: Options):
    """Measure what is missing in results.json, and print the table."""
    study = Study("throughput", options, options.data, machine_threads=torch.get_num_threads())
    scratch = study.folder / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    rows = open_rows(
        options.data, ("image", "en", "zh"), "data", options.batch_size * options.steps
    )
    rows.to_parquet(scratch / "images.parquet")
    if not study.has(metric="loop_over_bare"):
        study.add(compare_stage1(options, scratch))
    if not study.has(metric="align_over_open_clip"):
        study.add(compare_stage2(options, scratch))
    shutil.rmtree(scratch)
    study.finish(table(study.results))


def table(results: Results) -> str:
    """Markdown table of the ratios."""
    lines = [["Ratio of images per second", "Value"], ["---", "---:"]]
    lines += [
        [title, f"{results.mean(metric=metric) or 0:.2f}"] for metric, title in TITLES.items()
    ]
    return markdown_table(lines)


def alternate(sides: dict[str, Callable[[], float]], rounds: int, ratio: str) -> list[Row]:
    """Rates of two sides in turn, after one round that is not counted.

    Args:
        sides: Two functions that return images per second, by name.
        rounds: Number of counted rounds.
        ratio: Metric of the median ratio of the first to the second side.
    """
    rates = [{name: call() for name, call in sides.items()} for _ in range(rounds + 1)][1:]
    first, second = sides
    rows = [
        Row(
            model=name,
            metric="images_per_s",
            value=round(statistics.median(each[name] for each in rates), 3),
        )
        for name in sides
    ]
    value = statistics.median(each[first] / each[second] for each in rates)
    return [*rows, Row(model=first, metric=ratio, value=round(value, 3))]


def compare_stage1(options: Options, folder: Path) -> list[Row]:
    """Stage 1 from cached targets, and a bare loop."""

    def recipe(name: str) -> DistillRecipe:
        shutil.rmtree(folder / name, ignore_errors=True)
        return DistillRecipe(
            output_dir=str(folder / name),
            teacher=TOKENIZER,
            student=load_size(
                "tiny", vision_init="random", text_init="random", tokenizer=TOKENIZER
            ),
            tower="vision",
            teacher_views=1,
            teacher_cache=str(folder / "targets"),
            data=DataConfig(train=str(folder / "images.parquet"), in_memory=True),
            batch_size=options.batch_size,
            max_steps=options.steps,
        )

    def rate() -> float:
        AcceleratorState._reset_state(reset_partial_state=True)
        return distill.run(recipe("distilled")).images_per_s

    sides = {"loop": rate, "bare loop": lambda: bare_rate(options, recipe("bare"))}
    return alternate(sides, options.rounds, "loop_over_bare")


def bare_rate(options: Options, recipe: DistillRecipe) -> float:
    """Images per second of forward, backward and optimizer step of the image tower, with all tensors in memory."""
    teacher = DualEncoder.from_pretrained(str(recipe.teacher), towers=())
    student, _ = build_student(recipe.student, ["en", "zh"], teacher)
    width, grid = int(student.config.vision_width or 0), student.config.vision_grid or (0, 0)
    adapter = nn.Conv2d(width, teacher.vision_width, 1)
    towers: list[Any] = [student.vision_model, student.visual_projection, adapter]
    parameters = [
        each
        for tower in towers
        for each in tower.to(memory_format=torch.channels_last).parameters()
    ]
    optimizer = torch.optim.AdamW(parameters)
    images = torch.randn(options.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE).to(
        memory_format=torch.channels_last
    )
    maps = torch.randn(options.batch_size, teacher.vision_width, *grid)
    embeddings = torch.randn(options.batch_size, teacher.projection_dim)
    student.train()
    began = time.perf_counter()
    for _ in range(options.steps):
        outputs = student.get_image_features(images)
        loss = feature_map_loss(adapter(outputs.feature_map), maps)
        loss = loss + embedding_loss(outputs.pooler_output, embeddings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
    return options.steps * options.batch_size / (time.perf_counter() - began)


def compare_stage2(options: Options, folder: Path) -> list[Row]:
    """Stage 2 beside open_clip's trainer, on the same towers with random weights."""
    config = StudentConfig(
        vision_config={"model_type": "timm_wrapper", "architecture": BACKBONE},
        text_config=TEXT_CONFIG | {"hidden_dropout_prob": 0.0},
        tokenizer=TOKENIZER,
        image_size=IMAGE_SIZE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        max_text_length=MAX_LENGTH,
        vision_pooling="tower",
        projection_dim=256,
    )
    start = folder / "student"
    student, processor = build_student(config, ["en", "zh"], None, 0)
    student.save_pretrained(start)
    processor.save_pretrained(start)
    student.text_model.config.save_pretrained(start / "text")
    images = folder / "images.parquet"

    def rate() -> float:
        AcceleratorState._reset_state(reset_partial_state=True)
        shutil.rmtree(folder / "aligned", ignore_errors=True)
        recipe = AlignRecipe(
            output_dir=str(folder / "aligned"),
            student=str(start),
            data=DataConfig(train=str(images), caption_columns={"en": "en"}),
            batch_size=options.batch_size,
            max_steps=options.steps,
            log_every=options.steps,
            freeze_batch_norm=False,
        )
        return align.run(recipe).images_per_s

    sides = {"align.py": rate, "open_clip": lambda: open_clip_rate(start, images, options)}
    return alternate(sides, options.rounds, "align_over_open_clip")


class _Pairs(torch.utils.data.Dataset):
    """Images and English captions, prepared as in open_clip."""

    def __init__(self, rows: Dataset, transform: Callable, tokenizer: Callable):
        self.captions, self.images = rows["en"], rows.with_format("arrow")["image"]
        self.transform, self.tokenizer = transform, tokenizer

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(open_image(self.images[row].as_py())), self.tokenizer(
            [self.captions[row]]
        )[0]


def open_clip_rate(student: Path, images: Path, options: Options) -> float:
    """Images per second of the training loop of `open_clip_train`, on a model with the student's towers.

    Args:
        student: Folder with the student's tokenizer and, under `text`, the config of its text tower.
        images: Parquet file with the columns `image` and `en`.
        options: Batch size and steps.

    Raises:
        ImportError: open_clip is not installed.
    """
    from open_clip import ClipLoss, CustomTextCLIP, image_transform
    from open_clip.tokenizer import HFTokenizer
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    torch.manual_seed(0)
    text = {"hf_model_name": str(student / "text"), "hf_model_pretrained": False}
    text |= {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    vision = {"timm_model_name": BACKBONE, "image_size": IMAGE_SIZE}
    model = CustomTextCLIP(embed_dim=256, vision_cfg=vision, text_cfg=text, output_dict=True)
    tokenizer = HFTokenizer(str(student), context_length=MAX_LENGTH)
    pairs = _Pairs(load_source(str(images)), image_transform(IMAGE_SIZE, is_train=True), tokenizer)
    steps, batch_size = options.steps, options.batch_size
    numbers = [number % len(pairs) for number in range(steps * batch_size)]
    loader = DataLoader(Subset(pairs, numbers), batch_size)
    loader.num_batches, loader.num_samples = steps, len(numbers)  # type: ignore[attr-defined]
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    fields = {
        "device": "cpu",
        "precision": "fp32",
        "distill": False,
        "accum_freq": 1,
        "skip_scheduler": False,
    }
    fields |= {
        "horovod": False,
        "grad_clip_norm": 3.0,
        "log_every_n_steps": math.inf,
        "rank": 0,
        "local_rank": 0,
    }
    fields |= {"log_local": False, "world_size": 1, "batch_size": batch_size, "wandb": False}
    schedule = cosine_lr(optimizer, 1e-3, 0, steps)
    began = time.perf_counter()
    train_one_epoch(
        model, data, ClipLoss(), 0, optimizer, None, schedule, None, SimpleNamespace(**fields)
    )
    return len(numbers) / (time.perf_counter() - began)
