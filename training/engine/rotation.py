"""Rotation of the teacher's embedding space to its principal axes, so that embeddings can be truncated.

A rotation keeps all cosine similarities. After it, the leading dimensions lose less of the similarities than any other
projection to as many dimensions.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modeling_dcclip import DCCLIPModel
from training.config import TrainingRecipe
from training.data import PairDataset, Pairs
from training.hub import WEIGHTS_FILE
from training.tasks import Task
from training.tasks.task import first_batches
from training.utils.keys import fingerprint

MAX_ROWS = 8192  # rows of the data that the axes are computed from


@torch.no_grad()
def rotate_student(
    task: Task,
    dataset: Pairs,
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    checkpoints: Sequence[Path] = (),
):
    """Rotate the student to the principal axes of its teacher's embeddings of the first batches of training data.

    A student that is rotated already, such as one of stage 1, and a student without a teacher stay as they are. A
    resumed run takes the rotation of its checkpoint.

    Args:
        task: Task of the run, with the student and its targets.
        dataset: Training data.
        recipe: Recipe of the run.
        accelerator: Accelerator of this process.
        checkpoints: Checkpoints of the run that is resumed, oldest first.
    """
    if task.student.config.rotation is not None or task.targets is None:
        return
    rotation = None
    if checkpoints:
        try:
            with safe_open(checkpoints[-1] / WEIGHTS_FILE, "pt") as weights:
                rotation = weights.get_tensor("rotation")
        except (OSError, SafetensorError):
            pass  # a damaged checkpoint is reported when the run resumes
    if rotation is None:
        num_rows = min(MAX_ROWS, len(dataset)) if isinstance(dataset, PairDataset) else MAX_ROWS
        # images and captions have equal weights
        moments = dict.fromkeys(task.towers, torch.zeros((), dtype=torch.float64))
        for batch in first_batches(task, dataset, recipe, num_rows, accelerator.device):
            embeddings = {}
            if "vision" in task.towers:
                images = task.augmented(batch)["images"]
                embeddings["vision"] = task.targets.images(images, batch).embedding
            if "text" in task.towers:
                embeddings["text"] = task.targets.texts(batch).embedding
            for tower, values in embeddings.items():
                unit = F.normalize(values.double().cpu(), dim=-1)  # (B, D)
                moments[tower] = moments[tower] + unit.T @ unit
        shares = [moment / moment.trace() for moment in moments.values()]
        rotation = principal_axes(torch.stack(shares).sum(0)).float()
        # GPUs may round differently
        rotation = broadcast(rotation.to(accelerator.device)).cpu()
    rotate(task.student, rotation)


@torch.no_grad()
def rotate(student: DCCLIPModel, rotation: Tensor):
    """Rotate the embedding space of a student. Cosine similarities between its embeddings stay the same.

    Args:
        student: Student. Its projections are multiplied by the rotation, which becomes the weight `rotation`. If it is
            rotated already, this weight becomes the product of both, which leads from the teacher's space to its own.
        rotation: Orthogonal matrix, (D, D), that multiplies row vectors from the right.
    """
    for projection in (student.visual_projection, student.text_projection):
        projection.weight.copy_(rotation.double().T @ projection.weight.double())
    if student.config.rotation is not None:
        rotation = student.get_buffer("rotation").double() @ rotation.double()
    stored = rotation.float().contiguous()
    student.register_buffer("rotation", stored)
    student.config.rotation = fingerprint(stored.numpy().tobytes()).hex()


def principal_axes(moment: Tensor) -> Tensor:
    """Principal axes of embeddings, the one with the largest share of their squared length first.

    Args:
        moment: Sum or mean of the outer products of the embeddings, (D, D) float64. The mean of the embeddings is not
            subtracted, because cosine similarities depend on it.

    Returns:
        Orthogonal matrix, (D, D) float64, one axis per column. The largest component of each axis is positive.
    """
    axes = torch.linalg.eigh(moment).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))  # (1, D)
    return axes * largest.sign()
