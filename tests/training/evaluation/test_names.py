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
        assert [text.strip() for text in texts] == texts
        assert all(texts)
    assert all(HAN.search(text) for text in names["zh"])


@pytest.fixture(params=["names.json", "names.txt"])
def plain_list(request, tmp_path):
    """A list of names in one language, in both formats."""
    contents = {"names.json": json.dumps(["猫", "狗"]), "names.txt": "猫\n\n 狗 \n"}
    path = tmp_path / request.param
    path.write_text(contents[request.param], encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("languages", "language"), [(["zh"], "zh"), ([], "zh"), (["fr"], "fr")])
def test_a_plain_list_has_the_given_language_else_that_of_its_script(
    plain_list, languages, language
):
    names = ClassNames.read(plain_list, languages)
    assert names.names == {language: ["猫", "狗"]}
    assert names.key == language


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n", "cannot read"),
        ("a.txt", "cat\ncat\n", "class 1 of .* has the en name 'cat'"),
        (
            "a.json",
            json.dumps([{"en": "cat", "zh": "猫"}, {"en": "dog"}]),
            "class 1 of .* has the zh name None",
        ),
    ],
)
def test_class_lists_of_a_wrong_form_are_refused_with_their_path(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"class_names: (?s:.)*{message}") as error:
        ClassNames.read(path)
    assert str(path) in str(error.value)


CLASSES = {"en_classnames": ["missile"] * 2 + ["tench"] * 998, "cn_classnames": ["类"] * 1000}
CN_CLIP = {
    "cvinw_zeroshot": "import nowhere\ndtd_templates = [lambda c: f'{c}纹理', lambda c: f'看{c}']\n",
    "imagenet_zeroshot": "names = ['鱼', '鸟']\nopenai_imagenet_template = [lambda c: f'网{c}']\n",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Both packages in their own layout with other content; importing either fails."""
    ours = tmp_path / "clip_benchmark" / "datasets"
    cn_clip = tmp_path / "cn_clip" / "eval"
    for folder in (ours, cn_clip):
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise ImportError\n")
        monkeypatch.delitem(sys.modules, folder.parent.name, raising=False)
    templates = json.dumps({"cifar10": ["see {c}"]})
    (ours / "en_zeroshot_classification_templates.json").write_text(templates)
    for name, classes in CLASSES.items():
        (ours / f"{name}.json").write_text(json.dumps({"imagenet1k": classes}), encoding="utf-8")
    for name, code in CN_CLIP.items():
        (cn_clip / f"{name}_templates.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", EVAL_SETS)
@pytest.mark.parametrize(("language", "foreign"), [("en", r"[^\x00-\x7f]"), ("zh", "[A-Za-z]")])
def test_ours_cover_every_set_in_the_script_of_the_language(name, language, foreign):
    templates = templates_of(name, language, "ours")
    assert templates.source == "ours"
    assert len(set(templates.lines)) == len(templates.lines)
    for line in templates.lines:
        assert line.count("{}") == 1
        assert line.format("x") == line.replace("{}", "x")
        assert not re.search(foreign, line.replace("{}", "")), line


@pytest.fixture
def write_templates(tmp_path):
    """Function that writes a file of templates, and returns its name."""

    def write(content):
        (tmp_path / "templates.json").write_text(content, encoding="utf-8")
        return str(tmp_path / "templates.json")

    return write


def test_a_file_can_have_templates_for_all_sets_or_by_set(write_templates):
    path = write_templates('{"zh": ["画着{}"], "en": {"mnist": ["digit {}"]}}')
    assert templates_of("mnist", "zh", path).lines == ("画着{}",)
    assert templates_of("mnist", "en", path).lines == ("digit {}",)
    for name, language, problem in (("dtd", "en", "dtd"), ("mnist", "fr", "'fr'")):
        with pytest.raises(ValueError, match=f"templates: .*{problem}"):
            templates_of(name, language, path)


def test_packages_take_precedence_and_are_named_as_the_source(packages):
    assert templates_of("cifar-10", "en").lines == ("see {}",)
    assert templates_of("cifar-10", "en").source == "clip-benchmark"
    assert templates_of("dtd", "zh").lines == ("{}纹理", "看{}")
    assert templates_of(IMAGENET, "zh").lines == ("网{}",)
    assert templates_of("cifar-10", "zh").source == "ours"  # not in the package


@pytest.mark.parametrize("content", ['{"zh": ["{}和{}"]}', '{"zh": "一张{}的照片。"}', "["])
def test_templates_without_exactly_one_place_for_the_name_are_refused(write_templates, content):
    with pytest.raises(ValueError, match=r"templates: .*templates\.json"):
        templates_of("mnist", "zh", write_templates(content))


def test_classes_of_imagenet_have_their_wordnet_ids_and_names_in_both_languages(packages):
    names = imagenet_names(with_chinese=True).names
    assert names["zh"] == ["类"] * 1000
    assert names["en"][:2] == ["missile", "missile"]  # equal class names are kept
    assert names["wordnet"][:2] == ["n01440764", "n01443537"]
    assert "zh" not in imagenet_names(with_chinese=False).names


@pytest.mark.parametrize("name", ELEVATER)
def test_aliases_lead_to_classes(name):
    assert set(ELEVATER[name].aliases.values()) <= set(ClassNames.read(name).names["en"])


@pytest.mark.parametrize("languages", [["zh", "en"], ["zh"]])
def test_general_texts_are_translations_or_names_in_sentences(languages):
    training = general_pairs(languages, held_out=False)
    held_out = general_pairs(languages, held_out=True)
    assert set(training.texts).isdisjoint(held_out.texts)
    for pairs in (training, held_out):  # one right answer for each
        assert len(pairs.first) > 200
        assert len({*pairs.first}) == len({*pairs.second}) == len(pairs.first)
        assert pairs.languages == (("en", "zh") if "en" in languages else ("zh", "zh"))
        for first, second in zip(pairs.first, pairs.second, strict=True):
            assert HAN.search(second.replace(first, ""))
            assert bool(HAN.search(first)) == ("en" not in languages)
            assert "en" in languages or not re.search("[A-Za-z]", second)


def test_a_language_without_general_texts_is_refused():
    with pytest.raises(ValueError, match="languages: "):
        general_pairs(["fr"], held_out=True)
