"""One interface over the teacher families: feature maps, embeddings, tokenizer, image statistics. Always frozen."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase

import modeling_dcclip  # noqa: F401  (registers our own family with the Auto classes)


@dataclass(frozen=True)
class Targets:
    """What a student learns from.

    Args:
        feature_map: after the tower's own final norm: (B, D, H, W) for pictures, (B, L, D) for texts.
        embedding: (B, projection_dim), not normalised.
    """

    feature_map: Tensor
    embedding: Tensor


def _altclip_vision(model: PreTrainedModel, pixel_values: Tensor) -> Targets:
    # AltCLIP's last hidden state is before its final norm; only the pooled CLS token has passed it
    hidden = model.vision_model(pixel_values=pixel_values).last_hidden_state
    hidden = model.vision_model.post_layernorm(hidden)
    edge = model.config.vision_config.image_size // model.config.vision_config.patch_size
    feature_map = hidden[:, 1:].transpose(1, 2).unflatten(2, (edge, edge))  # (B, D, edge, edge)
    return Targets(feature_map, model.visual_projection(hidden[:, 0]))


def _altclip_text(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Targets:
    # already transformation(pre_LN(hidden)); the joint embedding is the projection of token 0
    hidden = model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return Targets(hidden, model.text_projection(hidden[:, 0]))


def _dcclip_vision(model: PreTrainedModel, pixel_values: Tensor) -> Targets:
    outputs = model.get_image_features(pixel_values)
    return Targets(outputs.feature_map, outputs.pooler_output)


def _dcclip_text(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Targets:
    outputs = model.get_text_features(input_ids, attention_mask)
    return Targets(outputs.last_hidden_state, outputs.pooler_output)


@dataclass(frozen=True)
class Family:
    """How one model type gives its targets, and what its config calls the widths."""

    vision: Callable[[PreTrainedModel, Tensor], Targets]
    text: Callable[[PreTrainedModel, Tensor, Tensor], Targets]
    vision_width: Callable[[PreTrainedModel], int]
    text_width: Callable[[PreTrainedModel], int]
    image_size: Callable[[PreTrainedModel], int]
    license: Callable[[PreTrainedModel], str | None]


FAMILIES = {
    "altclip": Family(
        vision=_altclip_vision,
        text=_altclip_text,
        vision_width=lambda model: model.config.vision_config.hidden_size,
        text_width=lambda model: model.config.text_config.project_dim,
        image_size=lambda model: model.config.vision_config.image_size,
        license=lambda model: "creativeml-openrail-m",
    ),
    "dcclip": Family(
        vision=_dcclip_vision,
        text=_dcclip_text,
        vision_width=lambda model: model.config.vision_width,
        text_width=lambda model: model.config.text_width,
        image_size=lambda model: model.config.image_size,
        license=lambda model: model.config.teacher_license,
    ),
}


class Teacher:
    """A frozen teacher.

    Args:
        model: a dual encoder of one of `FAMILIES`.
        tokenizer: its tokenizer.
        image_processor: its image processor.
        name: Hub id or folder, for the student's lineage.

    Raises:
        ValueError: the family is not known.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, image_processor, name: str):
        if model.config.model_type not in FAMILIES:
            raise ValueError(
                f"teacher: {name!r} is of the family {model.config.model_type!r}; supported are "
                f"{', '.join(FAMILIES)}. Choose one of these, or describe the family in training/teachers.py."
            )
        self.family = FAMILIES[model.config.model_type]
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.image_processor, self.name = tokenizer, image_processor, name
        self.projection_dim = model.config.projection_dim
        self.vision_width, self.text_width = self.family.vision_width(model), self.family.text_width(model)
        self.image_size, self.license = self.family.image_size(model), self.family.license(model)

    @classmethod
    def from_pretrained(cls, name: str, dtype: torch.dtype = torch.float32) -> "Teacher":
        """Load model, tokenizer and image processor from a folder or the Hub.

        Raises:
            ValueError: there is no such model, or its family is not supported.
        """
        try:
            config = AutoConfig.from_pretrained(name)
        except OSError as error:
            raise ValueError(
                f"teacher: {name!r} is neither a folder with a config.json nor on the Hub. ({error})"
            ) from error
        if config.model_type not in FAMILIES:
            raise ValueError(
                f"teacher: {name!r} is of the family {config.model_type!r}; supported are {', '.join(FAMILIES)}."
            )
        processor = AutoProcessor.from_pretrained(name)
        return cls(AutoModel.from_pretrained(name, dtype=dtype), processor.tokenizer, processor.image_processor, name)

    @property
    def logit_scale(self) -> float:
        """Logarithm of the factor on cosines, as models store it."""
        return self.model.logit_scale.item()

    def to(self, device: torch.device) -> "Teacher":
        """Move the weights."""
        self.model.to(device, memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor) -> Targets:
        """Targets for (B, 3, S, S) pictures, prepared with this teacher's statistics."""
        return self.family.vision(self.model.eval(), pixel_values.to(self.model.dtype))

    @torch.no_grad()
    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Targets:
        """Targets for (B, L) texts, in this teacher's tokens."""
        return self.family.text(self.model.eval(), input_ids, attention_mask)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, for students that inherit some."""
        return self.model.state_dict()


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids for every text: their whole pipelines are compared."""
    return first is second or _pipeline(first) == _pipeline(second)


def _pipeline(tokenizer: PreTrainedTokenizerBase) -> dict:
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    # these two only remember the last call
    return {key: value for key, value in pipeline.items() if key not in ("padding", "truncation")}


def weights_fingerprint(model: nn.Module) -> str:
    """A digest of all weights, to tell whose targets a cache holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
