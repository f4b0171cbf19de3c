"""The towers as modules that an exporter can trace, and exported towers behind the interface of a model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedConfig

from modeling_dcclip import DCCLIPModel

INPUTS = {"vision": ["pixel_values"], "text": ["input_ids", "attention_mask"]}
OUTPUTS = {"vision": "image_embeds", "text": "text_embeds"}
# number of convolutions at the input that int8 keeps in fp32: the stem and the first block have few channels and take
# almost no time, and their rounding errors reach all later layers
STEM = 3
# runs a file: arrays by input name, in the order of `INPUTS`, to L2-normalized embeddings (B, D)
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


class VisionTower(nn.Module):
    """The image tower of a student, with L2-normalized embeddings."""

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.student = student

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images: (B, 3, S, S) to (B, D)."""
        return nn.functional.normalize(
            self.student.get_image_features(pixel_values).pooler_output, dim=-1
        )


class TextTower(nn.Module):
    """The text tower of a student, with L2-normalized embeddings."""

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.student = student

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode texts: (B, L) and (B, L) to (B, D)."""
        features = self.student.get_text_features(input_ids, attention_mask).pooler_output
        return nn.functional.normalize(features, dim=-1)


def trace_inputs(
    student: DCCLIPModel, tower: str, max_batch: int | None = None
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """One tower with the inputs to trace it, for any number of images, or texts of any supported length.

    Args:
        student: The model, on the CPU, in eval mode and float32.
        tower: The tower: `vision` or `text`.
        max_batch: Largest batch size. None sets no limit.

    Returns:
        The tower as a module, its example inputs, and their dynamic dimensions in the format of `torch.export`.
    """
    config = student.config
    if tower == "vision":
        batch = {0: Dim("image_batch_size", max=max_batch)}
        images = torch.zeros(2, 3, config.image_size, config.image_size)
        return VisionTower(student).eval(), (images,), {"pixel_values": batch}
    length = min(7, config.max_text_length)
    pad = getattr(config.text_config, "pad_token_id", None) or 0
    # with a batch of one text, or without padding, the tracer would take these values as constant
    input_ids = torch.full((2, length), pad + 1)
    attention_mask = torch.ones_like(input_ids)
    input_ids[1, length // 2 + 1 :] = pad
    attention_mask[1, length // 2 + 1 :] = 0
    dynamic = {
        0: Dim("text_batch_size", max=max_batch),
        1: Dim("sequence_length", max=config.max_text_length),
    }
    return (
        TextTower(student).eval(),
        (input_ids, attention_mask),
        dict.fromkeys(INPUTS["text"], dynamic),
    )


def cannot_export(
    student: DCCLIPModel, tower: str, target: str, reason: str, remedy: str = ""
) -> ValueError:
    """The error for a tower that an exporter refuses, such as `vision tower 'vit'`, with the way to the other one."""
    config = getattr(student.config, f"{tower}_config")
    name = f"{tower} tower {getattr(config, 'architecture', config.model_type)!r}"
    other = "text" if tower == "vision" else "vision"
    return ValueError(
        f"towers: the {name} cannot be {target} ({reason}). Export only the other tower with --towers {other}{remedy}."
    )


class ExportedTowers:
    """One or two exported towers with the methods that zero-shot evaluation calls on a model.

    Args:
        config: Config of the model, for the preparation of texts and images.
        runners: A `Runner` for each tower. A tower whose method is never called may be missing.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, config: PreTrainedConfig, **runners: Runner):
        self.config = config
        self.runners = runners

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_image_features`, but with L2-normalized embeddings."""
        return self._features("vision", pixel_values=pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_text_features`, but with L2-normalized embeddings."""
        return self._features("text", input_ids=input_ids, attention_mask=attention_mask)

    def _features(self, tower: str, **inputs: Tensor) -> SimpleNamespace:
        arrays = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        embeddings = self.runners[tower](arrays)
        return SimpleNamespace(pooler_output=torch.from_numpy(embeddings))
