"""The training phases: the projections alone, the projections with the upper layers, the image tower alone."""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from modeling_dcclip import DCCLIPModel
from training.demo.photo_teacher.batches import IMAGE_PHASE, TrainingData, draw_step
from training.demo.photo_teacher.encoders import Encoder, ImageEncoder, UpperEncoder
from training.demo.photo_teacher.losses import step_losses
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.demo.photo_teacher.validate import validate
from training.engine.log import LOG_FILE, Log
from training.engine.optimizer import learning_rate_at
from training.tasks.losses import clamp_logit_scale

HEADS_LOG_FILE, IMAGES_LOG_FILE = "log_heads.jsonl", "log_images.jsonl"
LATER_PHASES = 0.1  # factor on the projections' learning rate, because the first phase has fitted them
MAX_LOGIT_SCALE = 100.0
HEADS = ("visual_projection.", "text_projection.", "logit_scale")


def train(model: DCCLIPModel, data: TrainingData, recipe: PhotoTeacherRecipe) -> Encoder:
    """Train the projections, then the projections with the upper layers, then the image tower alone.

    Args:
        model: Teacher, which is trained in place. If the recipe has `start`, the first two phases are behind it.
        data: All features of the run.
        recipe: Recipe of the run.

    Returns:
        The trained part of the teacher, in eval mode; it shares the model's parameters.
    """
    model.requires_grad_(False)
    folder = Path(recipe.output_dir)
    tuned = replace(recipe, head_learning_rate=LATER_PHASES * recipe.head_learning_rate)
    if recipe.start is None:
        heads = replace(recipe, max_steps=recipe.head_steps, learning_rate=recipe.head_learning_rate)
        _run(Encoder(model, recipe.dropout), data, heads, 0, "projections", folder / HEADS_LOG_FILE)
        upper = UpperEncoder(model, recipe.text_layers, recipe.dropout)
        _run(upper, data, tuned, 1, "upper layers", folder / LOG_FILE)
        model.requires_grad_(False)
    if recipe.image_steps:
        images = replace(tuned, max_steps=recipe.image_steps)
        encoder = ImageEncoder(model, recipe.text_layers, recipe.dropout)
        _run(encoder, data, images, IMAGE_PHASE, "image tower", folder / IMAGES_LOG_FILE)
    return UpperEncoder(model, recipe.text_layers).eval()


def _run(
    encoder: Encoder, data: TrainingData, recipe: PhotoTeacherRecipe, phase: int, description: str, log_file: Path
):
    encoder.requires_grad_(True).train()
    optimizer = make_optimizer(encoder, recipe)
    with Log(log_file, description, recipe, 0, Accelerator(cpu=True)) as log:
        for step in range(recipe.max_steps):
            factor = learning_rate_at(step, recipe) / recipe.learning_rate
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            losses = step_losses(encoder, data, draw_step(data, recipe, phase, step), recipe)
            optimizer.zero_grad()
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), recipe.max_grad_norm)
            optimizer.step()
            clamp_logit_scale(encoder.logit_scale, MAX_LOGIT_SCALE)
            log.num_images += recipe.batch_size
            log.step(step, losses)
            if recipe.eval_every and (step + 1) % recipe.eval_every == 0 and step + 1 < recipe.max_steps:
                log.evaluated(step + 1, validate(encoder, data), False)
        log.evaluated(recipe.max_steps, validate(encoder, data), True)
    encoder.eval()


def make_optimizer(encoder: nn.Module, recipe: PhotoTeacherRecipe) -> torch.optim.AdamW:
    """Make AdamW with separate learning rates for the projections and the upper layers.

    Vectors and scalars have no weight decay.

    Args:
        encoder: Trained part of the teacher.
        recipe: Recipe with learning rates, weight decay and betas.
    """
    groups = []
    for is_head, peak in ((True, recipe.head_learning_rate), (False, recipe.learning_rate)):
        group = [value for name, value in encoder.named_parameters() if name.startswith(HEADS) == is_head]
        for is_matrix, decay in ((True, recipe.weight_decay), (False, 0.0)):
            parameters = [value for value in group if (value.ndim > 1) == is_matrix]
            groups += [{"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}] if parameters else []
    return torch.optim.AdamW(groups, betas=recipe.betas)
