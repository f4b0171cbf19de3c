"""The columns of captions, and their languages."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from training.finetuning.columns import find_columns

FILES = [f"{number}.jpg" for number in range(4)]
CHINESE = ["红色连衣裙", "Nike 跑步鞋", "羊毛围巾", "皮带"]
ENGLISH = ["a red dress", "running shoes", "a scarf", "a belt"]


def rows(**columns):
    return Dataset.from_dict({"image": FILES} | columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"en": ENGLISH, "zh": CHINESE, "label": ENGLISH}, {"en": "en", "zh": "zh"}),
        ({"caption": CHINESE}, {"zh": "caption"}),
        ({"caption": CHINESE[:2] + ENGLISH[:2]}, {"en": "caption", "zh": "caption"}),
    ],
)
def test_captions_are_in_the_columns_en_and_zh_or_caption(columns, expected):
    found = find_columns(rows(**columns))
    assert found.image == "image"
    assert found.captions == expected
    assert not found.are_labels


def test_class_numbers_with_names_and_class_folders_are_labels():
    features = Features({"image": Value("string"), "label": ClassLabel(names=["cat", "ice_dog"])})
    numbers = Dataset.from_dict({"image": FILES, "label": [0, 1, 1, -1]}, features)
    for table in (numbers, rows(label=["cat", "ice_dog", "ice_dog", None])):
        found = find_columns(table)
        assert found.describe() == "image column: image, en class names: label"
        assert found.captions_of(table) == {"en": [["cat"], ["ice dog"], ["ice dog"], []]}


def test_a_few_texts_in_a_different_language_are_not_a_language():
    titles = [*CHINESE * 10, "a belt"]
    table = Dataset.from_dict({"image": [str(number) for number in range(41)], "caption": titles})
    assert find_columns(table).captions == {"zh": "caption"}


@pytest.mark.parametrize(
    ("labels", "languages"),
    [
        (["苹果", "香蕉", "other"], ["zh"]),
        (["OK", "不良"], ["zh"]),
        (["猫", "狗", "cat", "dog"], ["en", "zh"]),
    ],
)
def test_one_name_alone_is_no_language(labels, languages):
    table = Dataset.from_dict({"image": [str(number) for number in labels], "label": labels})
    assert [*find_columns(table).captions] == languages


def test_a_column_of_two_languages_is_divided_by_script():
    table = rows(x=[["红色连衣裙", "a red dress", "红色连衣裙"], ["DVD"], [], None])
    found = find_columns(table, caption_columns={"zh": "x", "en": "x"})
    assert found.captions_of(table) == {
        "zh": [["红色连衣裙"], [], [], []],
        "en": [["a red dress"], ["DVD"], [], []],
    }


def test_a_column_of_one_language_is_not_divided():
    table = rows(x=[["红色连衣裙", "a red dress", "红色连衣裙"], ["DVD"], [], None])
    found = find_columns(table, caption_columns={"zh": "x"}).captions_of(table)
    assert found == {"zh": [["红色连衣裙", "a red dress"], ["DVD"], [], []]}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"title": ENGLISH}, {}, "data: which columns of image, title"),
        ({"caption": ["красный"] * 4}, {}, "data: which columns"),
        ({"zh": CHINESE}, {"image_column": "file"}, "data: which columns of image, zh"),
        ({"x": ENGLISH}, {"caption_columns": {"fr": "x"}}, "caption_columns: .*fr"),
    ],
)
def test_missing_columns_are_named(columns, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        find_columns(rows(**columns), **options)
