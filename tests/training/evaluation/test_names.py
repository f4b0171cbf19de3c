"""Class names, templates and protocols: the tables of ELEVATER, and files of the user."""

import json
import re
import sys

import pytest

from training.evaluation.sets.class_names import SETS, ClassNames, general_pairs
from training.evaluation.sets.protocols import ELEVATER, IMAGENET
from training.evaluation.sets.protocols import SETS as EVAL_SETS
from training.evaluation.sets.templates import imagenet_names, templates_of

HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("name", SETS)
def test_every_class_has_one_name_of_its_own_in_both_languages(name):
    names = ClassNames.read(name).names
    for texts in names.values():
        assert len({text.replace(" ", "") for text in texts}) == ELEVATER[name].num_classes
        assert all(text == text.strip() and text for text in texts)
    assert all(HAN.search(text) for text in names["zh"])


def test_labels_are_found_by_their_names_in_any_language():
    names = ClassNames.read("cifar-10")
    airplane, plane, truck = names.label_ids(["airplane", "飞机", "truck"]).tolist()
    assert airplane == plane == names.names["en"].index("airplane") != truck
    mixed = ClassNames({"fr": ["chat", "pain"], "en": ["pain", "bread"]})
    # the key's language takes precedence
    assert mixed.label_ids(["pain", "chat", "bread"]).tolist() == [0, 0, 1]


@pytest.fixture(params=["names.json", "names.txt"])
def plain_list(request, tmp_path) -> str:
    """A list of names in one language, in both formats."""
    path, names = tmp_path / request.param, ["猫", "狗"]
    text = json.dumps(names) if path.suffix == ".json" else "猫\n\n 狗 \n"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("languages", "language"), [(["zh"], "zh"), ([], "zh"), (["fr"], "fr")])
def test_a_plain_list_has_the_given_language_else_that_of_its_script(
    plain_list, languages, language
):
    names = ClassNames.read(plain_list, languages)
    assert names.names == {language: ["猫", "狗"]} and names.key == language
    assert names.label_ids(["狗", "猫"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n", "must be"),
        ("a.txt", "cat\ncat\n", "several classes with the same en name"),
        (
            "a.json",
            [{"en": "cat", "zh": "猫"}, {"en": "dog"}],
            "class 1 of .* has the zh name None",
        ),
        ("a.json", [{"en": "cat"}, {"en": " "}], "class 1 of .* has the en name"),
    ],
)
def test_class_lists_of_a_wrong_form_are_refused_with_their_path(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"class_names: (?s:.)*{message}") as error:
        ClassNames.read(path)
    assert str(path) in str(error.value)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Both packages in their own layout with other content; importing either fails."""
    files = {
        "clip_benchmark/datasets/en_zeroshot_classification_templates.json": json.dumps(
            {"cifar10": ["see {c}"], "pcam": ["tissue {c}"], "imagenet1k": ["net {c}"]}
        ),
        "clip_benchmark/datasets/en_classnames.json": json.dumps(
            {"imagenet1k": ["missile"] * 2 + ["tench"] * 998}
        ),
        "clip_benchmark/datasets/cn_classnames.json": json.dumps(
            {"imagenet1k": [f"类{n}" for n in range(1000)]}
        ),
        "cn_clip/eval/cvinw_zeroshot_templates.py": (
            "import nowhere\nopenai_templates = [lambda c: f'看{c}', lambda c: f'{c}的照片']\n"
            "dtd_templates = [lambda c: f'{c}纹理']\nfood_templates = [lambda c: f'吃{c}']\n"
        ),
        "cn_clip/eval/imagenet_zeroshot_templates.py": (
            "imagenet_classnames = ['鱼', '鸟']\nopenai_imagenet_template = [lambda c: f'网{c}']\n"
        ),
        "cn_clip/__init__.py": "raise ImportError\n",
        "clip_benchmark/__init__.py": "raise ImportError\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("cn_clip", "clip_benchmark"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", EVAL_SETS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_ours_cover_every_set_in_the_script_of_the_language(name, language):
    templates = templates_of(name, language, "ours")
    assert templates.source == "ours" and len(set(templates.lines)) == len(templates.lines)
    for line in templates.lines:
        assert line.count("{}") == 1 and line.format("x") == line.replace("{}", "x")
        text = line.replace("{}", "")
        assert not re.search(r"[A-Za-z]" if language == "zh" else r"[^\x00-\x7f]", text), line


def test_packages_take_precedence_and_are_named_as_the_source(packages):
    assert templates_of("cifar-10", "en").lines == ("see {}",)
    assert templates_of("cifar-10", "en").source == "clip-benchmark"
    assert templates_of("dtd", "zh").lines == ("{}纹理",)
    assert templates_of(IMAGENET, "zh").lines == ("网{}",)
    assert templates_of("cifar-10", "zh", "ours").source == "ours"


def test_a_file_can_have_templates_for_all_sets_or_by_set(tmp_path):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"zh": ["画着{}"]}), encoding="utf-8")
    assert templates_of("mnist", "zh", str(path)).lines == ("画着{}",)
    with pytest.raises(ValueError, match=r"templates: .*'en'"):
        templates_of("mnist", "en", str(path))
    path.write_text(json.dumps({"en": {"mnist": ["digit {}"]}}), encoding="utf-8")
    assert templates_of("mnist", "en", str(path)).lines == ("digit {}",)
    with pytest.raises(ValueError, match=r"templates: .*dtd"):
        templates_of("dtd", "en", str(path))


@pytest.mark.parametrize(
    "content",
    [
        '{"zh": ["{}和{}"]}',
        '{"zh": "一张{}的照片。"}',
        "[",
    ],
)
def test_templates_without_exactly_one_place_for_the_name_are_refused(tmp_path, content):
    path = tmp_path / "templates.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"templates: .*templates\.json"):
        templates_of("mnist", "zh", str(path))


def test_classes_of_imagenet_have_their_wordnet_ids_and_names_in_both_languages(packages):
    names = imagenet_names(with_chinese=True)
    assert (
        names.names["zh"][:2] == ["类0", "类1"]
        and "zh" not in imagenet_names(with_chinese=False).names
    )
    assert names.names["en"][:2] == ["missile", "missile"]  # equal class names are kept
    assert names.names["wordnet"][:2] == ["n01440764", "n01443537"] and names.key == "wordnet"


@pytest.mark.parametrize("name", ELEVATER)
def test_aliases_lead_to_classes(name):
    assert set(ELEVATER[name].aliases.values()) <= set(ClassNames.read(name).names["en"])


@pytest.mark.parametrize("languages", [["en", "zh"], ["zh"], ["en"]])
def test_the_half_that_measures_is_not_the_half_for_training(languages):
    training, held_out = (general_pairs(languages, held_out=value) for value in (False, True))
    assert set(training.texts).isdisjoint(held_out.texts)
    for pairs in (training, held_out):
        assert len(pairs.first) == len(pairs.second) > 200
        assert (
            len(set(pairs.first)) == len(set(pairs.second)) == len(pairs.first)
        )  # one right answer for each


def test_texts_are_in_the_languages_of_the_model():
    assert general_pairs(["zh", "en"], held_out=True).languages == ("en", "zh")
    chinese = general_pairs(["zh"], held_out=True)
    assert chinese.languages == ("zh", "zh")
    for name, prompt in zip(chinese.first, chinese.second, strict=True):
        before, after = prompt.split(name)
        assert (
            HAN.search(name)
            and HAN.search(before + after)
            and not re.search("[A-Za-z]", before + after)
        )
    both = general_pairs(["zh", "en"], held_out=False)
    assert not any(map(HAN.search, both.first)) and all(map(HAN.search, both.second))
    with pytest.raises(ValueError, match="languages: "):
        general_pairs(["fr"], held_out=True)
