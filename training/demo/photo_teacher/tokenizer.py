"""XLM-R's tokenizer as a fast tokenizer, so that `tokenizer.json` contains all text preparation."""

import unicodedata

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from training.demo.photo_teacher.e5 import E5

# NFKC turns the full-width tilde into "~", XLM-R keeps it; U+FDD0 is a noncharacter, so no text contains it
FULL_WIDTH_TILDE, PLACEHOLDER = "\uff5e", "\ufdd0"


def make_tokenizer(e5: E5, max_length: int) -> PreTrainedTokenizerFast:
    """Make XLM-R's Unigram tokenizer with all of its 250,002 pieces.

    XLM-R normalizes text with a table of code points. All but 45 of its 4,837 entries equal NFKC, so the tokenizer
    applies these 45 and then NFKC. Unlike the table, NFKC also composes an accent that follows its letter, as
    SentencePiece does. Spaces at both ends are removed.

    Args:
        e5: Content of the package, with the pieces, their scores and the table.
        max_length: Largest number of tokens of a text, special tokens included.
    """
    tokenizer = Tokenizer(models.Unigram(list(zip(e5.pieces, e5.scores.tolist(), strict=True)), e5.special["unk"]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_any_of(e5, "")), ""),
            normalizers.Replace(Regex(_any_of(e5, " ")), " "),
            normalizers.Replace(FULL_WIDTH_TILDE, PLACEHOLDER),
            normalizers.NFKC(),
            normalizers.Replace(PLACEHOLDER, FULL_WIDTH_TILDE),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    bos, eos, pad, unk = (e5.pieces[e5.special[name]] for name in ("bos", "eos", "pad", "unk"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, e5.special["bos"]), (eos, e5.special["eos"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=unk,
        mask_token=e5.pieces[-1],
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _any_of(e5: E5, replacement: str) -> str:
    """Regular expression of the code points that XLM-R replaces by `replacement` and NFKC does not."""
    code_points = [
        code_point
        for code_point, text in e5.replacements.items()
        if text == replacement != unicodedata.normalize("NFKC", chr(code_point))
    ]
    return "[" + "".join(rf"\x{{{code_point:X}}}" for code_point in code_points) + "]"
