"""Checks of one caption."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby

from training.prepare.curate.languages import KANA_OR_HANGUL, LanguageIdentifier, script_shares, words_of
from training.prepare.curate.options import CurateOptions

# no domain that is also a word: "like it.Me too" is not a web address
TOP_LEVEL = "com|net|org|info|edu|gov|cn|io|uk|jp|tw|hk"
URL = re.compile(
    rf"(?:https?|ftp)://|\bwww\.|(?<![\w@.-])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:{TOP_LEVEL})(?![\w.])", re.I | re.A
)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
SUFFIXES = "jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|pdf|docx?|pptx?|zip|mp4|mov|avi"
FILE_NAME = re.compile(
    rf"[^\s.]\.(?:{SUFFIXES})(?!\w)|^(?:img|dsc|dscn|dscf|pxl|gopr|screenshot)[\s_-]*\d[\d_-]*$", re.I | re.A
)


class CaptionFilter:
    """Checks captions of one language.

    Args:
        options: Thresholds of the filters.
        language: Language of the captions, a key of `options.caption_columns`.
        identifier: Language identifier; None skips the check for the wrong language.
    """

    def __init__(self, options: CurateOptions, language: str, identifier: LanguageIdentifier | None):
        self.options, self.language, self.identifier = options, language, identifier
        self.script = options.scripts.get(language)

    def __call__(self, text: str) -> str | None:
        """The first cause to drop a caption, a key of `CAPTION_CAUSES`, or None."""
        return next((cause for cause, applies in self._checks(text) if applies), None)

    def _checks(self, text: str) -> Iterator[tuple[str, bool]]:
        """Causes with whether they apply, cheap checks first. The caller stops at the first that applies."""
        options = self.options
        yield "too few characters", _below(len(text), options.min_characters.get(self.language))
        yield "too many characters", _above(len(text), options.max_characters)
        yield "e-mail address", not options.keep_email_addresses and EMAIL.search(text) is not None
        yield "file name", not options.keep_file_names and FILE_NAME.search(text) is not None
        yield "web address", not options.keep_urls and URL.search(text) is not None
        # the punctuation mark that ends a sentence does not count, however short the sentence
        end = -1 if len(text) > 1 and unicodedata.category(text[-1]).startswith("P") else None
        characters = [unicodedata.category(character)[0] for character in text[:end] if not character.isspace()]
        yield (
            "symbols",
            _above((characters.count("P") + characters.count("S")) / len(characters), options.max_symbol_share),
        )
        yield "digits", _above(characters.count("N") / len(characters), options.max_digit_share)
        runs = max(sum(1 for _ in run) for _, run in groupby(text))
        yield "repeated characters", _above(runs, options.max_repeated_characters)
        yield from self._check_words(text)

    def _check_words(self, text: str) -> Iterator[tuple[str, bool]]:
        options, words = self.options, words_of(text)
        if self.script is not None:
            shares = script_shares(words)
            if self.script == "Han":
                kana_share = sum(shares.get(script, 0.0) for script in KANA_OR_HANGUL)
                yield "kana or Hangul", _above(kana_share, options.max_kana_share)
            yield "wrong script", _below(shares.get(self.script, 0.0), options.min_script_share)
        if self.identifier is not None:
            probability = self.identifier.other_language(text, self.language)
            yield "wrong language", _above(probability, options.max_other_language)
        yield "too few words", _below(len(words), options.min_words.get(self.language))
        yield "too many words", _above(len(words), options.max_words.get(self.language))
        unique_words = {word.casefold() for word, _ in words}
        yield "repeated words", bool(words) and _above(1 - len(unique_words) / len(words), options.max_repeated_words)


def _below(value: float, threshold: float | None) -> bool:
    return threshold is not None and value < threshold


def _above(value: float, threshold: float | None) -> bool:
    return threshold is not None and value > threshold
