"""The towers as modules that an exporter can trace."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from modeling_dcclip import DCCLIPModel

TOWERS = ("vision", "text")
INPUTS = {"vision": ["pixel_values"], "text": ["input_ids", "attention_mask"]}
OUTPUTS = {"vision": "image_embeds", "text": "text_embeds"}
# number of convolutions at the input that int8 keeps in fp32: those of a stem of few channels and the first block take
# almost no time, and their rounding errors reach all later layers
STEM = 3
# a module, its example inputs, and their dynamic dimensions in the format of `torch.export`
TraceInputs = tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]


class VisionTower(nn.Module):
    """The image tower with L2-normalised embeddings.

    Args:
        student: The model that the tower belongs to.
    """

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.student = student

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images: (B, 3, S, S) to (B, D)."""
        return nn.functional.normalize(self.student.get_image_features(pixel_values).pooler_output, dim=-1)


class TextTower(nn.Module):
    """The text tower with L2-normalised embeddings.

    Args:
        student: The model that the tower belongs to.
    """

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.student = student

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode texts: (B, L) and (B, L) to (B, D)."""
        features = self.student.get_text_features(input_ids, attention_mask).pooler_output
        return nn.functional.normalize(features, dim=-1)


def trace_inputs(student: DCCLIPModel, tower: str, max_batch: int | None = None) -> TraceInputs:
    """One tower with the inputs to trace it, for any number of images, or texts of any supported length.

    Args:
        student: The model, on the CPU, in eval mode and float32.
        tower: The tower: `vision` or `text`.
        max_batch: Largest batch size. None sets no limit.

    Returns:
        The tower as a module, its example inputs, and their dynamic dimensions in the format of `torch.export`.
    """
    return (_vision if tower == "vision" else _text)(student, max_batch)


def _vision(student: DCCLIPModel, max_batch: int | None) -> TraceInputs:
    size = student.config.image_size
    dynamic = {0: Dim("image_batch_size", max=max_batch)}
    return VisionTower(student).eval(), (torch.zeros(2, 3, size, size),), {"pixel_values": dynamic}


def _text(student: DCCLIPModel, max_batch: int | None) -> TraceInputs:
    config = student.config
    length, pad = min(7, config.max_text_length), getattr(config.text_config, "pad_token_id", None) or 0
    # with a batch of one text, or without padding, the tracer would take these values as constant
    input_ids = torch.full((2, length), pad + 1)
    attention_mask = torch.ones_like(input_ids)
    input_ids[1, length // 2 + 1 :], attention_mask[1, length // 2 + 1 :] = pad, 0
    dynamic = {0: Dim("text_batch_size", max=max_batch), 1: Dim("sequence_length", max=config.max_text_length)}
    return TextTower(student).eval(), (input_ids, attention_mask), dict.fromkeys(INPUTS["text"], dynamic)


def describe_tower(student: DCCLIPModel, tower: str) -> str:
    """Description of a tower for an error message, such as `vision tower 'vit'`.

    Args:
        student: The model that the tower belongs to.
        tower: The tower: `vision` or `text`.

    Returns:
        The description.
    """
    config = getattr(student.config, f"{tower}_config")
    return f"{tower} tower {getattr(config, 'architecture', config.model_type)!r}"
