"""How each family's texts are prepared: what most checkpoints do not say, and most of the accuracy hangs on.

A new family is a row of `FAMILIES`. A family without a row is read as its own config, tokenizer and processor declare,
and results say so; where they declare no length, the model is refused.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from training.teachers.families import num_positions

SPECIALS = 4  # more tokens than these nobody puts around a text
PUNCTUATION = str.maketrans("", "", string.punctuation)


def lower_case(text: str) -> str:
    """As SigLIP 2 was trained; its tokenizer alone does not do it where the checkpoint says `siglip`."""
    return text.lower()


def canonical(text: str) -> str:
    """As SigLIP was trained: lower case, no ASCII punctuation, single spaces."""
    return re.sub(r"\s+", " ", text.lower().translate(PUNCTUATION)).strip()


@dataclass(frozen=True)
class TextPreparation:
    """How texts become tokens.

    Args:
        max_length: longest text in tokens, specials included; longer ones are cut, and counted.
        fill: every text is padded to `max_length`, as in training; else to the longest of its batch.
        mask: the model is told which tokens are padding; else padding is read as a part of the text.
        clean: what is done to a text before the tokenizer; None where the tokenizer does all that is needed.
        end: the token that must end a text, as the embedding hangs on it: CLIP's is taken where its config's end
            token stands. None where that is not so.
        stated: who says so, for results.
    """

    max_length: int
    fill: bool = False
    mask: bool = True
    clean: Callable[[str], str] | None = None
    end: Callable[[PreTrainedConfig, PreTrainedTokenizerBase], int | None] | None = None
    stated: str = "training/evaluation/models/text_preparation.py"

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[dict[str, Tensor], int]:
        """What the model reads, `input_ids` and, if it is told, `attention_mask`, (T, L) int64; how many were cut."""
        texts = [self.clean(text) if self.clean else text for text in texts]
        tokens = tokenizer(
            texts,
            padding="max_length" if self.fill else "longest",
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            return_attention_mask=True,
            return_tensors="pt",
        )
        full = (tokens["attention_mask"].sum(1) == self.max_length).nonzero()[:, 0].tolist()
        whole = tokenizer([texts[row] for row in full], verbose=False).input_ids if full else []
        cut = sum(len(ids) > self.max_length for ids in whole)
        return {name: tokens[name] for name in ("input_ids", *["attention_mask"] * self.mask)}, cut

    def may_be_cut(self, text: str) -> bool:
        """Whether a text is long enough to ask the tokenizer: no token is shorter than a byte of normalised text."""
        return len(unicodedata.normalize("NFKC", text).lower().encode()) + SPECIALS > self.max_length

    def describe(self) -> dict[str, Any]:
        """The same for `results.json`."""
        return {
            "max_length": self.max_length,
            "padding": "max_length" if self.fill else "longest",
            "padding_is_masked": self.mask,
            "cleaning": self.clean.__name__ if self.clean else "the tokenizer's own",
            "stated_by": self.stated,
        }


def _end_of_config(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    end = config.text_config.eos_token_id
    # CLIP's checkpoints from before transformers 4.31 say 2, and the model then takes the highest id
    return max(tokenizer("a").input_ids) if config.model_type == "clip" and end == 2 else end


def _end_of_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.eos_token_id


FAMILIES = {
    # FlagAI, examples/AltCLIP
    "altclip": TextPreparation(77),
    # OFA-Sys/Chinese-CLIP, cn_clip/clip/utils.py
    "chinese_clip": TextPreparation(52),
    # openai/CLIP, clip/clip.py
    "clip": TextPreparation(77, end=_end_of_config),
    # its positions; facebookresearch/MetaCLIP trains as CLIP does
    "metaclip_2": TextPreparation(77, end=_end_of_config),
    # google-research/big_vision, configs/proj/image_text: canonical text, sticky end, padding without a mask
    "siglip": TextPreparation(64, fill=True, mask=False, clean=canonical, end=_end_of_tokenizer),
    "siglip2": TextPreparation(64, fill=True, mask=False, clean=lower_case, end=_end_of_tokenizer),
}
GEMMA_TOKEN = "<start_of_turn>"  # of SigLIP 2's tokenizer, whose checkpoints of fixed size call themselves `siglip`


def text_preparation(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, processor: Any, name: str
) -> TextPreparation:
    """How a model reads texts: by its family's row, else by what it declares itself.

    Args:
        config: the model's.
        tokenizer: the model's.
        processor: the model's; it may declare how texts are padded.
        name: the model's, for messages.

    Raises:
        ValueError: the family has no row, and nothing declares how long a text may be; or the tokenizer does not end
            a text as in training.
    """
    family = config.model_type
    if family == "siglip" and GEMMA_TOKEN in tokenizer.get_vocab():
        family = "siglip2"
    length = _declared_length(config, tokenizer)
    if family in FAMILIES:
        row = FAMILIES[family]
        prepared = replace(row, max_length=min(row.max_length, length))
    elif length < VERY_LARGE_INTEGER:
        fill = getattr(processor, "text_kwargs", {}).get("padding") == "max_length"
        prepared = TextPreparation(length, fill=fill, stated="the model's own config, tokenizer and processor")
    else:
        raise ValueError(
            f"model: {name!r} is of the family {family!r}, and its config and tokenizer do not say how "
            "long a text may be. Describe the family in a row of FAMILIES in this file's module, "
            "training/evaluation/models/text_preparation.py."
        )
    if prepared.end:
        end, ids = prepared.end(config, tokenizer), tokenizer("a").input_ids
        if ids[-1] != end:
            raise ValueError(
                f"model: {name!r} was trained on texts that end with token {end}, which its tokenizer does not write: "
                f"'a' is {ids}. Its tokenizer is another model's, or its config is wrong."
            )
    return prepared


def _declared_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest text in tokens that config and tokenizer both allow; VERY_LARGE_INTEGER where neither says."""
    own = getattr(config, "max_text_length", None)  # our own family's
    if own is None:
        is_known = isinstance(getattr(config, "text_config", None), PreTrainedConfig)
        own = num_positions(config) if is_known else VERY_LARGE_INTEGER
    return min(own, tokenizer.model_max_length, VERY_LARGE_INTEGER)
