"""Configuration of DC-CLIP: an image tower, a text tower, their pooling and the shared embedding space."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

LOADING_ARGUMENTS = frozenset({"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"})
MAX_LOGIT_SCALE = 10  # in either direction; CLIP's ends at 4.6
# number of values and their range, so that a damaged or hostile config cannot ask for all memory
LIMITS = {
    "projection_dim": (1, 1, 2**16),
    "image_size": (1, 1, 2**12),
    "max_text_length": (1, 1, 2**16),
    "vision_width": (1, 1, 2**16),
    "vision_pooled_width": (1, 1, 2**16),
    "vision_grid": (2, 1, 2**12),
    "text_width": (1, 1, 2**16),
    "logit_scale_init_value": (1, -MAX_LOGIT_SCALE, MAX_LOGIT_SCALE),
    "fit": (6, -1000, 1000),
}


@strict
class DCCLIPConfig(PreTrainedConfig):
    """Configuration of a [`DCCLIPModel`].

    Args:
        vision_config: Any transformers vision config, or its dict. `{"model_type": "timm_wrapper", "architecture":
            ...}` gives any timm backbone. Default: `ViTConfig()`.
        text_config: Any transformers text encoder config, or its dict. Default: `XLMRobertaConfig()`.
        projection_dim: Width of the shared embedding space, at least 1. If it equals the teacher's, student and
            teacher embeddings are comparable.
        logit_scale_init_value: Initial logarithm of the factor on cosine similarities, in -10..10.
        vision_pooling: Pooling of the image tower: `mean` over the feature map, `cls` for the first prefix token, or
            `tower` for the tower's own pooled output.
        text_pooling: Pooling of the text tower: `mean` over attended tokens, or `cls` for the first token.
        image_size: Edge of the square input image, in pixels.
        max_text_length: Maximum text length in tokens, special tokens included. Longer texts raise an error.
        vision_layout: Layout of the image tower's last hidden state: `tokens` (B, N, D), `nchw` or `nhwc`. Like the
            other `vision_` sizes below, it is detected when a model is built, and stored.
        vision_width: Number of channels D of the feature map.
        vision_grid: Height and width of the feature map.
        vision_prefix_tokens: Number of tokens before the patch tokens (CLS, registers).
        vision_pooled_width: Width of the pooled image vector before the projection.
        text_width: Width of a token's hidden state and of the pooled text vector before the projection.
        languages: ISO 639-1 codes of the languages that the model was trained on.
        teacher: Hub id or name of the model that this model was distilled from.
        teacher_weights: Digest of the teacher's weights, or its commit on the Hub. None if the embeddings are not in
            the teacher's space, such as after an alignment without an anchor.
        teacher_license: License of the teacher's weights, which also applies to the student's.
        prefixes: Numbers of leading dimensions at which the embedding was trained too, ascending, each at most
            `projection_dim`.
        rotation: Digest of the rotation of the teacher's embedding space, 16 hexadecimal digits. The matrix is the
            weight `rotation`. None if the space is the teacher's own.
        truncate_dim: Number of leading dimensions that the towers return, in 1..projection_dim. None returns all.
        fit: Slope, growth and offset of two logistic functions, for names and for sentences, that give the probability
            that a photograph fits a query; see `judge` in search/fit.py. None if they were not measured.
        base_model: Hub id or folder of the model that this model was fine-tuned from.
        base_model_license: License of the weights of that model, which also applies to this model's.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A value has the wrong type or is out of range; the message names
            the field.
        ValueError: A tower config has no model type.
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
    teacher_weights: str | None = None
    teacher_license: str | None = None
    prefixes: list[int] | tuple[int, ...] = ()
    rotation: str | None = None
    truncate_dim: int | None = None
    fit: list[float] | tuple[float, ...] | None = None
    base_model: str | None = None
    base_model_license: str | None = None

    @property
    def embedding_dim(self) -> int:
        """Number of dimensions that the towers return."""
        return self.truncate_dim or self.projection_dim

    def __post_init__(self, **kwargs):
        self.vision_config = _tower_config(self.vision_config, "vit", "vision_config")
        self.text_config = _tower_config(self.text_config, "xlm-roberta", "text_config")
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check ranges and combinations of fields. `@strict` calls this method."""
        limits = LIMITS | {"truncate_dim": (1, 1, self.projection_dim)}
        for name, (count, low, high) in limits.items():
            value: Any = getattr(self, name)
            values = [value] if count == 1 else value
            if value is not None and not (
                len(values) == count and all(low <= each <= high for each in values)
            ):
                numbers = f"{count} numbers" if count > 1 else "a number"
                raise ValueError(f"{name} must be {numbers} in {low}..{high}, got {value}.")
        check_prefixes(self.prefixes, self.projection_dim)
        if (
            self.vision_pooling == "cls"
            and self.vision_layout is not None
            and self.vision_prefix_tokens == 0
        ):
            raise ValueError(
                "vision_pooling='cls' needs a tower with a CLS token, but this tower has none. Use "
                "vision_pooling='mean'."
            )


def check_prefixes(prefixes: Sequence[int], projection_dim: int):
    """Check the widths at which an embedding is trained.

    Args:
        prefixes: Numbers of leading dimensions.
        projection_dim: Number of all dimensions.

    Raises:
        ValueError: They do not ascend, one is repeated, or one is less than 1 or more than `projection_dim`.
    """
    if list(prefixes) != sorted({*prefixes} & {*range(1, projection_dim + 1)}):
        raise ValueError(
            f"prefixes: must ascend in 1..{projection_dim} (the width of the embedding) without repetition, got "
            f"{list(prefixes)}."
        )


def _tower_config(
    config: PreTrainedConfig | dict | None, default: str, field: str
) -> PreTrainedConfig:
    if config is None:
        return AutoConfig.for_model(default)
    fields = dict(config) if isinstance(config, dict) else vars(config)
    loading = LOADING_ARGUMENTS & {*(fields.get("model_args") or ())}
    # a file may be a pickle that runs code, and `hf-hub:NAME` asks the Hub
    if loading or ":" in str(fields.get("architecture")):
        raise ValueError(
            f"{field}: model_args {sorted(loading)} or architecture {fields.get('architecture')!r} would load another "
            "file. Remove it; weights come from the folder, and architectures are those of timm.list_models()."
        )
    if not isinstance(config, dict):
        return config
    if "model_type" not in fields:
        raise ValueError(
            f"{field} has no 'model_type'. Set it to a transformers model type, such as 'vit', 'xlm-roberta' or "
            "'timm_wrapper'."
        )
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


__all__ = ["DCCLIPConfig"]
