"""Configuration of DC-CLIP: two light towers, how each is pooled, and the embedding space they share."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class DCCLIPConfig(PreTrainedConfig):
    """What a [`DCCLIPModel`] is built from.

    Args:
        vision_config: any transformers vision config or its dict; `{"model_type": "timm_wrapper", "architecture":
            ...}` gives any timm backbone. Default: `ViTConfig()`.
        text_config: any transformers text encoder config or its dict. Default: `XLMRobertaConfig()`.
        projection_dim: width of the shared embedding space, in 1... Equal to the teacher's, student and teacher
            embeddings can be compared with each other.
        logit_scale_init_value: initial logarithm of the factor on cosine similarities.
        vision_pooling: `mean` over the spatial map, `cls` for the first prefix token, or `tower` for the tower's own
            pooled output.
        text_pooling: `mean` over attended tokens, or `cls` for the first token.
        image_size: edge of the square input in pixels.
        max_text_length: longest text in tokens, specials included; the model refuses a longer one.
        vision_layout: how the tower lays out its last hidden state: `tokens` (B, N, D), `nchw` or `nhwc`. It and the
            next four are read off the tower when a model is built, and stored.
        vision_width: channels D of the feature map.
        vision_grid: (height, width) of the feature map.
        vision_prefix_tokens: tokens before the patch tokens (CLS, registers).
        vision_pooled_width: width of the pooled image vector before the projection.
        text_width: width of a token state and of the pooled text vector before the projection.
        languages: ISO 639-1 codes of the languages that the model was trained to read.
        teacher: Hub id or name of the model it was distilled from (lineage; its licence is passed on).
        teacher_license: licence of the teacher's weights.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a value is of the wrong type or out of range; the message names
        the field.
        ValueError: a tower config without a model type.
    """

    model_type: ClassVar[str] = "dcclip"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": AutoConfig}

    vision_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    projection_dim: int = 768
    logit_scale_init_value: float | int = 2.6592
    vision_pooling: Literal["mean", "cls", "tower"] = "mean"
    text_pooling: Literal["mean", "cls"] = "mean"
    image_size: int = 224
    max_text_length: int = 77
    vision_layout: Literal["tokens", "nchw", "nhwc"] | None = None
    vision_width: int | None = None
    vision_grid: list[int] | tuple[int, ...] | None = None
    vision_prefix_tokens: int = 0
    vision_pooled_width: int | None = None
    text_width: int | None = None
    languages: list[str] | tuple[str, ...] = ("zh", "en")
    teacher: str | None = None
    teacher_license: str | None = None

    def __post_init__(self, **kwargs):
        self.vision_config = _tower_config(self.vision_config, "vit", "vision_config")
        self.text_config = _tower_config(self.text_config, "xlm-roberta", "text_config")
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`: checks ranges and what one field says about another."""
        for name in ("projection_dim", "image_size", "max_text_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.vision_pooling == "cls" and self.vision_layout is not None and self.vision_prefix_tokens == 0:
            raise ValueError(
                "vision_pooling='cls' needs a tower with a CLS token, but this one has none. Use "
                "vision_pooling='mean'."
            )


def _tower_config(config: PreTrainedConfig | dict | None, default: str, field: str) -> PreTrainedConfig:
    if config is None:
        return AutoConfig.for_model(default)
    if isinstance(config, PreTrainedConfig):
        return config
    config = dict(config)
    if "model_type" not in config:
        raise ValueError(
            f"{field} has no 'model_type'. Name a transformers model type, such as 'vit', 'xlm-roberta' or "
            "'timm_wrapper'."
        )
    return AutoConfig.for_model(config.pop("model_type"), **config)


__all__ = ["DCCLIPConfig"]
