"""Included class names: as many as ELEVATER has, each once, in the script of its language."""

import json
import re

import pytest

from training.evaluation.sets.class_names import NAMES, SETS, ClassNames

# classes of ELEVATER's sets (Li et al., arXiv 2204.08790)
COUNTS = {
    "caltech-101": 102,
    "cifar-10": 10,
    "cifar-100": 100,
    "country211": 211,
    "dtd": 47,
    "eurosat_clip": 10,
    "fer-2013": 7,
    "fgvc-aircraft-2013b-variants102": 100,
    "food-101": 101,
    "gtsrb": 43,
    "hateful-memes": 2,
    "kitti-distance": 4,
    "mnist": 10,
    "oxford-flower-102": 102,
    "oxford-iiit-pets": 37,
    "patch-camelyon": 2,
    "rendered-sst2": 2,
    "resisc45_clip": 45,
    "stanford-cars": 196,
    "voc-2007-classification": 20,
}
WITH_LATIN_DESIGNATIONS = {"fgvc-aircraft-2013b-variants102", "stanford-cars"}


def entries(name: str) -> dict[str, dict[str, str]]:
    return json.loads((NAMES / f"{name}.json").read_text(encoding="utf-8"))["classes"]


def test_all_twenty_sets_are_there():
    assert set(SETS) == set(COUNTS)


@pytest.mark.parametrize("name", SETS)
def test_every_class_has_one_name_of_its_own_in_both_languages(name):
    names = ClassNames.read(name)
    assert len(names.names["en"]) == len(names.names["zh"]) == COUNTS[name]
    for language in ("en", "zh"):
        assert len({text.replace(" ", "") for text in names.names[language]}) == COUNTS[name]
        assert all(text == text.strip() and text for text in names.names[language])


@pytest.mark.parametrize("name", SETS)
def test_chinese_names_are_chinese(name):
    for english, entry in entries(name).items():
        assert re.search(r"[\u4e00-\u9fff]", entry["zh"]), english
        assert not re.search(r"[,.;:!?，。；：！？、（()）]$", entry["zh"]), english
        if name not in WITH_LATIN_DESIGNATIONS:
            assert not re.search(r"[A-Za-z]", entry["zh"]), english


@pytest.mark.parametrize("name", SETS)
def test_doubts_give_a_reason_and_the_file_describes_its_review(name):
    content = json.loads((NAMES / f"{name}.json").read_text(encoding="utf-8"))
    assert content["set"] == name and "second reviewer" in content["reviewed"]
    for english, entry in content["classes"].items():
        assert set(entry) <= {"zh", "doubt"}, english
        assert len(entry.get("doubt", "a reason in words").split()) > 2, english


def test_labels_are_found_by_their_english_name():
    names = ClassNames.read("cifar-10")
    assert names.label_ids(["airplane"]).item() == names.names["en"].index("airplane")
    assert names.names["zh"][names.label_ids(["airplane"]).item()] == "飞机"


@pytest.fixture(params=["names.json", "names.txt"])
def plain_list(request, tmp_path) -> str:
    """A list of names in one language, in both formats."""
    path, names = tmp_path / request.param, ["猫", "狗"]
    text = json.dumps(names) if path.suffix == ".json" else "猫\n\n 狗 \n"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("incomplete", [0, 1])
def test_a_missing_translation_is_named_by_its_class(tmp_path, incomplete):
    classes = [{"en": "cat", "zh": "猫"}, {"en": "dog", "zh": "狗"}]
    del classes[incomplete]["zh"]
    path = tmp_path / "names.json"
    path.write_text(json.dumps(classes), encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"class {incomplete} of .*names\.json' has no name in 'zh', and others have"
    ):
        ClassNames.read(path)


@pytest.mark.parametrize(
    ("key", "languages", "language"), [("zh", [], "zh"), ("en", ["zh"], "zh"), ("en", [], "zh"), ("fr", [], "fr")]
)
def test_a_plain_list_has_the_given_language_else_that_of_its_script(plain_list, key, languages, language):
    names = ClassNames.read(plain_list, key, languages)
    assert names.names == {language: ["猫", "狗"]} and names.key == language
    assert names.label_ids(["狗", "猫"]).tolist() == [1, 0]


def test_a_plain_list_in_several_languages_is_refused(plain_list):
    with pytest.raises(ValueError, match=r"class_names: .*plain list.*one language.*\['en', 'zh'\].*Give one"):
        ClassNames.read(plain_list, "en", ["en", "zh"])


def test_a_plain_list_without_names_or_with_equal_names_is_refused(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"class_names: .*names\.txt.* must be"):
        ClassNames.read(path)
    path.write_text("cat\ncat\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"several classes with the same en name: \['cat'\]"):
        ClassNames.read(path)


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_a_class_without_a_name_is_refused_by_its_number(tmp_path, name):
    path = tmp_path / "names.json"
    path.write_text(json.dumps([{"en": "cat"}, {"en": name}]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"class_names: class 1 of .*names\.json' has the en name"):
        ClassNames.read(path)
