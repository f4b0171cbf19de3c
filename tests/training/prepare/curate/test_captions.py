import sys
from dataclasses import replace

import pytest

from training.data.captions import NO_LETTERS, NOT_UNICODE, usable_captions
from training.prepare.curate.captions import CaptionFilter
from training.prepare.curate.causes import CODES
from training.prepare.curate.languages import LanguageIdentifier, is_traditional, words_of
from training.prepare.curate.options import CurateOptions

OFF = CurateOptions(
    data="x", output_dir="y", min_characters={}, max_characters=None, min_words={}, max_words={}, keep_urls=True,
    keep_email_addresses=True, keep_file_names=True, max_symbol_share=None, max_digit_share=None, scripts={},
    max_repeated_characters=None, max_repeated_words=None,
)  # fmt: skip
SCRIPTS = {"en": "Latin", "zh": "Han"}

# language, options that switch one filter on, a caption just inside the threshold, one just outside, the cause
CASES = [
    ("en", {"min_characters": {"en": 4}}, "frog", "fox", "too few characters"),
    ("zh", {"min_characters": {"en": 4, "zh": 2}}, "青蛙", "狗", "too few characters"),
    ("en", {"max_characters": 4}, "frog", "a fox", "too many characters"),
    ("en", {"min_words": {"en": 2}}, "a frog", "don't", "too few words"),
    ("zh", {"min_words": {"zh": 3}}, "红苹果", "青蛙", "too few words"),
    ("en", {"max_words": {"en": 2}}, "a frog", "a red frog", "too many words"),
    ("zh", {"max_words": {"zh": 3}}, "红苹果", "红苹果树", "too many words"),
    ("en", {"keep_urls": False}, "I like it.Me too.", "frogs at frogs.com", "web address"),
    ("zh", {"keep_urls": False}, "访问网站", "访问https://a.b/c", "web address"),
    ("en", {"keep_urls": False}, "a www frog", "see www.frog", "web address"),
    ("en", {"keep_email_addresses": False}, "frog @ home", "ask frog@pond.org", "e-mail address"),
    ("en", {"keep_file_names": False}, "a jpg of a frog", "frog.JPG", "file name"),
    ("en", {"keep_file_names": False}, "IMG of 1234 frogs", "IMG_1234", "file name"),
    ("zh", {"keep_file_names": False}, "青蛙png图", "青蛙.png", "file name"),
    ("en", {"max_symbol_share": 0.2}, "frog!!", "frog!!!", "symbols"),  # the final mark does not count
    ("zh", {"max_symbol_share": 0.2}, "鹿。", "。", "symbols"),
    ("en", {"max_digit_share": 0.5}, "ab 12", "ab 123", "digits"),
    ("en", {"max_repeated_characters": 3}, "aaah", "aaaah", "repeated characters"),
    ("en", {"max_repeated_words": 0.5}, "bye Bye", "bye Bye BYE", "repeated words"),
    ("zh", {"max_repeated_words": 0.5}, "哈哈笑", "哈哈哈", "repeated words"),
    ("en", {"scripts": SCRIPTS, "min_script_share": 0.5}, "frog 青", "frog 青蛙", "wrong script"),
    ("en", {"scripts": SCRIPTS, "min_script_share": 0.5}, "ｆｒｏｇ", "лягушка", "wrong script"),
    ("zh", {"scripts": SCRIPTS, "min_script_share": 0.5}, "iPhone 壳", "iPhone case 壳", "wrong script"),
    ("zh", {"scripts": SCRIPTS, "min_script_share": 0.5}, "紅蘋果", "123", "wrong script"),
    ("zh", {"scripts": SCRIPTS, "max_kana_share": 0.25}, "美の店铺", "美の店", "kana or Hangul"),
    ("zh", {"scripts": SCRIPTS, "max_kana_share": 0.25}, "红苹果店 사과", "红苹 사과", "kana or Hangul"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "changes", "inside", "outside", "cause"), CASES)
def test_each_filter_keeps_captions_inside_and_drops_captions_outside_its_threshold(
    language, changes, inside, outside, cause
):
    examine = CaptionFilter(replace(OFF, **changes), language, None)
    assert examine(inside) is None
    assert examine(outside) == cause


@pytest.mark.parametrize("case", CASES, ids=[case[3] for case in CASES])
def test_each_filter_can_be_switched_off(case):
    assert CaptionFilter(OFF, case[0], None)(case[3]) is None


def test_null_thresholds_switch_the_script_filters_off():
    off = replace(OFF, scripts=SCRIPTS, min_script_share=None, max_kana_share=None)
    assert CaptionFilter(off, "zh", None)("ほんとう frog") is None


def test_ordinary_captions_pass_the_defaults(train_rows):
    for language in ("en", "zh"):
        examine = CaptionFilter(CurateOptions(data="x", output_dir="y"), language, None)
        causes = {text: cause for text in train_rows[language] if (cause := examine(text))}
        assert len(causes) <= 0.05 * len(train_rows), causes


@pytest.mark.parametrize(
    ("language", "kept", "dropped"),
    [
        # Chinese class names are one to three ideographs long, English ones often a single word
        ("zh", ["青蛙", "青蛙。", "狗", "狗。", "滑雪。", "红苹果"], ["。", "7"]),
        ("en", ["frog", "Balsam.", "ox", "A frog."], ["a", "A", "7"]),
    ],
)
def test_defaults_keep_short_names_in_both_languages(language, kept, dropped):
    examine = CaptionFilter(CurateOptions(data="x", output_dir="y"), language, None)
    assert [text for text in kept if examine(text)] == []
    assert [text for text in dropped if examine(text) is None] == []


def test_words_are_ideographs_and_runs_of_letters():
    assert words_of("Don’t 买iPhone 15手机") == [
        ("Dont", "Latin"), ("买", "Han"), ("iPhone", "Latin"), ("手", "Han"), ("机", "Han")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "traditional"),
    [("紅蘋果", True), ("红苹果", False), ("大小人", False), ("red apple", False), ("", False), ("龍和马与车", False)],
)
def test_traditional_chinese_is_detected_by_the_majority_of_characters(text, traditional):
    assert is_traditional(text) is traditional


def test_language_identification_drops_captions_above_the_threshold():
    pytest.importorskip("py3langid")
    identifier = LanguageIdentifier()
    examine = CaptionFilter(replace(OFF, max_other_language=0.9), "en", identifier)
    assert examine("the cat sits on the mat") is None
    assert examine("frog") is None  # too short for a high probability
    assert examine("une pomme rouge sur la table") == "wrong language"
    assert CaptionFilter(replace(OFF, max_other_language=1.0), "en", identifier)("une pomme rouge") is None
    chinese = CaptionFilter(replace(OFF, max_other_language=0.3), "zh", identifier)
    assert chinese("紅蘋果") is None  # identified as Cantonese, which shares the written form
    assert chinese("赤いりんごの写真") == "wrong language"


def test_missing_py3langid_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ValueError, match=r"max_other_language: py3langid is not installed .*\[curate\]"):
        LanguageIdentifier()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_digit_share": 1.5}, r"max_digit_share: 1.5 is not in 0\.\.1"),
        ({"min_script_share": float("nan")}, "min_script_share: nan is not"),
        ({"rows_per_shard": 0}, "rows_per_shard: 0 is not at least 1"),
        ({"max_image_distance": 16}, r"max_image_distance: 16 is not in 0\.\.15"),
        ({"max_caption_similarity": 0.1}, r"max_caption_similarity: 0.1 is not in 0\.3\.\.1"),
        ({"min_edge": -1}, "min_edge: -1 is not at least 0"),
        ({"min_characters": {"zh": -1}}, "min_characters: -1 for 'zh' is not at least 0"),
        ({"min_words": {"en": -2}}, "min_words: -2 for 'en' is not at least 0"),
        ({"caption_columns": {}}, "caption_columns: empty"),
        ({"min_similarity": {"en": 0.2}}, "min_similarity: no teacher is set"),
        ({"teacher": "t", "min_similarity": {"fr": 0.2}}, "min_similarity: 'fr' is not a language"),
        (
            {"teacher": "t", "min_similarity": {"en": 0.2}, "drop_share": {"en": 0.2}},
            "drop_share: 'en' is also in min_similarity",
        ),
        ({"teacher": "t", "drop_share": {"en": 1.0}}, r"drop_share: 1.0 for 'en' is not"),
    ],
)
def test_error_names_the_invalid_option(fields, message):
    with pytest.raises(ValueError, match=message):
        CurateOptions(data="x", output_dir="y", **fields)


def test_every_cause_of_unusable_captions_has_a_code():
    cells = [None, "", 3, "!!!", "\ud800", ["a", "  "]]
    causes = {cause for cell in cells for cause in usable_captions(cell)[1]}
    assert {NO_LETTERS, NOT_UNICODE} < causes <= set(CODES)
