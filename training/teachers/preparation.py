"""How a model family turns texts into tokens, and the image processor of a model with a square input."""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Resampling
from torch import Tensor
from transformers import CLIPImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from modeling_dcclip.image_dcclip import square_input

PUNCTUATION = str.maketrans("", "", string.punctuation)
# only the tokenizer of SigLIP 2 has this token; its fixed-size checkpoints have the model type `siglip`
GEMMA_TOKEN = "<start_of_turn>"


def lower_case(text: str) -> str:
    """Lower-case a text, as in the training of SigLIP 2; the tokenizer of its `siglip` checkpoints does not do it."""
    return text.lower()


def canonical(text: str) -> str:
    """Lower-case a text, remove ASCII punctuation and merge white space, as in the training of SigLIP."""
    return re.sub(r"\s+", " ", text.lower().translate(PUNCTUATION)).strip()


@dataclass(frozen=True)
class TextPreparation:
    """How texts become tokens.

    Args:
        max_length: Longest text in tokens, special tokens included. Longer texts are cut and counted.
        pad_to_max: Whether every text is padded to `max_length`, as in training. By default texts are padded to the
            longest text of the batch.
        mask_padding: Whether the model gets an attention mask. Without a mask it attends the padding.
        clean: Function applied to a text before the tokenizer; None if the tokenizer does all that is needed.
        end_token: Function of the config and the tokenizer that returns the id of the token that must end every text,
            because the model pools the embedding there; None if the model pools elsewhere.
        stated_by: Where these values come from, for `results.json`.
    """

    max_length: int
    pad_to_max: bool = False
    mask_padding: bool = True
    clean: Callable[[str], str] | None = None
    end_token: Callable[[PreTrainedConfig, PreTrainedTokenizerBase], int | None] | None = None
    stated_by: str = "training/teachers/families.py"

    def require_end_token(
        self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, model: str
    ):
        """Check that the tokenizer ends a text with `end_token`: otherwise all texts can have the same embedding.

        Raises:
            ValueError: It does not; the message starts with `model`.
        """
        if self.end_token is None:
            return
        end = self.end_token(config, tokenizer)
        ids = tokenizer("a").input_ids
        if ids[-1] != end:
            raise ValueError(
                f"{model} was trained on texts that end with token {end}, which its tokenizer does not add: 'a' is "
                f"{ids}. The tokenizer does not match the model, or its config is wrong."
            )

    def tokenize(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
    ) -> tuple[dict[str, Tensor], int]:
        """Tokenize texts.

        Args:
            tokenizer: Tokenizer of the model.
            texts: Texts, at least one.

        Returns:
            The arguments of `get_text_features`: `input_ids` and, if the model gets a mask, `attention_mask`, both
            (T, L) int64; and the number of texts that were cut.
        """
        if self.clean is not None:
            texts = [self.clean(text) for text in texts]
        tokens = tokenizer(
            texts,
            padding="max_length" if self.pad_to_max else "longest",
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            return_attention_mask=True,
            return_tensors="pt",
        )
        is_full = tokens["attention_mask"].sum(1) == self.max_length
        full = [texts[row] for row in is_full.nonzero()[:, 0].tolist()]
        uncut = tokenizer(full, verbose=False).input_ids if full else []
        num_cut = sum(len(ids) > self.max_length for ids in uncut)
        names = ["input_ids", "attention_mask"] if self.mask_padding else ["input_ids"]
        return {name: tokens[name] for name in names}, num_cut

    def describe(self) -> dict[str, Any]:
        """These settings for `results.json`."""
        return {
            "max_length": self.max_length,
            "padding": "max_length" if self.pad_to_max else "longest",
            "padding_is_masked": self.mask_padding,
            "cleaning": self.clean.__name__ if self.clean else "the tokenizer's own",
            "stated_by": self.stated_by,
        }


def find_text_preparation(
    family: Any,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    pads: bool,
    name: str,
) -> TextPreparation:
    """Text preparation from the row of a family, or else from the model's own config, tokenizer and processor.

    Args:
        family: Row of the model's family.
        config: Config of the model.
        tokenizer: Tokenizer of the model.
        pads: Whether the model's processor pads every text to the full length.
        name: Hub id or folder, for error messages.

    Raises:
        ValueError: Neither states the longest text, or the tokenizer does not end a text with the token at which the
            model pools it.
    """
    length = min(family.max_text_length(config), tokenizer.model_max_length, VERY_LARGE_INTEGER)
    preparation = family.prepare_texts(tokenizer)
    if preparation is not None:
        preparation = replace(preparation, max_length=min(preparation.max_length, length))
    elif length < VERY_LARGE_INTEGER:
        stated_by = "the model's own config, tokenizer and processor"
        preparation = TextPreparation(length, pad_to_max=pads, stated_by=stated_by)
    else:
        raise ValueError(
            f"model: {name!r} is of the family {config.model_type!r}, and neither its config nor its tokenizer states "
            "the longest text. Add the family to FAMILIES (training/teachers/families.py) with a text_preparation."
        )
    preparation.require_end_token(config, tokenizer, f"model: {name!r}")
    return preparation


def config_end_token(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token at which CLIP and its relatives pool a text."""
    end = config.text_config.eos_token_id
    # CLIP checkpoints from before transformers 4.31 state 2, and the model then pools at the highest id
    return max(tokenizer("a").input_ids) if config.model_type == "clip" and end == 2 else end


def tokenizer_end_token(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the tokenizer's end token; the config is unused."""
    return tokenizer.eos_token_id


def square_image_processor(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    squash: bool = False,
) -> CLIPImageProcessor:
    """Build the image processor of a model with a square input.

    Args:
        size: Edge of the input in pixels.
        mean: Mean of each color channel, in 0..1.
        std: Standard deviation of each color channel, in 0..1.
        squash: Whether to resize the whole image to the square. Default: resize the short side and crop the center.
    """
    resized, crop = square_input(size, squash)
    return CLIPImageProcessor(
        size=resized,
        do_center_crop=not squash,
        crop_size=crop,
        resample=Resampling.BICUBIC,
        image_mean=list(mean),
        image_std=list(std),
    )
