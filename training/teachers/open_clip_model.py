"""Wraps an open_clip model in the transformers API, so that it loads, teaches and is evaluated like all others.

`python -m training.prepare.open_clip` writes such a folder. The towers are open_clip's own modules (package
open-clip-torch), and the config has everything that they are built from.
"""

from typing import Any, ClassVar, cast

import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from training.teachers.family import patch_map, spatial_map

WEIGHTS_FILE = "model.safetensors"
# names of open_clip's modules, and ours
PREFIXES = {"visual.": "vision_model.", "text.": "text_model."}


@strict
class OpenClipConfig(PreTrainedConfig):
    """Configuration of an [`OpenClipModel`].

    Args:
        embed_dim: Width of the embeddings.
        vision_cfg: Config of the image tower, as open_clip has it.
        text_cfg: Config of the text tower, as open_clip has it.
        hf_text_config: Transformers config of the text tower, as a dict, if it is a model of transformers.
        quick_gelu: Whether the towers use QuickGELU.
        image_size: Edge of the square input image in pixels.
        context_length: Number of tokens that every text is padded to.
        vision_width: Number of channels of the image feature map; 0 if the tower gives none.
        text_width: Width of a token state.
    """

    model_type: ClassVar[str] = "open_clip"

    embed_dim: int = 512
    vision_cfg: dict[str, Any] | None = None
    text_cfg: dict[str, Any] | None = None
    hf_text_config: dict[str, Any] | None = None
    quick_gelu: bool = False
    image_size: int = 224
    context_length: int = 77
    vision_width: int = 0
    text_width: int = 0


class OpenClipModel(PreTrainedModel):
    """Image tower, text tower and logit scale of open_clip.

    Args:
        config: Configuration of both towers.
    """

    config_class = OpenClipConfig
    config: OpenClipConfig
    base_model_prefix = "open_clip"

    def __init__(self, config: OpenClipConfig):
        super().__init__(config)
        try:
            from open_clip.model import _build_text_tower, _build_vision_tower
        except ModuleNotFoundError as error:
            raise ValueError(
                "teacher: is a model of open_clip, which is not installed. Run: pip install open-clip-torch"
            ) from error
        vision_cfg = {**(config.vision_cfg or {}), "timm_model_pretrained": False}
        text_cfg = {**(config.text_cfg or {}), "output_tokens": True}
        self.vision_model = _build_vision_tower(config.embed_dim, vision_cfg, config.quick_gelu)
        if config.hf_text_config is None:
            self.text_model = _build_text_tower(config.embed_dim, text_cfg, config.quick_gelu)
        else:
            self.text_model = _build_hf_text_tower(
                config.embed_dim, text_cfg, config.hf_text_config
            )
        self.logit_scale = nn.Parameter(torch.zeros(()))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name: str,
        *args: Any,
        config: OpenClipConfig | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str = "main",
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model as transformers does, but not through the meta device: open_clip's masks would be lost.

        Args:
            name: Folder or Hub id.
            args: Unused.
            config: Configuration. Default: the folder's own.
            dtype: Precision of the weights in memory.
            revision: Commit of the Hub id.
            output_loading_info: Whether to return the names of weights that are missing or do not fit too.
            kwargs: Unused.
        """
        model = cls(config or OpenClipConfig.from_pretrained(name, revision=revision))
        weights = load_file(cast(str, cached_file(name, WEIGHTS_FILE, revision=revision)))
        shapes = {key: weight.shape for key, weight in model.state_dict().items()}
        fitting = {
            key: weight for key, weight in weights.items() if weight.shape == shapes.get(key)
        }
        missing = set(model.load_state_dict(fitting, strict=False).missing_keys)
        model.to(dtype).eval()  # type: ignore[arg-type]
        return (
            (model, {"missing_keys": missing, "mismatched_keys": set()})
            if output_loading_info
            else model
        )

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: Normalized images, (B, 3, image_size, image_size).

        Returns:
            An output whose `.pooler_output` is the embedding, (B, embed_dim), and whose `.last_hidden_state` is the
            feature map after the final norm, (B, D, H, W), or None if the tower gives none.
        """
        tower: Any = self.vision_model
        if hasattr(tower, "trunk"):
            hidden = tower.trunk.forward_features(pixel_values)
            embedding = tower.head(tower.trunk.forward_head(hidden))
            return _image_output(embedding, spatial_map(hidden, tower.trunk.num_features))
        if (
            not hasattr(tower, "ln_post") or tower.attn_pool is not None
        ):  # a ResNet, or a pooler with queries
            return _image_output(tower(pixel_values), None)
        hidden = tower.transformer(tower._embeds(pixel_values))
        pooled, _ = tower._pool(hidden)
        return _image_output(pooled @ tower.proj, patch_map(tower.ln_post(hidden)[:, 1:]))

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: Token ids, (B, context_length) int64, padded as in training.
            attention_mask: Unused: open_clip finds the padding by its id.

        Returns:
            An output whose `.pooler_output` is the embedding, (B, embed_dim), and whose `.last_hidden_state` has the
            token states, (B, L, D).
        """
        tower: Any = self.text_model
        if hasattr(tower, "pooler"):
            mask = (input_ids != tower.config.pad_token_id).long()
            outputs = tower.transformer(input_ids=input_ids, attention_mask=mask)
            embedding, states = tower.proj(tower.pooler(outputs, mask)), outputs.last_hidden_state
        else:
            embedding, states = tower(input_ids)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=embedding)


def _image_output(embedding: Tensor, feature_map: Tensor | None) -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(last_hidden_state=feature_map, pooler_output=embedding)


def _build_hf_text_tower(
    embed_dim: int, text_cfg: dict[str, Any], hf_config: dict[str, Any]
) -> nn.Module:
    """open_clip's adapter of a model of transformers, from a config instead of a name on the Hub."""
    from open_clip.hf_model import HFTextEncoder

    fields = dict(hf_config)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    pooler = text_cfg.get("hf_pooler_type", "mean_pooler")
    tower = HFTextEncoder(
        "", embed_dim, config, pooler, text_cfg.get("hf_proj_type", "mlp"), pretrained=False
    )
    if config.is_encoder_decoder:
        tower.transformer = tower.transformer.encoder
    elif pooler != "cls_pooler" and hasattr(tower.transformer, "pooler"):
        tower.transformer.pooler = None
    return tower


AutoConfig.register(OpenClipConfig.model_type, OpenClipConfig)
AutoModel.register(OpenClipConfig, OpenClipModel)
