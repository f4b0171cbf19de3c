"""The steps that both training stages share, from a recipe to a finished folder."""

import importlib.util
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, DynamoBackend
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import AlignRecipe, DistillRecipe, TrainingRecipe
from training.data import Pairs
from training.engine.checkpoint import (
    BEST_FOLDER,
    TRACKING_FOLDER,
    list_checkpoints,
    open_output_dir,
)
from training.engine.inputs import open_teacher
from training.engine.log import LOG_FILE
from training.engine.loop import TrainingResult, train
from training.engine.rotation import rotate_student
from training.evaluation.classify import make_evaluate
from training.hub import check_push, earlier_recipes, push, write_card
from training.tasks import Models, Task
from training.teachers import DualEncoder
from training.utils.files import remove_folder
from training.utils.process import find_processes

INITS = ("tokenizer", "vision_init", "text_init")  # fields of a new student that name a folder
StageRecipe = TypeVar("StageRecipe", DistillRecipe, AlignRecipe)


def run_stage(
    recipe: StageRecipe,
    *,
    command: str,
    open_student: Callable[[StageRecipe, DualEncoder | None], tuple[DCCLIPModel, DCCLIPProcessor]],
    make_task: Callable[[StageRecipe, Models, Accelerator], tuple[Task, Pairs]],
) -> TrainingResult:
    """Build models, task and data, train, and write a complete Hub folder with its card to `output_dir`.

    Args:
        recipe: Recipe of the stage.
        command: Name of the command, such as `distill`, which is also in front of the progress bar.
        open_student: Function from recipe and teacher to the student and its processor.
        make_task: Function from recipe, models and Accelerator to the training task and its data.

    Raises:
        ValueError: A model, the data or an option cannot be used; nothing has been trained.
        FloatingPointError: The loss is not finite.
        OSError: A checkpoint or the finished model cannot be saved, or the upload to the Hub failed.
    """
    accelerator = make_accelerator(recipe)
    # by `accelerate launch`; saved, and compared by a resumed run
    if accelerator.mixed_precision in ("bf16", "fp16"):
        recipe = replace(recipe, mixed_precision=accelerator.mixed_precision)
    if recipe.max_samples:
        steps = math.ceil(recipe.max_samples / (recipe.batch_size * accelerator.num_processes))
        recipe = replace(recipe, max_steps=min(recipe.max_steps, steps))
    reads = {"teacher": recipe.teacher, "teacher_cache": recipe.teacher_cache}
    if isinstance(recipe, AlignRecipe):
        reads |= {"student": recipe.student, "classifier": recipe.classifier}
        starts = [recipe.student]
    else:
        new = recipe.student
        starts = [new.vision_init, new.text_init]
        reads |= {f"student.{name}": getattr(new, name) for name in INITS}
    with ExitStack() as claimed:
        found: list[Path] = list_checkpoints(recipe.output_dir)
        kept = found if recipe.resume else []
        if accelerator.is_main_process:
            names = [LOG_FILE, BEST_FOLDER, TRACKING_FOLDER]
            if not kept:
                names += [path.name for path in found]
            claimed.enter_context(open_output_dir(recipe, found, names, command, reads))
            check_push(recipe)  # a missing token or right is reported before training
        teacher = open_teacher(recipe)
        student, processor = open_student(recipe, teacher)
        student.config.prefixes = recipe.prefixes
        student.config.validate_architecture()
        if recipe.gradient_checkpointing:
            student.activation_checkpointing_enable()
        # before the data, because the teacher's targets can take hours
        evaluate = None
        if recipe.eval_every:
            evaluate = make_evaluate(recipe.eval, processor, recipe.data)
        task, dataset = make_task(recipe, Models(student, processor, teacher), accelerator)
        chunk_size = task.chunk_size or recipe.batch_size
        num_parts = accelerator.num_processes * math.ceil(recipe.batch_size / chunk_size)
        if task.moving_norms and num_parts > 1:
            get_logger(__name__).warning(
                "BatchNorm takes its statistics from each of the %d parts of a batch, so losses and gradients differ "
                "from the whole batch's. In stage 2, set freeze_batch_norm to true to make them equal.",
                num_parts,
            )
        if recipe.gradient_checkpointing and task.moving_norms:
            raise ValueError(
                "gradient_checkpointing: the student has BatchNorm layers that are trained, and recomputing would "
                "update their statistics twice in each step. Leave it out, or freeze these layers."
            )
        if teacher is not None:
            task.teacher_rotation = getattr(teacher.config, "rotation", None)
            if recipe.save_every or recipe.resume:  # reads the weight files
                task.teacher_revision = teacher.revision
        if recipe.prefixes:
            rotate_student(task, dataset, recipe, accelerator.device, kept)
        if accelerator.is_main_process and not recipe.resume:
            for old in (*found, *Path(recipe.output_dir).glob(BEST_FOLDER)):
                remove_folder(old)
        # a teacher's own training is not a stage of a new student
        is_aligned = isinstance(recipe, AlignRecipe)
        earlier = earlier_recipes(name for name in starts if is_aligned or name != recipe.teacher)
        try:
            result = train(
                task, dataset, recipe, processor, accelerator, command, kept, evaluate, earlier
            )
        except KeyboardInterrupt as error:
            advice = "No checkpoint was written yet; save_every sets how often. Run it again."
            if found := list_checkpoints(recipe.output_dir):
                advice = f"{found[-1]} is kept. Run the same command with --resume to continue."
            raise KeyboardInterrupt(advice) from error
        if accelerator.is_main_process:
            write_card(recipe.output_dir)
            push(recipe)
    return result


def make_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """Make the Accelerator of a stage, and set up its device.

    Raises:
        ValueError: A tracker of the recipe is not installed, or a setting of `accelerate launch` is not supported.
    """
    for tracker in recipe.trackers:  # Accelerate would silently skip it
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(
                f"trackers: {tracker!r} is not installed. Run: pip install {tracker}, or remove it."
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
