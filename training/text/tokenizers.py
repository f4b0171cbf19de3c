"""Load tokenizers, compare them, and match the tokens of one to the tokens of another."""

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modeling_dcclip import DCCLIPModel  # noqa: F401  (registers our own family with the Auto classes)
from training.text.pipeline import LOADING_OPTIONS, digest, read_pipeline
from training.text.vocabulary import Vocabulary


def load_tokenizer(
    name: str, field: str = "student.tokenizer", revision: str = "main"
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the Hub.

    Args:
        name: Hub id or folder.
        field: Recipe field that holds the name; error messages start with it.
        revision: Commit, branch or tag of a Hub id.

    Raises:
        ValueError: The name has no tokenizer.
    """
    try:
        # None, the default, asks on the terminal whether to run remote code
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(
            f"{field}: cannot load the tokenizer of {name!r}. Give a folder with a tokenizer.json or a Hub id. "
            f"({error})"
        ) from error
    # for a folder with a model config and no tokenizer, transformers returns a tokenizer of special tokens alone
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(
            f"{field}: {name!r} has a model and no tokenizer. Save its tokenizer next to its weights."
        )
    return tokenizer


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Check whether two tokenizers return the same ids for every text, by their whole pipelines.

    A slow tokenizer does not have a pipeline. It equals only itself.
    """
    if first is second:
        return True
    return (
        first.is_fast
        and second.is_fast
        and digest(read_pipeline(first)) == digest(read_pipeline(second))
    )


def match_tokens(
    tokenizer: PreTrainedTokenizerBase, source: PreTrainedTokenizerBase, folder: str | None = None
) -> Tensor:
    """Look up each token of a student in the vocabulary of a source.

    Args:
        tokenizer: Tokenizer of the student, with V tokens.
        source: Tokenizer of the model that the student inherits from.
        folder: Folder of the student's tokenizer. If it holds a vocabulary cut from the source, the stored ids are
            used. Default: pieces are matched by their text.

    Returns:
        (V,) int64, source id of each student token; -1 if the source has no such piece.
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


def reset_call_state(tokenizer: PreTrainedTokenizerBase):
    """Reset call state, so that a saved tokenizer does not depend on how it was last used.

    A fast tokenizer stores padding, truncation and loading options of its last call, and would save them.
    """
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    for option in ("max_length", "padding_side", *LOADING_OPTIONS):
        tokenizer.init_kwargs.pop(option, None)
