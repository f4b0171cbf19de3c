"""Loading images, captions and class names, and the errors for unusable ones."""

import json

import pytest
from datasets import Dataset
from PIL import Image

from training.demo.photo_teacher.photographs import (
    SCENE_NAMES,
    TEMPLATES,
    check_captions,
    load_captioned,
    prompts,
    scene_names,
    spaced_rows,
)

COLUMNS = {"en": "en", "zh": "zh"}


def save(path, en, zh):
    images = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(len(en))]
    Dataset.from_dict({"image": images, "en": en, "zh": zh}).to_parquet(path)
    return str(path)


def test_captions_of_both_languages_are_kept_in_order(tmp_path):
    source = save(tmp_path / "a.parquet", [["a dog", "a pet"], ["a cat"]], [["一只狗", "宠物"], ["一只猫"]])
    captioned = load_captioned(source, COLUMNS, "data.train")
    assert captioned.captions == {"en": [["a dog", "a pet"], ["a cat"]], "zh": [["一只狗", "宠物"], ["一只猫"]]}
    assert captioned.images[1]["image"].size == (8, 8) and captioned.name == "a"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ((["a dog"], []), r"row 3: zh is \[\], expected a list of captions\. Fill or remove the row"),
        ((["a dog", " "], ["一只狗", "狗"]), r"row 3: en is \['a dog', ' '\], expected a list of captions"),
        (("a dog", ["一只狗"]), r"row 3: en is 'a dog', expected a list of captions"),
        ((["a dog", "a pet"], ["一只狗"]), r"row 3: en has 2, zh has 1 captions, expected equally many"),
    ],
)
def test_unusable_captions_are_named(cells, message):
    with pytest.raises(ValueError, match=message):
        check_captions(cells, "data.train: row 3")


def test_a_source_without_rows_is_refused(tmp_path):
    source = save(tmp_path / "a.parquet", [["a dog"]], [["一只狗"]])
    empty = load_captioned(source, COLUMNS, "data.train").images.select([])
    assert len(empty) == 0
    with pytest.raises(ValueError, match=r"validation.*(missing|column)"):
        load_captioned(source, {"en": "english", "zh": "zh"}, "validation")


def test_rows_of_a_class_are_evenly_spaced_and_in_one_split_only():
    names = ["a"] * 60 + ["b"] * 3
    train, validation = spaced_rows(names, 10)
    assert not set(train) & set(validation)
    assert len([row for row in train if row < 60]) == 10 and len([row for row in validation if row < 60]) == 2
    assert [row for row in train if row >= 60] == [60, 61, 62]
    assert min(train) == 0 and max(row for row in [*train, *validation] if row < 60) == 59


def test_every_scene_has_a_distinct_chinese_name():
    names = scene_names()
    assert len(names) == 75 == len(set(names.values()))
    assert all("\u4e00" <= character <= "\u9fff" for name in names.values() for character in name)
    assert list(json.loads(SCENE_NAMES.read_text(encoding="utf-8"))) == list(names)


def test_prompts_contain_the_name_once():
    for language in TEMPLATES:
        for texts in prompts(["X"], language):
            assert texts[0].count("X") == 1
