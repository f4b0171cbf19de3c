"""The rate of open_clip's trainer, from encoded images to the optimizer step."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from training.data import load_source, open_image

CONTEXT_LENGTH = 64


class _Pairs(torch.utils.data.Dataset):
    """Images and English captions, prepared as in open_clip."""

    def __init__(self, rows: Dataset, transform: Callable, tokenizer: Callable):
        self.captions = rows["en"]
        self.images = rows.with_format("arrow")["image"]
        self.transform, self.tokenizer = transform, tokenizer

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = open_image(self.images[row].as_py())
        return self.transform(image), self.tokenizer([self.captions[row]])[0]


def open_clip_rate(student: Path, backbone: str, images: Path, image_size: int, batch_size: int, steps: int) -> float:
    """Images per second of the training loop of `open_clip_train`, on a model with the student's towers.

    Args:
        student: Folder with the student's tokenizer and, under `text`, the config of its text tower.
        backbone: Name of its image tower in timm.
        images: Parquet file with the columns `image` and `en`.
        image_size: Edge of the images in pixels.
        batch_size: Images per step.
        steps: Optimizer steps.

    Raises:
        ImportError: If open_clip is not installed.
    """
    from open_clip import ClipLoss, CustomTextCLIP, image_transform
    from open_clip.tokenizer import HFTokenizer
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    torch.manual_seed(0)
    model = CustomTextCLIP(
        embed_dim=256,
        vision_cfg={"timm_model_name": backbone, "image_size": image_size},
        text_cfg={
            "hf_model_name": str(student / "text"),
            "hf_model_pretrained": False,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
        },
        output_dict=True,
    )
    rows = load_source(str(images))
    tokenizer = HFTokenizer(str(student), context_length=CONTEXT_LENGTH)
    pairs = _Pairs(rows, image_transform(image_size, is_train=True), tokenizer)
    numbers = [number % len(pairs) for number in range(steps * batch_size)]
    loader = DataLoader(torch.utils.data.Subset(pairs, numbers), batch_size)
    loader.num_batches, loader.num_samples = steps, len(numbers)  # type: ignore[attr-defined]
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    arguments = SimpleNamespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=1,
        skip_scheduler=False,
        horovod=False,
        grad_clip_norm=3.0,
        log_every_n_steps=math.inf,
        rank=0,
        local_rank=0,
        log_local=False,
        world_size=1,
        batch_size=batch_size,
        wandb=False,
    )
    began = time.perf_counter()
    train_one_epoch(model, data, ClipLoss(), 0, optimizer, None, cosine_lr(optimizer, 1e-3, 0, steps), None, arguments)
    return len(numbers) / (time.perf_counter() - began)
