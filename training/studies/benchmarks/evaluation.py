"""How much of a model's bare speed is left when images are decoded and prepared for it.

python -m training.studies.benchmarks.evaluation --data images.parquet
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from transformers import AutoModel, ChineseCLIPImageProcessor, CLIPImageProcessor

from training.data import load_source
from training.evaluation.models.image_loading import prepared_batches
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.budget.baselines import chinese_clip_vit_b_16_config, clip_vit_b_32_config
from training.utils.cli import command_of
from training.utils.results import Results, Row, make_meta

RANDOM = {
    "clip-vit-b-32": (clip_vit_b_32_config, CLIPImageProcessor),
    "chinese-clip-vit-b-16": (chinese_clip_vit_b_16_config, ChineseCLIPImageProcessor),
}


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What to time.

    Args:
        data: a parquet file, a folder, a Hub id or `module:function` with images.
        model: each a full-size model of random weights, clip-vit-b-32 or chinese-clip-vit-b-16, or a folder or Hub id.
        images: how many of the first ones.
        batch_size: images at a time.
        repeats: how often each way is timed; the ways take turns, and the median is taken of the ratios.
        split: of the data, where there are several.
        image_column: column of the images.
        output_dir: where results.json goes; nothing is written without it.
    """

    data: str
    model: list[str] = field(default_factory=lambda: list(RANDOM))
    images: int = 512
    batch_size: int = 64
    repeats: int = 3
    split: str = "test"
    image_column: str = "image"
    output_dir: str | None = None


def open_model(name: str) -> ZeroShotModel:
    """A model of random weights by its name in `RANDOM`, which has no tokenizer, or any other as always."""
    if name not in RANDOM:
        return ZeroShotModel.from_pretrained(name)
    config, image_processor = RANDOM[name]
    torch.manual_seed(0)
    model = AutoModel.from_config(config()).eval()
    return ZeroShotModel(model, SimpleNamespace(image_processor=image_processor()), name)


@torch.inference_mode()
def time_model(model: ZeroShotModel, rows, options: SpeedOptions) -> tuple[list[float], list[float]]:
    """Seconds of the bare forward pass over ready tensors, and of the whole way from encoded images, each time.

    The ready tensors are what the whole way makes; what is bare is the model alone, in the same batches.
    """
    batches = prepared_batches(rows, options.image_column, options.batch_size, model.images.fit)
    ready = [model.images.normalize(images.to(model.model.device)) for images in batches]
    model.embed_images(ready[0])  # the first call is slower
    bare, whole = [], []
    for _ in range(options.repeats):
        began = time.perf_counter()
        for batch in ready:
            _bare(model, batch)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        model.encode_images(rows, options.image_column, options.batch_size)
        whole.append(time.perf_counter() - began)
    return bare, whole


def _bare(model: ZeroShotModel, pixel_values: Tensor) -> Tensor:
    return model.embed_images(pixel_values).cpu()


def main(argv: list[str] | None = None) -> Results:
    """Parse, time, print, and write where asked to."""
    parser = ArgumentParser(prog="python -m training.studies.benchmarks.evaluation", allow_abbrev=False)
    parser.add_class_arguments(SpeedOptions)
    options = SpeedOptions(**vars(parser.parse_args(argv)))
    rows = load_source(options.data, options.split)
    rows = rows.select(range(min(options.images, len(rows))))
    command = command_of("python -m training.studies.benchmarks.evaluation", options)
    results = Results(make_meta(options.data, None, command, images=len(rows), threads=torch.get_num_threads()))
    for name in options.model:
        model = open_model(name)
        bare, whole = time_model(model, rows, options)
        ratios = sorted(b / w for b, w in zip(bare, whole, strict=True))
        ratio = ratios[len(ratios) // 2]
        rates = {"bare_images_per_s": len(rows) / min(bare), "images_per_s": len(rows) / min(whole)}
        for metric, value in (rates | {"share_of_bare": ratio}).items():
            results.rows.append(Row(model=name, metric=metric, value=value))
        print(
            f"{name}: {rates['images_per_s']:.1f} of {rates['bare_images_per_s']:.1f} images/s, "
            f"{100 * ratio:.1f} % of the bare forward pass ({', '.join(f'{100 * r:.1f}' for r in ratios)})"
        )
    if options.output_dir:
        print(results.write(Path(options.output_dir)))
    return results


if __name__ == "__main__":
    main()
