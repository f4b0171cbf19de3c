"""The model families, for teaching and for evaluation. A new family is one row; see `Family` for its fields.

A family outside this package is added to the same table before a model is loaded:

    from training.teachers import FAMILIES, Family

    FAMILIES["my_clip"] = Family(model_class=MyCLIPModel, text_preparation=TextPreparation(77))
"""

import math
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AltCLIPModel,
    ChineseCLIPModel,
    CLIPModel,
    MetaClip2Model,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Siglip2Model,
    SiglipModel,
    VisionTextDualEncoderModel,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from modeling_dcclip import DCCLIPModel
from training.teachers.encoders import (
    BareImageEncoder,
    BareTextEncoder,
    main_input,
    map_width,
    model_type_of,
    pooled_width,
)
from training.teachers.family import NORM_AFTER_POOLING, Family, patch_map
from training.teachers.open_clip_model import OpenClipModel
from training.teachers.preparation import (
    GEMMA_TOKEN,
    TextPreparation,
    canonical,
    config_end_token,
    lower_case,
    tokenizer_end_token,
)


def _clip_image_map(model: Any, outputs: Any) -> Tensor:
    return patch_map(model.vision_model.post_layernorm(outputs.last_hidden_state))


def _naflex_patches(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of square images, their mask and the shapes of their grids."""
    edge = model.config.vision_config.patch_size
    patches = pixel_values.unfold(2, edge, edge).unfold(3, edge, edge)  # (B, 3, H, W, edge, edge)
    grid = patches.shape[2:4]
    # a patch is a vector of pixels: row, column and, fastest, colour channel
    patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (B, H * W, edge * edge * 3)
    shapes = torch.tensor([grid], device=patches.device).expand(len(patches), 2)
    mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=patches.device)
    return patches, mask, shapes


def _naflex_image_outputs(model: Any, pixel_values: Tensor) -> Any:
    patches, mask, shapes = _naflex_patches(model, pixel_values)
    return model.get_image_features(patches, pixel_attention_mask=mask, spatial_shapes=shapes)


def _fgclip2_image_outputs(model: Any, pixel_values: Tensor) -> Any:
    # get_image_features returns the pooled output of this tower alone
    patches, mask, shapes = _naflex_patches(model, pixel_values)
    return model.vision_model(pixel_values=patches, attention_mask=mask, spatial_shapes=shapes)


def _fgclip2_text_outputs(model: Any, input_ids: Tensor, attention_mask: Tensor | None) -> Any:
    # as get_text_features for short captions, which uses none of the heads for regions and long captions
    return model.text_model(input_ids=input_ids, attention_mask=attention_mask, walk_type="short")


def _naflex_image_size(config: PreTrainedConfig) -> int:
    # edge of the square with as many patches as the model takes of an image of any shape
    return math.isqrt(config.vision_config.num_patches) * config.vision_config.patch_size


def _dual_encoder_image_map(model: Any, outputs: Any) -> Tensor:
    if model.config.vision_config.model_type in NORM_AFTER_POOLING:
        return _clip_image_map(model, outputs)
    hidden, width = outputs.last_hidden_state, model.config.vision_config.hidden_size
    feature_map = hidden if hidden.ndim == 4 else patch_map(hidden)
    if feature_map.shape[1] != width:
        raise ValueError(
            f"teacher: its image tower ({model.config.vision_config.model_type!r}) pools {width} channels, but its "
            f"feature map of shape {tuple(feature_map.shape)} does not. Choose a teacher whose feature map is "
            f"(B, {width}, H, W)."
        )
    return feature_map


def _nothing(config: PreTrainedConfig) -> int:
    return 0  # the family lacks this tower


def _stated_by_processor(config: PreTrainedConfig) -> None:
    return None


def _dual_encoder_image_size(config: PreTrainedConfig) -> int | None:
    return getattr(config.vision_config, "image_size", None)


def _own_image_map(model: Any, outputs: Any) -> Tensor | None:
    return outputs.last_hidden_state


def _dcclip_image_map(model: Any, outputs: Any) -> Tensor:
    return outputs.feature_map


# google-research/big_vision, configs/proj/image_text: every text ends with the end token, padding has no mask
_SIGLIP_TEXTS = TextPreparation(
    64, pad_to_max=True, mask_padding=False, clean=canonical, end_token=tokenizer_end_token
)
_SIGLIP2_TEXTS = TextPreparation(
    64, pad_to_max=True, mask_padding=False, clean=lower_case, end_token=tokenizer_end_token
)


def _siglip_texts(tokenizer: PreTrainedTokenizerBase) -> TextPreparation:
    # SigLIP 2 checkpoints of a fixed image size have the model type `siglip`
    return _SIGLIP2_TEXTS if GEMMA_TOKEN in tokenizer.get_vocab() else _SIGLIP_TEXTS


FAMILIES: dict[str, Family] = {
    "altclip": Family(
        model_class=AltCLIPModel,
        image_map=_clip_image_map,
        text_width=attrgetter("text_config.project_dim"),  # its token states are projected to the joint width
        text_preparation=TextPreparation(77),  # FlagAI, examples/AltCLIP
        license="creativeml-openrail-m",
        standalone_towers={"altclip_vision_model": "clip_vision_model", "altclip_text_model": "xlm-roberta"},
    ),
    "chinese_clip": Family(
        model_class=ChineseCLIPModel,
        image_map=_clip_image_map,
        text_preparation=TextPreparation(52),  # OFA-Sys/Chinese-CLIP, cn_clip/clip/utils.py
        standalone_towers={"chinese_clip_text_model": "bert"},
    ),
    "clip": Family(
        model_class=CLIPModel,
        image_map=_clip_image_map,
        text_preparation=TextPreparation(77, end_token=config_end_token),  # openai/CLIP, clip/clip.py
    ),
    "dcclip": Family(
        model_class=DCCLIPModel,
        image_map=_dcclip_image_map,
        vision_width=attrgetter("vision_width"),
        text_width=attrgetter("text_width"),
        projection_dim=attrgetter("embedding_dim"),
        image_size=attrgetter("image_size"),
        max_text_length=attrgetter("max_text_length"),
        license=attrgetter("teacher_license"),
    ),
    "fgclip2": Family(
        model_class="AutoModelForCausalLM",  # 360CVGroup/FG-CLIP, code next to the weights
        image_outputs=_fgclip2_image_outputs,
        text_outputs=_fgclip2_text_outputs,
        projection_dim=attrgetter("text_config.hidden_size"),
        image_size=_naflex_image_size,
        takes_patches=True,
        max_text_length=lambda config: _SIGLIP2_TEXTS.max_length,  # longer captions have positions of their own
        text_preparation=_SIGLIP2_TEXTS,
    ),
    "metaclip_2": Family(
        model_class=MetaClip2Model,
        image_map=_clip_image_map,
        # as many as it has positions; facebookresearch/MetaCLIP trains as CLIP does
        text_preparation=TextPreparation(77, end_token=config_end_token),
    ),
    "open_clip": Family(
        model_class=OpenClipModel,
        image_map=_own_image_map,
        vision_width=attrgetter("vision_width"),
        text_width=attrgetter("text_width"),
        projection_dim=attrgetter("embed_dim"),
        image_size=attrgetter("image_size"),
        max_text_length=attrgetter("context_length"),
        # open_clip pads every text; the cleaning is in the tokenizer
        text_preparation=TextPreparation(VERY_LARGE_INTEGER, pad_to_max=True, mask_padding=False),
    ),
    "siglip": Family(
        model_class=SiglipModel,
        projection_dim=attrgetter("text_config.projection_size"),
        text_preparation=_siglip_texts,
    ),
    "siglip2": Family(
        model_class=Siglip2Model,
        image_outputs=_naflex_image_outputs,
        projection_dim=attrgetter("text_config.projection_size"),
        image_size=_naflex_image_size,
        takes_patches=True,
        text_preparation=_SIGLIP2_TEXTS,
    ),
    "vision-text-dual-encoder": Family(
        model_class=VisionTextDualEncoderModel,
        image_map=_dual_encoder_image_map,
        image_size=_dual_encoder_image_size,
    ),
}

# families of one tower, by the input of their models
ENCODERS: dict[str, Family] = {
    "pixel_values": Family(
        model_class=BareImageEncoder,
        towers=("vision",),
        image_outputs=BareImageEncoder.encode,
        image_map=_own_image_map,
        vision_width=map_width,
        text_width=_nothing,
        projection_dim=pooled_width,
        image_size=_stated_by_processor,
        max_text_length=_nothing,
    ),
    "input_ids": Family(
        model_class=BareTextEncoder,
        towers=("text",),
        text_outputs=BareTextEncoder.encode,
        vision_width=_nothing,
        text_width=attrgetter("hidden_size"),
        projection_dim=attrgetter("hidden_size"),
        image_size=_nothing,
    ),
}


def find_family(config: PreTrainedConfig | dict, name: str) -> Family:
    """Look up the family of a model.

    Args:
        config: Config of the model, or its dict.
        name: Hub id or folder of the model, for the error message.

    Raises:
        ValueError: The model type is not in `FAMILIES`, and no encoder of transformers.
    """
    model_type = model_type_of(config) if isinstance(config, dict) else config.model_type
    family = FAMILIES.get(model_type or "") or ENCODERS.get(main_input(model_type) or "")
    if family is None:
        raise ValueError(
            f"teacher: {name!r} is of the family {model_type!r}; supported are {', '.join(FAMILIES)}, and encoders of "
            "images or texts alone. Choose one of these, or add the family to FAMILIES "
            "(training/teachers/families.py)."
        )
    return family
