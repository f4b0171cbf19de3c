"""The model families, for teaching and for evaluation. A new family is one row; see `Family` for its fields.

A family outside this package is added to the same table before a model is loaded:

    FAMILIES["my_clip"] = dataclasses.replace(FAMILIES["clip"], model_class=MyCLIPModel)
"""

from operator import attrgetter

from transformers import (
    AltCLIPModel,
    ChineseCLIPModel,
    CLIPModel,
    MetaClip2Model,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipModel,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from modeling_dcclip import DCCLIPModel
from training.teachers.family import Family, clip_image_map, num_positions
from training.teachers.preparation import (
    GEMMA_TOKEN,
    TextPreparation,
    canonical,
    config_end_token,
    lower_case,
    tokenizer_end_token,
)

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
        image_map=clip_image_map,
        # its token states are projected to the joint width
        text_width=attrgetter("text_config.project_dim"),
        text_preparation=TextPreparation(77),  # FlagAI, examples/AltCLIP
        license="creativeml-openrail-m",
        standalone_towers={
            "altclip_vision_model": "clip_vision_model",
            "altclip_text_model": "xlm-roberta",
        },
    ),
    "chinese_clip": Family(
        model_class=ChineseCLIPModel,
        image_map=clip_image_map,
        text_preparation=TextPreparation(52),  # OFA-Sys/Chinese-CLIP, cn_clip/clip/utils.py
        standalone_towers={"chinese_clip_text_model": "bert"},
    ),
    "clip": Family(
        model_class=CLIPModel,
        image_map=clip_image_map,
        # openai/CLIP, clip/clip.py
        text_preparation=TextPreparation(77, end_token=config_end_token),
    ),
    "dcclip": Family(
        model_class=DCCLIPModel,
        image_map=lambda model, outputs: outputs.feature_map,
        vision_width=attrgetter("vision_width"),
        text_width=attrgetter("text_width"),
        projection_dim=attrgetter("embedding_dim"),
        image_size=attrgetter("image_size"),
        max_text_length=attrgetter("max_text_length"),
        license=attrgetter("teacher_license"),
    ),
    "metaclip_2": Family(
        model_class=MetaClip2Model,
        image_map=clip_image_map,
        # as many as it has positions; facebookresearch/MetaCLIP trains as CLIP does
        text_preparation=TextPreparation(77, end_token=config_end_token),
    ),
    "siglip": Family(
        model_class=SiglipModel,
        projection_dim=attrgetter("text_config.projection_size"),
        text_preparation=_siglip_texts,
    ),
}


def _stated_length(config: PreTrainedConfig) -> int:
    """Longest text that a config of any family states; VERY_LARGE_INTEGER if it states none."""
    if length := getattr(config, "max_text_length", None):
        return length
    has_text_config = isinstance(getattr(config, "text_config", None), PreTrainedConfig)
    return num_positions(config) if has_text_config else VERY_LARGE_INTEGER


# a model of a family without a row, for evaluation alone
GENERIC = Family(model_class=PreTrainedModel, max_text_length=_stated_length)


def unknown_family(field: str, name: str, model_type: object) -> ValueError:
    """The error for a model of a family that is not in `FAMILIES`."""
    return ValueError(
        f"{field}: {name!r} is of the family {model_type!r}; supported are {', '.join(FAMILIES)}. Choose one of "
        "these, or add the family to FAMILIES (training/teachers/families.py)."
    )
