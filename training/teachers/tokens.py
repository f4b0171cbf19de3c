"""Whether two tokenizers are the same one."""

from transformers import PreTrainedTokenizerBase

from training.text.pipeline import digest, read_pipeline


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids for every text: their whole pipelines are compared.

    A tokenizer without a `tokenizer.json` cannot be compared, and is only the same as itself.
    """
    if first is second:
        return True
    return first.is_fast and second.is_fast and digest(read_pipeline(first)) == digest(read_pipeline(second))
