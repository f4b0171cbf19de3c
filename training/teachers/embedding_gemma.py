"""EmbeddingGemma 2 as a dual encoder: one language model embeds texts, and images as soft tokens.

The embedding is the mean over all tokens of its final states, which are projected already.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from training.teachers.family import patch_map

SOFT_TOKENS = 280  # most tokens of an image, the default of its image processor
NUM_MARKS = (
    2  # tokens before and after an image: beginning of text and image, end of image and text
)


def image_size(config: PreTrainedConfig) -> int:
    """Edge of the largest square image whose soft tokens are at most `SOFT_TOKENS`."""
    vision: Any = config.vision_config
    return math.isqrt(SOFT_TOKENS) * vision.pooling_kernel_size * vision.patch_size


def image_outputs(model: Any, pixel_values: Tensor) -> SimpleNamespace:
    """Encode square images, (B, 3, S, S) in 0..1, in the layout of transformers' processor for an image alone."""
    config = model.config
    text = config.text_config
    vision = config.vision_config
    patches, positions = _patches(pixel_values, vision.patch_size)
    num_tokens = patches.shape[1] // vision.pooling_kernel_size**2
    image = [config.image_token_id] * num_tokens
    marked = [
        text.bos_token_id,
        config.boi_token_id,
        *image,
        config.eoi_token_id,
        text.eos_token_id,
    ]
    input_ids = torch.tensor(marked, device=pixel_values.device).expand(len(pixel_values), -1)
    outputs = model(
        input_ids=input_ids,
        pixel_values=patches,
        image_position_ids=positions.expand(len(pixel_values), -1, -1),
    )
    states = outputs.last_hidden_state
    return SimpleNamespace(last_hidden_state=states, pooler_output=states.mean(1))


def image_map(model: Any, outputs: Any) -> Tensor:
    """The states of the soft tokens of an image, (B, D, H, W)."""
    return patch_map(outputs.last_hidden_state[:, NUM_MARKS:-NUM_MARKS])


def text_outputs(model: Any, input_ids: Tensor, attention_mask: Tensor | None) -> SimpleNamespace:
    """Encode texts, (B, L), with the mean over the tokens that are attended."""
    outputs = model.language_model(input_ids=input_ids, attention_mask=attention_mask)
    states = outputs.last_hidden_state
    if attention_mask is None:
        return SimpleNamespace(last_hidden_state=states, pooler_output=states.mean(1))
    mask = attention_mask[..., None].to(states.dtype)
    pooled = (states * mask).sum(1) / mask.sum(1)
    return SimpleNamespace(last_hidden_state=states, pooler_output=pooled)


def _patches(pixel_values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Flattened patches, (B, N, 3 * size^2), row by row, and the column and row of each, (1, N, 2)."""
    grid = pixel_values.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, 3, H, p, W, p)
    patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    rows, columns = torch.meshgrid(
        torch.arange(grid.shape[2], device=grid.device),
        torch.arange(grid.shape[4], device=grid.device),
        indexing="ij",
    )
    return patches, torch.stack([columns, rows], -1).flatten(0, 1)[None]
