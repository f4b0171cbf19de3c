"""What a model family is: one row that describes how its models are loaded and encoded, and the encoding functions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from training.teachers.preparation import TextPreparation

TOWERS = ("vision", "text")
# the tower itself and its projection, which a model need not have
TOWER_MODULES = {
    "vision": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}

# text towers whose position ids start after the padding id
ROBERTA_LIKE = {"altclip_text_model", "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta",
                "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """Distillation targets of a batch of images or texts.

    Args:
        feature_map: Feature map after the tower's own final norm: (B, D, H, W) for images, without CLS and other
            prefix tokens; (B, L, D) for texts. None if the run does not need it.
        embedding: Embeddings that the family compares, (B, projection_dim), not normalized.
    """

    feature_map: Tensor | None
    embedding: Tensor

    @property
    def required_map(self) -> Tensor:
        """The feature map, of targets for which `TargetSpec` sets `grid` or `token_maps`."""
        assert self.feature_map is not None
        return self.feature_map


def patch_map(tokens: Tensor) -> Tensor:
    """Arrange the tokens of a square image, (B, N, D), as a feature map, (B, D, H, W).

    Patches come last, row by row. Tokens before the largest square are prefix tokens, such as CLS, and are dropped.
    """
    edge = math.isqrt(tokens.shape[1])
    patches = tokens[:, -edge * edge :]
    return patches.transpose(1, 2).unflatten(2, (edge, edge))  # (B, H * W, D) -> (B, D, H, W)


def first_position(text_config: PreTrainedConfig) -> int:
    """The position id of a text's first token."""
    return text_config.pad_token_id + 1 if text_config.model_type in ROBERTA_LIKE else 0


def num_positions(config: PreTrainedConfig) -> int:
    """Longest text in tokens that the text tower has positions for; VERY_LARGE_INTEGER for relative positions."""
    text_config = config.text_config
    positions = getattr(text_config, "max_position_embeddings", None)
    return VERY_LARGE_INTEGER if positions is None else positions - first_position(text_config)


def _patches_of_last_layer(model: Any, outputs: Any) -> Tensor:
    return patch_map(outputs.last_hidden_state)


def clip_image_map(model: Any, outputs: Any) -> Tensor:
    """Patches of the last layer after the final norm, which CLIP applies only to the pooled CLS token."""
    return patch_map(model.vision_model.post_layernorm(outputs.last_hidden_state))


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family: everything that teaching and evaluation need to know about it.

    The defaults describe a dual encoder in the layout of transformers' CLIP. A row names what differs.

    Args:
        model_class: Class of the whole dual encoder; its `config_class.model_type` is the key of the row.
        image_map: Function of the model and its image outputs that returns the feature map (B, D, H, W) after the
            final norm, or None if its tower gives none.
        vision_width: Function of the config that returns D of the image feature map; 0 without a map.
        text_width: Function of the config that returns D of the token states.
        projection_dim: Function of the config that returns the width of the embeddings.
        image_size: Function of the config that returns the edge of the square image in pixels.
        max_text_length: Function of the config that returns the longest text in tokens, special tokens included.
        text_preparation: How texts are prepared, as in training, or a function of the tokenizer that returns it. None
            if the model's own config, tokenizer and processor state it.
        license: License of the weights, or a function of the config that returns it; None if it is not fixed.
        standalone_towers: Model types of towers that exist only inside this family, with the model type of a class of
            its own that computes the same. A student inherits such a tower as that class.
    """

    model_class: type[PreTrainedModel]
    image_map: Callable[[Any, Any], Tensor | None] = _patches_of_last_layer
    vision_width: Callable[[PreTrainedConfig], int] = attrgetter("vision_config.hidden_size")
    text_width: Callable[[PreTrainedConfig], int] = attrgetter("text_config.hidden_size")
    projection_dim: Callable[[PreTrainedConfig], int] = attrgetter("projection_dim")
    image_size: Callable[[PreTrainedConfig], int] = attrgetter("vision_config.image_size")
    max_text_length: Callable[[PreTrainedConfig], int] = num_positions
    text_preparation: (
        TextPreparation | Callable[[PreTrainedTokenizerBase], TextPreparation] | None
    ) = None
    license: str | Callable[[PreTrainedConfig], str | None] | None = None
    standalone_towers: Mapping[str, str] = field(default_factory=dict)

    def prepare_texts(self, tokenizer: PreTrainedTokenizerBase) -> TextPreparation | None:
        """How texts are prepared for a model with this tokenizer; None if the row does not state it."""
        if self.text_preparation is None or isinstance(self.text_preparation, TextPreparation):
            return self.text_preparation
        return self.text_preparation(tokenizer)

    def license_of(self, config: PreTrainedConfig) -> str | None:
        """License of the weights of a model with this config; None if the family does not fix it."""
        return self.license(config) if callable(self.license) else self.license
