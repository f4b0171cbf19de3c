"""open_clip's tokenizers as fast tokenizers of transformers, which hold the cleaning of texts themselves."""

from string import punctuation
from typing import Any

from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# of CLIP, as in SimpleTokenizer.pat
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WHITE_SPACE = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
CLEANING: dict[str, list[Any]] = {
    "whitespace": WHITE_SPACE,
    "lower": [*WHITE_SPACE, normalizers.Lowercase()],
    "canonicalize": [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex("[" + "".join(rf"\{mark}" for mark in punctuation) + "]"), ""),
        normalizers.Lowercase(),
        *WHITE_SPACE,
    ],
}


def convert_tokenizer(tokenizer: Any, text_cfg: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Convert a tokenizer of open_clip.

    open_clip also repairs wrongly decoded text and HTML entities, which a tokenizer file cannot hold.

    Args:
        tokenizer: Tokenizer that `open_clip.get_tokenizer` returns.
        text_cfg: Config of the text tower, as open_clip has it.

    Raises:
        ValueError: The preparation of texts cannot be held by a tokenizer file.
    """
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    is_simple = isinstance(tokenizer, SimpleTokenizer)
    clean = options.pop("clean", "lower" if is_simple else "whitespace")
    if options or text_cfg.get("tokenizer_mode") or not isinstance(tokenizer, (SimpleTokenizer, HFTokenizer)):
        raise ValueError(
            f"model: its texts are prepared by {type(tokenizer).__name__} with {options}, mode "
            f"{text_cfg.get('tokenizer_mode')!r}, which is not supported. Choose another checkpoint."
        )
    if is_simple:
        return _clip_tokenizer(tokenizer, clean)
    converted: Any = tokenizer.tokenizer
    own = converted.backend_tokenizer.normalizer
    converted.backend_tokenizer.normalizer = normalizers.Sequence([*CLEANING[clean], *([own] if own else [])])
    converted.model_max_length = tokenizer.context_length
    return converted


def _clip_tokenizer(tokenizer: SimpleTokenizer, clean: str) -> PreTrainedTokenizerFast:
    start, end = (tokenizer.decoder[number] for number in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    bpe = models.BPE(
        vocab=tokenizer.encoder, merges=list(tokenizer.bpe_ranks), end_of_word_suffix="</w>", unk_token=end
    )
    backend = Tokenizer(bpe)
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *CLEANING[clean]])
    split = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    ids = [(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)]
    backend.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,  # the tower attends no later token, and pools at the first end token
        model_max_length=tokenizer.context_length,
    )
