"""The teacher families: how each gives its targets, and what its config calls them. A new family is a row."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AltCLIPModel,
    AltCLIPVisionModel,
    ChineseCLIPModel,
    ChineseCLIPVisionModel,
    CLIPModel,
    CLIPVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2Model,
    SiglipModel,
    VisionTextDualEncoderModel,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from modeling_dcclip import DCCLIPModel

TOWERS = ("vision", "text")

# their last hidden state is before the final norm, which only the pooled CLS token has passed
NORM_AFTER_POOLING = (AltCLIPVisionModel, ChineseCLIPVisionModel, CLIPVisionModel)

# their position ids start after the padding id
ROBERTA_LIKE = {
    "altclip_text_model",
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


@dataclass(frozen=True)
class Targets:
    """What a student learns from.

    Args:
        feature_map: after the tower's own final norm: (B, D, H, W) for images, without CLS and other prefix tokens;
            (B, L, D) for texts. A source of targets leaves it out where it is not asked for.
        embedding: (B, projection_dim), what the family compares, not normalised.
    """

    feature_map: Tensor | None
    embedding: Tensor


def _clip_images(model: Any, pixel_values: Tensor) -> Targets:
    outputs = model.get_image_features(pixel_values)
    return Targets(_patch_map(model.vision_model.post_layernorm(outputs.last_hidden_state)), outputs.pooler_output)


def _siglip_images(model: Any, pixel_values: Tensor) -> Targets:
    outputs = model.get_image_features(pixel_values)
    return Targets(_patch_map(outputs.last_hidden_state), outputs.pooler_output)


def _naflex_images(model: Any, pixel_values: Tensor) -> Targets:
    edge = model.config.vision_config.patch_size
    patches = pixel_values.unfold(2, edge, edge).unfold(3, edge, edge)  # (B, 3, H, W, edge, edge)
    grid = patches.shape[2:4]
    # every patch is a vector of pixels by row, column and, fastest, colour
    patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (B, H * W, edge * edge * 3)
    shapes = torch.tensor([grid], device=patches.device).expand(len(patches), 2)
    mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=patches.device)
    outputs = model.get_image_features(patches, pixel_attention_mask=mask, spatial_shapes=shapes)
    return Targets(_patch_map(outputs.last_hidden_state), outputs.pooler_output)


def _dual_encoder_images(model: Any, pixel_values: Tensor) -> Targets:
    if isinstance(model.vision_model, NORM_AFTER_POOLING):
        return _clip_images(model, pixel_values)
    outputs = model.get_image_features(pixel_values)
    hidden, width = outputs.last_hidden_state, model.config.vision_config.hidden_size
    feature_map = hidden if hidden.ndim == 4 else _patch_map(hidden)
    if feature_map.shape[1] != width:
        raise ValueError(
            f"teacher: its image tower ({model.config.vision_config.model_type!r}) pools {width} channels, but its "
            f"map of shape {tuple(feature_map.shape)} has others. Choose a teacher whose map is (B, {width}, H, W)."
        )
    return Targets(feature_map, outputs.pooler_output)


def _dcclip_images(model: Any, pixel_values: Tensor) -> Targets:
    outputs = model.get_image_features(pixel_values)
    return Targets(outputs.feature_map, outputs.pooler_output)


def _patch_map(tokens: Tensor) -> Tensor:
    """The map (B, D, H, W) of (B, N, D) tokens of a square image: prefix tokens are what its square leaves over."""
    edge = math.isqrt(tokens.shape[1])
    return tokens[:, -edge * edge :].transpose(1, 2).unflatten(2, (edge, edge))


def _texts(model: Any, input_ids: Tensor, attention_mask: Tensor | None) -> Targets:
    # every text tower gives its states after its final norm, AltCLIP's are also transformed to the joint width
    outputs = model.get_text_features(input_ids, attention_mask)
    return Targets(outputs.last_hidden_state, outputs.pooler_output)


def num_positions(config: PreTrainedConfig) -> int:
    """How many tokens the text tower has positions for; a very large number where positions are relative."""
    text = config.text_config
    positions = getattr(text, "max_position_embeddings", VERY_LARGE_INTEGER)  # absent where positions are relative
    return positions - text.pad_token_id - 1 if text.model_type in ROBERTA_LIKE else positions


def _dual_encoder_image_size(config: PreTrainedConfig) -> int | None:
    return getattr(config.vision_config, "image_size", None)


def naflex_image_size(config: PreTrainedConfig) -> int:
    """Edge in pixels of the square that has as many patches as SigLIP 2 reads of an image of any shape."""
    return math.isqrt(config.vision_config.num_patches) * config.vision_config.patch_size


@dataclass(frozen=True)
class Family:
    """How one model type gives its targets, and where its config tells the sizes.

    Args:
        model: the class of the whole dual encoder, with `get_image_features` and `get_text_features`.
        images: (model, pixel values (B, 3, S, S)) to targets.
        texts: (model, input ids (B, L), attention mask (B, L) or None) to targets.
        fixed_length: texts are padded to the longest that it reads, and the padding is attended.
        vision_width: config to D of the image map.
        text_width: config to D of the token states.
        projection_dim: config to the width of the embeddings.
        image_size: config to the edge of the square image in pixels; None where the image processor tells.
        max_text_length: config to the longest text in tokens, specials included.
        license: config to what the family's weights are licensed under, if that is known.
    """

    model: type[PreTrainedModel]
    images: Callable[[Any, Tensor], Targets]
    texts: Callable[[Any, Tensor, Tensor | None], Targets] = _texts
    fixed_length: bool = False
    vision_width: Callable[[PreTrainedConfig], int] = attrgetter("vision_config.hidden_size")
    text_width: Callable[[PreTrainedConfig], int] = attrgetter("text_config.hidden_size")
    projection_dim: Callable[[PreTrainedConfig], int] = attrgetter("projection_dim")
    image_size: Callable[[PreTrainedConfig], int | None] = attrgetter("vision_config.image_size")
    max_text_length: Callable[[PreTrainedConfig], int] = num_positions
    license: Callable[[PreTrainedConfig], str | None] = lambda config: None


FAMILIES = {
    "altclip": Family(
        AltCLIPModel,
        _clip_images,
        text_width=attrgetter("text_config.project_dim"),
        license=lambda config: "creativeml-openrail-m",
    ),
    "chinese_clip": Family(ChineseCLIPModel, _clip_images),
    "clip": Family(CLIPModel, _clip_images),
    "dcclip": Family(
        DCCLIPModel,
        _dcclip_images,
        vision_width=attrgetter("vision_width"),
        text_width=attrgetter("text_width"),
        image_size=attrgetter("image_size"),
        max_text_length=attrgetter("max_text_length"),
        license=attrgetter("teacher_license"),
    ),
    "siglip": Family(
        SiglipModel, _siglip_images, fixed_length=True, projection_dim=attrgetter("text_config.projection_size")
    ),
    "siglip2": Family(
        Siglip2Model,
        _naflex_images,
        fixed_length=True,
        projection_dim=attrgetter("text_config.projection_size"),
        image_size=naflex_image_size,
    ),
    "vision-text-dual-encoder": Family(
        VisionTextDualEncoderModel, _dual_encoder_images, image_size=_dual_encoder_image_size
    ),
}


def find_family(config: PreTrainedConfig | dict, name: str) -> Family:
    """The family of a config.

    Raises:
        ValueError: it is not one of `FAMILIES`.
    """
    model_type = config.get("model_type") if isinstance(config, dict) else config.model_type
    if model_type not in FAMILIES:
        raise ValueError(
            f"teacher: {name!r} is of the family {model_type!r}; supported are {', '.join(FAMILIES)}. Choose one of "
            "these, or describe the family in training/teachers/families.py."
        )
    return FAMILIES[model_type]
