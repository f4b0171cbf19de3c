"""A frozen dual encoder of any family: the teacher of a student, or a model that is evaluated."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from modeling_dcclip.handler import TorchEncoder
from training.teachers.families import FAMILIES, GENERIC, unknown_family
from training.teachers.family import TOWER_MODULES, TOWERS, Targets
from training.teachers.images import ImagePreparation, prepared_batches
from training.teachers.lineage import (
    digest_folder,
    find_commit,
    read_license,
    weights_fingerprint,
)
from training.teachers.loading import load_any_model, load_model, load_processor, read_config
from training.teachers.preparation import TextPreparation, find_text_preparation
from training.text.vocabulary import chunks

# a text that every cleaning changes
CLEANED_PROBE = "  The RED-Apple,  (two)  Words. "

IMAGES_AT_ONCE = 64
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)

log = logging.getLogger(__name__)


class DualEncoder(TorchEncoder):
    """A frozen model with an image tower and a text tower, whole or one tower at a time.

    As a teacher it gives feature maps and embeddings of tensors (`image_targets`, `text_targets`). In evaluation it
    gives L2-normalized embeddings of images and texts as a user has them (`encode_images`, `encode_texts`). Images may
    also be cells of a data set, decoded or not.

    Args:
        model: Dual encoder in eval mode, with all or some of its towers.
        processor: Object with `image_processor` and `tokenizer`. The tokenizer may be None; then only images can be
            encoded.
        name: Hub id or folder, for messages, results and the lineage of a student.
        towers: Towers that the model has. Sizes, image statistics, tokens and lineage need none.
        commit: Commit of a Hub id; None for a folder or a model in memory.
        dtype: Precision of the weights. A model without its towers may have no weights that tell it.

    Attributes:
        family: Row of the model's family; `GENERIC` for a family without a row, which can be evaluated but not taught
            from.
        towers: Loaded towers, in the order of `TOWERS`.
    """

    texts_at_once = 256

    def __init__(
        self,
        model: Any,  # models with remote code have no common class
        processor: Any,
        name: str,
        towers: Sequence[str] = TOWERS,
        commit: str | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        self.model = model
        self.processor = processor
        self.name = name
        self.commit = commit
        self.family = FAMILIES.get(model.config.model_type, GENERIC)
        self.towers = tuple(tower for tower in TOWERS if tower in towers)
        self._is_checkpoint = False
        self.dtype = dtype

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        towers: Sequence[str] = TOWERS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        trust_remote_code: bool = False,
        field: str = "model",
    ) -> "DualEncoder":
        """Load a model with its tokenizer and image processor.

        Args:
            name: Folder or Hub id; `ID@REVISION` names the revision too.
            towers: Towers to load, some of `vision` and `text`. The others are neither read nor held in memory.
            dtype: Precision of the weights in memory, whatever the precision of the file.
            device: Device of the weights.
            revision: Branch, tag or commit of a Hub id. Default: the newest commit.
            trust_remote_code: Whether to run code that comes with a model of a family without a row. From the Hub,
                this needs a revision.
            field: Option that named the model; error messages start with it.

        Raises:
            ValueError: The model does not exist, lacks a tower or weights, or comes with code that is not trusted or
                not pinned; or `towers` are a part of a model of an unknown family.
        """
        name = str(name)
        if revision is None and "@" in name and not Path(name).is_dir():
            name, _, revision = name.rpartition("@")
        if trust_remote_code and revision is None and not Path(name).is_dir():
            raise ValueError(
                f"trust_remote_code: the code of {name!r} can change at any time. Read it, and name the revision that "
                f"you read: {name}@COMMIT."
            )
        try:
            commit = find_commit(name, revision)
        except OSError as error:
            raise ValueError(
                f"{field}: {name!r} is neither a model folder nor on the Hub. ({error})"
            ) from error
        model_type = read_config(field, name, commit).get("model_type")
        if family := FAMILIES.get(str(model_type)):
            model: Any = load_model(name, family, towers, dtype, commit, field)
            processor = load_processor(name, model.config, commit, field)
        elif set(towers) == set(TOWERS):
            model, processor = load_any_model(name, dtype, commit, trust_remote_code, field)
        else:
            raise unknown_family(field, name, model_type)
        encoder = cls(model.eval().requires_grad_(False), processor, name, towers, commit, dtype)
        encoder._is_checkpoint = True
        return encoder.to(device)

    def with_towers(self, towers: Sequence[str], dtype: torch.dtype | None = None) -> "DualEncoder":
        """This model with other towers.

        A checkpoint is loaded again, on the CPU. A model in memory has all of its towers, and is returned unchanged.

        Args:
            towers: Towers to load, some of `vision` and `text`.
            dtype: Precision of the weights. Default: that of this model.
        """
        dtype = dtype or self.dtype
        is_same = dtype == self.dtype and set(towers) == set(self.towers)
        if is_same or not self._is_checkpoint:
            return self
        return self.from_pretrained(self.name, towers, dtype, revision=self.commit)

    def to(self, device: torch.device | str) -> "DualEncoder":
        """Move the weights to a device, in the fastest memory layout for convolutions."""
        self.model.to(device, memory_format=torch.channels_last)
        return self

    def compile(self) -> "DualEncoder":
        """Compile both towers with `torch.compile`. The first batches take minutes, later ones are faster.

        On a CPU the weights become constants of the compiled code ("freezing" of Inductor), which saves a third of the
        time; they must not change afterwards. Freezing applies where gradients are off, as in `image_targets`.
        """
        options: dict[str, Any] | None = None
        if self.model.device.type == "cpu":
            options = {"freezing": True}
        for name in ("_image_outputs", "_text_outputs"):
            setattr(self, name, torch.compile(getattr(self, name), options=options))
        return self

    @property
    def config(self) -> PreTrainedConfig:
        """Config of the model."""
        return self.model.config

    @property
    def image_processor(self) -> Any:
        """Image processor of the model."""
        return self.processor.image_processor

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the model.

        Raises:
            ValueError: The model has none.
        """
        if self.processor.tokenizer is None:
            raise ValueError(
                f"model: {self.name!r} has no tokenizer. Save it next to the weights; without one, train a student's "
                "image tower alone: set tower: vision and student.tokenizer."
            )
        return self.processor.tokenizer

    @property
    def projection_dim(self) -> int:
        """Width of the embeddings."""
        return self.family.projection_dim(self.config)

    @property
    def vision_width(self) -> int:
        """Number of channels of the image feature map; 0 if the image tower gives none."""
        return self.family.vision_width(self.config)

    @property
    def text_width(self) -> int:
        """Width of a token state."""
        return self.family.text_width(self.config)

    @property
    def image_size(self) -> int:
        """Edge of the square input image in pixels."""
        return self.family.image_size(self.config)

    @property
    def max_text_length(self) -> int:
        """Longest text in tokens that the model and the tokenizer allow, and that the model was trained on."""
        length = min(self.family.max_text_length(self.config), self.tokenizer.model_max_length)
        trained = self.family.prepare_texts(self.tokenizer)
        return length if trained is None else min(length, trained.max_length)

    @property
    def logit_scale(self) -> float:
        """Logarithm of the factor on cosines, as stored in the model; CLIP's initial value if it stores none."""
        stored = getattr(self.model, "logit_scale", None)
        return INITIAL_LOGIT_SCALE if stored is None else stored.item()

    @cached_property
    def texts(self) -> TextPreparation:
        """How texts are prepared, as in training.

        Raises:
            ValueError: Nothing states the longest text, or the tokenizer does not end a text where the model pools it.
        """
        pads = getattr(self.processor, "text_kwargs", {}).get("padding") == "max_length"
        return find_text_preparation(self.family, self.config, self.tokenizer, pads, self.name)

    @cached_property
    def images(self) -> ImagePreparation:
        """How images are resized and normalized."""
        return ImagePreparation.of(self.config, self.image_processor, self.name)

    @cached_property
    def license(self) -> str | None:
        """License of the weights, from the model card or else from the family."""
        stated = read_license(self.name, self.commit) if self._is_checkpoint else None
        return stated or self.family.license_of(self.config)

    @cached_property
    def revision(self) -> str:
        """Identifier of the state of the weights: a commit, or a digest of the checkpoint or of the weights."""
        if self.commit:
            return self.commit
        return digest_folder(self.name) if self._is_checkpoint else weights_fingerprint(self.model)

    @cached_property
    def clean(self) -> Callable[[str], str] | None:
        """Function that cleans a text before the tokenizer, as in training; None if the tokenizer does it itself."""
        preparation = self.family.prepare_texts(self.tokenizer)
        if preparation is None or preparation.clean is None:
            return None
        cleaned = self.tokenizer(preparation.clean(CLEANED_PROBE)).input_ids
        is_own = self.tokenizer(CLEANED_PROBE).input_ids == cleaned
        return None if is_own else preparation.clean

    @cached_property
    def _attends_padding(self) -> bool:
        """Whether the model was trained on texts that are padded to the full length, without a mask."""
        preparation = self.family.prepare_texts(self.tokenizer)
        return preparation is not None and preparation.pad_to_max and not preparation.mask_padding

    def describe(self) -> dict[str, Any]:
        """How images and texts are prepared, for `results.json`. Raises as `texts` and `images` do."""
        return {
            "family": self.config.model_type,
            "revision": self.commit,
            "texts": self.texts.describe(),
            "images": self.images.describe(),
        }

    @torch.no_grad()
    def image_targets(self, pixel_values: Tensor) -> Targets:
        """Feature map and embedding of images.

        Args:
            pixel_values: Images normalized with the statistics of this model, (B, 3, S, S).

        Raises:
            ValueError: The image tower is not loaded.
        """
        outputs = self._image_outputs(pixel_values)
        return Targets(self.family.image_map(self.model, outputs), outputs.pooler_output)

    @torch.no_grad()
    def text_targets(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Targets:
        """Token states and embedding of texts.

        Args:
            input_ids: Token ids of this model's tokenizer, (B, L) int64, padded on the right.
            attention_mask: Mask, (B, L) int64, 1 for tokens and 0 for padding. None for texts that `tokenize` has
                padded to the full length.

        Returns:
            Targets; the feature map is (B, L, D), also if the family pads texts to a fixed length.

        Raises:
            ValueError: The text tower is not loaded.
        """
        length = input_ids.shape[1]
        if attention_mask is not None and self._attends_padding:
            padding = self.tokenizer.pad_token_id
            limit = self.family.max_text_length(self.config)
            input_ids = input_ids.masked_fill(attention_mask == 0, padding)
            input_ids = F.pad(input_ids, (0, limit - length), value=padding)  # (B, limit)
            attention_mask = None
        outputs = self._text_outputs(input_ids, attention_mask)
        states = outputs.last_hidden_state
        return Targets(None if states is None else states[:, :length], outputs.pooler_output)

    def tokenize(self, texts: Sequence[str], truncate: bool = True) -> dict[str, Tensor]:
        """Tokenize texts, and cut long ones: `input_ids` and, for most families, `attention_mask`, (T, L) int64."""
        return self.texts.tokenize(self.tokenizer, texts)[0]

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that are longer than the model's limit; `encode_texts` cuts them and logs their number."""
        return sum(self.texts.tokenize(self.tokenizer, chunk)[1] for chunk in chunks(texts))

    @torch.inference_mode()
    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images normalized with the model's statistics, (B, 3, S, S), to (B, D) float32, L2-normalized."""
        return self._normalized(self._image_outputs(pixel_values.to(self.model.device)))

    @torch.inference_mode()
    def embed_texts(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Encode the output of `tokenize` to (T, D) float32, L2-normalized."""
        ids = tokens["input_ids"].to(self.model.device)
        mask = tokens.get("attention_mask")
        if mask is not None:
            mask = mask.to(ids.device)
        return self._normalized(self._text_outputs(ids, mask))

    def encode_texts(self, texts: Sequence[str], truncate: bool = False) -> np.ndarray:
        """Encode texts, as `TorchEncoder` does. The number of those that are truncated is logged."""
        unique = list(dict.fromkeys(texts))
        if num_cut := self.count_truncated(unique):
            message = f"{self.name}: {num_cut} of {len(unique)} texts are longer than {self.texts.max_length} tokens"
            if not truncate:
                raise ValueError(f"texts: {message}. Shorten them, or pass truncate=True.")
            log.warning("%s and were cut", message)
        return super().encode_texts(texts, truncate)

    def text_batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        """The texts in batches, with a progress bar."""
        return tqdm(super().text_batches(texts), "texts", unit="batch", leave=False)

    def prepared_batches(self, images: Iterable[Any]) -> Iterator[Tensor]:
        """The images in batches, resized and normalized, (B, 3, S, S). Threads decode the next ones meanwhile."""
        shown = tqdm(images, "images", unit="image", leave=False)
        for batch in prepared_batches(shown, IMAGES_AT_ONCE, self.images.fit):
            yield self.images.normalize(batch.to(self.model.device))

    def squashing(self, squash: bool) -> "DualEncoder":
        """This model with images that are resized to the square without a crop, or whose center is cropped."""
        encoder = copy.copy(self)
        encoder.images = replace(self.images, squashes=squash)
        return encoder

    def state_dict(self) -> dict[str, Tensor]:
        """State dict of the loaded towers."""
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
        weights = self.state_dict()
        module, projection = TOWER_MODULES[tower]
        prefix = f"{module}."
        own = {}
        for name, tensor in weights.items():
            if name.startswith(prefix):
                own[name.removeprefix(prefix)] = tensor
        return own, weights.get(f"{projection}.weight")

    def _image_outputs(self, pixel_values: Tensor) -> Any:
        self._require("vision")
        # in the precision of its own weights
        with torch.autocast(pixel_values.device.type, enabled=False):
            return self.model.get_image_features(pixel_values=pixel_values.to(self.model.dtype))

    def _text_outputs(self, input_ids: Tensor, attention_mask: Tensor | None) -> Any:
        self._require("text")
        with torch.autocast(input_ids.device.type, enabled=False):
            return self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)

    def _require(self, tower: str):
        if tower not in self.towers:
            raise ValueError(
                f"towers: the {tower} tower of {self.name!r} is not loaded. Load it with "
                f"with_towers({(*self.towers, tower)})."
            )

    @staticmethod
    def _normalized(output: Any) -> Tensor:
        """L2-normalized embeddings of a model's output: an output object, or a tensor from some remote code."""
        features = output if isinstance(output, Tensor) else output.pooler_output
        return F.normalize(features.float(), dim=-1)
