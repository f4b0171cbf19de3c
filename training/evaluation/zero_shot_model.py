"""A model of any family, with the preparation of its images and texts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from modeling_dcclip import DCCLIPModel  # noqa: F401  (registers our own family with the Auto classes)
from training.evaluation.image_loading import ImagePreparation, prepared_batches
from training.teachers import FAMILIES, Family, TextPreparation
from training.teachers.family import num_positions
from training.teachers.lineage import find_commit, split_revision
from training.teachers.loading import REPORTED, check_complete, check_vocabulary, read_config
from training.teachers.targets import encode_by_length

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZeroShotModel:
    """A model with its tokenizer and image processor.

    Args:
        model: Model in eval mode; of a family in `FAMILIES`, or with `get_image_features` and `get_text_features`.
        processor: Object with `tokenizer` and `image_processor`.
        name: Name of the model, for results.
        revision: Commit of a Hub id; None for a folder.
    """

    model: Any  # models with remote code have no common class
    processor: Any
    name: str
    revision: str | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, trust_remote_code: bool = False
    ) -> "ZeroShotModel":
        """Load a model from a folder or the Hub.

        Args:
            name: Folder or Hub id; `ID@REVISION` names the revision too.
            revision: Branch, tag or commit of a Hub id. Default: the newest commit.
            trust_remote_code: Whether to run code that comes with the model. From the Hub, this needs a revision.

        Raises:
            ValueError: The model does not exist, lacks a tower or weights, comes with code that is not trusted or not
                pinned, or does not state how its input is prepared.
        """
        name, revision = split_revision(str(name), revision)
        if trust_remote_code and revision is None and not Path(name).is_dir():
            raise ValueError(
                f"trust_remote_code: the code of {name!r} can change at any time. Read it, and name the revision that "
                f"you read: {name}@COMMIT."
            )
        try:
            commit = find_commit(name, revision)
            read_config("model", name, commit)
            fields: dict[str, Any] = {
                "trust_remote_code": trust_remote_code,
                "revision": commit or "main",
            }
            model, report = AutoModel.from_pretrained(
                name, dtype=torch.float32, **REPORTED, **fields
            )
            processor = _load_processor(name, **fields)
            check_vocabulary("model", name, processor.tokenizer, model.config)
        except OSError as error:
            raise ValueError(
                f"model: {name!r} is neither a model folder nor on the Hub. ({error})"
            ) from error
        except ValueError as error:
            if str(error).startswith("model: "):
                raise
            if "trust_remote_code" not in str(error):
                raise ValueError(f"model: {name!r} cannot be loaded ({error}).") from error
            raise ValueError(
                f"model: {name!r} comes with its own code. Read it, then pass --trust_remote_code; for a Hub id, add "
                f"the revision that you read: {name}@COMMIT."
            ) from error
        for method in ("get_image_features", "get_text_features"):
            if model.config.model_type not in FAMILIES and not hasattr(model, method):
                raise ValueError(
                    f"model: {name!r} ({type(model).__name__}) has no {method}; zero-shot needs both towers."
                )
        parameters = {key for key, _ in model.named_parameters()}
        check_complete(
            "model",
            name,
            type(model),
            report | {"missing_keys": parameters & report["missing_keys"]},
        )
        # the fastest layout for convolutions
        loaded = cls(model.eval().to(memory_format=torch.channels_last), processor, name, commit)
        loaded.describe()  # raises now if the model does not state how its input is prepared
        return loaded

    def to(self, device: torch.device | str) -> "ZeroShotModel":
        """Move the weights to a device."""
        self.model.to(device)
        return self

    @property
    def family(self) -> Family | None:
        """Row of the model's family; None if there is none."""
        return FAMILIES.get(self.model.config.model_type)

    @cached_property
    def texts(self) -> TextPreparation:
        """How texts are tokenized."""
        return _find_text_preparation(
            self.model.config, self.processor.tokenizer, self.processor, self.name
        )

    @cached_property
    def images(self) -> ImagePreparation:
        """How images are resized and normalized."""
        return ImagePreparation.of(self.model.config, self.processor.image_processor, self.name)

    @property
    def image_size(self) -> int:
        """Edge of the square input image in pixels."""
        return self.images.image_size

    def describe(self) -> dict[str, Any]:
        """How images and texts are prepared, for `results.json`."""
        return {
            "family": self.model.config.model_type,
            "revision": self.revision,
            "texts": self.texts.describe(),
            "images": self.images.describe(),
        }

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize texts to `input_ids` and, for most families, `attention_mask`, (T, L) int64."""
        return self.texts.tokenize(self.processor.tokenizer, texts)[0]

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that are longer than the model's limit; `encode_texts` cuts them and logs their number."""
        texts = [text for text in texts if self.texts.may_be_cut(text)]
        return sum(
            self.texts.tokenize(self.processor.tokenizer, texts[start : start + 1024])[1]
            for start in range(0, len(texts), 1024)
        )

    @torch.inference_mode()
    def embed_texts(self, tokens: dict[str, Tensor]) -> Tensor:
        """Encode the output of `tokenize` to (T, D) float32, L2-normalized."""
        on_device = {name: value.to(self.model.device) for name, value in tokens.items()}
        if self.family is None:
            return self._normalized(self.model.get_text_features(**on_device), "text")
        mask = on_device.get("attention_mask")
        return self._normalized(
            self.family.text_outputs(self.model, on_device["input_ids"], mask), "text"
        )

    @torch.inference_mode()
    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """Encode images normalized with the model's statistics, (B, 3, S, S), to (B, D) float32, L2-normalized."""
        pixel_values = pixel_values.to(self.model.device)
        if self.family is None:
            return self._normalized(
                self.model.get_image_features(pixel_values=pixel_values), "image"
            )
        return self._normalized(self.family.image_outputs(self.model, pixel_values), "image")

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Encode texts, in batches of similar length.

        Texts that are longer than the model's limit are cut, and their number is logged.

        Args:
            texts: Texts, at least one.
            batch_size: Number of texts encoded at once.

        Returns:
            (N, D) float32 on the CPU, L2-normalized, in the order of the texts.
        """
        num_cut = 0
        with tqdm(
            total=-(-len(texts) // batch_size), desc="texts", unit="batch", leave=False
        ) as progress:

            def encode(indices: Tensor) -> tuple[Tensor]:
                nonlocal num_cut
                tokens, cut = self.texts.tokenize(
                    self.processor.tokenizer, [texts[n] for n in indices.tolist()]
                )
                num_cut += cut
                embeddings = self.embed_texts(tokens).cpu()
                progress.update()
                return (embeddings,)

            (embeddings,) = encode_by_length(
                torch.tensor([len(text) for text in texts]), batch_size, encode
            )
        if num_cut:
            cut = "%s: %d of %d texts are longer than %d tokens and were cut"
            log.warning(cut, self.name, num_cut, len(texts), self.texts.max_length)
        return embeddings

    def encode_images(
        self, rows: Dataset, column: str = "image", batch_size: int = 64, squash: bool | None = None
    ) -> Tensor:
        """Encode images. Threads decode and resize the next batches meanwhile.

        Args:
            rows: Data set with a column of images, at least one row.
            column: Name of the column.
            batch_size: Number of images encoded at once.
            squash: Whether to resize to the square input without a crop, or to resize the short side and crop the
                center. Default: as the model's image processor does.

        Returns:
            (N, D) float32 on the CPU, L2-normalized, in the order of the rows.

        Raises:
            ValueError: An image does not decode.
        """
        embeddings, done = torch.empty(0), 0
        with tqdm(total=len(rows), desc="images", unit="image", leave=False) as progress:
            for images in prepared_batches(
                rows, column, batch_size, lambda image: self.images.fit(image, squash)
            ):
                batch = self.embed_images(self.images.normalize(images.to(self.model.device))).cpu()
                embeddings = batch.new_empty(len(rows), batch.shape[1]) if done == 0 else embeddings
                embeddings[done : done + len(batch)] = batch
                done += len(batch)
                progress.update(len(batch))
        return embeddings

    def _normalized(self, output: Any, kind: str) -> Tensor:
        """L2-normalized embeddings of a model's output: an output object, or a tensor from some remote code."""
        features = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(output).__name__
            raise ValueError(
                f"model: {self.name!r} returns {shape} for the {kind} embeddings; expected (B, D)."
            )
        return F.normalize(features.float(), dim=-1)


def _load_processor(name: str, **fields: Any) -> Any:
    """Processor of a model, or its tokenizer and image processor if it has no processor with both."""
    processor = AutoProcessor.from_pretrained(name, **fields)
    if hasattr(processor, "tokenizer") and hasattr(processor, "image_processor"):
        return processor
    return SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(name, **fields),
        image_processor=AutoImageProcessor.from_pretrained(name, **fields),
    )


def _find_text_preparation(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, processor: Any, name: str
) -> TextPreparation:
    """Text preparation from the row of the model's family, or from its own config, tokenizer and processor.

    Raises:
        ValueError: Neither states the longest text; or the tokenizer does not end a text with the token at which the
            model pools it.
    """
    family = FAMILIES.get(config.model_type)
    if family is not None:
        stated = family.max_text_length(config)
    else:
        stated = getattr(config, "max_text_length", None) or VERY_LARGE_INTEGER
        if stated == VERY_LARGE_INTEGER and isinstance(
            getattr(config, "text_config", None), PreTrainedConfig
        ):
            stated = num_positions(config)
    length = min(stated, tokenizer.model_max_length, VERY_LARGE_INTEGER)
    preparation = family.prepare_texts(tokenizer) if family is not None else None
    if preparation is not None:
        preparation = replace(preparation, max_length=min(preparation.max_length, length))
    elif length < VERY_LARGE_INTEGER:
        pads = getattr(processor, "text_kwargs", {}).get("padding") == "max_length"
        stated_by = "the model's own config, tokenizer and processor"
        preparation = TextPreparation(length, pad_to_max=pads, stated_by=stated_by)
    else:
        raise ValueError(
            f"model: {name!r} is of the family {config.model_type!r}, and neither its config nor its tokenizer states "
            "the longest text. Add the family to FAMILIES (training/teachers/families.py) with a text_preparation."
        )
    preparation.require_end_token(config, tokenizer, f"model: {name!r}")
    return preparation
