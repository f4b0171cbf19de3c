"""The devices of a run: Accelerate, and the settings that make a step fast."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, DynamoBackend
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from training.config import TrainingRecipe
from training.data.batch import Batch
from training.engine.checkpoint import TRACKING_FOLDER
from training.tasks import Task
from training.utils.process import find_processes


def make_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """Make the Accelerator of a stage, and set up its device.

    Raises:
        ValueError: A tracker of the recipe is not installed, or a setting of `accelerate launch` is not supported.
    """
    for name in recipe.trackers:  # Accelerate would silently skip it
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"trackers: {name!r} is not installed. Run: pip install {name}, or remove it."
            )
    find_processes()  # Accelerator itself forms no group of processes on a CPU
    is_whole_batch = not getattr(recipe, "chunk_size", 0)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        step_scheduler_with_optimizer=False,
        log_with=list(recipe.trackers) or None,
        project_dir=str(Path(recipe.output_dir) / TRACKING_FOLDER),
        kwargs_handlers=[DistributedDataParallelKwargs(static_graph=is_whole_batch)],
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(
            "mixed_precision: is fp16, which a CPU does not compute. Set bf16 or no, in the recipe or for "
            "accelerate launch."
        )
    shards = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    ignored = {
        "distributed_type": shards,
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps > 1,
        "dynamo_backend": accelerator.state.dynamo_plugin.backend != DynamoBackend.NO,
    }
    for name, is_set in ignored.items():
        if is_set:
            raise ValueError(
                f"{name}: accelerate launch sets it, and this project does not train with it. Use a config file of "
                "training/engine/distributed; torch_compile and chunk_size are options of the recipe."
            )
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 outside of autocast
        torch.backends.cudnn.benchmark = True
        keep_masks()
    return accelerator


def keep_masks():
    """Give attention its mask, instead of waiting for the device to find out whether a batch has any padding."""

    def mask(*arguments: Any, **options: Any) -> Tensor | None:
        skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(*arguments, **options | skips)

    AttentionMaskInterface.register("sdpa", mask)


def freeze_unreached(task: Task, batch: Batch):
    """Freeze the parameters that no loss reaches, such as those of layers after a backbone's feature map.

    They would never change, and DistributedDataParallel would search for them in every step.

    Args:
        task: Task on the device of the batch.
        batch: Any batch of the data, with augmented images.
    """
    task.eval()  # leaves running statistics as they are
    learned = {name: each for name, each in task.named_parameters() if each.requires_grad}
    loss = task(batch)["loss"]
    gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    for parameter, gradient in zip(learned.values(), gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
