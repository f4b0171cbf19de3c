"""Any model on the Hub that has image and text features, with its own way to prepare images and texts."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer

import modeling_dcclip  # noqa: F401  (registers our own family with the Auto classes)
from training.evaluation.models.image_loading import ImagePreparation, prepared_batches
from training.evaluation.models.text_preparation import TextPreparation, text_preparation
from training.teachers import FAMILIES, weights_fingerprint
from training.teachers.lineage import find_commit

log = logging.getLogger(__name__)

PREPARATION = 1  # raised when the same model and source come to see or read something else than before


@dataclass(frozen=True)
class ZeroShotModel:
    """A model with all that prepares its input.

    Args:
        model: with `get_image_features` and `get_text_features`, in eval mode.
        processor: with its `tokenizer` and `image_processor`.
        name: shown in results.
        revision: commit of a Hub id; None for a folder.
    """

    model: Any  # remote code has no class in common
    processor: Any
    name: str
    revision: str | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, trust_remote_code: bool = False
    ) -> "ZeroShotModel":
        """Load from a folder or the Hub.

        Args:
            name: folder or Hub id; `ID@REVISION` names the revision too.
            revision: branch, tag or commit of a Hub id. Default: the newest.
            trust_remote_code: run code that comes with the model; from the Hub, only at a revision that is named.

        Raises:
            ValueError: it is not there, has no text or image tower, brings code that is not trusted or not pinned, or
                does not say how its input is prepared.
        """
        name = str(name)
        if not Path(name).is_dir() and revision is None and "@" in name:
            name, _, revision = name.rpartition("@")
        if trust_remote_code and revision is None and not Path(name).is_dir():
            raise ValueError(
                f"trust_remote_code: the code of {name!r} can change from day to day. Read it, and name the revision "
                f"that was read: {name}@COMMIT."
            )
        try:
            commit = find_commit(name, revision)
            fields = {"trust_remote_code": trust_remote_code, "revision": commit or "main"}
            model, report = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **fields)
            processor = _load_processor(name, **fields)
        except OSError as error:
            raise ValueError(f"model: {name!r} is neither a model folder nor on the Hub. ({error})") from error
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise ValueError(f"model: {name!r} cannot be loaded ({error}).") from error
            raise ValueError(
                f"model: {name!r} brings code of its own. Read it, then give --trust_remote_code; from the Hub, with "
                f"the revision that was read, {name}@COMMIT."
            ) from error
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(model, method):
                raise ValueError(
                    f"model: {name!r} ({type(model).__name__}) has no {method}; zero-shot needs both towers."
                )
        if missing := sorted(set(report["missing_keys"]) & {key for key, _ in model.named_parameters()}):
            raise ValueError(
                f"model: {name!r} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]!r}: "
                "they would be random. Name a finished checkpoint of the whole model."
            )
        loaded = cls(model.eval(), processor, name, commit)
        loaded.describe()  # whatever does not say how its input is prepared is refused now
        return loaded

    def to(self, device: torch.device | str) -> "ZeroShotModel":
        """Move the weights."""
        self.model.to(device)
        return self

    @cached_property
    def texts(self) -> TextPreparation:
        """How texts become tokens."""
        return text_preparation(self.model.config, self.processor.tokenizer, self.processor, self.name)

    @cached_property
    def images(self) -> ImagePreparation:
        """How images become pixel values."""
        return ImagePreparation.of(self.model.config, self.processor.image_processor, self.name)

    @property
    def image_size(self) -> int:
        """Edge of the square image that the model reads, in pixels."""
        return self.images.image_size

    @cached_property
    def fingerprint(self) -> str:
        """Tells one state of weights and preparation from another, wherever it lies: a key for what is stored."""
        facts = {
            "preparation": PREPARATION,
            "config": _without_place(self.model.config.to_dict()),
            "weights": weights_fingerprint(self.model),
            "tokenizer": _tokenizer_state(self.processor.tokenizer),
            "image_processor": _without_place(self.processor.image_processor.to_dict()),
            "texts": self.texts.describe(),
            "images": self.images.describe(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """How images and texts are prepared, for `results.json`."""
        return {
            "family": self.model.config.model_type,
            "revision": self.revision,
            "texts": self.texts.describe(),
            "images": self.images.describe(),
        }

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the model reads of these texts, by `get_text_features`' names of it."""
        return self.texts.tokenize(self.processor.tokenizer, texts)[0]

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of these texts are longer than the model reads; `encode_texts` cuts them and logs their number."""
        texts = [text for text in texts if self.texts.may_be_cut(text)]
        return sum(
            self.texts.tokenize(self.processor.tokenizer, texts[start : start + 1024])[1]
            for start in range(0, len(texts), 1024)
        )

    @torch.inference_mode()
    def embed_texts(self, tokens: dict[str, Tensor]) -> Tensor:
        """(T, D) float32, L2-normalised, of what `tokenize` returns."""
        on_device = {name: value.to(self.model.device) for name, value in tokens.items()}
        return self._normalized(self.model.get_text_features(**on_device), "text")

    @torch.inference_mode()
    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """(B, D) float32, L2-normalised, of (B, 3, S, S) float images in the model's statistics."""
        pixel_values = pixel_values.to(self.model.device)
        if self.model.config.model_type == "siglip2":  # reads patches, with their grid beside them
            return self._normalized(FAMILIES["siglip2"].images(self.model, pixel_values).embedding, "image")
        return self._normalized(self.model.get_image_features(pixel_values=pixel_values), "image")

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """(N, D) float32, L2-normalised, in order, on the CPU.

        Texts of like length are encoded together, which saves padding. Those longer than the model reads are cut; how
        many is logged (see `count_cut`).

        Args:
            texts: at least one.
            batch_size: texts at a time.
        """
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        embeddings, num_cut = torch.empty(0), 0
        for start in tqdm(range(0, len(order), batch_size), desc="texts", unit="batch", leave=False):
            numbers = order[start : start + batch_size]
            tokens, cut = self.texts.tokenize(self.processor.tokenizer, [texts[n] for n in numbers])
            batch = self.embed_texts(tokens).cpu()
            embeddings = batch.new_empty(len(texts), batch.shape[1]) if start == 0 else embeddings
            embeddings[numbers] = batch
            num_cut += cut
        if num_cut:
            log.warning(
                "%s: %d of %d texts are longer than %d tokens and were cut",
                self.name,
                num_cut,
                len(texts),
                self.texts.max_length,
            )
        return embeddings

    def encode_images(
        self, rows: Dataset, column: str = "image", batch_size: int = 64, squash: bool = False
    ) -> Tensor:
        """(N, D) float32, L2-normalised, in order, on the CPU. Other threads decode and resize meanwhile.

        Args:
            rows: at least one, with a column of images.
            column: its name.
            batch_size: images at a time.
            squash: resize to the model's square without a crop, instead of the short side and a crop of the centre.

        Raises:
            ValueError: an image does not decode.
        """
        embeddings, done = torch.empty(0), 0
        with tqdm(total=len(rows), desc="images", unit="image", leave=False) as progress:
            for images in prepared_batches(rows, column, batch_size, lambda image: self.images.fit(image, squash)):
                batch = self.embed_images(self.images.normalize(images.to(self.model.device))).cpu()
                embeddings = batch.new_empty(len(rows), batch.shape[1]) if done == 0 else embeddings
                embeddings[done : done + len(batch)] = batch
                done += len(batch)
                progress.update(len(batch))
        return embeddings

    def _normalized(self, output: Any, what: str) -> Tensor:
        """The pooled embedding in what a model returned: an output object, or with some remote code a tensor."""
        features = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(output).__name__
            raise ValueError(f"model: {self.name!r} gives no embedding of a {what}, (B, D), but {shape}.")
        return F.normalize(features.float(), dim=-1)


def _load_processor(name: str, **fields: Any) -> Any:
    """A model's processor, or its tokenizer and its image processor where it has none that knows both."""
    processor = AutoProcessor.from_pretrained(name, **fields)
    if hasattr(processor, "tokenizer") and hasattr(processor, "image_processor"):
        return processor
    return SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(name, **fields),
        image_processor=AutoImageProcessor.from_pretrained(name, **fields),
    )


def _without_place(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what says where and by whom it was written."""
    return {key: value for key, value in fields.items() if key not in ("_name_or_path", "transformers_version")}


def _tokenizer_state(tokenizer: Any) -> Any:
    """All that decides a text's tokens, without what the last call left behind."""
    if not tokenizer.is_fast:
        return [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in ("truncation", "padding")}
