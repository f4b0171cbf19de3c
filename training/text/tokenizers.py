"""Load tokenizers, compare them, and map the tokens of one to another."""

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.text.pipeline import digest, read_pipeline
from training.text.vocabulary import Vocabulary


def load_tokenizer(name: str, field: str = "student.tokenizer") -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the Hub.

    Args:
        name: Hub id or folder.
        field: of the recipe, for the message.

    Raises:
        ValueError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{field}: cannot load the tokenizer of {name!r}. Give a folder with a tokenizer.json or a Hub id. "
            f"({error})"
        ) from error
    # transformers makes an empty one of a folder that has a model's config and no tokenizer
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(f"{field}: {name!r} has a model and no tokenizer. Save its tokenizer beside its weights.")
    return tokenizer


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids for every text: their whole pipelines are compared.

    A tokenizer without a `tokenizer.json` cannot be compared, and is only the same as itself.
    """
    if first is second:
        return True
    return first.is_fast and second.is_fast and digest(read_pipeline(first)) == digest(read_pipeline(second))


def match_tokens(
    tokenizer: PreTrainedTokenizerBase, source: PreTrainedTokenizerBase, folder: str | None = None
) -> Tensor:
    """Look up each token of a student in the vocabulary of a source.

    Args:
        tokenizer: the student's.
        source: the source's.
        folder: where the student's tokenizer lies; a vocabulary cut from the source's stands there with its ids.

    Returns:
        (V,) int64, the source's id of each token of the student, -1 where the source has no such piece.
    """
    if same_tokens(tokenizer, source):
        return torch.arange(len(tokenizer))
    if folder is not None and Vocabulary.is_in(folder):
        vocabulary = Vocabulary.load(folder)
        if vocabulary.is_cut_of(source):
            return vocabulary.source_ids
    ids = source.get_vocab()
    matched = torch.full((len(tokenizer),), -1)
    for piece, token in tokenizer.get_vocab().items():
        matched[token] = ids.get(piece, -1)
    return matched


def forget_last_call(tokenizer: PreTrainedTokenizerBase):
    """Fast tokenizers remember padding, truncation and loading options of their last use; a saved one should not."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    for option in ("max_length", "padding_side", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(option, None)
