"""DC-CLIP: a small image tower and a small bilingual text tower with one shared embedding space."""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
)
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_dcclip import MAX_LOGIT_SCALE, DCCLIPConfig

# arguments that transformers towers take through `**kwargs`
RECORDED = {"output_attentions", "output_hidden_states"}


@dataclass
class DCCLIPVisionOutput(BaseModelOutputWithPooling):
    """Output of `get_image_features`.

    Args:
        last_hidden_state: Last hidden state of the tower, in the layout `config.vision_layout`.
        pooler_output: Projected image embedding, (B, embedding_dim), not normalized.
        feature_map: Spatial feature map without prefix tokens, (B, vision_width, height, width).
    """

    feature_map: Tensor | None = None


@dataclass
class DCCLIPVisionModelOutput(CLIPVisionModelOutput):
    """Output of [`DCCLIPVisionModelWithProjection`]: the fields of transformers' CLIP, and the feature map.

    Args:
        feature_map: Spatial feature map without prefix tokens, (B, vision_width, height, width).
    """

    feature_map: Tensor | None = None


def _of_towers(condition: Callable[[Iterable[bool]], bool], flag: str) -> Any:
    """A class attribute of transformers that is true if it is true of `all` towers, or of `any`."""
    return property(lambda self: condition(getattr(tower, flag) for tower in self._towers()))


class DCCLIPPreTrainedModel(PreTrainedModel):
    """Base class of the whole model and of its single towers.

    An attention implementation is supported if every tower supports it. Set it for one tower with
    `attn_implementation={"text_config": NAME}`.

    BatchNorm layers with frozen weights stay in eval mode, so that adapters such as LoRA, which do not store
    statistics, give after loading what they gave in training.
    """

    config_class = DCCLIPConfig
    config: DCCLIPConfig
    base_model_prefix = "dcclip"
    _auto_classes: ClassVar[dict[str, str]] = {}  # further entries of `auto_map` in a saved config
    _auto_class: Any = "AutoModel"  # a saved folder has the code of the model or tower
    supports_gradient_checkpointing = _of_towers(any, "supports_gradient_checkpointing")
    _supports_sdpa = _of_towers(all, "_supports_sdpa")
    _supports_flash_attn = _of_towers(all, "_supports_flash_attn")
    _supports_flex_attn = _of_towers(all, "_supports_flex_attn")
    _supports_attention_backend = _of_towers(all, "_supports_attention_backend")

    def __init__(self, config: DCCLIPConfig):
        super().__init__(config)
        config.validate_architecture()  # `from_pretrained` sets its arguments without validation

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """Load a model as transformers does.

        Raises:
            ValueError: The logit scale is out of range, or the checkpoint lacks weights, which would be random. With
                `output_loading_info=True` they are in the returned report instead.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, report = loaded
        scale: Any = getattr(model, "logit_scale", None)
        is_here = scale is not None and not scale.is_meta and scale.numel() == 1  # not partitioned
        if is_here and not abs(scale.item()) <= MAX_LOGIT_SCALE:
            raise ValueError(
                f"logit_scale: the checkpoint has {scale.item()}, expected a number in -{MAX_LOGIT_SCALE}.."
                f"{MAX_LOGIT_SCALE}. Copy or train the model again."
            )
        if output_loading_info:
            return model, report
        if missing := report["missing_keys"]:
            saved = ", ".join(model.config.architectures or ["unknown"])
            raise ValueError(
                f"The checkpoint lacks {len(missing)} weights of {cls.__name__}, such as {min(missing)!r}. It was "
                f"saved from: {saved}. Load it with that class, or name a checkpoint of the whole model."
            )
        return model

    def train(self, mode: bool = True):
        """Set train mode as in torch, but BatchNorm layers with frozen weights keep their statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                parameter.requires_grad for parameter in module.parameters()
            ):
                module.eval()
        return self

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save weights, config and the model code, so that the folder loads with `trust_remote_code=True`."""
        auto_map = dict(getattr(self.config, "auto_map", None) or {})
        # the config may come from a folder of the whole model; transformers adds AutoConfig and AutoModel
        auto_map.pop("AutoModelForZeroShotImageClassification", None)
        self.config.auto_map = auto_map | self._auto_classes
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialize the projections and the logit scale. Each tower initializes its own weights."""
        for name in ("visual_projection", "text_projection"):
            if getattr(self, name, None) is module:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module is self and hasattr(self, "logit_scale"):
            nn.init.constant_(cast(Tensor, self.logit_scale), self.config.logit_scale_init_value)

    def activation_checkpointing_enable(self, *args, **kwargs):
        """Enable activation checkpointing in every tower that supports it.

        Raises:
            ValueError: No tower of this model supports it.
        """
        towers = [tower for tower in self._towers() if tower.supports_gradient_checkpointing]
        if not towers:
            raise ValueError(
                f"No tower of this {type(self).__name__} supports gradient checkpointing; train without it."
            )
        for tower in towers:
            tower.activation_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_disable(self):
        """Disable activation checkpointing in every tower that supports it."""
        for tower in self._towers():
            if tower.supports_gradient_checkpointing:
                tower.activation_checkpointing_disable()

    def _towers(self) -> list[PreTrainedModel]:
        return [
            getattr(self, name) for name in ("vision_model", "text_model") if hasattr(self, name)
        ]


class _VisionTower(DCCLIPPreTrainedModel):
    """Image tower, pooling and projection."""

    def _build_vision(self, config: DCCLIPConfig):
        vision_config: Any = config.vision_config  # a config of any model type
        if vision_config.model_type == "timm_wrapper":
            vision_config.do_pooling = config.vision_pooling == "tower"
        self.vision_model = AutoModel.from_config(vision_config)
        if config.vision_pooling != "tower":
            _drop_unused_pooler(self.vision_model)
        self._vision_arguments = _arguments(self.vision_model)
        if config.vision_width is None:
            _detect_vision_map(self.vision_model, config)
        self.visual_projection = nn.Linear(
            cast(int, config.vision_pooled_width), config.projection_dim, bias=False
        )

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs) -> DCCLIPVisionOutput:
        """Encode images.

        Args:
            pixel_values: Preprocessed images, (B, 3, image_size, image_size) float.
            kwargs: Arguments of the image tower, such as `output_hidden_states`. Others are ignored, as in CLIP.

        Returns:
            A [`DCCLIPVisionOutput`], whose `.pooler_output` is the projected embedding, not normalized.
        """
        known = {name: kwargs[name] for name in self._vision_arguments & kwargs.keys()}
        outputs = self.vision_model(pixel_values=pixel_values, **known)
        hidden = _last_hidden(outputs)
        prefix, feature_map = _split_map(hidden, self.config)
        if self.config.vision_pooling == "mean":
            pooled = feature_map.mean((2, 3))
        elif self.config.vision_pooling == "cls":
            pooled = cast(Tensor, prefix)[:, 0]
        else:
            pooled = outputs.pooler_output.flatten(1)
        return DCCLIPVisionOutput(
            last_hidden_state=hidden,
            pooler_output=self.visual_projection(pooled)[:, : self.config.embedding_dim],
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            feature_map=feature_map,
        )


class _TextTower(DCCLIPPreTrainedModel):
    """Text tower, pooling and projection."""

    def _build_text(self, config: DCCLIPConfig):
        text_config: Any = config.text_config  # a config of any model type
        self.text_model = AutoModel.from_config(text_config)
        self._text_arguments = _arguments(self.text_model)
        _drop_unused_pooler(self.text_model)
        if config.text_width is None:
            config.text_width = text_config.hidden_size
        self.text_projection = nn.Linear(config.text_width, config.projection_dim, bias=False)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: Token ids, (B, L) int64.
            attention_mask: Mask of (B, L), 1 for text and 0 for padding. Default: 0 at padding tokens.
            position_ids: Position ids, (B, L) int64, for towers that accept them.
            kwargs: Arguments of the text tower, such as `output_hidden_states`. Others are ignored, as in CLIP.

        Returns:
            An output whose `.pooler_output` (B, embedding_dim) is the projected embedding, not normalized, and whose
            `.last_hidden_state` (B, L, text_width) is the text feature map. Padding on the right does not change the
            embedding; on the left, it moves the positions of the tokens.

        Raises:
            ValueError: L is greater than `config.max_text_length`.
        """
        if input_ids.shape[-1] > self.config.max_text_length:
            raise ValueError(
                f"input_ids has {input_ids.shape[-1]} tokens per text; this model accepts at most "
                f"{self.config.max_text_length}. Shorten the text, or tokenize with truncation=True, "
                f"max_length={self.config.max_text_length}."
            )
        if attention_mask is None:
            pad = cast(Any, self.config.text_config).pad_token_id
            attention_mask = (
                torch.ones_like(input_ids) if pad is None else (input_ids != pad).long()
            )
        known = {name: kwargs[name] for name in self._text_arguments & kwargs.keys()}
        if position_ids is not None:
            known["position_ids"] = position_ids
        outputs = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **known)
        hidden = outputs.last_hidden_state
        if self.config.text_pooling == "mean":
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)
        else:
            first = attention_mask.long().argmax(1)
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), first]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=self.text_projection(pooled)[:, : self.config.embedding_dim],
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding table."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the token embedding table."""
        self.text_model.set_input_embeddings(value)


class DCCLIPVisionModelWithProjection(_VisionTower):
    """The image tower alone. It loads from a checkpoint of the whole model and skips the other weights."""

    main_input_name = "pixel_values"
    input_modalities = "image"
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^text_model\.",
        r"^text_projection\.",
        r"^logit_scale$",
        r"^rotation$",
    ]

    def __init__(self, config: DCCLIPConfig):
        super().__init__(config)
        self._build_vision(config)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **kwargs) -> DCCLIPVisionModelOutput:
        """Encode images with `get_image_features`."""
        fields: dict[str, Any] = {**self.get_image_features(pixel_values, **kwargs)}
        return DCCLIPVisionModelOutput(fields.pop("pooler_output"), **fields)

    def get_input_embeddings(self) -> nn.Module | None:  # type: ignore[override]
        """Return None, because an image tower has no embedding table."""
        return None


class DCCLIPTextModelWithProjection(_TextTower):
    """The text tower alone. It loads from a checkpoint of the whole model and skips the other weights."""

    main_input_name = "input_ids"
    input_modalities = "text"
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^vision_model\.",
        r"^visual_projection\.",
        r"^logit_scale$",
        r"^rotation$",
    ]

    def __init__(self, config: DCCLIPConfig):
        super().__init__(config)
        self._build_text(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs,
    ) -> CLIPTextModelOutput:
        """Encode texts with `get_text_features`."""
        features = self.get_text_features(input_ids, attention_mask, position_ids, **kwargs)
        fields: dict[str, Any] = {**features}
        return CLIPTextModelOutput(fields.pop("pooler_output"), **fields)


class DCCLIPModel(_VisionTower, _TextTower):
    """Image tower, text tower and logit scale.

    Example:
        >>> model = DCCLIPModel.from_pretrained("runs/demo/model")
        >>> processor = DCCLIPProcessor.from_pretrained("runs/demo/model")
        >>> inputs = processor(text=["red apple", "红苹果"], images=image, return_tensors="pt")
        >>> model(**inputs).logits_per_image.softmax(-1)
    """

    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    # required by the zero-shot pipeline
    _auto_classes: ClassVar[dict[str, str]] = {
        "AutoModelForZeroShotImageClassification": "modeling_dcclip.DCCLIPModel"
    }

    def __init__(self, config: DCCLIPConfig):
        super().__init__(config)
        self._build_vision(config)
        self._build_text(config)
        if config.rotation is not None:  # no tower uses it: the projections are rotated already
            self.register_buffer("rotation", torch.eye(config.projection_dim))
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs,
    ) -> CLIPOutput:
        """Compute the similarity of every image to every text.

        Args:
            input_ids: Token ids, (texts, L) int64.
            pixel_values: Preprocessed images, (images, 3, image_size, image_size) float.
            attention_mask: Mask of (texts, L), 1 for text and 0 for padding. Default: 0 at padding tokens.
            position_ids: Position ids, (texts, L) int64, for text towers that accept them.
            return_loss: Whether to compute the InfoNCE loss. Text i must then be the caption of image i.
            kwargs: Arguments of the towers, such as `output_hidden_states` or `token_type_ids`. Each tower gets those
                that it has; others, such as `labels`, are ignored, as in CLIP.

        Returns:
            The output of transformers' CLIP, with L2-normalized embeddings and, in `vision_model_output`, the feature
            map. The loss is InfoNCE, the mean of image-to-text and text-to-image.
        """
        vision_outputs = self.get_image_features(pixel_values, return_dict=True, **kwargs)
        text_outputs = self.get_text_features(
            input_ids, attention_mask, position_ids, return_dict=True, **kwargs
        )
        image_embeds = nn.functional.normalize(vision_outputs.pooler_output, dim=-1)
        text_embeds = nn.functional.normalize(text_outputs.pooler_output, dim=-1)
        logits_per_text = (
            self.logit_scale.exp() * text_embeds @ image_embeds.T.to(text_embeds.device)
        )
        logits_per_image = logits_per_text.T
        loss = None
        if return_loss:
            target = torch.arange(len(logits_per_text), device=logits_per_text.device)
            cross_entropy = nn.functional.cross_entropy
            loss = cross_entropy(logits_per_image, target) + cross_entropy(logits_per_text, target)
            loss = loss / 2
        return CLIPOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )


def _arguments(tower: PreTrainedModel) -> set[str]:
    """Names of the optional arguments that a tower understands."""
    parameters = inspect.signature(tower.forward).parameters
    names = set(parameters)
    if "kwargs" in parameters:
        names |= RECORDED
    if tower.config.model_type == "timm_wrapper":  # named, but refused
        names.remove("output_attentions")
        if not hasattr(tower.timm_model, "forward_intermediates"):
            names.remove("output_hidden_states")
    return names - {"pixel_values", "input_ids", "attention_mask", "position_ids"}


def _drop_unused_pooler(tower: PreTrainedModel):
    """Remove a pooler with parameters: it is not used, so its weights would stay untrained."""
    pooler = getattr(tower, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        cast(Any, tower).pooler = None


def _last_hidden(outputs: ModelOutput) -> Tensor:
    hidden = outputs["last_hidden_state"]
    # timm's features_only: a map per stage
    return hidden[-1] if isinstance(hidden, (list, tuple)) else hidden


def _split_map(hidden: Tensor, config: DCCLIPConfig) -> tuple[Tensor | None, Tensor]:
    """Split a hidden state into prefix tokens (B, P, D), or None, and the feature map (B, D, H, W)."""
    if config.vision_layout == "nchw":
        return None, hidden
    if config.vision_layout == "nhwc":
        return None, hidden.permute(0, 3, 1, 2)
    prefix, patches = hidden.split(
        [config.vision_prefix_tokens, hidden.shape[1] - config.vision_prefix_tokens], dim=1
    )
    height, width = config.vision_grid or (0, 0)
    if patches.shape[1] != height * width:  # another input size: the grid keeps its aspect ratio
        scale = math.sqrt(patches.shape[1] / (height * width))
        height, width = round(height * scale), round(width * scale)
    return prefix, patches.transpose(1, 2).unflatten(2, (height, width))  # (B, P, D), (B, D, H, W)


@torch.no_grad()
def _detect_vision_map(tower: PreTrainedModel, config: DCCLIPConfig):
    """Run the tower once on a blank image and store layout, width and grid of its feature map in the config.

    Raises:
        ValueError: The tower returns no spatial feature map.
    """
    training = tower.training
    tower.eval()
    outputs = tower(
        pixel_values=torch.zeros(
            1, 3, config.image_size, config.image_size, device=tower.device, dtype=tower.dtype
        )
    )
    tower.train(training)
    hidden = _last_hidden(outputs)
    vision_config: Any = config.vision_config
    name = getattr(vision_config, "architecture", vision_config.model_type)
    if hidden.ndim == 4:
        _, first, second, third = hidden.shape
        is_nhwc = first == second != third
        config.vision_layout = "nhwc" if is_nhwc else "nchw"
        config.vision_grid = [first, second] if is_nhwc else [second, third]
        config.vision_width = third if is_nhwc else first
    elif hidden.ndim == 3 and (edge := math.isqrt(hidden.shape[1])) > 1:
        # tokens beyond the largest square are CLS and register tokens
        config.vision_layout = "tokens"
        config.vision_grid = [edge, edge]
        config.vision_prefix_tokens = hidden.shape[1] - edge * edge
        config.vision_width = hidden.shape[2]
    else:
        raise ValueError(
            f"vision_config: {name!r} returns no spatial feature map (last hidden state of shape "
            f"{tuple(hidden.shape)} at image_size={config.image_size}). Choose a tower that returns its patch grid "
            "or a larger image_size."
        )
    if config.vision_pooling == "tower":
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is None:
            raise ValueError(
                f"vision_pooling='tower', but {name!r} has no pooled output. Use vision_pooling='mean'."
            )
        config.vision_pooled_width = pooled.flatten(1).shape[1]
    else:
        config.vision_pooled_width = config.vision_width
    config.validate_architecture()


__all__ = [
    "DCCLIPModel",
    "DCCLIPPreTrainedModel",
    "DCCLIPTextModelWithProjection",
    "DCCLIPVisionModelWithProjection",
]
