"""Zero-shot queries in both languages as token ids: ELEVATER's class names in a prompt template."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from training.evaluation.sets.class_names import SETS, ClassNames

TEMPLATES = {"en": "a photo of a {}.", "zh": "一张{}的照片。"}
NUM_TEXTS = 32


def sample_texts() -> dict[str, list[str]]:
    """`NUM_TEXTS` queries per language, for the same classes, evenly spaced over all sets."""
    names = [ClassNames.read(name).names for name in SETS]
    texts = {}
    for language, template in TEMPLATES.items():
        queries = [template.format(name) for by_language in names for name in by_language[language]]
        texts[language] = [queries[round(position)] for position in np.linspace(0, len(queries) - 1, NUM_TEXTS)]
    return texts


def token_ids(tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[list[int]]]:
    """Token ids of the queries, by language.

    Args:
        tokenizer: Tokenizer of the model, or the shared one.
        max_length: Largest number of tokens per text, including special tokens.
    """
    return {
        language: tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        for language, texts in sample_texts().items()
    }
