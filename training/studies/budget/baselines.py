"""Baselines: built from their public configs with random weights, to compare size and speed."""

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
    """Two towers with a shared embedding space.

    Args:
        image_tower: Module from pixels (B, 3, S, S) float to embeddings (B, D), including the projection.
        text_tower: Module from token ids (B, L) int64 and, for padded texts, a mask (B, L) to embeddings (B, D),
            including the projection.
        image_size: Edge S of the square input in pixels.
    """

    image_tower: nn.Module
    text_tower: nn.Module
    image_size: int

    @property
    def embedding_table(self) -> nn.Embedding:
        """The token embedding table, which is the largest table of the text tower."""
        tables = [module for module in self.text_tower.modules() if isinstance(module, nn.Embedding)]
        return max(tables, key=lambda table: table.num_embeddings)


class ImageTower(nn.Module):
    """The image tower of a transformers dual encoder."""

    def __init__(self, model: Model):
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection
        # a bound method, so that the whole model is not registered as a submodule
        self._encode = model.get_image_features

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images: pixels (B, 3, S, S) to embeddings (B, D)."""
        return self._encode(pixel_values=pixel_values).pooler_output


class TextTower(nn.Module):
    """The text tower of a transformers dual encoder."""

    def __init__(self, model: Model):
        super().__init__()
        self.text_model, self.text_projection = model.text_model, model.text_projection
        self._encode = model.get_text_features

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode texts: token ids (B, L) to embeddings (B, D).

        Args:
            input_ids: (B, L) int64, token ids.
            attention_mask: (B, L) int64, 1 for tokens and 0 for padding; None without padding.
        """
        return self._encode(input_ids=input_ids, attention_mask=attention_mask).pooler_output


class _BertTower(nn.Module):
    """BERT with a projection of the first token: the text tower of Chinese-CLIP RN50."""

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
    """Split a transformers dual encoder into its towers.

    Args:
        model: Model with `get_image_features`, `get_text_features`, and a projection for each tower.
        image_size: Edge of its square input in pixels.
    """
    return DualEncoder(ImageTower(model), TextTower(model), image_size)


def altclip_config() -> AltCLIPConfig:
    """Config of AltCLIP: ViT-L/14 and XLM-R large.

    Source: config.json of BAAI/AltCLIP on the Hub.
    """
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    }
    # the defaults of transformers for the text tower are those of this checkpoint
    return AltCLIPConfig(vision_config=vision, text_config={}, projection_dim=768)


def altclip() -> DualEncoder:
    """AltCLIP; see `altclip_config`."""
    return split(AltCLIPModel(altclip_config()), 224)


def clip_vit_b_32_config() -> CLIPConfig:
    """Config of CLIP ViT-B/32.

    Source: config.json of openai/clip-vit-base-patch32; its values are the defaults of transformers.
    """
    return CLIPConfig(vision_config={}, text_config={}, projection_dim=512)


def clip_vit_b_32() -> DualEncoder:
    """CLIP ViT-B/32; see `clip_vit_b_32_config`."""
    return split(CLIPModel(clip_vit_b_32_config()), 224)


def chinese_clip_vit_b_16_config() -> ChineseCLIPConfig:
    """Config of Chinese-CLIP ViT-B/16.

    Source: cn_clip/clip/model_configs/ViT-B-16.json and RoBERTa-wwm-ext-base-chinese.json of OFA-Sys/Chinese-CLIP.
    """
    return ChineseCLIPConfig(vision_config={"patch_size": 16}, text_config={"vocab_size": 21128}, projection_dim=512)


def chinese_clip_vit_b_16() -> DualEncoder:
    """Chinese-CLIP ViT-B/16; see `chinese_clip_vit_b_16_config`."""
    return split(ChineseCLIPModel(chinese_clip_vit_b_16_config()), 224)


def chinese_clip_rn50() -> DualEncoder:
    """Chinese-CLIP RN50: CLIP's ResNet-50 with attention pooling, and RoBERTa with three layers.

    Source: cn_clip/clip/model_configs/RN50.json and RBT3-chinese.json of OFA-Sys/Chinese-CLIP.
    """
    text = BertConfig(vocab_size=21128, num_hidden_layers=3)
    return DualEncoder(timm.create_model("resnet50_clip", num_classes=1024), _BertTower(text, 1024), 224)


def mobileclip_s0() -> DualEncoder:
    """An approximation of MobileCLIP-S0: FastViT MCi0, reparameterised for inference, and a text tower of 42.4 M.

    The text tower of MobileCLIP-S0 has four transformer layers between two convolutional blocks, which transformers
    does not implement. Here the blocks are transformer layers too, with a feed-forward width that gives the published
    number of parameters.

    Source: mobileclip/configs/mobileclip_s0.json of apple/ml-mobileclip; 42.4 M parameters of the text tower: Vasu et
    al., MobileCLIP, CVPR 2024, table 1.
    """
    text = CLIPTextConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=1704)
    image_tower = timm.create_model("fastvit_mci0", num_classes=512, inference_mode=True)
    return DualEncoder(image_tower, _CLIPTextTower(text), 256)


def mobileclip2_s0() -> DualEncoder:
    """MobileCLIP2-S0: FastViT MCi0, reparameterised for inference, and a text transformer of twelve layers.

    The text tower has 63.4 M parameters by open_clip's config, which is followed here; the README of
    apple/ml-mobileclip lists 42.4 M. Its attention is not causal, unlike here, which changes neither the number of
    parameters nor the time.

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
    """TinyCLIP ViT-39M/16 Text-19M. The numbers in the name exclude embedding tables.

    Source: TinyCLIP/src/open_clip/model_configs/TinyCLIP-ViT-39M-16-Text-19M.json of microsoft/Cream at 2bb193b.
    """
    return _tinyclip(16)


def tinyclip_40m_32() -> DualEncoder:
    """TinyCLIP ViT-40M/32 Text-19M. The numbers in the name exclude embedding tables.

    Source: TinyCLIP/src/open_clip/model_configs/TinyCLIP-40M.json of microsoft/Cream at f3a5fd8.
    """
    return _tinyclip(32)


def metaclip2_s_16() -> DualEncoder:
    """MetaCLIP 2 worldwide S/16: two towers of width 384 and XLM-V's vocabulary of 901,629 pieces.

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
