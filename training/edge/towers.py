"""Towers as modules that an exporter traces."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from modeling_dcclip import DCCLIPModel

TOWERS = ("vision", "text")
INPUTS = {"vision": ["pixel_values"], "text": ["input_ids", "attention_mask"]}
OUTPUTS = {"vision": "image_embeds", "text": "text_embeds"}
# a module, what it is traced with, and which dimensions of that are free, as `torch.export` takes them
Traceable = tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]


class VisionTower(nn.Module):
    """Images to embeddings of unit length."""

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.student = student

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, D)."""
        return nn.functional.normalize(self.student.get_image_features(pixel_values).pooler_output, dim=-1)


class TextTower(nn.Module):
    """Texts to embeddings of unit length."""

    def __init__(self, student: DCCLIPModel):
        super().__init__()
        self.student = student

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) and (B, L) to (B, D)."""
        features = self.student.get_text_features(input_ids, attention_mask).pooler_output
        return nn.functional.normalize(features, dim=-1)


def traceable(student: DCCLIPModel, tower: str, max_batch: int | None = None) -> Traceable:
    """One tower, ready to be traced for any number of images, or of texts of any length that it can read.

    Args:
        student: on the CPU, in eval mode and float32.
        tower: one of `TOWERS`.
        max_batch: the most at once; None sets no limit.
    """
    return (_vision if tower == "vision" else _text)(student, max_batch)


def _vision(student: DCCLIPModel, max_batch: int | None) -> Traceable:
    size = student.config.image_size
    free = {0: Dim("image_batch_size", max=max_batch)}
    return VisionTower(student).eval(), (torch.zeros(2, 3, size, size),), {"pixel_values": free}


def _text(student: DCCLIPModel, max_batch: int | None) -> Traceable:
    config = student.config
    length, pad = min(7, config.max_text_length), getattr(config.text_config, "pad_token_id", None) or 0
    # an example of one text, or without padding, would be taken for the rule
    input_ids = torch.full((2, length), pad + 1)
    attention_mask = torch.ones_like(input_ids)
    input_ids[1, length // 2 + 1 :], attention_mask[1, length // 2 + 1 :] = pad, 0
    free = {0: Dim("text_batch_size", max=max_batch), 1: Dim("sequence_length", max=config.max_text_length)}
    return TextTower(student).eval(), (input_ids, attention_mask), dict.fromkeys(INPUTS["text"], free)


def describe_tower(student: DCCLIPModel, tower: str) -> str:
    """For an error: what the tower is, such as `vision tower 'vit'`."""
    config = getattr(student.config, f"{tower}_config")
    return f"{tower} tower {getattr(config, 'architecture', config.model_type)!r}"
