"""A tiny teacher of every family, of the real class, whose towers and embeddings all differ in width."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPProcessor,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)

from modeling_dcclip import DCCLIPProcessor
from tests.tiny import IMAGE_SIZE, PROJECTION_DIM, WHOLE_MOBILENET, make_image_processor, make_model

PATCH_SIZE = 16
NUM_POSITIONS = 40

VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": NUM_POSITIONS,
}
TEACHERS = ["altclip", "chinese_clip", "clip", "dcclip", "metaclip_2", "siglip"]


def make_teacher_model(kind: str, vocabulary: int, **text_fields: Any) -> PreTrainedModel:
    """One of `TEACHERS`, in eval mode; the last token id ends a text.

    Args:
        kind: Family.
        vocabulary: Number of token ids.
        text_fields: Fields to set in the text config.
    """
    torch.manual_seed(0)
    special = {"vocab_size": vocabulary, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": vocabulary - 1}
    text = special | TEXT | text_fields
    joint: dict[str, Any] = {"projection_dim": PROJECTION_DIM, "logit_scale_init_value": 3.0}
    sizes: dict[str, Any] = {"text_config": text, "vision_config": VISION}
    model: Any
    if kind == "altclip":
        sizes["text_config"] = text | {"project_dim": 28}
        model = AltCLIPModel(AltCLIPConfig(**sizes, **joint))
    elif kind == "chinese_clip":
        model = ChineseCLIPModel(ChineseCLIPConfig(**sizes, **joint))
    elif kind == "clip":
        model = CLIPModel(CLIPConfig(**sizes, **joint))
    elif kind == "metaclip_2":
        model = MetaClip2Model(MetaClip2Config(**sizes, **joint))
    elif kind == "dcclip":
        model = make_model(WHOLE_MOBILENET, vocabulary=vocabulary, seed=7, teacher_license="apache-2.0")
    else:
        sizes["text_config"] = text | {"projection_size": VISION["hidden_size"]}
        model = SiglipModel(SiglipConfig(**sizes))
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
    processors: dict[str, Any] = {
        "altclip": AltCLIPProcessor,
        "chinese_clip": ChineseCLIPProcessor,
        "clip": CLIPProcessor,
        "dcclip": DCCLIPProcessor,
        "metaclip_2": CLIPProcessor,
        "siglip": SiglipProcessor,
    }
    processors[kind](make_image_processor(), tokenizer).save_pretrained(folder)
    return folder
