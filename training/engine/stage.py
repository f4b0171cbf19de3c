"""What both stages do around their loop: claim the output folder, check the student, finish the folder."""

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, DynamoBackend
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe
from training.data import Pairs
from training.engine.checkpoint import (
    BEST_FOLDER,
    TRACKING_FOLDER,
    list_checkpoints,
    open_output_dir,
)
from training.engine.inputs import open_teacher
from training.engine.log import LOG_FILE, Log
from training.engine.loop import Recipe, Run, train
from training.engine.rotation import rotate_student
from training.evaluation.classify import make_evaluate
from training.hub import check_push, earlier_recipes, push, write_card
from training.tasks import Models, Task
from training.teachers import DualEncoder
from training.utils.files import remove_folder
from training.utils.process import find_processes


@contextmanager
def open_run(
    recipe: Recipe,
    command: str,
    inputs: Mapping[str, str | None],
    starts: Sequence[str | None] = (),
) -> Iterator[Run[Recipe]]:
    """Claim the output folder of a run for the `with` block, and complete the finished folder at its end.

    Args:
        recipe: Recipe of the stage.
        command: Name of the command, such as `distill`.
        inputs: Folders and ids that the run reads besides the teacher and its cache, by option.
        starts: Models that the run starts from.

    Yields:
        The run, whose recipe has the precision and the number of steps of the launch.

    Raises:
        ValueError: An option cannot be used; nothing has been trained.
        OSError: The upload to the Hub failed.
    """
    accelerator = make_accelerator(recipe)
    # by `accelerate launch`; saved, and compared by a resumed run
    if accelerator.mixed_precision in ("bf16", "fp16"):
        recipe = replace(recipe, mixed_precision=accelerator.mixed_precision)
    if recipe.max_samples:
        steps = math.ceil(recipe.max_samples / (recipe.batch_size * accelerator.num_processes))
        recipe = replace(recipe, max_steps=min(recipe.max_steps, steps))
    checkpoints = list_checkpoints(recipe.output_dir)
    kept = checkpoints if recipe.resume else []
    with ExitStack() as claimed:
        if accelerator.is_main_process:
            reads = {"teacher": recipe.teacher, "teacher_cache": recipe.teacher_cache, **inputs}
            names = [LOG_FILE, BEST_FOLDER, TRACKING_FOLDER]
            if not kept:
                names += [path.name for path in checkpoints]
            claimed.enter_context(open_output_dir(recipe, checkpoints, names, command, reads))
            check_push(recipe)  # a missing token or right is reported before training
        yield Run(recipe, accelerator, command, kept, earlier_recipes(starts))
        if accelerator.is_main_process:
            write_card(recipe.output_dir)
            push(recipe)


def run_stage(
    recipe: Recipe,
    command: str,
    inputs: Mapping[str, str | None],
    starts: Sequence[str | None],
    open_student: Callable[[Recipe, DualEncoder | None], tuple[DCCLIPModel, DCCLIPProcessor]],
    make_task: Callable[[Recipe, Models, Accelerator], tuple[Task, Pairs]],
) -> Log:
    """Train a student by a recipe, and write it as a complete Hub folder to `output_dir`.

    Args:
        recipe: Recipe of the stage.
        command: Name of the command, such as `distill`.
        inputs: Folders and ids that the run reads besides the teacher and its cache, by option.
        starts: Models that the run starts from.
        open_student: Function that builds or loads the student, with the teacher if there is one.
        make_task: Function that makes the task and opens its data.

    Returns:
        The log of the run.

    Raises:
        ValueError: An option cannot be used, or the student cannot be trained; nothing has been trained.
        FloatingPointError: The loss is not finite.
        OSError: A checkpoint or the finished model cannot be saved, or the upload to the Hub failed.
    """
    with open_run(recipe, command, inputs, starts) as run:
        recipe = run.recipe
        teacher = open_teacher(recipe)
        student, processor = open_student(recipe, teacher)
        student.config.prefixes = recipe.prefixes
        student.config.validate_architecture()
        if recipe.gradient_checkpointing:
            student.activation_checkpointing_enable()
        # before the data, because the teacher's targets can take hours
        evaluate = make_evaluate(recipe.eval, processor, recipe.data) if recipe.eval_every else None
        models = Models(student, processor, teacher)
        task, dataset = make_task(recipe, models, run.accelerator)
        check_batch_norm(recipe, task, run.accelerator.num_processes)
        if teacher is not None:
            task.teacher_rotation = getattr(teacher.config, "rotation", None)
            if recipe.save_every or recipe.resume:  # reads the weight files
                task.teacher_revision = teacher.revision
        if recipe.prefixes:
            rotate_student(task, dataset, recipe, run.accelerator, run.checkpoints)
        if run.accelerator.is_main_process and not recipe.resume:
            old = list_checkpoints(recipe.output_dir)
            for folder in (*old, *Path(recipe.output_dir).glob(BEST_FOLDER)):
                remove_folder(folder)
        try:
            return train(task, dataset, processor, run, evaluate)
        except KeyboardInterrupt as error:
            advice = "No checkpoint was written yet; save_every sets how often. Run it again."
            if found := list_checkpoints(recipe.output_dir):
                advice = f"{found[-1]} is kept. Run the same command with --resume to continue."
            raise KeyboardInterrupt(advice) from error


def check_batch_norm(recipe: TrainingRecipe, task: Task, num_processes: int):
    """Warn if parts of a batch have BatchNorm statistics of their own, and refuse to update statistics twice.

    Raises:
        ValueError: `gradient_checkpointing` would run BatchNorm layers twice in each step.
    """
    if not task.moving_norms:
        return
    num_parts = num_processes * math.ceil(
        recipe.batch_size / (task.chunk_size or recipe.batch_size)
    )
    if num_parts > 1:
        get_logger(__name__).warning(
            "BatchNorm takes its statistics from each of the %d parts of a batch, so losses and gradients differ "
            "from the whole batch's. In stage 2, set freeze_batch_norm to true to make them equal.",
            num_parts,
        )
    if recipe.gradient_checkpointing:
        raise ValueError(
            "gradient_checkpointing: the student has BatchNorm layers that are trained, and recomputing would "
            "update their statistics twice in each step. Leave it out, or freeze these layers."
        )


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
        # the loop sends the statistics of BatchNorm, where they are used; no other buffer changes
        kwargs_handlers=[
            DistributedDataParallelKwargs(static_graph=is_whole_batch, broadcast_buffers=False)
        ],
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
    """Give attention the mask of a batch with a padding mask, instead of waiting for the device to find out whether
    anything is padded. Without a padding mask, as for images, there is nothing to find out: attention needs no mask,
    and its fastest kernel takes none.
    """

    def mask(**options: Any) -> Tensor | None:
        if options.get("attention_mask") is not None:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(**options)

    AttentionMaskInterface.register("sdpa", mask)
