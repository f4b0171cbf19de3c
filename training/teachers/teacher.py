"""A frozen teacher of any family, whole or one tower at a time."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from training.data import tokenize
from training.teachers.families import find_family
from training.teachers.family import TOWERS, Targets
from training.teachers.lineage import (
    digest_folder,
    find_commit,
    read_license,
    split_revision,
    weights_fingerprint,
)
from training.teachers.loading import load_model, open_processors, read_config
from training.teachers.preparation import processor_size

# a text that every cleaning changes
CLEANED_PROBE = "  The RED-Apple,  (two)  Words. "


class Teacher:
    """A frozen teacher.

    Args:
        model: Dual encoder of one of `FAMILIES`, with all or some of its towers.
        tokenizer: Tokenizer of the model; None if its files are missing, and then only images can be encoded.
        image_processor: Image processor of the model.
        name: Hub id or folder, for error messages and the lineage of the student.
        towers: Towers that the model has. Sizes, image statistics, tokens and lineage need none.
        revision: Identifier of the state of the weights. Default: a digest of the folder, or else of the weights in
            memory.

    Attributes:
        towers: Loaded towers, in the order of `TOWERS`.
        projection_dim: Width of the embeddings.
        vision_width: Number of channels of the image feature map; 0 if the image tower gives none.
        text_width: Width of a token state.
        image_size: Edge of the square image in pixels.

    Raises:
        ValueError: The family is unknown, or the model lacks one of `towers`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        image_processor: Any,
        name: str,
        towers: Sequence[str] = TOWERS,
        revision: str | None = None,
    ):
        self.family = find_family(model.config, name)
        self.towers = _in_order(towers)
        for tower in self.towers:
            if not hasattr(model, self.family.tower_modules[tower][0]):
                raise ValueError(
                    f"towers: the model of {name!r} has no {tower} tower. Leave {tower!r} out."
                )
        self.model: Any = model.eval().requires_grad_(False)
        self._tokenizer, self.image_processor, self.name = tokenizer, image_processor, name
        config = model.config
        self.projection_dim = self.family.projection_dim(config)
        self.vision_width, self.text_width = (
            self.family.vision_width(config),
            self.family.text_width(config),
        )
        self.image_size = self.family.image_size(config) or processor_size(image_processor)
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
        """Load a teacher with its tokenizer and image processor.

        Args:
            name: Hub id or folder; `ID@REVISION` names the revision too.
            towers: Towers to load, some of `vision` and `text`. The others are neither read nor held in memory.
            dtype: Precision of the weights in memory, whatever the precision of the file.
            device: Device of the weights.
            revision: Branch, tag or commit of a Hub id. Default: the newest commit.

        Raises:
            ValueError: The model does not exist, its family is not supported, or its checkpoint lacks weights.
        """
        name, revision = split_revision(name, revision)
        try:
            commit = find_commit(name, revision)
        except OSError as error:
            raise ValueError(
                f"teacher: {name!r} is neither a folder with a config.json nor on the Hub. ({error})"
            ) from error
        fields = read_config("teacher", name, commit)
        family = find_family(fields, name)
        towers = _in_order(towers)
        model = load_model(name, family, towers, dtype, commit)
        processors = open_processors(name, model.config, commit)
        teacher = cls(model, *processors, name, towers, commit)
        teacher._is_checkpoint = True
        return teacher.to(device)

    def with_towers(self, towers: Sequence[str]) -> "Teacher":
        """This teacher with other towers.

        A teacher from a checkpoint is loaded from it again, in the same precision and on the same device. A model in
        memory that has all of `towers` is returned unchanged.

        Raises:
            ValueError: A tower of a model in memory is missing.
        """
        towers = _in_order(towers)
        if towers == self.towers:
            return self
        if self._is_checkpoint:
            return self.from_pretrained(
                self.name, towers, self.model.dtype, self.model.device, self._revision
            )
        if set(towers) <= set(self.towers):
            return self
        raise ValueError(
            f"towers: {self.name!r} is a model in memory with the towers {self.towers}, so {towers} cannot be loaded. "
            "Save it and use Teacher.from_pretrained."
        )

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the weights to a device."""
        self.model.to(device, memory_format=torch.channels_last)
        return self

    @property
    def config(self) -> PreTrainedConfig:
        """Config of the model."""
        return self.model.config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the model.

        Raises:
            ValueError: The teacher has none.
        """
        if self._tokenizer is None:
            raise ValueError(
                f"teacher: {self.name!r} has no tokenizer. Add its tokenizer files, or set tower: vision and "
                "student.tokenizer."
            )
        return self._tokenizer

    @property
    def max_text_length(self) -> int:
        """Longest text in tokens that both the model and the tokenizer allow."""
        return min(self.family.max_text_length(self.config), self.tokenizer.model_max_length)

    @property
    def logit_scale(self) -> float:
        """Logarithm of the factor on cosines, as stored in the model."""
        return self.model.logit_scale.item()

    @cached_property
    def license(self) -> str | None:
        """Licence of the weights, from the model card or else from the family."""
        stated = read_license(self.name, self._revision) if self._is_checkpoint else None
        return stated or self.family.license_of(self.config)

    @cached_property
    def revision(self) -> str:
        """Identifier of the state of the weights: a commit, or a digest of the checkpoint or of the weights."""
        if self._revision:
            return self._revision
        return digest_folder(self.name) if self._is_checkpoint else weights_fingerprint(self.model)

    @cached_property
    def clean(self) -> Callable[[str], str] | None:
        """Function that cleans a text before the tokenizer, as in training; None if the tokenizer does it itself."""
        preparation = self.family.prepare_texts(self.tokenizer)
        if preparation is None or preparation.clean is None:
            return None
        is_own = (
            self.tokenizer(CLEANED_PROBE).input_ids
            == self.tokenizer(preparation.clean(CLEANED_PROBE)).input_ids
        )
        return None if is_own else preparation.clean

    def tokenize(
        self, texts: Sequence[str], max_text_length: int | None = None
    ) -> dict[str, Tensor]:
        """Tokenize texts for `encode_texts`.

        Args:
            texts: Texts, at least one.
            max_text_length: Longest text in tokens; longer ones are cut. Default: the teacher's own limit.

        Returns:
            `input_ids` and `attention_mask`, (T, L) int64, padded on the right, on the device of the model.
        """
        texts = [self.clean(text) for text in texts] if self.clean else list(texts)
        tokens = tokenize(self.tokenizer, texts, max_text_length or self.max_text_length)
        return {name: value.to(self.model.device) for name, value in tokens.items()}

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> Targets:
        """Targets of images.

        Args:
            pixel_values: Images normalized with the statistics of this teacher, (B, 3, S, S).

        Raises:
            ValueError: The vision tower is not loaded.
        """
        self._require("vision")
        with torch.autocast(
            pixel_values.device.type, enabled=False
        ):  # in the precision of its own weights
            return self.family.encode_images(self.model.eval(), pixel_values.to(self.model.dtype))

    @torch.no_grad()
    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Targets:
        """Targets of texts.

        Args:
            input_ids: Token ids of this teacher's tokenizer, (B, L) int64, padded on the right.
            attention_mask: Mask, (B, L) int64, 1 for tokens and 0 for padding.

        Returns:
            Targets; the feature map is (B, L, D), also if the family pads texts to a fixed length.

        Raises:
            ValueError: The text tower is not loaded, or L is more than the model has positions for.
        """
        self._require("text")
        length, limit = input_ids.shape[1], self.family.max_text_length(self.config)
        if length > limit:
            raise ValueError(
                f"input_ids has {length} tokens a text, the teacher {self.name!r} takes at most {limit}. Tokenize "
                f"with truncation=True, max_length={self.max_text_length}."
            )
        mask: Tensor | None = attention_mask
        if self._attends_padding:
            padding = self.tokenizer.pad_token_id
            input_ids = input_ids.masked_fill(attention_mask == 0, padding)
            input_ids, mask = (
                F.pad(input_ids, (0, limit - length), value=padding),
                None,
            )  # (B, limit)
        with torch.autocast(
            input_ids.device.type, enabled=False
        ):  # in the precision of its own weights
            targets = self.family.encode_texts(self.model.eval(), input_ids, mask)
        feature_map = targets.feature_map
        return Targets(None if feature_map is None else feature_map[:, :length], targets.embedding)

    @cached_property
    def _attends_padding(self) -> bool:
        """Whether the model was trained on texts that are padded to the full length, without a mask."""
        preparation = self.family.prepare_texts(
            self.tokenizer
        )  # which may read the whole vocabulary
        return preparation is not None and preparation.pad_to_max and not preparation.mask_padding

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that are loaded."""
        return self.model.state_dict()

    def tower_weights(self, tower: str) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Weights of one tower, for a student that inherits them.

        Returns:
            The weights by the names that the tower itself uses, and the matrix of its projection,
            (projection_dim, width), or None if the model has no projection.

        Raises:
            ValueError: The tower is not loaded.
        """
        self._require(tower)
        weights, (module, projection) = self.state_dict(), self.family.tower_modules[tower]
        prefix = f"{module}."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
        return own, weights.get(f"{projection}.weight")

    def _require(self, tower: str):
        if tower not in self.towers:
            raise ValueError(
                f"towers: the {tower} tower of {self.name!r} is not loaded. Load it with "
                f"teacher.with_towers({(*self.towers, tower)})."
            )


def _in_order(towers: Sequence[str]) -> tuple[str, ...]:
    """Towers in the order of `TOWERS`; ValueError if one is unknown."""
    if unknown := set(towers) - set(TOWERS):
        raise ValueError(f"towers: {sorted(unknown)} are none of {TOWERS}.")
    return tuple(tower for tower in TOWERS if tower in towers)
