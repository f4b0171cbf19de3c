"""Models to stand beside: built from their public configs with random weights, to compare sizes and speed."""

from collections.abc import Callable
from dataclasses import dataclass

import timm
from torch import Tensor, nn
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    MetaClip2Config,
    MetaClip2Model,
)

from modeling_dcclip import DCCLIPModel

Model = AltCLIPModel | ChineseCLIPModel | CLIPModel | DCCLIPModel | MetaClip2Model


@dataclass(frozen=True)
class DualEncoder:
    """Two towers onto one embedding space.

    Args:
        image_tower: (B, 3, S, S) float pixels to (B, D), the projection included.
        text_tower: (B, L) int64 token ids and, where texts are padded, a (B, L) mask to (B, D), the projection
            included.
        image_size: S, in pixels.
    """

    image_tower: nn.Module
    text_tower: nn.Module
    image_size: int

    @property
    def embedding_table(self) -> nn.Embedding:
        """The table of the tokens, the largest of the text tower."""
        tables = [module for module in self.text_tower.modules() if isinstance(module, nn.Embedding)]
        return max(tables, key=lambda table: table.num_embeddings)


class ImageTower(nn.Module):
    """The image half of a transformers dual encoder."""

    def __init__(self, model: Model):
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection
        # a bound method, so that the whole model is not registered as a part of this half
        self._encode = model.get_image_features

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, D)."""
        return self._encode(pixel_values=pixel_values).pooler_output


class TextTower(nn.Module):
    """The text half of a transformers dual encoder."""

    def __init__(self, model: Model):
        super().__init__()
        self.text_model, self.text_projection = model.text_model, model.text_projection
        self._encode = model.get_text_features

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) to (B, D)."""
        return self._encode(input_ids=input_ids, attention_mask=attention_mask).pooler_output


class _BertTower(nn.Module):
    """BERT, its first token, a projection: Chinese-CLIP's text tower where the image tower is not a transformer."""

    def __init__(self, config: BertConfig, projection_dim: int):
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.projection = nn.Linear(config.hidden_size, projection_dim, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.projection(self.bert(input_ids, attention_mask).last_hidden_state[:, 0])


class _CLIPTextTower(nn.Module):
    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.model = CLIPTextModelWithProjection(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.model(input_ids, attention_mask).text_embeds


def split(model: Model, image_size: int) -> DualEncoder:
    """The two halves of a transformers dual encoder.

    Args:
        model: with `get_image_features`, `get_text_features`, and a projection to each tower.
        image_size: edge of its square input in pixels.
    """
    return DualEncoder(ImageTower(model), TextTower(model), image_size)


def altclip_config() -> AltCLIPConfig:
    """AltCLIP at full size: ViT-L/14 and XLM-R large. Source: config.json of BAAI/AltCLIP on the Hub."""
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    }
    # transformers' defaults of the text tower are this checkpoint's
    return AltCLIPConfig(vision_config=vision, text_config={}, projection_dim=768)


def altclip() -> DualEncoder:
    """AltCLIP; see `altclip_config`."""
    return split(AltCLIPModel(altclip_config()), 224)


def clip_vit_b_32_config() -> CLIPConfig:
    """CLIP ViT-B/32. Source: config.json of openai/clip-vit-base-patch32, which are transformers' defaults."""
    return CLIPConfig(vision_config={}, text_config={}, projection_dim=512)


def clip_vit_b_32() -> DualEncoder:
    """CLIP ViT-B/32; see `clip_vit_b_32_config`."""
    return split(CLIPModel(clip_vit_b_32_config()), 224)


def chinese_clip_vit_b_16_config() -> ChineseCLIPConfig:
    """Chinese-CLIP ViT-B/16.

    Source: cn_clip/clip/model_configs/ViT-B-16.json and RoBERTa-wwm-ext-base-chinese.json of OFA-Sys/Chinese-CLIP.
    """
    return ChineseCLIPConfig(vision_config={"patch_size": 16}, text_config={"vocab_size": 21128}, projection_dim=512)


def chinese_clip_vit_b_16() -> DualEncoder:
    """Chinese-CLIP ViT-B/16; see `chinese_clip_vit_b_16_config`."""
    return split(ChineseCLIPModel(chinese_clip_vit_b_16_config()), 224)


def chinese_clip_rn50() -> DualEncoder:
    """Chinese-CLIP RN50: CLIP's ResNet-50 with attention pooling, and a RoBERTa of three layers.

    Source: cn_clip/clip/model_configs/RN50.json and RBT3-chinese.json of OFA-Sys/Chinese-CLIP.
    """
    text = BertConfig(vocab_size=21128, num_hidden_layers=3)
    return DualEncoder(timm.create_model("resnet50_clip", num_classes=1024), _BertTower(text, 1024), 224)


def mobileclip_s0() -> DualEncoder:
    """MobileCLIP-S0 in size: FastViT MCi0, folded as for inference, and a text tower of six layers and 42.4 M.

    Its text tower has four such layers between two convolutional blocks, which transformers does not have: here they
    are layers too, with feed-forward channels to the published number of parameters.

    Source: mobileclip/configs/mobileclip_s0.json of apple/ml-mobileclip; Vasu et al., MobileCLIP, CVPR 2024, table 1.
    """
    text = CLIPTextConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=1704)
    image_tower = timm.create_model("fastvit_mci0", num_classes=512, inference_mode=True)
    return DualEncoder(image_tower, _CLIPTextTower(text), 256)


def mobileclip2_s0() -> DualEncoder:
    """MobileCLIP2-S0: FastViT MCi0, folded as for inference, and a text transformer of twelve layers.

    Its attention is not causal, which is neither in the number of parameters nor in the time.

    Source: src/open_clip/model_configs/MobileCLIP2-S0.json of mlfoundations/open_clip at bd7336c.
    """
    text = CLIPTextConfig(hidden_size=512, num_hidden_layers=12, num_attention_heads=8, intermediate_size=2048)
    image_tower = timm.create_model("fastvit_mci0", num_classes=512, inference_mode=True)
    return DualEncoder(image_tower, _CLIPTextTower(text), 256)


def _tinyclip(patch_size: int) -> DualEncoder:
    tower = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    vision = tower | {"num_hidden_layers": 12, "patch_size": patch_size}
    text = tower | {"num_hidden_layers": 6}
    return split(CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=512)), 224)


def tinyclip_39m_16() -> DualEncoder:
    """TinyCLIP ViT-39M/16 Text-19M, which counts no embedding tables.

    Source: TinyCLIP/src/open_clip/model_configs/TinyCLIP-ViT-39M-16-Text-19M.json of microsoft/Cream at 2bb193b.
    """
    return _tinyclip(16)


def tinyclip_40m_32() -> DualEncoder:
    """TinyCLIP ViT-40M/32 Text-19M, which counts no embedding tables.

    Source: TinyCLIP/src/open_clip/model_configs/TinyCLIP-40M.json of microsoft/Cream at f3a5fd8.
    """
    return _tinyclip(32)


def metaclip2_s_16() -> DualEncoder:
    """MetaCLIP 2 worldwide S/16: two towers of width 384, and XLM-V's vocabulary of 901,629 pieces.

    Source: src/mini_clip/model_configs/ViT-S-16-worldwide.json of facebookresearch/MetaCLIP at e9bb1fa.
    """
    tower = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "projection_dim": 384}
    special = {"vocab_size": 901_629, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = MetaClip2Config(vision_config=tower | {"patch_size": 16}, text_config=tower | special, projection_dim=384)
    return split(MetaClip2Model(config), 224)


BASELINES: dict[str, Callable[[], DualEncoder]] = {
    "altclip": altclip,
    "clip-vit-b-32": clip_vit_b_32,
    "chinese-clip-vit-b-16": chinese_clip_vit_b_16,
    "chinese-clip-rn50": chinese_clip_rn50,
    "mobileclip-s0": mobileclip_s0,
    "mobileclip2-s0": mobileclip2_s0,
    "tinyclip-39m-16": tinyclip_39m_16,
    "tinyclip-40m-32": tinyclip_40m_32,
    "metaclip2-s-16": metaclip2_s_16,
}
