"""A tiny teacher of every family, of the real class, whose towers and embeddings all differ in width."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import (
    IMAGE_SIZE,
    PROJECTION_DIM,
    SMALL,
    WHOLE_MOBILENET,
    make_image_processor,
    make_model,
)

PATCH_SIZE = 16
NUM_POSITIONS = 40

VISION = SMALL | {
    "hidden_size": 24,
    "intermediate_size": 48,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
NAMES = {
    "altclip": "AltCLIP",
    "chinese_clip": "ChineseCLIP",
    "clip": "CLIP",
    "metaclip_2": "MetaClip2",
}
NAMES |= {"siglip": "Siglip"}
TEACHERS = ["altclip", "chinese_clip", "clip", "dcclip", "metaclip_2", "siglip"]


def make_teacher_model(kind: str, vocabulary: int, **text_fields: Any) -> PreTrainedModel:
    """One of `TEACHERS`, in eval mode; the last token id ends a text. `text_fields` are set in the text config."""
    torch.manual_seed(0)
    if kind == "dcclip":
        model: Any = make_model(
            WHOLE_MOBILENET, vocabulary=vocabulary, seed=7, teacher_license="apache-2.0"
        )
        return _leave_no_identity(model).eval()
    text: dict[str, Any] = {"vocab_size": vocabulary, "pad_token_id": 1, "bos_token_id": 0}
    text |= (
        {"eos_token_id": vocabulary - 1, "max_position_embeddings": NUM_POSITIONS}
        | SMALL
        | text_fields
    )
    fields: dict[str, Any] = {"projection_dim": PROJECTION_DIM, "logit_scale_init_value": 3.0}
    if kind == "altclip":
        text["project_dim"] = 28
    elif kind == "siglip":
        fields, text["projection_size"] = {}, VISION["hidden_size"]
    config = getattr(transformers, f"{NAMES[kind]}Config")(
        text_config=text, vision_config=VISION, **fields
    )
    model = getattr(transformers, f"{NAMES[kind]}Model")(config)
    return _leave_no_identity(model).eval()


@torch.no_grad()
def _leave_no_identity(model: PreTrainedModel) -> PreTrainedModel:
    """Randomize norms, biases and projections: a test would not notice a missing norm that is the identity."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(std=module.weight.shape[1] ** -0.5)
    for name in ("logit_scale", "logit_bias"):
        if hasattr(model, name):
            getattr(model, name).uniform_(2, 3)
    return model


def save_teacher(
    kind: str, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32
) -> Path:
    """A checkpoint of one of `TEACHERS` with its processor."""
    model: Any = make_teacher_model(kind, len(tokenizer))
    model.to(dtype).save_pretrained(folder)
    names = NAMES | {"metaclip_2": "CLIP"}
    processor: Any = (
        getattr(transformers, f"{names[kind]}Processor") if kind in names else DCCLIPProcessor
    )
    processor(make_image_processor(), tokenizer).save_pretrained(folder)
    return folder
