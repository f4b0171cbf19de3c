"""Measurements of image encoding against the bare forward pass."""

import time
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import AutoModel, ChineseCLIPImageProcessor, CLIPImageProcessor

from training.data import load_source
from training.evaluation.models.image_loading import prepared_batches
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.benchmarks.options import EvaluationOptions
from training.studies.budget.baselines import chinese_clip_vit_b_16_config, clip_vit_b_32_config
from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

RANDOM_MODELS = {
    "clip-vit-b-32": (clip_vit_b_32_config, CLIPImageProcessor),
    "chinese-clip-vit-b-16": (chinese_clip_vit_b_16_config, ChineseCLIPImageProcessor),
}


def open_model(name: str) -> ZeroShotModel:
    """Open a model of `RANDOM_MODELS`, which has random weights and no tokenizer, or any Hub id or folder."""
    if name not in RANDOM_MODELS:
        return ZeroShotModel.from_pretrained(name)
    config, image_processor = RANDOM_MODELS[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(config()).eval()
    return ZeroShotModel(model, SimpleNamespace(image_processor=image_processor()), name)


@torch.inference_mode()
def time_model(model: ZeroShotModel, rows: Dataset, options: EvaluationOptions) -> tuple[list[float], list[float]]:
    """Time the bare forward pass over ready tensors, and the whole pipeline from encoded images.

    Args:
        model: Model to time.
        rows: Rows with images.
        options: Batch size, number of rounds and image column.

    Returns:
        Seconds of the forward pass and of the whole pipeline in each round.
    """
    batches = prepared_batches(rows, options.image_column, options.batch_size, model.images.fit)
    ready = [model.images.normalize(images.to(model.model.device)) for images in batches]
    model.embed_images(ready[0])  # warm-up
    bare, whole = [], []
    for _ in range(options.repeats):
        began = time.perf_counter()
        for batch in ready:
            model.embed_images(batch).cpu()
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        model.encode_images(rows, options.image_column, options.batch_size)
        whole.append(time.perf_counter() - began)
    return bare, whole


class EvaluationBenchmark:
    """One run of the evaluation benchmark.

    Args:
        options: What to time.
        program: Command as users type it, without options.
    """

    def __init__(self, options: EvaluationOptions, program: str):
        self.options = options
        rows = load_source(options.data, options.split)
        self.rows = rows.select(range(min(options.images, len(rows))))
        self.command = command_of(program, options)

    def measure(self) -> Results:
        """Time all models, and print a line for each."""
        threads = torch.get_num_threads()
        meta = make_meta(self.options.data, None, self.command, images=len(self.rows), threads=threads)
        results = Results(meta)
        for name in self.options.model:
            bare, whole = time_model(open_model(name), self.rows, self.options)
            ratios = sorted(b / w for b, w in zip(bare, whole, strict=True))
            share = ratios[len(ratios) // 2]
            rates = {"bare_images_per_s": len(self.rows) / min(bare), "images_per_s": len(self.rows) / min(whole)}
            for metric, value in (rates | {"share_of_bare": share}).items():
                results.rows.append(Row(model=name, metric=metric, value=value))
            print(
                f"{name}: {rates['images_per_s']:.1f} of {rates['bare_images_per_s']:.1f} images/s, {share:.1%} "
                f"of the bare forward pass ({', '.join(f'{100 * ratio:.1f}' for ratio in ratios)})"
            )
        return results

    def run(self) -> Path | None:
        """Measure, and write results.json if an output folder is given; return its path."""
        results = self.measure()
        return results.write(self.options.output_dir) if self.options.output_dir else None
