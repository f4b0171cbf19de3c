"""A frozen teacher of any family, whole or one tower at a time."""

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from training.teachers.families import TOWERS, Targets, find_family
from training.teachers.lineage import digest_folder, find_commit, read_license, weights_fingerprint
from training.teachers.loading import load_model


class Teacher:
    """A frozen teacher.

    Args:
        model: a dual encoder of one of `FAMILIES`, or what of it is loaded.
        tokenizer: its tokenizer.
        image_processor: its image processor.
        name: Hub id or folder, for the student's lineage.
        towers: those that the model holds; none is enough for sizes, statistics, tokens and lineage.
        revision: tells one state of the weights from another. Default: a digest of the folder, or else of
            the weights in memory.

    Attributes:
        towers: those loaded, in the order of `TOWERS`.
        projection_dim: width of the embeddings.
        vision_width: channels of the image map.
        text_width: width of a token state.
        image_size: edge of the square image in pixels.
        max_text_length: the longest text in tokens that both model and tokenizer allow.

    Raises:
        ValueError: the family is not known, or the model has not the towers named.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor,
        name: str,
        towers: Sequence[str] = TOWERS,
        revision: str | None = None,
    ):
        self.family = find_family(model.config, name)
        self.towers = _in_order(towers)
        for tower in self.towers:
            if not hasattr(model, f"{tower}_model"):
                raise ValueError(f"towers: the model of {name!r} has no {tower} tower. Leave {tower!r} out.")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.image_processor, self.name = tokenizer, image_processor, name
        config = model.config
        self.projection_dim = self.family.projection_dim(config)
        self.vision_width, self.text_width = self.family.vision_width(config), self.family.text_width(config)
        self.image_size = self.family.image_size(config) or _processor_size(image_processor)
        self.max_text_length = min(self.family.max_text_length(config), tokenizer.model_max_length)
        self._revision = revision
        self._is_checkpoint = False

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        towers: Sequence[str] = TOWERS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> "Teacher":
        """Load what is wanted of a model, and its tokenizer and image processor.

        Args:
            name: Hub id or folder.
            towers: some of `vision` and `text`; the others are neither read nor held in memory.
            dtype: of the weights in memory, whatever they are stored in.
            device: where it runs.
            revision: branch, tag or commit of a Hub id. Default: the newest.

        Raises:
            ValueError: there is no such model, its family is not supported, or its weights are not complete.
        """
        try:
            commit = find_commit(name, revision)
            fields, _ = PreTrainedConfig.get_config_dict(name, revision=commit)
        except OSError as error:
            raise ValueError(
                f"teacher: {name!r} is neither a folder with a config.json nor on the Hub. ({error})"
            ) from error
        model = load_model(name, find_family(fields, name), _in_order(towers), dtype, commit)
        processor = AutoProcessor.from_pretrained(name, revision=commit or "main")
        teacher = cls(model, processor.tokenizer, processor.image_processor, name, towers, commit)
        teacher._is_checkpoint = True
        return teacher.to(device)

    def with_towers(self, towers: Sequence[str]) -> "Teacher":
        """The same teacher with other towers: loaded from its checkpoint again, of the same dtype, on the same device.

        A teacher that was not loaded from a checkpoint, but holds all the towers asked for, is returned as it is.

        Raises:
            ValueError: there is no checkpoint to load a tower from.
        """
        towers = _in_order(towers)
        if towers == self.towers:
            return self
        if self._is_checkpoint:
            return self.from_pretrained(self.name, towers, self.model.dtype, self.model.device, self._revision)
        if set(towers) <= set(self.towers):
            return self
        raise ValueError(
            f"towers: {self.name!r} is a model in memory with the towers {self.towers}, and there is no checkpoint to "
            f"load {towers} from. Save it and use Teacher.from_pretrained."
        )

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the weights."""
        self.model.to(device, memory_format=torch.channels_last)
        return self

    @property
    def config(self) -> PreTrainedConfig:
        """The model's config."""
        return self.model.config

    @property
    def logit_scale(self) -> float:
        """Logarithm of the factor on cosines, as models store it."""
        return self.model.logit_scale.item()

    @cached_property
    def license(self) -> str | None:
        """Licence of the weights: what the model card says, or else what the family is known for."""
        told = read_license(self.name, self._revision) if self._is_checkpoint else None
        return told or self.family.license(self.config)

    @cached_property
    def revision(self) -> str:
        """Tells one state of the weights from another: a commit, or a digest of the checkpoint or of the weights."""
        if self._revision:
            return self._revision
        return digest_folder(self.name) if self._is_checkpoint else weights_fingerprint(self.model)

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> Targets:
        """Targets for (B, 3, S, S) images, prepared with this teacher's statistics.

        Raises:
            ValueError: the vision tower is not loaded.
        """
        self._need("vision")
        return self.family.images(self.model.eval(), pixel_values.to(self.model.dtype))

    @torch.no_grad()
    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Targets:
        """Targets for (B, L) texts, in this teacher's tokens, padded on the right.

        Raises:
            ValueError: the text tower is not loaded, or L is more than the model can read.
        """
        self._need("text")
        length, limit = input_ids.shape[1], self.family.max_text_length(self.config)
        if length > limit:
            raise ValueError(
                f"input_ids has {length} tokens a text, the teacher {self.name!r} reads at most {limit}. Tokenize "
                f"with truncation=True, max_length={self.max_text_length}."
            )
        mask: Tensor | None = attention_mask
        if self.family.fixed_length:  # as it was trained: padding is a part of the text
            padding = self.tokenizer.pad_token_id
            input_ids = input_ids.masked_fill(attention_mask == 0, padding)
            input_ids, mask = F.pad(input_ids, (0, limit - length), value=padding), None
        targets = self.family.texts(self.model.eval(), input_ids, mask)
        feature_map = targets.feature_map
        return Targets(None if feature_map is None else feature_map[:, :length], targets.embedding)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that are loaded, for students that inherit some."""
        return self.model.state_dict()

    def _need(self, tower: str):
        if tower not in self.towers:
            raise ValueError(
                f"towers: the {tower} tower of {self.name!r} is not loaded. Load it with "
                f"teacher.with_towers({(*self.towers, tower)})."
            )


def _in_order(towers: Sequence[str]) -> tuple[str, ...]:
    if unknown := set(towers) - set(TOWERS):
        raise ValueError(f"towers: {sorted(unknown)} are none of {TOWERS}.")
    return tuple(tower for tower in TOWERS if tower in towers)


def _processor_size(image_processor) -> int:
    size = getattr(image_processor, "crop_size", None) or image_processor.size
    return size.get("height") or size["shortest_edge"]
