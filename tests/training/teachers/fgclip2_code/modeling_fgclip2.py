"""Model of the stand-in: the towers of SigLIP 2, whose text tower takes the kind of a caption."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.siglip2.modeling_siglip2 import Siglip2TextModel, Siglip2VisionModel

from .configuration_fgclip2 import Fgclip2Config


class TextTower(nn.Module):
    """SigLIP 2's text tower, with a shift of the embedding for each kind of caption."""

    def __init__(self, config):
        super().__init__()
        self.tower = Siglip2TextModel._from_config(config)
        # a tensor that is no weight, as FG-CLIP 2 has: the meta device would lose it
        self.shifts = {"short": torch.tensor(0.5), "box": torch.tensor(1.0), "long": torch.tensor(2.0)}

    def forward(self, input_ids, attention_mask=None, walk_type="long"):
        """Encode texts."""
        outputs = self.tower(input_ids=input_ids, attention_mask=attention_mask)
        outputs.pooler_output = outputs.pooler_output + self.shifts[walk_type]
        return outputs


class VisionTower(nn.Module):
    """SigLIP 2's image tower, whose mask is named as in FG-CLIP 2."""

    def __init__(self, config):
        super().__init__()
        self.tower = Siglip2VisionModel._from_config(config)

    def forward(self, pixel_values, attention_mask, spatial_shapes):
        """Encode patches."""
        return self.tower(pixel_values, pixel_attention_mask=attention_mask, spatial_shapes=spatial_shapes)


class Fgclip2Model(PreTrainedModel):
    """Both towers."""

    config_class = Fgclip2Config

    def __init__(self, config: Fgclip2Config):
        super().__init__(config)
        self.text_model, self.vision_model = TextTower(config.text_config), VisionTower(config.vision_config)
        self.longtext_head = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(1))
        self.post_init()

    def get_image_features(self, pixel_values, pixel_attention_mask=None, spatial_shapes=None):
        """Pooled image embeddings, (B, D)."""
        return self.vision_model(pixel_values, pixel_attention_mask, spatial_shapes).pooler_output

    def get_text_features(self, input_ids, attention_mask=None, walk_type="short"):
        """Pooled text embeddings, (B, D)."""
        pooled = self.text_model(input_ids, attention_mask, walk_type).pooler_output
        return self.longtext_head(pooled) if walk_type == "long" else pooled
