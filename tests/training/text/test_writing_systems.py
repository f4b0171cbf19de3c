import pytest

from training.text.writing_systems import is_written_in, language_of, script_of


@pytest.mark.parametrize(
    ("character", "script"),
    [
        ("a", "Latin"),
        ("Ａ", "Latin"),
        ("é", "Latin"),
        ("中", "Han"),
        ("ア", "Katakana"),
    ]
    + [(character, None) for character in "1!▁，。 \u0301"],
)
def test_script_of_a_character(character, script):
    assert script_of(character) == script


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("a frog", "en", True),
        ("frog 青蛙", "zh", True),
        ("ｆｒｏｇ", "zh", False),
        ("лягушка", "en", False),
        ("лягушка", "ru", True),
        ("かえる", "ja", True),
        ("12:30 ✓", "zh", True),
        ("frog", "tlh", True),
    ],
)
def test_text_is_written_in_a_script_of_its_language(text, language, expected):
    assert is_written_in(text, language) is expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a frog", "en"),
        ("青蛙 frog", "zh"),
        ("лягушка", None),
        ("カエル青蛙", None),
        ("12:30", None),
    ],
)
def test_the_language_of_a_text_is_that_of_its_script(text, language):
    assert language_of(text) == language
