"""Bare encoders as teachers of one tower: image backbones, and sentence encoders.

Any image model of transformers, or of timm through transformers, gives image targets: its feature map after the final
norm and its pooled output. Any text encoder of transformers gives text targets: its token states and their mean, or
the pooling that its sentence-transformers files name.
"""

import copy
import json
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    CLIPImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import cached_file

from training.teachers.family import NORM_AFTER_POOLING, spatial_map
from training.teachers.preparation import square_image_processor

TIMM = "timm:"
# of sentence-transformers
KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}


def resolve_name(name: str) -> str:
    """Hub id of `timm:ARCHITECTURE`, with timm's default weights; other names are returned unchanged.

    Raises:
        ValueError: timm does not have the architecture, or no weights for it on the Hub.
    """
    if not name.startswith(TIMM):
        return name
    from timm.models import get_pretrained_cfg

    pretrained = get_pretrained_cfg(name.removeprefix(TIMM), allow_unregistered=True)
    if pretrained is None or not pretrained.hf_hub_id:
        raise ValueError(
            f"teacher: timm has no weights of {name.removeprefix(TIMM)!r} on the Hub. Name one of "
            "timm.list_pretrained(), or the folder of a checkpoint."
        )
    return pretrained.hf_hub_id


def model_type_of(fields: dict[str, Any]) -> str | None:
    """Model type of a config file; timm's own files have an architecture instead."""
    if "model_type" not in fields and "pretrained_cfg" in fields:
        return TimmWrapperConfig.model_type
    return fields.get("model_type")


def main_input(model_type: str | None) -> str | None:
    """Name of the input of a transformers model with one tower, such as `pixel_values` or `input_ids`.

    Returns:
        The name; None if the model type is unknown, decodes, or has several towers.
    """
    if model_type is None or model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    model_class = MODEL_MAPPING[config_class]
    # several classes depend on settings of the config; the outputs of foreign classes are not known
    if not isinstance(model_class, type) or not model_class.__module__.startswith("transformers."):
        return None
    has_parts = bool(getattr(config_class, "sub_configs", None)) or getattr(config_class, "is_encoder_decoder", False)
    return None if has_parts else model_class.main_input_name


class BareEncoder(PreTrainedModel):
    """One encoder of transformers as a tower of a teacher.

    Args:
        config: Config of the encoder.
        tower: The encoder; None if it is not needed.
        dtype: Precision of its weights.
    """

    config_class = PreTrainedConfig
    module: ClassVar[str]

    def __init__(
        self, config: PreTrainedConfig, tower: PreTrainedModel | None = None, dtype: torch.dtype = torch.float32
    ):
        super().__init__(copy.deepcopy(config))  # transformers writes the attention of this class into its config
        # keeps precision and device, also without a tower
        self.register_buffer("_place", torch.zeros((), dtype=dtype), persistent=False)
        if tower is not None:
            setattr(self, self.module, tower)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return cast(Tensor, self._place).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return cast(Tensor, self._place).device

    @classmethod
    def load(
        cls, name: str, with_tower: bool, dtype: torch.dtype, commit: str | None
    ) -> "tuple[BareEncoder, list[str]]":
        """Load an encoder.

        Args:
            name: Hub id or folder.
            with_tower: Whether to load the weights. Sizes do not need them.
            dtype: Precision of the weights in memory.
            commit: Commit of the Hub id; None for a folder.

        Returns:
            The encoder, and the names of the weights that the checkpoint lacks.
        """
        fields: dict[str, Any] = {"revision": commit or "main", "trust_remote_code": False}
        config = _load_config(name, **fields)
        if not with_tower:
            return cls(config, None, dtype), []
        tower, report = AutoModel.from_pretrained(name, config=config, dtype=dtype, output_loading_info=True, **fields)
        # a layer that transformers adds for fine-tuning; not all checkpoints have its weights
        unused = getattr(tower, "pooler", None)
        if unused is not None and any(True for _ in unused.parameters()):
            tower.pooler = None
            report["missing_keys"] = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
        return cls(config, tower, dtype), sorted(report["missing_keys"])


class BareImageEncoder(BareEncoder):
    """An image model of transformers or timm."""

    module = "vision_model"

    def encode(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: Normalized images, (B, 3, S, S).

        Returns:
            An output whose `.last_hidden_state` is the feature map (B, D, H, W), and whose `.pooler_output` is the
            model's own pooled output, (B, width), or else the CLS token or the mean of the map.
        """
        tower: Any = self.vision_model
        is_timm = isinstance(self.config, TimmWrapperConfig)
        outputs = tower(pixel_values=pixel_values, **({"do_pooling": True} if is_timm else {}))
        hidden = outputs.last_hidden_state
        if self.config.model_type in NORM_AFTER_POOLING:
            hidden = tower.post_layernorm(hidden)
        feature_map = spatial_map(hidden, map_width(self.config))
        pooled = outputs.get("pooler_output")
        if pooled is None:
            pooled = hidden[:, 0] if hidden.ndim == 3 else cast(Tensor, feature_map).mean((2, 3))
        return BaseModelOutputWithPooling(last_hidden_state=feature_map, pooler_output=pooled.flatten(1))


class BareTextEncoder(BareEncoder):
    """A text encoder of transformers, with the pooling of token states.

    Attributes:
        pooling: Pooling of token states: their `mean`, the first one (`cls`) or the `last` one.
    """

    module = "text_model"
    pooling = "mean"

    @classmethod
    def load(
        cls, name: str, with_tower: bool, dtype: torch.dtype, commit: str | None
    ) -> "tuple[BareEncoder, list[str]]":
        """Load an encoder with the pooling that its sentence-transformers files name, as `stated_pooling` reads it."""
        model, missing = super().load(name, with_tower, dtype, commit)
        cast(BareTextEncoder, model).pooling = stated_pooling(name, commit)
        return model, missing

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: Token ids, (B, L) int64, padded on the right.
            attention_mask: Mask, (B, L) int64, 1 for tokens and 0 for padding; None to attend everything.

        Returns:
            An output whose `.last_hidden_state` has the token states (B, L, D), and whose `.pooler_output` is their
            pooled value, (B, D).
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = cast(Any, self.text_model)(input_ids=input_ids, attention_mask=mask).last_hidden_state
        if self.pooling == "mean":
            weights = mask[:, :, None].to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1).clamp_min(1)
        else:
            last = mask.sum(1) - 1 if self.pooling == "last" else torch.zeros_like(mask[:, 0])
            pooled = states[torch.arange(len(states), device=states.device), last]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


def map_width(config: PreTrainedConfig) -> int:
    """Number of channels of the feature map of an image encoder."""
    if isinstance(config, TimmWrapperConfig):
        return _timm_widths(config)[0]
    return getattr(config, "hidden_size", None) or cast(Any, config).hidden_sizes[-1]


def pooled_width(config: PreTrainedConfig) -> int:
    """Width of the pooled output of an image encoder."""
    return _timm_widths(config)[1] if isinstance(config, TimmWrapperConfig) else map_width(config)


def _timm_widths(config: TimmWrapperConfig) -> tuple[int, int]:
    """Channels of a timm model's feature map and of its pooled output. No weights are made."""
    import timm

    arguments = config.model_args or {}
    if arguments.get("features_only"):
        raise ValueError(
            f"teacher: {config.architecture!r} has model_args features_only, so it gives no pooled output. Save the "
            "whole backbone, without features_only."
        )
    with torch.device("meta"):
        model: Any = timm.create_model(config.architecture, num_classes=0, **arguments)
    return model.num_features, model.head_hidden_size


def timm_processor(config: TimmWrapperConfig) -> CLIPImageProcessor:
    """Image processor with the size and statistics of a timm model's config, or else of its architecture in timm."""
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    stated = getattr(config, "pretrained_cfg", None)
    if not stated:
        default = get_pretrained_cfg(config.architecture, allow_unregistered=True)
        stated = {} if default is None else default.to_dict()
    data = resolve_data_config(args={}, pretrained_cfg=stated)
    edge = (config.model_args or {}).get("img_size", data["input_size"][1])
    return square_image_processor(edge, data["mean"], data["std"])


def stated_pooling(name: str, commit: str | None) -> str:
    """Pooling of token states that the sentence-transformers files of a checkpoint name; `mean` without these files.

    Args:
        name: Hub id or folder.
        commit: Commit of the Hub id; None for a folder.

    Raises:
        ValueError: The files name an unknown pooling, or layers after it.
    """
    modules = _read_json(name, "modules.json", commit)
    if modules is None:
        return "mean"
    kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    if unknown := set(kinds) - KNOWN_MODULES:
        raise ValueError(
            f"teacher: {name!r} has modules of sentence-transformers that are not supported: {sorted(unknown)}. "
            f"Choose an encoder with no other modules than {sorted(KNOWN_MODULES)}."
        )
    settings = _read_json(name, f"{kinds['Pooling']}/config.json", commit) if "Pooling" in kinds else None
    if settings is None:
        return "mean"
    chosen = [field for field, value in settings.items() if field.startswith("pooling_mode_") and value is True]
    stated = settings.get("pooling_mode")  # since sentence-transformers 5.2
    names = [POOLINGS.get(field) for field in chosen] or [{"lasttoken": "last"}.get(stated, stated)]
    if len(names) != 1 or names[0] not in POOLINGS.values():
        raise ValueError(
            f"teacher: {name!r} pools its tokens by {chosen or stated}, which is not supported. Choose an encoder "
            f"that pools by one of {sorted(POOLINGS.values())}."
        )
    return cast(str, names[0])


def _read_json(name: str, file: str, commit: str | None) -> Any:
    path = cached_file(name, file, revision=commit or "main", _raise_exceptions_for_missing_entries=False)
    try:
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"teacher: {file} of {name!r} is damaged ({error}). Copy the file again.") from error


def _load_config(name: str, **fields: Any) -> PreTrainedConfig:
    values, _ = PreTrainedConfig.get_config_dict(name, **fields)
    return CONFIG_MAPPING[cast(str, model_type_of(values))].from_pretrained(name, **fields)
