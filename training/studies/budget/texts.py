"""Real queries in both languages, as token ids: ELEVATER's class names in a sentence, as zero-shot asks them."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from training.evaluation.sets.class_names import SETS, ClassNames

TEMPLATES = {"en": "a photo of a {}.", "zh": "一张{}的照片。"}
NUM_TEXTS = 32


def sample_texts() -> dict[str, list[str]]:
    """`NUM_TEXTS` queries a language, the same classes in each, evenly spaced over all sets."""
    names = [ClassNames.read(name).names for name in SETS]
    texts = {}
    for language, template in TEMPLATES.items():
        every = [template.format(name) for by_language in names for name in by_language[language]]
        texts[language] = [every[round(place)] for place in np.linspace(0, len(every) - 1, NUM_TEXTS)]
    return texts


def token_ids(tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[list[int]]]:
    """These queries as a tokenizer reads them, by language.

    Args:
        tokenizer: of the model, or one that stands in for it.
        max_length: longest text in tokens, specials included.
    """
    return {
        language: tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        for language, texts in sample_texts().items()
    }
