"""Text preparation of a model: from the row of its family, or from its own config, tokenizer and processor."""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from training.teachers import FAMILIES, TextPreparation
from training.teachers.family import num_positions


def find_text_preparation(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, processor: Any, name: str
) -> TextPreparation:
    """Find out how the texts of a model are prepared.

    Args:
        config: Config of the model.
        tokenizer: Tokenizer of the model.
        processor: Processor of the model; it may state how texts are padded.
        name: Name of the model, for error messages.

    Raises:
        ValueError: Neither the row of the family nor the model itself states the longest text; or the tokenizer does
            not end a text with the token at which the model pools it.
    """
    family = FAMILIES.get(config.model_type)
    length = _stated_length(config, tokenizer)
    from_family = family.prepare_texts(tokenizer) if family is not None else None
    if from_family is not None:
        preparation = replace(from_family, max_length=min(from_family.max_length, length))
    elif length < VERY_LARGE_INTEGER:
        preparation = TextPreparation(
            length,
            pad_to_max=getattr(processor, "text_kwargs", {}).get("padding") == "max_length",
            stated_by="the model's own config, tokenizer and processor",
        )
    else:
        raise ValueError(
            f"model: {name!r} is of the family {config.model_type!r}, and neither its config nor its tokenizer states "
            "the longest text. Add the family to FAMILIES (training/teachers/families.py) with a text_preparation."
        )
    if preparation.end_token is not None:
        end, ids = preparation.end_token(config, tokenizer), tokenizer("a").input_ids
        if ids[-1] != end:
            raise ValueError(
                f"model: {name!r} was trained on texts that end with token {end}, which its tokenizer does not add: "
                f"'a' is {ids}. Its tokenizer belongs to another model, or its config is wrong."
            )
    return preparation


def _stated_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Longest text in tokens that config and tokenizer both allow; VERY_LARGE_INTEGER if neither states one."""
    family = FAMILIES.get(config.model_type)
    if family is not None:
        own = family.max_text_length(config)
    elif isinstance(getattr(config, "text_config", None), PreTrainedConfig):
        own = getattr(config, "max_text_length", None) or num_positions(config)
    else:
        own = getattr(config, "max_text_length", None) or VERY_LARGE_INTEGER
    return min(own, tokenizer.model_max_length, VERY_LARGE_INTEGER)
